"""Where the marks of a page's pictures lie, in per cent of their panel: the template draws them as SVG.

Static drawings, so that a page of a run weighs what its texts weigh, prints, and follows the reader's colours. Panels
stretch with the page while marks and letters keep their size, since all places are shares of the panel.

The trap: a condition that breaks its replies refuses none of them and looks safe. Broken replies are drawn beside what
was refused, and a condition that breaks much has a hollow mark.
"""

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import pandas as pd

from workbench.evaluation.conditions import CONTROLS
from workbench.records import RunRecord
from workbench.report.verdicts import Shown, composition, verdicts_of
from workbench.report.words import MEASURES, OURS, UNSCORED, WITHOUT, conditions_of

ATTACK, USE = "asr_not_refused", "utility"
RATES = {ATTACK: "harmful", "jailbreak_not_refused": "jailbroken", "over_refusal": "harmless", USE: "domain"}
"""The rates of the second picture, with the colour that each has in all of the project's pictures."""
MUCH_BROKEN = 0.1
ALIKE = 0.06  # conditions nearer than this in both rates share a mark: it is about that wide

Rows: TypeAlias = Mapping[tuple[str, str], Mapping[Hashable, Any]]
"""Rows of the table by condition and metric."""


@dataclass(frozen=True)
class Mark:
    """A rate with its interval and the paper's number, in per cent from the left; `said` is read out."""

    colour: str
    at: float
    low: float
    high: float
    paper: float | None
    said: str


@dataclass(frozen=True)
class Place:
    """Conditions that lie on each other in the plane, their names with their colours; use grows to the top."""

    number: int
    names: tuple[tuple[str, str], ...]
    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    colour: str
    hollow: bool
    papers: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Plane:
    """Safety against use for one target."""

    target: str
    places: tuple[Place, ...]

    @property
    def hollow(self) -> bool:
        """Whether a condition breaks much."""
        return any(place.hollow for place in self.places)

    @property
    def paper(self) -> bool:
        """Whether the paper has a number for any of them."""
        return any(place.papers for place in self.places)


@dataclass(frozen=True)
class Bar:
    """Shares of verdicts of one condition: (verdict, from, width) in per cent, and the counts in words."""

    name: str
    parts: tuple[tuple[str, float, float], ...]
    n: int
    said: str


@dataclass(frozen=True)
class Panel:
    """The rows of one target: a name, whether it is ours, and its marks or its bar."""

    target: str
    rows: tuple[tuple[str, bool, tuple[Mark, ...]], ...] = ()
    bars: tuple[Bar, ...] = ()
    keys: tuple[tuple[str, str], ...] = ()
    paper: bool = False


def kind_of(condition: str) -> str:
    """The colour of a condition: ours, the model as it is, a control, or another defence."""
    if condition.startswith(OURS):
        return "steered"
    if condition in WITHOUT:
        return "unsteered"
    return "control" if condition in CONTROLS else "other"


def planes(record: RunRecord) -> list[Plane]:
    """Safety against use, a plane for every target that has both of two conditions or more."""
    titles, found = conditions_of(record), []
    for target, part in record.table.groupby("target", sort=False):
        rows = _rows(part)
        keys = [key for key in titles if _drawn(rows, key, ATTACK) and _drawn(rows, key, USE)]
        if len(keys) > 1:
            # Ours first: what lies on it is told by its mark.
            ours = sorted(keys, key=lambda key: key not in OURS)
            found.append(Plane(str(target), tuple(_places(ours, rows, titles))))
    return found


def _places(keys: Sequence[str], rows: Rows, titles: Mapping[str, str]) -> Iterator[Place]:
    """A place for all conditions that a mark's width would not part, from the safest to the least safe."""
    together: list[list[str]] = []
    for key in keys:
        for group in together:
            if all(abs(rows[key, m]["mean"] - rows[group[0], m]["mean"]) < ALIKE for m in (ATTACK, USE)):
                group.append(key)
                break
        else:
            together.append([key])
    together.sort(key=lambda group: (rows[group[0], ATTACK]["mean"], -rows[group[0], USE]["mean"]))
    for number, group in enumerate(together, start=1):
        attack, use = (rows[group[0], metric] for metric in (ATTACK, USE))
        broken = rows[group[0], "broken"]["mean"] if (group[0], "broken") in rows else 0.0
        papers = ((rows[key, ATTACK]["paper"], rows[key, USE]["paper"]) for key in group)
        yield Place(
            number,
            tuple((titles[key], kind_of(key)) for key in group),
            *(_share(attack["mean"]), 100 - _share(use["mean"])),
            *(_share(attack["low"]), _share(attack["high"])),
            *(100 - _share(use["low"]), 100 - _share(use["high"])),
            kind_of(group[0]),
            broken > MUCH_BROKEN,
            tuple((_share(x), 100 - _share(y)) for x, y in papers if not (pd.isna(x) or pd.isna(y))),
        )


def _rows(part: pd.DataFrame) -> Rows:
    return {(str(row["condition"]), str(row["metric"])): row for row in part.to_dict("records")}


def rates(record: RunRecord) -> list[Panel]:
    """Attack success, refused harmless prompts and use of every condition, a panel for every target."""
    titles, panels = conditions_of(record), []
    for target, part in record.table.groupby("target", sort=False):
        there = _rows(part)
        rows = [
            (titles[key], key in OURS, marks)
            for key in titles
            if (
                marks := tuple(
                    _mark(metric, there[key, metric]) for metric in RATES if _drawn(there, key, metric)
                )
            )
        ]
        keys = tuple(
            (MEASURES[metric].name, colour)
            for metric, colour in RATES.items()
            if any(_drawn(there, key, metric) for key in titles)
        )
        paper = any(mark.paper is not None for _, _, marks in rows for mark in marks)
        if rows:
            panels.append(Panel(str(target), rows=tuple(rows), keys=keys, paper=paper))
    return panels


def _drawn(there: Rows, key: str, metric: str) -> bool:
    return (key, metric) in there and not pd.isna(there[key, metric]["mean"])


def _mark(metric: str, row: Mapping[Hashable, Any]) -> Mark:
    measure = MEASURES[metric]
    paper = None if pd.isna(row["paper"]) else row["paper"]
    said = (
        f"{measure.name} {measure.said(row['mean'])} %, 95 % interval {measure.said(row['low'])} to "
        f"{measure.said(row['high'])}" + ("" if paper is None else f", the paper {measure.said(paper)}")
    )
    at, low, high = (_share(row[name]) for name in ("mean", "low", "high"))
    return Mark(RATES[metric], at, low, high, None if paper is None else _share(paper), said)


def compositions(record: RunRecord, rows: Shown) -> list[Panel]:
    """What became of attacks, in verdicts, under every condition; a panel for every target."""
    titles, panels, counts = conditions_of(record), [], composition(record, rows)
    counts = counts[counts["side"] == "attacks"]
    order = verdicts_of(rows)
    for target, part in counts.groupby("target", sort=False):
        of = {(row["condition"], row["verdict"]): int(row["n"]) for row in part.to_dict("records")}
        bars = tuple(_bar(titles[key], {v: of.get((key, v), 0) for v in order}) for key in titles)
        keys = tuple((v, f"verdict-{v}") for v in order if any(of.get((key, v)) for key in titles))
        if set(part["verdict"]) != {UNSCORED}:  # a run that no judge read has nothing to draw
            panels.append(Panel(str(target), bars=tuple(bar for bar in bars if bar.n), keys=keys))
    return panels


def _bar(name: str, counts: Mapping[str, int]) -> Bar:
    n, parts, start = sum(counts.values()), [], 0.0
    for verdict, count in counts.items():
        if count:
            width = 100 * count / n
            parts.append((verdict, round(start, 3), round(width, 3)))
            start += width
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
    return Bar(name, tuple(parts), n, said)


def _share(rate: float) -> float:
    return round(100 * min(max(float(rate), 0.0), 1.0), 3)
