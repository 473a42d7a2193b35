"""What a run says of one target in words and rows: the paper's table for a terminal, and how often the gate opened.

The trap: a terminal cuts what does not fit, and a cut number is a wrong one. The table is measured before it is shown.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from workbench.evaluation.conditions import TITLES

COLUMNS = {
    "asr_not_refused": "plain\nnot\nrefused",
    "asr_complied": "plain\ncomplied",
    "jailbreak_not_refused": "jailbr.\nnot\nrefused",
    "jailbreak_complied": "jailbr.\ncomplied",
    "broken": "broken",
    "over_refusal": "harmless\nrefused",
    "contrast_refusal": "contrast\nrefused",
    "utility": "domain\naccuracy",
}
FEWER = tuple(metric for metric in COLUMNS if not metric.endswith("complied"))
# With intervals or without, and which columns: the first that fits is shown.
LAYOUTS = ((True, tuple(COLUMNS)), (False, tuple(COLUMNS)), (False, FEWER))


def as_table(name: str, numbers: Mapping[str, Any], console: Console) -> Table:
    """The paper's table for one target, in percent, with as much as the console has room for."""
    unlimited = console.options.update_width(10_000)
    for intervals, metrics in LAYOUTS:
        table = _table(name, numbers, intervals, metrics)
        if Measurement.get(console, unlimited, table).maximum <= console.width:
            break
    return table


def condition_rows(conditions: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """(key, title, numbers) of every condition in the table's order, with a control's own best below it."""
    for name, title in TITLES.items():
        if name in conditions:
            yield name, title, conditions[name]
            if best := conditions[name].get("at_best"):
                yield f"{name} at best", f"at its best, α = {_signed(best['plan']['alpha'])}", best


def openings(numbers: Mapping[str, Any]) -> str:
    """How often the gate opened on each kind of test prompt, with intervals."""
    found = [
        f"{label} {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
        for (label, share), (low, high) in zip(
            numbers["gate_open"].items(), numbers["gate_open_intervals"].values(), strict=True
        )
    ]
    return f"how often the gate opened on test prompts: {', '.join(found)}"


def counted(counts: Mapping[str, int]) -> str:
    """How many prompts of each kind."""
    return ", ".join(f"{n} {label}" for label, n in counts.items())


def _table(name: str, numbers: Mapping[str, Any], intervals: bool, metrics: tuple[str, ...]) -> Table:
    where = "small: 95 % intervals" if intervals else "intervals and more: demo.json"
    table = Table(
        title=f"{name}, percent ({counted(numbers['prompts'])}; {where})",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for metric in metrics:
        table.add_column(COLUMNS[metric], justify="right", no_wrap=True)
    for key, title, found in condition_rows(numbers["conditions"]):
        best = key not in TITLES
        style = "bold green" if key == "inferaligner" else "dim" if best else ""
        cells = (_cell(found, metric, intervals) for metric in metrics)
        table.add_row(f"  {title}" if best else title, *cells, style=style)
    return table


def _cell(numbers: Mapping[str, Any], metric: str, intervals: bool) -> str:
    if numbers[metric] is None:
        return "–"
    low, high = numbers["intervals"][metric]
    text = f"{100 * numbers[metric]:.1f}"
    return f"{text} [dim]{100 * low:.0f}–{100 * high:.0f}[/dim]" if intervals else text


def _signed(alpha: float) -> str:
    return f"{alpha:g}".replace("-", "−")
