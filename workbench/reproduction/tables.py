"""What a reproduction found, for a terminal: the measured table beside the paper's, what moved, and how it was chosen.

The trap: a terminal cuts what does not fit, and a cut number is a wrong one. The table is measured before it is shown.
"""

import math
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from workbench.evaluation.comparing import shortfalls
from workbench.records import NO_CLAIM, RunRecord

COLUMNS = {
    "asr_not_refused": "plain\nnot refused",
    "asr_complied": "plain\ncomplied",
    "jailbreak_not_refused": "jailbroken\nnot refused",
    "jailbreak_complied": "jailbroken\ncomplied",
    "utility": "domain\naccuracy",
    "broken": "broken",
    "over_refusal": "harmless\nrefused",
    "contrast_refusal": "contrast\nrefused",
}
BESIDE_PAPER = ("asr_not_refused", "jailbreak_not_refused", "utility")
COUNTED = {"asr_not_refused": "plain", "jailbreak_not_refused": "jailbroken", "utility": "domain"}
OURS = "inferaligner"
LEVEL = 0.05
COST = {"seconds_per_1000": "seconds per\n1,000 tokens", "slowdown": "times\nnothing"}

Cells: TypeAlias = Mapping[tuple[Hashable, Hashable], Mapping[Hashable, Any]]


def show(record: RunRecord, console: Console) -> None:
    """Print a record: for every target its table and what moved; then judge, choices and notes."""
    for target in record.table["target"].unique():
        part = record.table[record.table["target"] == target]
        console.rule(f"[bold]{escape(str(target))}")
        is_cost = part["metric"].isin(list(COST))
        rates, costs = part[~is_cost], part[is_cost]
        tables = [] if rates.empty else list(as_tables(rates, record.verdicts, console))
        for table in tables:
            if not record.claims:
                table.title = f"{NO_CLAIM}; {table.title}"
            console.print(table)
        if not costs.empty:
            console.print(cost_table(costs))
        for line in findings(part, record.comparisons):
            console.print(f"• {escape(line)}", highlight=False)
        console.print()
    console.print(f"[bold]Judge[/bold]: {escape(record.judge)}", highlight=False)
    console.print("[bold]Choices[/bold] (*: the paper leaves it open)", highlight=False)
    for choice in record.choices:
        mark = "*" if choice.open_in_paper else "•"
        told = (
            f"{mark} {choice.what}: {choice.value} [dim]({escape(choice.where)}: {escape(choice.why)})[/dim]"
        )
        console.print(told, highlight=False)
    for note in record.notes:
        console.print(f"[bold]Note[/bold]: {escape(note)}", highlight=False)


def as_tables(part: pd.DataFrame, verdicts: pd.DataFrame, console: Console) -> Iterator[Table]:
    """One target's rates in percent beside the paper's: one table, or where that does not fit two below each other."""
    there = [metric for metric in COLUMNS if (part["metric"] == metric).any()]
    whole = _table(part, verdicts, there, intervals=True)
    if _fits(whole, console):
        yield whole
        return
    beside = [metric for metric in there if metric in BESIDE_PAPER]
    for metrics in (beside, [metric for metric in there if metric not in beside]):
        table = _table(part, verdicts, metrics, intervals=True)
        yield table if _fits(table, console) else _table(part, verdicts, metrics, intervals=False)


def cost_table(part: pd.DataFrame) -> Table:
    """One target's costs, median and quartiles over the rounds, beside the paper's."""
    cells: Cells = {(row["condition"], row["metric"]): row for row in part.to_dict("records")}
    table = Table(
        title=f"median of {part['n'].max()} rounds (small: quartiles)", title_justify="left", box=None,
        pad_edge=False, padding=(0, 1, 0, 0),
    )  # fmt: skip
    table.add_column("", no_wrap=True)
    paper = part["paper"].notna().any()
    for title in COST.values():
        table.add_column(title, justify="right", no_wrap=True)
        if paper:
            table.add_column("paper", justify="right", no_wrap=True, style="cyan")
    for condition in part["condition"].unique():
        row = []
        for metric in COST:
            found = cells[condition, metric]
            row.append(f"{found['mean']:.2f} [dim]{found['low']:.2f}–{found['high']:.2f}[/dim]")
            if paper:
                row.append("" if math.isnan(found["paper"]) else f"{found['paper']:.3g}")
        table.add_row(str(found["title"]), *row, style="bold green" if condition == OURS else "")
    return table


def _fits(table: Table, console: Console) -> bool:
    unlimited = console.options.update_width(10_000)
    return Measurement.get(console, unlimited, table).maximum <= console.width


def findings(part: pd.DataFrame, comparisons: pd.DataFrame) -> Iterator[str]:
    """In sentences: how far our setting is from nothing and from the others, and what so few prompts cannot tell."""
    if comparisons.empty:
        return
    of_target = comparisons[comparisons["target"] == part["target"].iloc[0]]
    titles = dict(zip(part["condition"], part["title"], strict=True))
    for metric, name in (("asr_not_refused", "plain attacks"), ("jailbreak_not_refused", "jailbroken ones")):
        rows = of_target[of_target["metric"] == metric]
        ours = rows[(rows["condition"] == OURS) & (rows["against"] == "none")]
        for row in ours.to_dict("records"):
            yield (
                f"{name} not refused, ours against nothing: {_points(row['change'])} points "
                f"[{_points(row['low'])}, {_points(row['high'])}], p {_chance(row['p_holm'])} "
                f"by {int(row['n'])} prompts"
            )
        told = [
            f"{titles[row['condition']]} {_points(row['change'])} (p {_chance(row['p_holm'])})"
            for row in rows[(rows["against"] == OURS)].to_dict("records")
            if row["p_holm"] < LEVEL
        ]
        if told:
            yield f"{name} not refused, against ours in points: {', '.join(told)}"
    asked = of_target[of_target["metric"].isin(BESIDE_PAPER) & (of_target["condition"] == OURS)]
    if short := shortfalls(asked.rename(columns={"condition": "arm"})):
        first, *others = short
        yield first + (f"; of {len(others)} more metrics, too" if others else "")
    yield (
        "p: sign flips of whole clusters, corrected by Holm for the conditions beside it; McNemar's exact p is "
        "beside it in comparisons.csv"
    )


def _table(part: pd.DataFrame, verdicts: pd.DataFrame, there: Sequence[str], *, intervals: bool) -> Table:
    cells: Cells = {(row["condition"], row["metric"]): row for row in part.to_dict("records")}
    n = {str(metric): int(of_metric["n"].max()) for metric, of_metric in part.groupby("metric")}
    counts = ", ".join(f"{n[metric]} {name}" for metric, name in COUNTED.items() if metric in there)
    title = f"percent, of {counts} prompts" if counts else "percent"
    title += " (small: 95 % intervals)" if intervals else " (intervals: table.csv)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("", no_wrap=True)
    papers = [m for m in there if m in BESIDE_PAPER and part.loc[part["metric"] == m, "paper"].notna().any()]
    for metric in there:
        table.add_column(COLUMNS[metric], justify="right", no_wrap=True)
        if metric in papers:
            table.add_column("paper", justify="right", no_wrap=True, style="cyan")
    open_ones = _unscored(part, verdicts)
    if any(open_ones.values()):
        table.add_column("un-\nscored", justify="right", no_wrap=True)
    for condition in part["condition"].unique():
        row = []
        for metric in there:
            found = cells.get((condition, metric))
            row.append("–" if found is None else _cell(found, intervals))
            if metric in papers:
                row.append(_paper(found))
        if any(open_ones.values()):
            row.append(str(open_ones[condition]))
        title = str(part.loc[part["condition"] == condition, "title"].iloc[0])
        table.add_row(title, *row, style="bold green" if condition == OURS else "")
    return table


def _unscored(part: pd.DataFrame, verdicts: pd.DataFrame) -> dict[str, int]:
    """How many replies of every condition no judge has scored."""
    of_target = verdicts[(verdicts["target"] == part["target"].iloc[0])]
    left = of_target["verdict"].isna().groupby(of_target["condition"], sort=False).sum()
    return {str(name): int(n) for name, n in left.items()}


def _cell(row: Mapping[Hashable, Any], interval: bool) -> str:
    if math.isnan(row["mean"]):
        return "–"
    text = f"{100 * row['mean']:.1f}"
    return f"{text} [dim]{100 * row['low']:.0f}–{100 * row['high']:.0f}[/dim]" if interval else text


def _paper(row: Mapping[Hashable, Any] | None) -> str:
    return "" if row is None or math.isnan(row["paper"]) else f"{100 * row['paper']:.1f}"


def _chance(p: float) -> str:
    return "unknown" if math.isnan(p) else "< 0.001" if p < 0.001 else f"= {p:.3f}"


def _points(x: float) -> str:
    return f"{100 * x:+.1f}".replace("-", "−")
