"""`workbench report`: a run's record as one page to read, browse and print.

The trap: a run on real models holds replies to harmful prompts. They stay out of the page unless they are asked for.
"""

import webbrowser
from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[
        Path,
        typer.Argument(
            help="The folder of a finished run, as `workbench reproduce` writes it.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="The page to write.", show_default="report.html in the run's folder")
    ] = None,
    include_harmful_text: Annotated[
        bool,
        typer.Option(
            "--include-harmful-text",
            help="Put in what real models replied to harmful prompts; the page is then its owner's alone.",
        ),
    ] = False,
    open_it: Annotated[bool, typer.Option("--open", help="Open the page in a browser.")] = False,
) -> None:
    """Write a run as one HTML page: pictures, tables, choices, every verdict, and what it takes to run it again.

    The page needs no network and no server. Its verdicts can be filtered: by target, condition, label, verdict, gate,
    cluster, words, what slipped through a defence, what a condition changed. Printed, it is a report.

    Replies of real models to prompts that may be harmful, and the judge's reasons, which quote them, are left out of
    the file unless they are asked for; those of the embedded models harm nobody.

    [dim]workbench report runs/table1 --open[/dim]
    """
    from workbench.records import load_record
    from workbench.report.page import save_report

    saved = save_report(
        load_record(run), out or run / "report.html", include_harmful_text=include_harmful_text
    )
    size = saved.size
    typer.echo(f"{saved.path}: {size / 1e6:.1f} MB" if size >= 1e6 else f"{saved.path}: {size / 1e3:.0f} kB")
    if saved.left_out:
        typer.echo(
            f"{saved.left_out:,} replies of real models are not in it, to prompts that are not known to be harmless: "
            "--include-harmful-text puts them in, for your own eyes"
        )
    if saved.private:
        typer.echo("it holds replies to harmful prompts and can be read by you alone: mind where it goes")
    if open_it and not webbrowser.open(saved.path.resolve().as_uri()):
        typer.echo("no browser was found to open it with")
