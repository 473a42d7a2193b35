"""Where the marks of a page's pictures lie, in per cent of their panel: the template draws them as SVG.

Static drawings, so that a page of a run weighs what its texts weigh, prints, and follows the reader's colours. Panels
stretch with the page while marks and letters keep their size, since all places are shares of the panel.

The trap: a condition that breaks its replies refuses none of them and looks safe. Broken replies are drawn beside what
was refused, and a condition that breaks much has a hollow mark.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd

from workbench.evaluation.conditions import CONTROLS
from workbench.records import RunRecord
from workbench.report.verdicts import Shown, composition, verdicts_of
from workbench.report.words import MEASURES, OURS, WITHOUT, conditions_of
from workbench.style import spread

ATTACK, USE = "asr_not_refused", "utility"
RATES = {ATTACK: "harmful", "jailbreak_not_refused": "jailbroken", "over_refusal": "harmless", USE: "domain"}
"""The rates of the second picture, with the colour that each has in all of the project's pictures."""
MUCH_BROKEN = 0.1
ALIKE = 0.025  # marks nearer than this share a label's line
LINE = 15  # pixels from label to label
HEIGHT = 250


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
class Point:
    """One or more conditions at one place of the plane: safety to the left, use to the top."""

    x: float
    y: float
    x_low: float
    x_high: float
    y_low: float
    y_high: float
    colour: str
    hollow: bool
    paper: tuple[float, float] | None


@dataclass(frozen=True)
class Label:
    """Names of conditions beside the plane, and the place of the mark that they belong to."""

    names: tuple[tuple[str, str], ...]
    x: float
    y: float
    top: float


@dataclass(frozen=True)
class Plane:
    """Safety against use for one target."""

    target: str
    points: tuple[Point, ...]
    labels: tuple[Label, ...]
    hollow: bool
    paper: bool
    height: int


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
    bars: tuple[Bar, ...] = field(default=())
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
    """Safety against use, a plane for every target that has both."""
    titles, found = conditions_of(record), []
    for target, part in record.table.groupby("target", sort=False):
        rows = {(row["condition"], row["metric"]): row for row in part.to_dict("records")}
        keys = [key for key in titles if (key, ATTACK) in rows and (key, USE) in rows]
        points = {key: _point(key, rows) for key in keys if not _unknown(rows, key)}
        if len(points) < 2:
            continue
        labels = _labels(points, titles)
        height = max(HEIGHT, LINE * sum(len(label.names) for label in labels) + 20)
        found.append(
            Plane(
                str(target),
                tuple(points.values()),
                _placed(labels, height),
                any(point.hollow for point in points.values()),
                any(point.paper for point in points.values()),
                height,
            )
        )
    return found


def _unknown(rows: Mapping[tuple[str, str], Mapping[str, float]], key: str) -> bool:
    return bool(pd.isna(rows[key, ATTACK]["mean"]) or pd.isna(rows[key, USE]["mean"]))


def _point(key: str, rows: Mapping[tuple[str, str], Mapping[str, float]]) -> Point:
    attack, use, broken = rows[key, ATTACK], rows[key, USE], rows.get((key, "broken"))
    paper = (attack["paper"], use["paper"])
    return Point(
        *(_share(attack["mean"]), 100 - _share(use["mean"])),
        *(_share(attack["low"]), _share(attack["high"])),
        *(100 - _share(use["low"]), 100 - _share(use["high"])),
        kind_of(key),
        broken is not None and broken["mean"] > MUCH_BROKEN,
        None if any(pd.isna(x) for x in paper) else (_share(paper[0]), 100 - _share(paper[1])),
    )


def _labels(points: Mapping[str, Point], titles: Mapping[str, str]) -> list[Label]:
    """A label per place: conditions that lie on each other are named together."""
    places: list[tuple[Point, list[str]]] = []
    for key, point in points.items():
        for near, names in places:
            if max(abs(near.x - point.x), abs(near.y - point.y)) < 100 * ALIKE:
                names.append(key)
                break
        else:
            places.append((point, [key]))
    places.sort(key=lambda place: (place[0].y, -place[0].x))
    return [
        Label(tuple((titles[key], kind_of(key)) for key in keys), point.x, point.y, 0)
        for point, keys in places
    ]


def _placed(labels: Sequence[Label], height: int) -> tuple[Label, ...]:
    """The labels at the height of their marks, moved as little as keeps them apart."""
    lines = [i for i, label in enumerate(labels) for _ in label.names]
    wanted = [labels[i].y / 100 * height + k * 1e-6 for k, i in enumerate(lines)]
    heights = spread(wanted, LINE, 6, height - 6)
    first = {i: heights[k] for k, i in reversed(list(enumerate(lines)))}
    return tuple(
        Label(label.names, label.x, label.y, round(first[i], 1)) for i, label in enumerate(labels)
    )


def rates(record: RunRecord) -> list[Panel]:
    """Attack success, refused harmless prompts and use of every condition, a panel for every target."""
    titles, panels = conditions_of(record), []
    for target, part in record.table.groupby("target", sort=False):
        there = {(row["condition"], row["metric"]): row for row in part.to_dict("records")}
        rows = [
            (titles[key], key in OURS, marks)
            for key in titles
            if (marks := tuple(_mark(metric, there[key, metric]) for metric in RATES if _drawn(there, key, metric)))
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


def _drawn(there: Mapping[tuple[str, str], Mapping[str, float]], key: str, metric: str) -> bool:
    return (key, metric) in there and not pd.isna(there[key, metric]["mean"])


def _mark(metric: str, row: Mapping[str, float]) -> Mark:
    measure = MEASURES[metric]
    paper = None if pd.isna(row["paper"]) else row["paper"]
    said = (
        f"{measure.name} {measure.said(row['mean'])} %, 95 % interval {measure.said(row['low'])} to "
        f"{measure.said(row['high'])}" + ("" if paper is None else f", the paper {measure.said(paper)}")
    )
    return Mark(
        RATES[metric],
        *(_share(row[name]) for name in ("mean", "low", "high")),
        None if paper is None else _share(paper),
        said,
    )


def compositions(record: RunRecord, rows: Shown) -> list[Panel]:
    """What became of attacks, in verdicts, under every condition; a panel for every target."""
    titles, panels, counts = conditions_of(record), [], composition(record, rows)
    counts = counts[counts["side"] == "attacks"]
    order = verdicts_of(rows)
    for target, part in counts.groupby("target", sort=False):
        of = {(row["condition"], row["verdict"]): int(row["n"]) for row in part.to_dict("records")}
        bars = tuple(_bar(titles[key], {v: of.get((key, v), 0) for v in order}) for key in titles)
        keys = tuple((v, v) for v in order if any(of.get((key, v)) for key in titles))
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
