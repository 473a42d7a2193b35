"""The tables of a page: condition by metric, as measured and as the paper has it, and what each changed.

The trap: a page that computes its numbers again can disagree with the run. Every number here is one of the record's
frames, with all its digits beside the rounded ones that are read.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.records import NO_CLAIM, RunRecord
from workbench.report.words import Measure, conditions_of, measures_of, targets_of

WIDE = 0.2
"""An interval wider than this carries no claim about a rate: it is marked."""
SURE = 0.05
_COMPARED = ("condition", "against", "metric", "low", "high")


@dataclass(frozen=True)
class Cell:
    """A number with its interval, exact and as read; `marks` says by letters what is to be said of it."""

    value: float
    said: str
    low: float
    high: float
    interval: str
    n: int
    paper: float | None = None
    paper_said: str = ""
    unscored: int = 0
    p: float | None = None
    sure: bool = False
    wide: bool = False
    short: bool = False
    needed: int = 0


@dataclass(frozen=True)
class Grid:
    """One table: its caption, its metrics as columns, and a row of cells (None: not measured) per condition."""

    target: str
    caption: str
    measures: tuple[Measure, ...]
    rows: tuple[tuple[str, str, tuple[Cell | None, ...]], ...]

    @property
    def cells(self) -> list[Cell]:
        """All that were measured."""
        return [cell for _, _, row in self.rows for cell in row if cell is not None]

    @property
    def paper(self) -> bool:
        """Whether the paper has a number for any of them."""
        return any(cell.paper is not None for cell in self.cells)

    @property
    def counts(self) -> list[str]:
        """Of how many prompts each metric was told, the fewest and the most where conditions differ."""
        columns = zip(*(row for _, _, row in self.rows), strict=True)
        by_metric = ([cell.n for cell in column if cell is not None] for column in columns)
        return [
            f"{min(found):,}" if min(found) == max(found) else f"{min(found):,} to {max(found):,}"
            for found in by_metric
        ]


def measured(record: RunRecord) -> list[Grid]:
    """A grid of the record's table for every target."""
    grids = []
    for target in record.table["target"].astype(str).unique():
        part = record.table[record.table["target"].astype(str) == target]
        caption = f"{target}: {'as measured' if record.claims else NO_CLAIM}"
        grids.append(_grid(part, target, caption, conditions_of(record), _measured_cell))
    return grids


def compared(record: RunRecord) -> tuple[list[Grid], str]:
    """A grid of the record's comparisons for every target and baseline, and a sentence where none can be shown."""
    frame = record.comparisons
    if frame.empty:
        return [], "This run compares nothing: it has one condition, or its conditions share no prompts."
    value = next((column for column in ("change", "mean") if column in frame), None)
    missing = [column for column in _COMPARED if column not in frame]
    if value is None or missing:
        return [], (
            f"comparisons.csv has no {', '.join([*missing, *([] if value else ['change'])])}: its "
            f"{len(frame)} rows are not shown."
        )
    titles, grids = conditions_of(record), []
    frame = frame.assign(
        mean=frame[value], target=frame["target"] if "target" in frame else targets_of(record)[0]
    )
    for (target, against), part in frame.groupby(["target", "against"], sort=False):
        caption = f"{target}: change against {titles.get(str(against), str(against))}"
        grids.append(_grid(part, str(target), caption, titles, _compared_cell))
    return grids, ""


def _grid(part: pd.DataFrame, target: str, caption: str, titles: Mapping[str, str], cell: Any) -> Grid:
    measures = tuple(measures_of(part))
    rows = {(str(row["condition"]), str(row["metric"])): row for row in part.to_dict("records")}
    there = list(dict.fromkeys(part["condition"].astype(str)))
    keys = [key for key in titles if key in there] + [key for key in there if key not in titles]
    return Grid(
        target,
        caption,
        measures,
        tuple(
            (
                key,
                titles.get(key, key),
                tuple(
                    cell(measure, rows[key, measure.key]) if (key, measure.key) in rows else None
                    for measure in measures
                ),
            )
            for key in keys
        ),
    )


def _measured_cell(measure: Measure, row: Mapping[Any, Any]) -> Cell:
    paper = _number(row, "paper")
    mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
    return Cell(
        mean,
        measure.said(mean),
        low,
        high,
        f"{measure.said(low)} to {measure.said(high)}",
        _count(row, "n"),
        paper,
        "" if paper is None else measure.said(paper),
        _count(row, "unscored"),
        wide=measure.rate and not high - low <= WIDE,
    )


def _compared_cell(measure: Measure, row: Mapping[Any, Any]) -> Cell:
    mean, low, high = (float(row[name]) for name in ("mean", "low", "high"))
    corrected = _number(row, "p_holm")
    n, needed = _count(row, "n"), _number(row, "needed")
    needs = 0 if needed is None or math.isinf(needed) else math.ceil(needed)
    return Cell(
        mean,
        measure.said(mean, signed=True),
        low,
        high,
        f"{measure.said(low, signed=True)} to {measure.said(high, signed=True)}",
        n,
        p=corrected,
        sure=corrected is not None and corrected < SURE,
        short=needs > n,
        needed=needs,
    )


def _number(row: Mapping[Any, Any], name: str) -> float | None:
    value = row.get(name)
    return None if value is None or pd.isna(value) else float(value)


def _count(row: Mapping[Any, Any], name: str) -> int:
    return int(_number(row, name) or 0)


def legend(grids: list[Grid]) -> Iterator[Measure]:
    """The metrics of all grids, once each."""
    seen: dict[str, Measure] = {}
    for grid in grids:
        seen |= {measure.key: measure for measure in grid.measures}
    yield from (measure for measure in seen.values() if measure.means)
