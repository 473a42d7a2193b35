"""Every verdict of a run as a page carries it: what may be in it, how long, and which slipped through or changed.

The trap: what is merely hidden is still in the file. Replies of real models to prompts that are not known to be calm,
and the judges' reasons, which quote them, are taken out before anything is written.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.prompts import ATTACKS
from workbench.records import RunRecord
from workbench.report.words import (
    UNSCORED,
    VERDICTS,
    baseline_of,
    conditions_of,
    is_defence,
    targets_of,
)

CALM = ("harmless", "contrast", "domain")
CUTS = {"text": 4000, "reply": 600, "reason": 600}
"""How many characters of a text are in the page; `verdicts.jsonl` has them all."""
SIDES = ("attacks", "others")
SLIPS = ("complied", "other")


@dataclass(frozen=True, eq=False)
class Shown:
    """The rows that a page shows, and how many replies were left out of it, were cut, and have no verdict."""

    frame: pd.DataFrame
    left_out: int
    cut: int
    unscored: int


def shown(record: RunRecord, *, include_harmful_text: bool = False) -> Shown:
    """The record's verdicts with what the page may have of them.

    Columns `slipped` (complied or other on an attack, under a condition that is a defence) and `changed` (another
    verdict than the baseline's for the same prompt) are added, and `withheld` where reply and reason are left out.
    """
    frame = record.verdicts.reset_index(drop=True)
    verdict = frame["verdict"].where(frame["verdict"].notna(), UNSCORED).astype(str)
    attack = frame["label"].isin(ATTACKS)
    slipped = attack & verdict.isin(SLIPS) & frame["condition"].map(is_defence).astype(bool)
    withheld = ~frame["label"].isin(CALM)
    if record.embedded or include_harmful_text:
        withheld &= False
    kept = frame.assign(
        verdict=verdict,
        slipped=slipped,
        changed=_changed(frame, verdict, baseline_of(record)),
        withheld=withheld,
        reply=frame["reply"].where(~withheld, None),
        reason=frame["reason"].where(~withheld, None),
    )
    long = kept["reply"].astype("string").str.len().gt(CUTS["reply"]).fillna(False)
    return Shown(kept, int(withheld.sum()), int(long.sum()), int((verdict == UNSCORED).sum()))


def _changed(frame: pd.DataFrame, verdict: pd.Series, baseline: str | None) -> pd.Series:
    key = pd.Series(list(zip(frame["target"], frame["prompt"], strict=True)), index=frame.index)
    at = frame["condition"] == baseline
    before = verdict[at].groupby(key[at]).first()
    there = key.map(before)
    return there.notna() & (there != verdict) & ~at


def as_data(record: RunRecord, rows: Shown) -> str:
    """The rows as JSON for a script tag: a column holds its levels once, and a code per row (-1: nothing)."""
    frame = rows.frame
    titles = conditions_of(record)
    kinds = [name for name in frame.columns if name.startswith("cluster_")]
    gate = frame["open"].map({True: "open", False: "closed"})
    columns = {
        "target": _coded(frame["target"].astype(str), targets_of(record)),
        "condition": _coded(frame["condition"].astype(str), list(titles)),
        "label": _coded(frame["label"]),
        "verdict": _coded(frame["verdict"], verdicts_of(rows)),
        "gate": _coded(gate, ["open", "closed"]),
        "source": _coded(frame["source"]),
        **{name: _cut(frame[name], limit) for name, limit in CUTS.items()},
        "images": _coded(frame["images"] if "images" in frame else pd.Series([None] * len(frame))),
        **{name: _coded(frame[name].astype("string")) for name in kinds},
    }
    data = {
        "n": len(frame),
        "titles": titles,
        "baseline": baseline_of(record),
        "folded": list(ATTACKS),
        "cuts": CUTS,
        "prompt": frame["prompt"].tolist(),
        "correct": _flags(frame["correct"].map({1: "1", 0: "0"}).fillna("-")),
        "unfinished": _flags(frame["finished"].map({False: "1"}).fillna("0")),
        **{
            name: _flags(frame[name].map({True: "1", False: "0"}))
            for name in ("slipped", "changed", "withheld")
        },
        "columns": columns,
    }
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    # Inside a script nothing is escaped: no text may end it, nor open a comment in which its end is not seen.
    for sign in "<>&\u2028\u2029":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return text


def verdicts_of(rows: Shown) -> list[str]:
    """The verdicts there are: those declared, the judge's own, and at last what has none."""
    there = set(rows.frame["verdict"].unique())
    others = sorted(there - {*VERDICTS, UNSCORED})
    return [v for v in (*VERDICTS, *others, UNSCORED) if v in there]


def _coded(values: "pd.Series[Any]", levels: Sequence[str] | None = None) -> dict[str, Any]:
    if levels is None:
        codes, found = pd.factorize(values)
        return {"levels": [str(level) for level in found], "codes": codes.tolist()}
    place = {level: i for i, level in enumerate(levels)}
    return {"levels": list(levels), "codes": [place.get(value, -1) for value in values]}


def _cut(values: "pd.Series[Any]", limit: int) -> dict[str, Any]:
    coded = _coded(values)
    lengths = {i: len(text) for i, text in enumerate(coded["levels"]) if len(text) > limit}
    return {**coded, "levels": [text[:limit] for text in coded["levels"]], "lengths": lengths}


def _flags(values: Iterable[str]) -> str:
    return "".join(values)


def composition(record: RunRecord, rows: Shown) -> pd.DataFrame:
    """How many replies of every target, condition and side (attacks, others) had which verdict."""
    frame = rows.frame
    side = frame["label"].isin(ATTACKS).map(dict(zip((True, False), SIDES, strict=True)))
    return (
        frame.assign(side=side)
        .groupby(["target", "condition", "side", "verdict"], sort=False)
        .size()
        .rename("n")
        .reset_index()
    )
