"""The weight of a guide, chosen as a plan's strength is: by the same rule, on validation prompts.

    weight = the smallest of those that score within `TOLERANCE` of the best by `safest`

The trap: a reward that breaks replies looks like a defence to whoever counts what was complied with. The rule charges
for what broke; where no weight is worth its price it takes the smallest, and the table shows that it does nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pandas as pd

from workbench.decoding.guided import Guide
from workbench.evaluation.answers import Arm, answer
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.loading import Model
from workbench.prompts import PromptSet
from workbench.sweep.results import TOLERANCE, rates_of, safest

WEIGHTS = (0.5, 1.0, 2.0, 3.0, 4.0, 8.0)


@dataclass(frozen=True, eq=False)
class WeighedGuide:
    """The guide at its chosen weight, and the `rates` of all that were tried, a row each."""

    guide: Guide
    rates: pd.DataFrame


def choose_weight(
    model: Model,
    guide: Guide,
    prompts: PromptSet,
    *,
    weights: Sequence[float] = WEIGHTS,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    progress: bool = False,
) -> WeighedGuide:
    """The guide with the weight that the rule takes on `prompts`, of validation.

    Raises `ValueError` for test prompts, and without weights.
    """
    if any(part.endswith(".test") for part in prompts.name.split("+")):
        raise ValueError(f"got {prompts.name}: a weight is not chosen on test prompts, take pairs.val")
    if not weights:
        raise ValueError("got no weights, expected some to choose from")
    tried = [Arm(f"{weight:g}", guide=replace(guide, weight=weight)) for weight in weights]
    frame = answer(
        model, prompts, [Arm("unsteered"), *tried], judge=judge, max_new_tokens=max_new_tokens,
        batch_size=batch_size, progress=progress,
    )  # fmt: skip
    before = frame[frame["arm"] == "unsteered"]
    rates = pd.DataFrame(
        [
            # There is no random direction of equal length to a reward.
            {"weight": weight, **rates_of(frame[frame["arm"] == arm.name], before), "placebo_effect": 0.0}
            for weight, arm in zip(weights, tried, strict=True)
        ]
    )
    scores = safest(rates)
    near = rates.loc[scores >= scores.max() - TOLERANCE, "weight"]
    return WeighedGuide(replace(guide, weight=float(near.min())), rates)
