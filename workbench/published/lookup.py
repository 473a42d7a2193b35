"""Which sets are known, where a file of one lies, and which set a file is of.

The trap: names of files say little. Two sets are called `question.jsonl`, and any file can be renamed: a name proposes,
the columns decide.
"""

from collections.abc import Sequence
from dataclasses import replace
from fnmatch import fnmatch
from itertools import islice
from pathlib import Path

from workbench.published.harmful import HARMFUL
from workbench.published.harmless import HARMLESS
from workbench.published.pictured import PICTURED
from workbench.published.registry import Layout, Part, PublishedSet
from workbench.published.tables import READERS, Row, Table, open_table
from workbench.published.utility import UTILITY

SETS: dict[str, PublishedSet] = {entry.name: entry for entry in (*HARMFUL, *PICTURED, *HARMLESS, *UTILITY)}
"""Every known set by its name."""
ANY_BYTES = "latin-1"  # reads whatever there is, which will do for columns


def published_set(name: str) -> tuple[PublishedSet, Part]:
    """The set and the part that `advbench` or `harmbench:val` names. Raises `ValueError` for an unknown one."""
    first, _, part = name.partition(":")
    if first not in SETS:
        raise ValueError(f"no published set {name!r} is known: there are {', '.join(SETS)}")
    return SETS[first], SETS[first].part(part)


def find_files(entry: PublishedSet, part: Part, root: str | Path) -> tuple[Path, ...]:
    """The file of this part below a folder, or all of them where it is joined of several, in its order.

    Raises what `find_file` raises, for the first that is missing or there twice.
    """
    if not part.joined:
        return (find_file(entry, part, root),)
    return tuple(find_file(entry, replace(part, files=(name,)), root) for name in part.files)


def find_file(entry: PublishedSet, part: Part, root: str | Path) -> Path:
    """The one file below a folder that has a name and the columns of this part.

    Names are tried in the order of the registry. Raises `FileNotFoundError` where there is none, `ValueError` where
    there are several.
    """
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f"no folder {root}: name the one that your downloads lie in")
    files = [path for path in sorted(root.rglob("*")) if path.suffix.lower() in READERS and path.is_file()]
    named: list[Path] = []
    for pattern in part.files:
        called = [path for path in files if _called(path, pattern, root)]
        found = [
            path for path in called if _layout_of(path, entry, open_table(path, fallback=ANY_BYTES).columns)
        ]
        if len(found) > 1:
            raise ValueError(
                f"{entry.full_name(part)} is in {root} {len(found)} times: {', '.join(map(str, found))}: "
                "say which with path="
            )
        if found:
            return found[0]
        named += called
    looks = f"; {', '.join(map(str, named))} has other columns than {entry.expected}" if named else ""
    raise FileNotFoundError(
        f"no file of {entry.full_name(part)} in {root}, looked for {', '.join(part.files) or 'none'}{looks}: "
        f"get it from {entry.home}, or say where it is with path="
    )


def open_as(path: str | Path, entry: PublishedSet) -> tuple[Table, Layout]:
    """The file opened, with the layout of this set that its columns fit. Raises `ValueError` where none does."""
    path = Path(path)
    table = open_table(path, fallback=entry.fallback)
    layout = _layout_of(path, entry, table.columns)
    if layout is None:
        raise ValueError(
            f"{path}: got columns {', '.join(map(str, table.columns)) or 'none'}, expected those of {entry.name}: "
            f"{entry.expected}. Rename them, or see which set it is: workbench data check {path}"
        )
    if layout.headerless:
        table = open_table(path, header=layout.columns, fallback=entry.fallback)
    return table, layout


def identify(path: str | Path) -> tuple[PublishedSet, Part | None]:
    """The set a file is of, by its columns and then by its name; the part, where the name tells it.

    Raises `ValueError` where no set has such columns, or several do and the name decides for none.
    """
    path = Path(path)
    columns = open_table(path, fallback=ANY_BYTES).columns
    fits: list[tuple[tuple[bool, int], PublishedSet, Part | None]] = []
    for entry in SETS.values():
        if (layout := _layout_of(path, entry, columns)) is not None:
            single = [part for part in entry.parts if not part.joined]
            called = (part for part in single for pattern in part.files if _called(path, pattern))
            named = next(called, None)
            only = single[0] if len(single) == 1 else None
            fits.append(((named is not None, len(layout.columns)), entry, named or only))
    if not fits:
        raise ValueError(
            f"{path}: got columns {', '.join(map(str, columns)) or 'none'}, which are no published set's: "
            "workbench data show NAME tells what each has"
        )
    best = max(rank for rank, _, _ in fits)
    likely = [(entry, part) for rank, entry, part in fits if rank == best]
    if len(likely) > 1:
        raise ValueError(
            f"{path}: could be {' or '.join(entry.name for entry, _ in likely)} by its columns: say which, with --as "
            "in the shell and by its name in Python"
        )
    return likely[0]


def _layout_of(path: Path, entry: PublishedSet, columns: Sequence[str]) -> Layout | None:
    """The first layout that these columns fit; one without a header, where its first rows can be read, too."""
    for layout in entry.layouts:
        if layout.fits(columns, path.suffix.lower()):
            if not layout.headerless:
                return layout
            bare = open_table(path, header=layout.columns, fallback=ANY_BYTES)
            if all(_readable(row, layout) for row in islice(bare.rows, 3)):
                return layout
    return None


def _readable(row: Row, layout: Layout) -> bool:
    try:
        layout.read(row.fields)
    except ValueError:
        return False
    return True


def _called(path: Path, pattern: str, root: Path | None = None) -> bool:
    """Whether a file has this name, its folders counted: those below `root`, or the last two."""
    told = path.relative_to(root.parent).parts if root else path.absolute().parts[-3:]
    return fnmatch("/" + "/".join(told).lower(), f"*/{pattern.lower()}")
