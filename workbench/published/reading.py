"""Published sets as prompts: from a file, from the folder it lies in, or from the Hugging Face hub.

Rows come as they are published and in that order: a rate over AdvBench is one over its 520 prompts. Blank rows are
skipped; repeated prompts stay, and `check_published` counts both. What makes a split leaves repeats out, and says so.

The trap: a row that is silently skipped makes the rate one over something else. A row that cannot be read is an error
with its place; so is one whose image is missing or damaged, and, where their order pairs them, an image too many.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.prompts import Prompt, PromptSet
from workbench.published.lookup import find_files, identify, open_as, published_set
from workbench.published.registry import Layout, Part, PublishedSet
from workbench.published.tables import Row
from workbench.published.texts import said

SHOWN = 20  # places that are kept of what is counted


def load_published(
    name: str, path: str | Path | None = None, *, root: str | Path | None = None, hub: bool = False
) -> PromptSet:
    """The prompts of a published set, `advbench` or `harmbench:val`: `workbench data list` names them all.

    From the file at `path`; from the one file of it below the folder `root`; or, where `hub` asks for it, downloaded
    through the library `datasets`. Every prompt has its label, its clusters and, where the set has one, the answer; its
    `source` is the set's name and the row's id or number.

    Raises `FileNotFoundError` without a file, `ValueError` with other columns than the set's and for the first row that
    cannot be read, with its place.
    """
    entry, part = published_set(name)
    given = [
        way for way, there in (("path", path), ("root", root), ("hub", hub or None)) if there is not None
    ]
    if len(given) != 1:
        raise ValueError(
            f"got {' and '.join(given) or 'no place'} for {name}, expected one of path= (a file), root= (a folder it "
            f"is in) and hub=True. It is published at {entry.home} ({entry.licence})"
        )
    if path is not None and part.joined:
        raise ValueError(
            f"got path= for {name}, which is joined of {len(part.files)} files: root= for the folder that has them "
            f"all, or one of its parts, such as {name}:{entry.parts[1].name}"
        )
    prompts: list[Prompt] = []
    if hub:
        from workbench.published.hub import hub_rows

        where, (rows, layout) = f"{name} on the hub", hub_rows(entry, part)
        prompts += _all(rows, layout, name, where, None)
    else:
        files = (Path(path),) if path is not None else find_files(entry, part, str(root))
        where = ", ".join(map(str, files))
        for file in files:
            table, layout = open_as(file, entry)
            prompts += _all(table.rows, layout, name, str(file), file)
    if not prompts:
        raise ValueError(f"{where} has no prompts: expected rows with {entry.expected}")
    return PromptSet(name, tuple(prompts))


def _all(rows: Iterator[Row], layout: Layout, name: str, where: str, file: Path | None) -> Iterator[Prompt]:
    """The prompts of all rows. Raises `ValueError` for the first that cannot be read, and for images of none."""
    n = 0
    for row in rows:
        if not row.blank:
            try:
                yield from _prompts(row, layout, name, file, n)
            except ValueError as error:
                hint = "" if file is None else f": workbench data check {where} lists every such row"
                raise ValueError(f"{where}, {row.place}: {error}{hint}") from error
            n += 1
    if file is not None and (spare := _spare(layout, file, n)):
        raise ValueError(f"{where}: {spare}")


def _prompts(row: Row, layout: Layout, name: str, file: Path | None = None, n: int = 0) -> Iterator[Prompt]:
    """The prompts of a row, the `n`-th that is not blank, with what lies beside its file.

    Their source is the set's name and the row's id or number. Raises `ValueError`.
    """
    if row.damage:
        raise ValueError(row.damage)
    try:
        found = layout.read(row.fields)
    except (AttributeError, KeyError, TypeError) as error:  # a list where an object is meant, and the like
        raise ValueError(
            f"has something else in a cell than {', '.join(layout.columns)} hold: {error}"
        ) from error
    made = found if isinstance(found, tuple) else (found,)
    if file is not None and layout.place is not None:
        made = layout.place(file, n, made)
    for place, prompt in enumerate(made, start=1):
        several = f".{place}" if len(made) > 1 else ""
        yield replace(prompt, source=f"{name}:{prompt.source or row.number}{several}")


def _spare(layout: Layout, file: Path, rows: int) -> str:
    """What is wrong where images are left over, or nothing."""
    spare = layout.spare(file, rows) if layout.spare is not None else []
    if not spare:
        return ""
    names = ", ".join(path.name for path in spare[:5]) + (", ..." if len(spare) > 5 else "")
    return (
        f"got {rows} rows, and images of none of them beside it ({names}): image i is row i's, so that a row which is "
        "gone gives all after it another's image; fetch both again, or take away what is not the set's"
    )


@dataclass(frozen=True)
class Places:
    """How many rows something is true of, and where: the first twenty of them."""

    n: int
    shown: tuple[str, ...]


@dataclass(frozen=True)
class FileCheck:
    """What a file holds: its set, how many rows and prompts, and the rows to look at.

    `part` is None where nothing tells it. `answered` prompts have an answer; `repeated` rows have the prompt of an
    earlier one; `problems` are rows that cannot be read.
    """

    path: Path
    entry: PublishedSet
    part: Part | None
    rows: int
    prompts: int
    answered: int
    labels: dict[str, int]
    blank: Places
    repeated: Places
    problems: Places

    @property
    def sound(self) -> bool:
        """Whether every row could be read, and there was one."""
        return not self.problems.n and self.prompts > 0


def check_published(path: str | Path, name: str | None = None) -> FileCheck:
    """Read a file to its end without keeping its prompts: of a million rows a number each stays in memory.

    The set is told by the file's columns, unless `name` says which. Raises `ValueError` for a file of no set, and for
    one that cannot be read on.
    """
    path = Path(path)
    entry, part = published_set(name) if name else identify(path)
    part = None if part is not None and part.joined else part  # one file is not all of it
    table, layout = open_as(path, entry)
    first: dict[int, int] = {}
    labels: Counter[str] = Counter()
    noted: dict[str, list[str]] = {"blank": [], "repeated": [], "problems": []}
    counts: Counter[str] = Counter()

    def note(what: str, where: str) -> None:
        counts[what] += 1
        if len(noted[what]) < SHOWN:
            noted[what].append(where)

    for row in table.rows:
        counts["rows"] += 1
        if row.blank:
            note("blank", row.place)
            continue
        counts["asked"] += 1
        try:
            made = tuple(_prompts(row, layout, entry.name, path, counts["asked"] - 1))
        except ValueError as error:
            note("problems", f"{row.place}: {error}")
            continue
        # Sixty-four bits of a text: that two of a million share them by chance is one in forty million.
        known = first.setdefault(hash(tuple(map(said, made))), row.number)
        if known != row.number:
            note("repeated", f"{row.place} as row {known}")
        counts["answered"] += sum(prompt.answer is not None for prompt in made)
        labels.update(prompt.label for prompt in made)
    if spare := _spare(layout, path, counts["asked"]):
        note("problems", spare)
    places = {what: Places(counts[what], tuple(shown)) for what, shown in noted.items()}
    return FileCheck(
        path, entry, part, counts["rows"], labels.total(), counts["answered"], dict(labels),
        places["blank"], places["repeated"], places["problems"],
    )  # fmt: skip
