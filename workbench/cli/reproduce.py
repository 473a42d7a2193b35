"""`workbench reproduce`: the paper's results from a file, beside the paper's numbers, and a record of all of it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from workbench.reproduction.config import Kind

reproduce = typer.Typer(no_args_is_help=True, help="The paper's results, on models and prompts of yours.")

File = Annotated[
    Path | None, typer.Argument(help="A TOML file; --example prints one to begin with.", show_default=False)
]
Example = Annotated[bool, typer.Option("--example", help="Print a commented file, and do nothing.")]
Out = Annotated[
    Path | None,
    typer.Option(help="Where the ledger and the record go: runs/NAME for NAME.toml.", show_default=False),
]


@reproduce.command()
def table1(config: File = None, example: Example = False, out: Out = None) -> None:
    """The paper's table: attacks, jailbreaks and accuracy under every condition, for each target.

    Layers, gate and strength are chosen on prompts that are held out, and the test is asked once. Every reply is kept
    as soon as it is there: stop it when you like, and give the same command again.

    [dim]workbench reproduce table1 --example > t.toml; workbench reproduce table1 t.toml[/dim]
    """
    _run("table1", config, example, out)


@reproduce.command()
def scale(config: File = None, example: Example = False, out: Out = None) -> None:
    """Other sizes of models, each with an aligned model of its own: attacks, jailbreaks, accuracy before and after."""
    _run("scale", config, example, out)


@reproduce.command()
def adaptability(config: File = None, example: Example = False, out: Out = None) -> None:
    """Other families of models, each steered by its own chat model: attacks, jailbreaks, accuracy before and after."""
    _run("adaptability", config, example, out)


@reproduce.command()
def ablation(config: File = None, example: Example = False, out: Out = None) -> None:
    """Whose vectors: the target's own and the aligned model's, added, and on embedded models subtracted."""
    _run("ablation", config, example, out)


@reproduce.command()
def cost(config: File = None, example: Example = False, out: Out = None) -> None:
    """Seconds per 1,000 generated tokens under every condition, which take turns in one run."""
    _run("cost", config, example, out)


@reproduce.command()
def mm(config: File = None, example: Example = False, out: Out = None) -> None:
    """Harmful questions about pictures, to a model that sees, steered by vectors of a text model of the same base.

    Vectors are made and choices are made on prompts in words; the questions of a bench, MM-Harmful Bench say, are asked
    once. With `timed` in the file the conditions then take turns for their seconds per 1,000 tokens.

    [dim]workbench reproduce mm --example > mm.toml; workbench reproduce mm mm.toml[/dim]
    """
    _run("mm", config, example, out)


def _run(kind: "Kind", config: Path | None, example: bool, out: Path | None) -> None:
    from workbench.cli.sweep import resumable, typed_command
    from workbench.records import save_record
    from workbench.reproduction import prepare_run, read_experiment
    from workbench.reproduction import reproduce as run
    from workbench.reproduction.examples import EXAMPLES
    from workbench.reproduction.running import LEDGER
    from workbench.reproduction.tables import show

    if example:
        typer.echo(EXAMPLES[kind], nl=False)
        return
    if config is None:
        raise ValueError(
            f"got no file, expected one that says what to run: workbench reproduce {kind} --example > {kind}.toml"
        )
    experiment, folder, console = read_experiment(config, kind), out or Path("runs") / config.stem, Console()
    prepared = prepare_run(experiment)
    with resumable(folder / LEDGER):
        record = run(
            prepared, folder, command=typed_command(), progress=sys.stderr.isatty(),
            say=lambda line: console.print(line, style="dim", highlight=False, markup=False),
        )  # fmt: skip
        save_record(record, folder)
    show(record, console)
    console.print(
        f"Record and ledger are in {folder}/. Next: workbench report {folder}", markup=False, highlight=False
    )
