"""`workbench sweep`: a grid from a file, run, kept, drawn and summed up.

The trap: a sweep is stopped by people, machines and disks alike. Whatever stops it, the command that goes on with it is
the last thing it says.
"""

import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from workbench.sweep.executors import Executor
    from workbench.sweep.jobs import JobResult
    from workbench.sweep.results import SweepResult


def sweep(
    spec: Annotated[
        Path | None,
        typer.Argument(help="A TOML file; --example prints one to begin with.", show_default=False),
    ] = None,
    example: Annotated[
        bool, typer.Option("--example", help="Print a commented file, and do nothing.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Where ledger, tables and pictures go: runs/NAME for NAME.toml.", show_default=False
        ),
    ] = None,
    text: Annotated[
        bool,
        typer.Option(
            "--text/--no-text", help="Keep replies in the ledger, so that another judge needs no new ones."
        ),
    ] = True,
    ray: Annotated[
        str | None,
        typer.Option(
            help="Compute on Ray: auto joins a running cluster, local starts one here, HOST:PORT names one.",
            show_default=False,
        ),
    ] = None,
    cores: Annotated[
        int, typer.Option(help="With --ray: CPU cores of each worker, where there is no GPU.")
    ] = 1,
) -> None:
    """Try many settings on validation prompts: strengths, layer sets, gates, biases, positions and vectors.

    All settings are rows of a few large batches, beside the unsteered model and random directions of equal length.
    Every batch is kept as soon as it is done: stop it when you like, and give the same command again.

    [dim]workbench sweep --example > spec.toml; workbench sweep spec.toml[/dim]
    """
    from workbench.sweep.jobs import EXAMPLE, read_job, run_job

    if example:
        typer.echo(EXAMPLE, nl=False)
        return
    if spec is None:
        raise ValueError(
            "got no file, expected one that says what to try: workbench sweep --example > spec.toml"
        )
    job, folder = read_job(spec), out or Path("runs") / spec.stem
    ledger = folder / "ledger.sqlite"
    with resumable(ledger):
        found = run_job(
            job, ledger=ledger, keep_text=text, executors=lambda target: _executor(target, ray, cores),
            progress=sys.stderr.isatty(),
        )  # fmt: skip
    _show(found, folder)


@contextmanager
def resumable(ledger: Path) -> Iterator[None]:
    """Say how to go on, whatever stops the sweep once it has kept something."""
    from workbench.sweep.ledger import LedgerError

    # A scheduler that wants its machine back sends SIGTERM, and means what Ctrl-C means.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except (Exception, KeyboardInterrupt, SystemExit) as error:  # the latter is Ray's word for SIGTERM
        # What is wrong with a ledger says itself what to do.
        if ledger.is_file() and not isinstance(error, LedgerError):
            error.add_note(f"what was done is kept in {ledger}; to go on: {typed_command()}")
        raise
    finally:
        signal.signal(signal.SIGTERM, before)


def typed_command() -> str:
    import shlex

    return shlex.join(["workbench", *sys.argv[1:]])


def _executor(target: str, ray: str | None, cores: int) -> "AbstractContextManager[Executor | None]":
    if ray is None:
        return nullcontext()
    from workbench.sweep.cluster import RayCluster

    return RayCluster(target, address=None if ray == "local" else ray, cores=cores)


def _show(found: "JobResult", folder: Path) -> None:
    """Tables and pictures into the folder; for each sweep its best setting on the screen."""
    from workbench.export import save_frame

    console = Console()
    # Without the replies, which may tell how to do harm: the ledger has them, for its owner.
    save_frame(found.frame.drop(columns="reply"), folder / "points")
    save_frame(found.summary(), folder / "summary")
    names = _file_names(list(found.sweeps))
    for (target, prompts), swept in found.sweeps.items():
        console.print(
            f"[bold]{escape(target)}[/bold] on {escape(prompts)}: {swept.sharing}",
            highlight=False,
            soft_wrap=True,
        )
        console.print(_best(swept))
        if not _worth_it(swept):
            console.print(
                "No setting refuses more attacks without costing more than the rule allows: the one above is the "
                "least bad.",
                style="bold",
                highlight=False,
            )
        if cut := _cut_off(swept):
            console.print(
                f"{cut:.0%} of the unsteered replies were cut off at {found.job.max_new_tokens} tokens, and a reply "
                "without an end counts as broken: raise max_new_tokens",
                style="bold",
                highlight=False,
            )
        _draw(swept, folder / names[target, prompts])
    console.print(f"points.csv, summary.csv, pictures and the ledger are in {folder}/", markup=False)


def _file_names(sweeps: "Sequence[tuple[str, str]]") -> dict[tuple[str, str], str]:
    """What the files of each sweep begin with; two whose names come to one stay apart by a number."""
    found: dict[tuple[str, str], str] = {}
    for names in sweeps:
        plain = "-".join(re.sub(r"[/:]", "-", name.removeprefix("organism:").strip("./")) for name in names)
        taken = set(found.values())
        numbered = (f"{plain}-{n}" for n in count(2))
        found[names] = plain if plain not in taken else next(name for name in numbered if name not in taken)
    return found


def _cut_off(swept: "SweepResult") -> float:
    """The share of unsteered replies that did not end by themselves."""
    unsteered = swept.frame[swept.frame["arm"] == "unsteered"]
    return float((~unsteered["finished"].astype(bool)).mean())


def _worth_it(swept: "SweepResult") -> bool:
    """Whether some setting refuses more attacks than the model as it is, and keeps to what the rule allows."""
    from workbench.sweep.objectives import within_limits
    from workbench.sweep.results import TOLERANCE

    rates = swept.rates()
    return bool((within_limits(rates) & (rates["refused"] > rates["refused_unsteered"] + TOLERANCE)).any())


def _best(swept: "SweepResult") -> Table:
    """The best setting of the plan's arm, and of each control, with what they refuse and cost."""
    columns = {
        "refused": "attacks refused", "broken": "broken", "refusal_rise": "refusals risen", "placebo_effect": "random",
    }  # fmt: skip
    table = Table("arm", "best setting", *columns.values(), box=None, pad_edge=False)
    for arm in swept.frame["arm"].unique():
        if arm != "unsteered":
            best = swept.best_setting(arm=arm)
            rates = swept.rates(arm)
            row = rates[(rates[list(dict(best.tags))] == list(dict(best.tags).values())).all(axis=1)].iloc[0]
            idle = (("vectors", "plan"), ("gate", "plan"), ("bias", 0.0))
            said = ", ".join(f"{name} {value}" for name, value in best.tags if (name, value) not in idle)
            table.add_row(arm, escape(said), *(f"{100 * row[name]:.0f} %" for name in columns))
    return table


def _draw(swept: "SweepResult", path: Path) -> None:
    """Curves at the best place, where several strengths were tried."""
    from workbench import plots
    from workbench.export import save_figure
    from workbench.sweep.spec import SETTING

    summary = swept.summary(metrics=plots.CURVES)
    best = dict(swept.best_setting().tags)
    at = (summary[SETTING[:-1]] == [best[name] for name in SETTING[:-1]]).all(axis=1)
    curves = summary[at | (summary["arm"] == "unsteered")]
    if curves["alpha"].nunique() > 1:
        fig = plots.strength_curves(curves, chosen=swept.best(), unit=f"α ({best['scale']})")
        save_figure(fig, curves, path.with_name(f"{path.name}-strength.svg"))
