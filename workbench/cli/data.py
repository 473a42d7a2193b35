"""`workbench data`: which published prompt sets can be read, where to get one, and what a file holds.

The trap: importing torch takes seconds, which `workbench --help` need not pay. Every command imports what it needs when
it runs.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from workbench.published import FileCheck, PublishedSet
    from workbench.published.reading import Places

data = typer.Typer(
    no_args_is_help=True,
    help="Published prompt sets: which can be read, where to get one, what a file holds.",
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


@data.command("list")
def list_sets(as_json: AsJson = False) -> None:
    """The published sets that can be read, none of which ships with the workbench.

    Harmful prompts, prompts that only look harmful, jailbreak templates, harmless prompts, dialogues and tasks. Rows
    are those of the part that a bare name means.

    [dim]workbench data show advbench[/dim]
    """
    from workbench.published import SETS

    if as_json:
        typer.echo(json.dumps([_facts(entry) for entry in SETS.values()], indent=1))
        return
    table = Table("name", "kind", "rows", "licence", "what", box=None, pad_edge=False)
    for entry in SETS.values():
        rows = entry.parts[0].rows
        table.add_row(
            entry.name, entry.kind, f"{rows:,}" if rows else "?", entry.licence, escape(entry.about)
        )
    console = Console(highlight=False)
    console.print(table)
    console.print("\n[dim]next:[/dim] workbench data show NAME", soft_wrap=True)


@data.command("show")
def show_set(
    name: Annotated[str, typer.Argument(help="As in workbench data list.", show_default=False)],
    as_json: AsJson = False,
) -> None:
    """What a set is: its format, columns, parts and licence, where to get it, and the command to go on with.

    [dim]workbench data show harmbench[/dim]
    """
    from workbench.published import published_set

    entry, asked = published_set(name)
    if as_json:
        typer.echo(json.dumps(_facts(entry), indent=1))
        return
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"[bold]{entry.name}[/bold]  {escape(entry.about)}")
    for what, said in (
        ("kind", entry.kind), ("licence", entry.licence), ("format", entry.form), ("columns", entry.expected),
        ("labels", entry.labels), ("clusters", ", ".join(entry.clusters) or "none"), ("answers", entry.answers),
        ("get it", entry.home),
    ):  # fmt: skip
        console.print(f"[dim]{what:<9}[/dim]{escape(said)}")
    parts = Table("part", "rows", "files", "on the hub", box=None, pad_edge=False)
    for part in entry.parts:
        hub = " ".join(word for word in part.hub or () if word) + (" (asks you to log in)" * entry.gated)
        parts.add_row(
            entry.full_name(part),
            f"{part.rows:,}" if part.rows else "?",
            escape(", ".join(part.files)),
            hub if part.hub else "",
        )
    console.print(parts)
    console.print(f"[dim]next:[/dim] workbench data check FILE --as {entry.full_name(asked)}")
    console.print(f'[dim]then:[/dim] wb.load_published("{entry.full_name(asked)}", root="FOLDER")')


@data.command("check")
def check_file(
    path: Annotated[Path, typer.Argument(help="A file that you downloaded.", show_default=False)],
    name: Annotated[
        str | None,
        typer.Option("--as", help="The set it is of, where its columns do not tell.", show_default=False),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read a file to its end: which set it is, its rows, and those that are blank, repeated or cannot be read.

    Exit code 1 where a row cannot be read, 2 where the file cannot. Blank rows are skipped by whatever reads the file;
    repeated ones stay, but a split into train and test leaves them out.

    [dim]workbench data check downloads/harmful_behaviors.csv[/dim]
    """
    from workbench.published import check_published

    found = check_published(path, name)
    if as_json:
        typer.echo(json.dumps(_check_as_json(found), indent=1))
    else:
        _show_check(found, Console(highlight=False, soft_wrap=True))
    if not found.sound:
        raise typer.Exit(1)


def _show_check(found: "FileCheck", console: Console) -> None:
    published = found.part.rows if found.part else None
    whole = {None: "", found.rows - found.blank.n: " (as published)"}.get(
        published, f" (published: {published:,})" if published else ""
    )
    full_name = found.entry.full_name(found.part) if found.part else found.entry.name
    labels = ", ".join(f"{n:,} {label}" for label, n in found.labels.items())
    console.print(f"[bold]{full_name}[/bold]  {escape(found.entry.about)}")
    for what, said in (
        ("rows", f"{found.rows:,}{whole}"), ("prompts", f"{found.prompts:,}" + (f": {labels}" if labels else "")),
        ("answers", f"{found.answered:,}"), ("blank", _places(found.blank)), ("repeated", _places(found.repeated)),
        ("problems", f"{found.problems.n:,}"),
    ):  # fmt: skip
        console.print(f"[dim]{what:<9}[/dim]{escape(said)}")
    for problem in found.problems.shown:
        console.print(f"[red]  {escape(problem)}[/red]")
    if (more := found.problems.n - len(found.problems.shown)) > 0:
        console.print(f"[red]  and {more:,} more[/red]")
    if found.sound:
        console.print(f'[dim]next:[/dim] wb.load_published("{full_name}", {escape(repr(str(found.path)))})')
    elif not found.problems.n:
        console.print(f"[red]no prompts: expected rows with {escape(found.entry.expected)}[/red]")


def _places(places: "Places") -> str:
    more = ", ..." if places.n > len(places.shown) else ""
    return f"{places.n:,}" + (f": {', '.join(places.shown)}{more}" if places.n else "")


def _facts(entry: "PublishedSet") -> dict[str, Any]:
    return {
        "name": entry.name, "kind": entry.kind, "about": entry.about, "licence": entry.licence, "home": entry.home,
        "format": entry.form, "columns": [list(layout.columns) for layout in entry.layouts], "labels": entry.labels,
        "clusters": list(entry.clusters), "answers": entry.answers, "gated": entry.gated,
        "parts": [
            {"name": entry.full_name(part), "rows": part.rows, "files": list(part.files), "hub": part.hub}
            for part in entry.parts
        ],
    }  # fmt: skip


def _check_as_json(found: "FileCheck") -> dict[str, Any]:
    places = {"blank": found.blank, "repeated": found.repeated, "problems": found.problems}
    return {
        "path": str(found.path), "set": found.entry.name, "part": found.part.name if found.part else None,
        "rows": found.rows, "published": found.part.rows if found.part else None, "prompts": found.prompts,
        "answered": found.answered, "labels": found.labels, "sound": found.sound,
        **{what: {"n": place.n, "first": list(place.shown)} for what, place in places.items()},
    }  # fmt: skip
