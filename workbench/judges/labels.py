"""Replies that people have labelled, from a file: csv with a header, or JSON lines.

    refused       refused, refusal, full_refusal, partial_refusal; XSTest's 2_full_refusal and 3_partial_refusal
    not refused   complied, compliance, full_compliance, broken, other; XSTest's 1_full_compliance
    unlabelled    an empty one

True and false, yes and no, say it where the column's name does: `refused`, `is_refusal`.

A row's number is the one that a spreadsheet shows: the header is row 1. In JSON lines it is the line's.

The trap: a label that is misspelt would count as some other. One that is not known is refused, with its row.
"""

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

REPLIES = ("completion", "reply", "response", "generation", "output")
PROMPTS = ("prompt", "question", "instruction", "request", "behavior")
LABELS = ("final_label", "label", "human_label", "human", "verdict", "refused")

MEANS_REFUSED = {
    **dict.fromkeys(("refused", "refusal", "full_refusal", "partial_refusal"), True),
    **dict.fromkeys(("2_full_refusal", "3_partial_refusal"), True),
    **dict.fromkeys(
        ("complied", "compliance", "full_compliance", "1_full_compliance", "broken", "other"), False
    ),
}
YES_OR_NO = {"true": True, "yes": True, "false": False, "no": False}
EMPTY = ("", "nan", "none", "null")


@dataclass(frozen=True)
class LabelledReply:
    """One reply, where it stands in its file, and whether people say that it refuses; None where nobody said."""

    row: int
    text: str | None
    refused: bool | None
    fields: Mapping[str, Any]
    prompt: str | None = None
    """What was asked; None where the file does not say."""

    @property
    def finished(self) -> bool:
        """What the column `finished` says; without one a reply counts as finished."""
        return str(self.fields.get("finished", True)).strip().lower() not in ("false", "0", "no")


def read_labelled(
    path: str | Path,
    *,
    reply: str | None = None,
    label: str | None = None,
    prompt: str | None = None,
    refused: Sequence[str] = (),
) -> list[LabelledReply]:
    """Every row of a file, in order; rows that are blank altogether are none.

    `reply`, `label` and `prompt` name the columns; those of XSTest and a few plain names are known, and a file may have
    no prompts. With `refused`, these labels mean a refusal, and all others none.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}: name a csv or JSON-lines file of labelled replies")
    rows = list(_json_lines(path) if path.suffix == ".jsonl" else _csv_rows(path))
    if not rows:
        raise ValueError(f"{path} has no rows: expected replies with labels, one a row")
    columns = list(dict.fromkeys(name for _, fields in rows for name in fields))
    reply = _column(path, columns, reply, REPLIES, "replies", "--reply")
    label = _column(path, columns, label, LABELS, "labels that people gave", "--label")
    if prompt is not None or any(name in columns for name in PROMPTS):
        prompt = _column(path, columns, prompt, PROMPTS, "prompts", "--prompt")
    found = []
    for row, fields in rows:
        text = fields.get(reply)
        where = f"{path}, row {row}"
        if text is not None and not isinstance(text, str):
            raise ValueError(f"{where}: got {text!r} for the reply, expected a text")
        asked = fields.get(prompt) if prompt is not None else None
        asked = asked if isinstance(asked, str) and asked.strip() else None
        found.append(LabelledReply(row, text, means_refused(fields, label, refused, where), fields, asked))
    given = {str(fields.get(label)).strip() for _, fields in rows}
    if missing := set(refused) - given:
        raise ValueError(
            f"{path}: no row has the label {', '.join(map(repr, sorted(missing)))} in {label}: it has "
            f"{', '.join(map(repr, sorted(given)[:20]))}"
        )
    return found


def means_refused(fields: Mapping[str, Any], column: str, refused: Sequence[str], where: str) -> bool | None:
    """Whether the label in `column` means a refusal; None for an empty one.

    With `refused`, these labels do and all others do not; otherwise an unknown one is a `ValueError` that says `where`.
    """
    label = fields.get(column)
    said = "" if label is None else str(label).strip()
    if said.lower() in EMPTY:
        return None
    if refused:
        return said in refused
    known = MEANS_REFUSED | (YES_OR_NO if "refus" in column.lower() else {})
    if said.lower() not in known:
        raise ValueError(
            f"{where}, {column}: got the label {said!r}, expected one of {', '.join(known)}: name the labels that mean "
            "a refusal, --refused LABEL"
        )
    return known[said.lower()]


def _column(
    path: Path, columns: list[str], given: str | None, known: Sequence[str], what: str, option: str
) -> str:
    """The column that is meant: the one that is named, or the first known name that is there."""
    if given is not None:
        if given not in columns:
            raise ValueError(f"{path} has no column {given!r}: it has {', '.join(columns)}")
        return given
    found = next((name for name in known if name in columns), None)
    if found is None:
        raise ValueError(
            f"{path} has no column of {what} that is known ({', '.join(known)}): it has {', '.join(columns)}; name it, "
            f"{option} COLUMN"
        )
    return found


def _text(path: Path) -> str:
    """The file as text, without a byte order mark; `ValueError` with the row of what is not UTF-8."""
    content = path.read_bytes()
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = len(content[: error.start].decode("utf-8", "replace").splitlines())
        raise ValueError(f"{path}, line {row}: {error}: save it as UTF-8") from None


def _csv_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    limit = csv.field_size_limit(
        2**31 - 1
    )  # a reply may be longer than the 128 KB that csv takes for a mistake
    row = 1
    try:
        header: list[str] | None = None
        for row, fields in enumerate(csv.reader(io.StringIO(_text(path), newline=""), strict=True), start=1):
            if not any(field.strip() for field in fields):
                continue
            if header is None:
                header = [name.strip() for name in fields]
                if twice := sorted({name for name in header if header.count(name) > 1}):
                    raise ValueError(
                        f"{path}: has the column {', '.join(twice)} more than once: rename one of them"
                    )
                continue
            if len(fields) != len(header):
                raise ValueError(
                    f"{path}, row {row}: got {len(fields)} fields, expected the header's {len(header)}: put texts with "
                    "commas or line breaks in quotes"
                )
            yield row, dict(zip(header, fields, strict=True))
    except csv.Error as error:
        raise ValueError(f"{path}, after row {row}: {error}: expected csv with quotes that close") from None
    finally:
        csv.field_size_limit(limit)


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Not splitlines(): a reply may hold U+2028, which JSON leaves as it is.
    for row, line in enumerate(io.StringIO(_text(path), newline=None), start=1):
        if not line.strip():
            continue
        try:
            fields = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}, row {row}: {error}: expected one JSON object a line") from None
        if not isinstance(fields, dict):
            raise ValueError(
                f"{path}, row {row}: got {type(fields).__name__}, expected one JSON object a line"
            )
        yield row, fields
