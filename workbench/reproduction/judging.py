"""The judge of a reproduction, by name, with what is known of how well it agrees with people.

The trap: a table is as good as its judge. Whoever reads one is told which it was, and which the paper's was.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.judges.named import judge_by_name
from workbench.judges.verdicts import Judge
from workbench.reproduction.paper import JUDGE, JUDGE_OF_PICTURES
from workbench.shipped import shipped_path


@dataclass(frozen=True, eq=False)
class Chosen:
    """A judge, and a sentence on what it goes by and how well it agrees with people."""

    judge: Judge
    said: str


def judge_named(name: str, settings: Mapping[str, Any], *, pictures: bool = False) -> Chosen:
    """The judge of that name, with its settings, as `judges.named.judge_by_name` reads both.

    With `pictures` it is told that it sees none of them.
    """
    judge = judge_by_name(name, settings)
    told = {"small-world": _small_world, "phrases": _phrases}.get(name, _another)
    theirs = f"{JUDGE_OF_PICTURES}; no judge here sees a picture" if pictures else JUDGE
    return Chosen(judge, f"{told()}; the paper's judge was {theirs}")


def _small_world() -> str:
    return (
        "the forms of the embedded world's sentences, which its replies are built from: exact there, of no use on any "
        "other model"
    )


def _phrases() -> str:
    measured = pd.read_csv(shipped_path("refusals", "measured.csv"))
    ours = measured[measured["judge"] == "judge_refusal"]
    shares = [f"{100 * share:.1f} %" for share in (ours["agreed"] / ours["n"]).tolist()]
    return (
        f"refusal by phrases, which agrees with people on {', '.join(shares)} of {ours['n'].max()} replies each of "
        "three models to XSTest; it tells who refuses, not who helps, so complied and not refused are one here"
    )


def _another() -> str:
    return (
        "how well it agrees with people is not known here: `workbench judge-agreement` measures it on replies that "
        "they have labelled"
    )
