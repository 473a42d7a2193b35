"""Files as rows: csv, tsv, JSON, JSON lines, lines of text and parquet, each row with its place in the file.

Rows are numbered from 1, blank ones too; a header is none. All but a JSON array and a JSON object pass through a row
at a time, so a million rows need no more memory than one.

The trap: readers of tables guess. To pandas the answer "None" is missing and "07" is seven; here a cell of a csv file
is the text that stands in it.
"""

import codecs
import csv
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

Fields: TypeAlias = Mapping[str, Any]
TEXT = "text"
"""What the only column is called of files that name none: lines, and JSON lists of texts."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row: its number, the line that it begins on where its format has lines, and its cells by column.

    `damage` says what is wrong with a row that could not be read, and whose cells are none.
    """

    number: int
    line: int | None
    fields: Fields
    damage: str = ""

    @property
    def place(self) -> str:
        """`row 3 (line 4)`."""
        return f"row {self.number}" + ("" if self.line is None else f" (line {self.line})")

    @property
    def blank(self) -> bool:
        """Whether nothing stands in it."""
        return not self.damage and all(
            value is None or (isinstance(value, str) and not value.strip()) for value in self.fields.values()
        )


@dataclass(frozen=True)
class Table:
    """An open file: its columns, and its rows, which can be walked through once."""

    path: Path
    columns: tuple[str, ...]
    rows: Iterator[Row]


def open_table(
    path: str | Path, *, header: Sequence[str] | None = None, fallback: str | None = None
) -> Table:
    """The rows of a file, by the ending of its name.

    `header` names the columns of a csv file that has no header; `fallback` is the encoding of a file that is no UTF-8.
    A row that cannot be read says so in `damage`; a file that cannot be read on raises `ValueError` with the place.
    """
    path = Path(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise ValueError(
            f"{path}: got a file that ends in {path.suffix or 'nothing'!r}, expected {', '.join(READERS)}"
        )
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: check the path")
    columns, rows = reader(path, header, fallback)
    if twice := sorted({column for column in columns if columns.count(column) > 1}):
        raise ValueError(f"{path}: got two columns {twice[0]!r}, expected every column once: rename one")
    return Table(path, tuple(columns), rows)


Opened: TypeAlias = tuple[Sequence[str], Iterator[Row]]


def _separated(delimiter: str) -> Callable[[Path, Sequence[str] | None, str | None], Opened]:
    def read(path: Path, header: Sequence[str] | None, fallback: str | None) -> Opened:
        reader = csv.reader(_lines(path, fallback), delimiter=delimiter, strict=True)
        columns = header or [name.strip() for name in _record(path, reader, 0) or ()]
        return columns, _records(path, reader, columns)

    return read


def _records(path: Path, reader: Any, columns: Sequence[str]) -> Iterator[Row]:
    number, line = 1, reader.line_num + 1
    while (cells := _record(path, reader, number)) is not None:
        if not any(cell.strip() for cell in cells):
            yield Row(number, line, {})
        elif len(cells) != len(columns):
            yield Row(number, line, {}, f"got {len(cells)} cells, expected {len(columns)}, as the header has")
        else:
            yield Row(number, line, dict(zip(columns, cells, strict=True)))
        number, line = number + 1, reader.line_num + 1


def _record(path: Path, reader: Any, number: int) -> list[str] | None:
    line = reader.line_num + 1
    try:
        return next(reader, None)
    except csv.Error as error:
        where = f"row {number}" if number else "the header"
        raise ValueError(
            f"{path}, {where} (line {line}): {error}: a quote that opens there may never be closed"
        ) from error


def _json_lines(path: Path, header: Sequence[str] | None, fallback: str | None) -> Opened:
    return _peeked(_each_json_line(path, fallback))


def _each_json_line(path: Path, fallback: str | None) -> Iterator[Row]:
    for number, line in enumerate(_lines(path, fallback), start=1):
        if not line.strip():
            yield Row(number, number, {})
            continue
        try:
            value = json.loads(line.rstrip())
        except json.JSONDecodeError as error:
            yield Row(number, number, {}, f"is no JSON: {error.msg}, column {error.colno}")
        else:
            yield _row(number, number, value)


def _json(path: Path, header: Sequence[str] | None, fallback: str | None) -> Opened:
    """A JSON array, an object whose values are the rows and whose keys their ids, or JSON lines by this ending."""
    if _holds_lines(path, fallback):
        return _json_lines(path, header, fallback)
    try:
        data = json.loads("".join(_lines(path, fallback)))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path}, line {error.lineno}: is no JSON: {error.msg}") from error
    if isinstance(data, dict) and data and all(isinstance(value, dict) for value in data.values()):
        data = [{"id": key} | value for key, value in data.items()]
    values = data if isinstance(data, list) else [data]
    return _peeked(_row(number, None, value) for number, value in enumerate(values, start=1))


def _holds_lines(path: Path, fallback: str | None) -> bool:
    """Whether the first line is an object of its own, and more follow."""
    lines = (line for line in _lines(path, fallback) if line.strip())
    try:
        return isinstance(json.loads(next(lines, "")), dict) and next(lines, None) is not None
    except json.JSONDecodeError:
        return False


def _row(number: int, line: int | None, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(number, line, value)
    if value is None or isinstance(value, str):
        return Row(number, line, {TEXT: value})
    return Row(number, line, {}, f"got a value of type {type(value).__name__}, expected an object or a text")


def _text(path: Path, header: Sequence[str] | None, fallback: str | None) -> Opened:
    lines = enumerate(_lines(path, fallback), start=1)
    return [TEXT], (Row(number, number, {TEXT: line.rstrip("\r\n")}) for number, line in lines)


def _parquet(path: Path, header: Sequence[str] | None, fallback: str | None) -> Opened:
    try:
        from pyarrow import ArrowInvalid
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ImportError(f"{path} takes pyarrow to be read: pip install '.[data]'") from error
    try:
        file = ParquetFile(path)
    except ArrowInvalid as error:
        raise ValueError(f"{path}: is no parquet file: {error}") from error
    values = (value for batch in file.iter_batches(batch_size=1024) for value in batch.to_pylist())
    return file.schema_arrow.names, (_row(number, None, value) for number, value in enumerate(values, 1))


def _peeked(rows: Iterable[Row]) -> Opened:
    """The columns of the first row that has any, and all rows."""
    seen: list[Row] = []
    rest = iter(rows)
    for row in rest:
        seen.append(row)
        if row.fields:
            break
    return (tuple(seen[-1].fields) if seen else ()), chain(seen, rest)


def _lines(path: Path, fallback: str | None) -> Iterator[str]:
    """Lines with their ends as they are, of whatever kind: csv cells may hold some."""
    with path.open(encoding=_encoding(path, fallback), newline="") as file:
        try:
            yield from file
        except UnicodeError as error:
            raise ValueError(f"{path}, {_undecodable(path)}: save the file as UTF-8") from error


def _encoding(path: Path, fallback: str | None) -> str:
    with path.open("rb") as file:
        start = file.read(4)
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    # Whoever saved a Latin-1 file anew did so in UTF-8, which Latin-1 reads without a word and wrong.
    return fallback if fallback and _undecodable(path) else "utf-8-sig"


def _undecodable(path: Path) -> str | None:
    """Where a file stops being UTF-8."""
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                return f"line {number}: byte 0x{line[error.start]:02x} is no UTF-8"
    return None


READERS: dict[str, Callable[[Path, Sequence[str] | None, str | None], Opened]] = {
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".json": _json,
    ".jsonl": _json_lines,
    ".txt": _text,
    ".parquet": _parquet,
}
"""How each kind of file is read, by the ending of its name."""
