"""The main job for all targets: run them, keep their numbers, print the paper's table, write the pictures.

The trap: what is printed is a sample unless `full`; the table says so, and so does `"full"` in the JSON.
"""

import json
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape

from workbench.demo.pictures import save_pictures
from workbench.demo.tables import as_table, counted, openings
from workbench.demo.target import QUICK_TEST, SEER, Outcome, run_target
from workbench.export import ADVICE
from workbench.provenance import write_safely

TARGETS = ("finance", "medicine", "maths", "general")
FULL_FOLDER, QUICK_FOLDER = Path("figures"), Path("figures/quick")
PUBLISHED = {frozenset(TARGETS): FULL_FOLDER, frozenset([SEER]): FULL_FOLDER / SEER}
"""Where full runs of these targets go, unless told: they are published, and nothing less may take their place."""


def run_demo(
    *,
    full: bool = False,
    folder: str | Path | None = None,
    targets: Sequence[str] = TARGETS,
    workers: int | None = None,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run the main job, print it, and write demo.json and the pictures to `folder`; returns what the JSON holds.

    Without a folder it is that of `PUBLISHED` for a full run of its targets, `QUICK_FOLDER` for anything less.
    `workers` processes of one thread each share the targets: one per core, unless given.
    """
    known = (*TARGETS, SEER)
    unknown = sorted(set(targets) - set(known))
    if unknown or not targets:
        raise ValueError(f"got targets {', '.join(unknown) or 'none'}, expected some of {', '.join(known)}")
    console, start = console or Console(), time.perf_counter()
    if folder is None:
        folder = PUBLISHED.get(frozenset(targets), QUICK_FOLDER) if full else QUICK_FOLDER
    folder = Path(folder)
    require_writable(folder)
    sample = "every test prompt" if full else f"a sample of the test prompts, {counted(QUICK_TEST)}"
    console.print(f"[bold]InferAligner on {len(targets)} embedded models[/bold]: {sample}.")
    done: dict[str, Outcome] = {}
    for outcome in _run_all(targets, full, workers):
        console.print(f"  {outcome.name}: {sum(outcome.seconds.values()):.0f} s", style="dim")
        done[outcome.name] = outcome
    outcomes = [done[name] for name in targets]
    numbers = _save_numbers(outcomes, folder, full, time.perf_counter() - start)
    for outcome in outcomes:
        show(outcome, console)
    pictures = save_pictures(outcomes, folder, sample="all of them" if full else "a sample")
    console.print(f"demo.json, the pictures and the csv each draws are in {folder}/", markup=False)
    published = PUBLISHED.get(frozenset(targets), FULL_FOLDER)
    if folder == QUICK_FOLDER and (published / "demo.json").is_file():
        console.print(f"Those of the full run are in {published}/, as they were.", markup=False)
    if any(path.suffix == ".html" for path in pictures):
        console.print(f"No browser to draw SVG with: they are HTML pages. For SVG: {ADVICE}.", markup=False)
    return numbers


def show(outcome: Outcome, console: Console) -> None:
    """Print one target: what was chosen and how, the table, three prompts before and after."""
    console.rule(f"[bold]{outcome.name}")
    for sentence in outcome.sentences:
        console.print(f"• {escape(sentence)}", highlight=False)
    console.print(f"• {openings(outcome.numbers)}", highlight=False)
    console.print(as_table(outcome.name, outcome.numbers, console))
    for sentence in outcome.numbers["too_few"]:
        console.print(f"• {escape(sentence)}", highlight=False)
    for kind, prompt, before, after, opened in outcome.examples:
        gate = "gate open" if opened else "gate closed: the same reply, bit for bit"
        console.print(f"[bold]{escape(prompt)}[/bold]  [dim]{kind}, {gate}[/dim]", highlight=False)
        console.print(f"  before  {escape(before)}", highlight=False)
        console.print(f"  after   {escape(after)}\n", highlight=False)


def require_writable(folder: Path) -> None:
    """A run takes minutes, a full one an hour: whether its results can be kept is known before."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write to {folder} ({error.strerror or error}), nothing was run: choose another folder, --out",
        ) from error


def _save_numbers(outcomes: Sequence[Outcome], folder: Path, full: bool, seconds: float) -> dict[str, Any]:
    """Write demo.json before anything is shown or drawn: whatever fails there, the numbers are kept."""
    numbers = {
        "full": full,
        "domains": {outcome.name: outcome.numbers for outcome in outcomes},
        "seconds": {outcome.name: outcome.seconds for outcome in outcomes} | {"total": round(seconds, 1)},
    }
    write_safely(folder / "demo.json", (json.dumps(numbers, indent=1, ensure_ascii=False) + "\n").encode())
    return numbers


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
