"""From the cells of a row to a prompt.

Texts lose the white space around them: the method reads the last token, and a space at the end would be another.

The trap: a cell that is empty, or a number where a text is meant, is an error of its row and no prompt.
"""

import math
from collections.abc import Mapping

from workbench.prompts import Prompt
from workbench.published.registry import Read
from workbench.published.tables import Fields


def said(row: Fields, column: str) -> str:
    """The text in a cell, without white space around it. Raises `ValueError` where there is none."""
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        return value.strip()
    raise ValueError(f"got {column} {value!r}, expected a text")


def number(row: Fields, column: str) -> float:
    """The number in a cell. Raises `ValueError` for anything else, infinity and NaN included."""
    value = row.get(column)
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        found = math.nan
    if not math.isfinite(found):
        raise ValueError(f"got {column} {value!r}, expected a number")
    return found


def shared(row: Fields, columns: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """The clusters of a row: `shared(row, {"category": "Category"})`; an empty cell is no cluster."""
    return tuple((kind, str(row[name])) for kind, name in columns.items() if row.get(name) not in (None, ""))


def numbered(row: Fields, column: str = "id") -> str:
    """The id that a row brings along, "" without one."""
    value = row.get(column)
    return "" if value is None else str(value)


def plain(
    column: str,
    label: str,
    *,
    clusters: Mapping[str, str] | None = None,
    number: str = "id",
    answer: str | None = None,
) -> Read:
    """A reader of rows whose prompt stands in one column, and the answer to it in another."""

    def read(row: Fields) -> Prompt:
        return Prompt.user(
            said(row, column),
            label=label,
            source=numbered(row, number),
            cluster=shared(row, clusters or {}),
            answer=said(row, answer) if answer else None,
        )

    return read


def first_turn(column: str, label: str, *, number: str, reference: str = "reference") -> Read:
    """A reader of rows whose turns stand in a list: later ones answer a reply, so the first is the prompt."""

    def read(row: Fields) -> Prompt:
        turns, answers = row.get(column), row.get(reference)
        if not isinstance(turns, list) or not turns:
            raise ValueError(f"got {column} {turns!r}, expected a list of texts")
        return Prompt.user(
            said({column: turns[0]}, column),
            label=label,
            source=numbered(row, number),
            cluster=shared(row, {"category": "category"}),
            answer=str(answers[0]) if isinstance(answers, list) and answers and answers[0] else None,
        )

    return read
