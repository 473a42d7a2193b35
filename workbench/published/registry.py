"""What a published set is: who made it, under which licence, in which files, and how a row of it becomes a prompt.

The trap: the same set is published more than once, with other columns. Every layout that is known stands here, and a
file is read by the columns that it has.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from workbench.prompts import Prompt
from workbench.published.tables import Fields

Kind: TypeAlias = Literal["harmful", "over-refusal", "jailbreaks", "harmless", "dialogues", "utility"]
Read: TypeAlias = Callable[[Fields], Prompt | tuple[Prompt, ...]]
Place: TypeAlias = Callable[[Path, int, tuple[Prompt, ...]], tuple[Prompt, ...]]
"""What the place of a row adds to its prompts, from its file and its number, from 0 and blank rows not counted."""
Spare: TypeAlias = Callable[[Path, int], list[Path]]
"""The images beside a file that none of so many rows has."""


@dataclass(frozen=True)
class Layout:
    """Columns that a file must have, and how a row of such a file is read; others may be there.

    `headerless`: the file has no header, and these columns, all of them, in this order. `suffixes`: the only endings
    that this layout is published under, where columns alone do not tell. `place` adds the images that lie beside the
    file. Where order alone pairs these with rows, `spare` finds what is left over: then a row is gone, and those after
    it would be asked about each other's images.
    """

    columns: tuple[str, ...]
    read: Read
    headerless: bool = False
    suffixes: tuple[str, ...] = ()
    place: Place | None = None
    spare: Spare | None = None

    def fits(self, columns: Sequence[str], suffix: str) -> bool:
        """Whether a file with these columns and this ending is read so."""
        if self.suffixes and suffix not in self.suffixes:
            return False
        if self.headerless:
            return suffix == ".csv" and len(columns) == len(self.columns)
        return set(self.columns) <= set(columns)


@dataclass(frozen=True)
class Part:
    """One file of a set, `test` say: its names (patterns, the folder counts), its rows, and where the hub has it.

    `rows` is None where no number was found that is stated; `hub` is an id, a configuration and a split. `joined`: not
    one of the files is it, but all of them, one after the other.
    """

    name: str
    files: tuple[str, ...]
    rows: int | None = None
    hub: tuple[str, str | None, str] | None = None
    joined: bool = False


@dataclass(frozen=True)
class PublishedSet:
    """One set: the facts about it, its parts (the first is meant where none is named), and its layouts.

    `form` is how its files are written, `home` where its authors keep it, `clusters` what its prompts may share.
    `fallback` is the encoding of its files, where that is not UTF-8; `gated`: the hub asks for an account first.
    """

    name: str
    kind: Kind
    form: str
    about: str
    labels: str
    clusters: tuple[str, ...]
    answers: str
    licence: str
    home: str
    parts: tuple[Part, ...]
    layouts: tuple[Layout, ...]
    fallback: str | None = None
    gated: bool = False

    def part(self, name: str) -> Part:
        """The part of this name, the first one for "". Raises `ValueError` for another."""
        for part in self.parts:
            if name in ("", part.name):
                return part
        raise ValueError(
            f"{self.name} has no part {name!r}: it has {', '.join(part.name for part in self.parts)}"
        )

    def full_name(self, part: Part) -> str:
        """`harmbench:val`; the set's own name where it has one part only."""
        return self.name if len(self.parts) == 1 else f"{self.name}:{part.name}"

    @property
    def expected(self) -> str:
        """The columns of every layout, for messages."""
        told = (
            ", ".join(layout.columns) + (" (without a header)" if layout.headerless else "")
            for layout in self.layouts
        )
        return " or ".join(dict.fromkeys(told))
