"""Which sets are known, where a file of one lies, and which set a file is of.

The trap: names of files say little. Two sets are called `question.jsonl`, and any file can be renamed: a name proposes,
the columns decide.
"""

from collections.abc import Iterator
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from workbench.published.harmful import HARMFUL
from workbench.published.harmless import HARMLESS
from workbench.published.registry import Layout, Part, PublishedSet
from workbench.published.tables import READERS, Table, open_table
from workbench.published.utility import UTILITY

SETS: dict[str, PublishedSet] = {entry.name: entry for entry in (*HARMFUL, *HARMLESS, *UTILITY)}
"""Every known set by its name."""


def published_set(name: str) -> tuple[PublishedSet, Part]:
    """The set and the part that `advbench` or `harmbench:val` names. Raises `ValueError` for an unknown one."""
    first, _, part = name.partition(":")
    if first not in SETS:
        raise ValueError(f"no published set {name!r} is known: there are {', '.join(SETS)}")
    return SETS[first], SETS[first].part(part)


def find_file(entry: PublishedSet, part: Part, root: str | Path) -> Path:
    """The one file below a folder that has a name and the columns of this part.

    Names are tried in the order of the registry. Raises `FileNotFoundError` where there is none, `ValueError` where
    there are several.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: name the one that your downloads lie in")
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in READERS and path.is_file()]
    named = [path for pattern in part.files for path in files if _called(path, pattern, root)]
    for pattern in part.files:
        found = [path for path in files if _called(path, pattern, root) and _opened(path, entry) is not None]
        if len(found) > 1:
            raise ValueError(
                f"{entry.full_name(part)} is in {root} {len(found)} times: {', '.join(map(str, found))}: "
                "say which with path="
            )
        if found:
            return found[0]
    looks = f"; {', '.join(map(str, named))} has other columns than {entry.expected}" if named else ""
    raise FileNotFoundError(
        f"no file of {entry.full_name(part)} in {root}, looked for {', '.join(part.files) or 'none'}{looks}: "
        f"get it from {entry.home}, or say where it is with path="
    )


def open_as(path: str | Path, entry: PublishedSet) -> tuple[Table, Layout]:
    """The file opened, with the layout of this set that its columns fit. Raises `ValueError` where none does."""
    opened = _opened(Path(path), entry)
    if opened is None:
        found = open_table(path, fallback=entry.fallback).columns
        raise ValueError(
            f"{path}: got columns {', '.join(map(str, found)) or 'none'}, expected those of {entry.name}: "
            f"{entry.expected}. Rename them, or see which set it is: workbench data check {path}"
        )
    return opened


def identify(path: str | Path) -> tuple[PublishedSet, Part | None]:
    """The set a file is of, by its columns and then by its name; the part, where the name tells it.

    Raises `ValueError` where no set has such columns, or several do and the name decides for none.
    """
    path = Path(path)
    fits: list[tuple[tuple[bool, int], PublishedSet, Part | None]] = []
    for entry in SETS.values():
        if (opened := _opened(path, entry)) is not None:
            named = next(
                (part for part in entry.parts for pattern in part.files if _called(path, pattern)), None
            )
            only = entry.parts[0] if len(entry.parts) == 1 else None
            fits.append(((named is not None, len(opened[1].columns)), entry, named or only))
    if not fits:
        found = ", ".join(map(str, open_table(path, fallback="latin-1").columns))
        raise ValueError(
            f"{path}: got columns {found or 'none'}, which are no published set's: workbench data show NAME tells what "
            "each has"
        )
    best = max(rank for rank, _, _ in fits)
    likely = [(entry, part) for rank, entry, part in fits if rank == best]
    if len(likely) > 1:
        raise ValueError(
            f"{path}: could be {' or '.join(entry.name for entry, _ in likely)} by its columns: say which, with --as "
            "in the shell and by its name in Python"
        )
    return likely[0]


def _opened(path: Path, entry: PublishedSet) -> tuple[Table, Layout] | None:
    suffix = path.suffix.lower()
    bare = open_table(path, fallback=entry.fallback)
    for layout in entry.layouts:
        if layout.fits(bare.columns, suffix):
            if not layout.headerless:
                return bare, layout
            table = open_table(path, header=layout.columns, fallback=entry.fallback)
            if all(_readable(row.fields, layout) for row in islice(table.rows, 3)):
                return open_table(path, header=layout.columns, fallback=entry.fallback), layout
    return None


def _readable(fields: object, layout: Layout) -> bool:
    try:
        layout.read(fields)  # type: ignore[arg-type]
    except ValueError:
        return False
    return True


def _called(path: Path, pattern: str, root: Path | None = None) -> bool:
    """Whether a file has this name, its folders counted: those below `root`, or the last two."""
    told = path.relative_to(root.parent).parts if root else path.absolute().parts[-3:]
    return fnmatch("/" + "/".join(told).lower(), f"*/{pattern.lower()}")


def listed() -> Iterator[tuple[PublishedSet, Part]]:
    """Every part of every set."""
    return ((entry, part) for entry in SETS.values() for part in entry.parts)
