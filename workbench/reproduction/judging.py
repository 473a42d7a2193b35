"""The judge of a reproduction, by name, with what is known of how well it agrees with people.

The trap: a table is as good as its judge. Whoever reads one is told which it was, and that the paper's was GPT-3.5.
"""

from dataclasses import dataclass

import pandas as pd

from workbench.judges.refusals import judge_refusal
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.reproduction.paper import JUDGE
from workbench.shipped import shipped_path


@dataclass(frozen=True, eq=False)
class Chosen:
    """A judge, and a sentence on what it goes by and how well it agrees with people."""

    judge: Judge
    said: str


def judge_named(name: str) -> Chosen:
    """The judge of that name: "small-world" or "phrases"."""
    known = {"small-world": _small_world, "phrases": _phrases}
    if name not in known:
        raise ValueError(f"got judge = {name!r}, expected one of {', '.join(known)}")
    return known[name]()


def _small_world() -> Chosen:
    said = (
        "the forms of the embedded world's sentences, which its replies are built from: exact there, of no use on any "
        f"other model; the paper's judge was {JUDGE}"
    )
    return Chosen(judge_small_world, said)


def _phrases() -> Chosen:
    measured = pd.read_csv(shipped_path("refusals", "measured.csv"))
    ours = measured[measured["judge"] == "judge_refusal"]
    shares = [f"{100 * share:.1f} %" for share in (ours["agreed"] / ours["n"]).tolist()]
    said = (
        f"refusal by phrases, which agrees with people on {', '.join(shares)} of {ours['n'].max()} replies each of "
        "three models to XSTest; it tells who refuses, not who helps, so complied and not refused are one here; the "
        f"paper's judge was {JUDGE}"
    )
    return Chosen(judge_refusal, said)
