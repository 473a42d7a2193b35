"""A guide chosen as a plan is: learned from the extraction prompts, its weight by the same rule on what is held out.

    weight = the smallest of those that score within `TOLERANCE` of the best by `safest`

Where a set has no `.val` the weight is chosen by cross-fitting: each fold's guide is learned without the prompts that
the fold held out and tried on those, all folds' replies are one sample, and the guide at its weight is learned anew.

The trap: a reward that breaks replies looks like a defence to whoever counts what was complied with. The rule charges
for what broke; where no weight is worth its price it takes the smallest, and the table shows that it does nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from workbench.decoding.guided import Guide
from workbench.evaluation.answers import Arm
from workbench.evaluation.guidance import Told, fit_guide, told_replies
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.loading import Model
from workbench.prompts import ContrastSet, PromptSet
from workbench.sweep.answering import READING_BATCH, answer_arms
from workbench.sweep.choosing import those_of
from workbench.sweep.results import TOLERANCE, rates_of, safest

WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class ChosenGuide:
    """The guide at its chosen weight, the `rates` of all that were tried, a row each, and on how many prompts."""

    guide: Guide
    rates: pd.DataFrame
    n_prompts: int

    def __str__(self) -> str:
        guide, tried = self.guide, ", ".join(f"{weight:g}" for weight in self.rates["weight"])
        chosen = self.rates[self.rates["weight"] == guide.weight].iloc[0]
        return (
            f"guided decoding weighs a reward by {guide.weight:g} beside the logits of {guide.top_k} candidates, the "
            f"mildest of the best of {tried} by the same rule on {self.n_prompts} prompts: "
            f"{100 * chosen['refused']:.0f} % of attacks refused, {100 * chosen['broken']:.0f} % of replies broken; "
            f"the reward reads layer {guide.reward.layer}, where it tells good replies from bad with AUROC "
            f"{guide.reward.auroc:.2f} on requests that it was not fitted on"
        )


def choose_guide(
    target: Model,
    aligned: Model,
    pairs: ContrastSet,
    *,
    folds: Sequence[ContrastSet] = (),
    search_on: PromptSet | None = None,
    weights: Sequence[float] = WEIGHTS,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    ledger: str | Path | None = None,
    progress: bool = False,
) -> ChosenGuide:
    """The guide learned from `pairs.train`, at the weight that the rule takes on held-out prompts.

    `folds`, `search_on` and `ledger` are as in `choose`. The target reads its own replies, so that no other model is
    held. Raises `ValueError` without weights, and as `learn_guide` does.
    """
    if not weights:
        raise ValueError("got no weights, expected some to choose from")
    at_once = batch_size or READING_BATCH
    own, safe = (
        told_replies(model, pairs.train, judge=judge, max_new_tokens=max_new_tokens, batch_size=at_once)
        for model in (target, aligned)
    )
    frames = []
    for part in folds or (pairs,):
        guide = fit_guide(target, _of(own, part.train), _of(safe, part.train), batch_size=at_once)
        tried = [Arm(f"{weight:g}", guide=replace(guide, weight=weight)) for weight in weights]
        asked = part.val if search_on is None else those_of(part.val, search_on)
        answered = answer_arms(
            target, asked, [Arm("unsteered"), *tried], judge=judge, max_new_tokens=max_new_tokens,
            batch_size=batch_size, ledger=ledger, progress=progress,
        )  # fmt: skip
        frames.append(answered.frame)
    frame = pd.concat(frames, ignore_index=True)
    before = frame[frame["arm"] == "unsteered"]
    rates = pd.DataFrame(
        [
            # There is no random direction of equal length to a reward.
            {
                "weight": weight,
                **rates_of(frame[frame["arm"] == f"{weight:g}"], before),
                "placebo_effect": 0.0,
            }
            for weight in weights
        ]
    )
    scores = safest(rates)
    weight = float(rates.loc[scores >= scores.max() - TOLERANCE, "weight"].min())
    final = fit_guide(target, own, safe, batch_size=at_once) if folds else guide
    return ChosenGuide(replace(final, weight=weight), rates, len(before))


def _of(told: Sequence[Told], part: PromptSet) -> list[Told]:
    """The replies to the prompts of one part."""
    there = set(part)
    return [each for each in told if each.completion.prompt in there]
