"""The main job for all targets: run them, print the paper's table, write pictures and figures/demo.json.

The trap: what is printed is a sample unless `full`; the table says so, and so does `"full"` in the JSON.
"""

import json
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from workbench.demo.pictures import save_pictures
from workbench.demo.target import QUICK_TEST, Outcome, run_target
from workbench.evaluation.conditions import TITLES
from workbench.export import ADVICE
from workbench.provenance import write_safely

TARGETS = ("finance", "medicine", "maths", "general")
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
WIDE, NARROW = 124, 100
"""Terminals below the first width have no room for the intervals, below the second none for what complied."""


def run_demo(
    *,
    full: bool = False,
    folder: str | Path = "figures",
    targets: Sequence[str] = TARGETS,
    workers: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run the main job, print it, and write its pictures and demo.json to `folder`; returns what the JSON holds.

    `workers` processes of one thread each share the targets: one per core, unless given.
    """
    unknown = sorted(set(targets) - set(TARGETS))
    if unknown or not targets:
        raise ValueError(f"got targets {', '.join(unknown) or 'none'}, expected some of {', '.join(TARGETS)}")
    console, folder, start = console or Console(), Path(folder), time.perf_counter()
    sample = "every test prompt" if full else f"a sample of the test prompts, {_said(QUICK_TEST)}"
    console.print(f"[bold]InferAligner on {len(targets)} embedded models[/bold]: {sample}.")
    done: dict[str, Outcome] = {}
    for outcome in _run_all(targets, full, workers):
        console.print(f"  {outcome.name}: {sum(outcome.seconds.values()):.0f} s", style="dim")
        done[outcome.name] = outcome
    outcomes = [done[name] for name in targets]
    for outcome in outcomes:
        show(outcome, console)
    pictures = save_pictures(outcomes, folder, sample="all of them" if full else "a sample")
    numbers = {
        "full": full,
        "domains": {outcome.name: outcome.numbers for outcome in outcomes},
        "seconds": {outcome.name: outcome.seconds for outcome in outcomes}
        | {"total": round(time.perf_counter() - start, 1)},
    }
    write_safely(folder / "demo.json", (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode())
    console.print(f"Pictures, the csv each draws, and demo.json are in {folder}/", markup=False)
    if any(path.suffix == ".html" for path in pictures):
        console.print(f"No browser to draw SVG with: they are HTML pages. For SVG: {ADVICE}.", markup=False)
    return numbers


def show(outcome: Outcome, console: Console) -> None:
    """Print one target: what was chosen and how, the table, three prompts before and after."""
    console.rule(f"[bold]{outcome.name}")
    for sentence in outcome.sentences:
        console.print(f"• {escape(sentence)}", highlight=False)
    console.print(as_table(outcome, console.width))
    for kind, prompt, before, after, opened in outcome.examples:
        gate = "gate open" if opened else "gate closed: the same reply, bit for bit"
        console.print(f"[bold]{escape(prompt)}[/bold]  [dim]{kind}, {gate}[/dim]", highlight=False)
        console.print(f"  before  {escape(before)}", highlight=False)
        console.print(f"  after   {escape(after)}\n", highlight=False)


def as_table(outcome: Outcome, width: int) -> Table:
    """The paper's table for one target, in percent, with 95 % intervals where there is room."""
    intervals = width >= WIDE
    shown = {m: title for m, title in COLUMNS.items() if width >= NARROW or not m.endswith("complied")}
    where = "small: 95 % intervals" if intervals else "intervals and more: demo.json"
    counts = outcome.numbers["prompts"]
    table = Table(
        title=f"{outcome.name}, percent ({_said(counts)}; {where})",
        title_justify="left",
        box=None,
        pad_edge=False,
    )
    table.add_column("", no_wrap=True)
    for column in shown.values():
        table.add_column(column, justify="right", no_wrap=True)
    for name, title in TITLES.items():
        if name in outcome.numbers["conditions"]:
            numbers = outcome.numbers["conditions"][name]
            style = "bold green" if name == "inferaligner" else ""
            table.add_row(title, *(_cell(numbers, metric, intervals) for metric in shown), style=style)
    return table


def _cell(numbers: dict[str, Any], metric: str, intervals: bool) -> str:
    if numbers[metric] is None:
        return "–"
    low, high = numbers["intervals"][metric]
    text = f"{100 * numbers[metric]:.1f}"
    return f"{text} [dim]{100 * low:.0f}–{100 * high:.0f}[/dim]" if intervals else text


def _run_all(targets: Sequence[str], full: bool, workers: int | None) -> Iterator[Outcome]:
    workers = min(workers or os.cpu_count() or 1, len(targets))
    if workers == 1:
        yield from (run_target(name, full) for name in targets)
        return
    # Fresh interpreters, because a fork of a process in which torch has started threads can hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_target, name, full, threads=1) for name in targets]
        for future in as_completed(futures):
            yield future.result()


def _said(counts: dict[str, int]) -> str:
    return ", ".join(f"{n} {label}" for label, n in counts.items())
