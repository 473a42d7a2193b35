"""One model, one plan, one set of prompts: what steering changed, measured once.

    report = evaluate(target, pairs.test, plan)

The trap: `.test` is for claims. Whatever is tried again after looking at a report on it was chosen on it.
"""

from dataclasses import dataclass, replace

import pandas as pd

from workbench.decoding.asking import Prompts
from workbench.evaluation.answers import Arm, answer, labelled
from workbench.evaluation.metrics import METRICS, change, estimate, estimates, openings
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.kinship import warn_if_unrelated
from workbench.loading import Model, twin_or_itself
from workbench.models import model_hash, model_name
from workbench.provenance import Provenance
from workbench.stats import Estimate
from workbench.steering import SteeringPlan
from workbench.vectors import random_directions


@dataclass(frozen=True, eq=False)
class Report:
    """The judged replies of a model without and with a plan, `frame` (arms `unsteered`, `steered`; maybe `random`).

    `computed_on` says what wrote them, in a clause: the model itself, and why, or its plain twin.
    """

    frame: pd.DataFrame
    provenance: Provenance
    computed_on: str = ""

    def metric(self, name: str, arm: str = "steered") -> Estimate:
        """One metric of one arm; the names are those of `metrics.METRICS`."""
        found = estimate(self._arm(arm), name)
        if found is None:
            labels = " or ".join(METRICS[name].labels)
            raise ValueError(f"the report has no {name}: its prompts hold none labelled {labels}")
        return found

    def change(self, name: str) -> Estimate | None:
        """Steered minus unsteered, paired by prompt."""
        return change(self._arm("steered"), self._arm("unsteered"), name)

    def summary(self) -> pd.DataFrame:
        """Every metric of both arms, a row each."""
        return estimates(self.frame)

    def openings(self) -> dict[str, Estimate]:
        """How often the gate opened, by label."""
        return openings(self._arm("steered"))

    def _arm(self, arm: str) -> pd.DataFrame:
        part = self.frame[self.frame["arm"] == arm]
        if part.empty:
            raise ValueError(f"the report has no arm {arm!r}: it has {', '.join(self.frame['arm'].unique())}")
        return part


def evaluate(
    model: Model,
    prompts: Prompts,
    plan: SteeringPlan,
    *,
    placebo: int = 0,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    twin: bool = True,
    progress: bool = False,
) -> Report:
    """Answer `prompts` without and with `plan`, judge every reply, and report both.

    `placebo` adds an arm `random`: so many random directions in the place of the plan's, of equal length, dealt to the
    prompts in turn. `judge` gives a text, and whether it ended by itself, one `Score`; the default knows only the
    embedded world's replies. A bridge's replies are written by its plain twin, where it has one (`plain_twin`);
    `twin=False` keeps them on the bridge. Warns (`Unrelated`) of vectors that lie to the target's own as random
    directions do.
    """
    prompts = labelled(prompts)
    warn_if_unrelated([plan])
    arms = [Arm("unsteered"), Arm("steered", (plan,))]
    if placebo:
        drawn = (random_directions(plan.vectors, seed=seed) for seed in range(placebo))
        arms.append(Arm("random", tuple(replace(plan, vectors=vectors) for vectors in drawn), dealt=True))
    computing, computed_on = twin_or_itself(model, twin=twin)
    frame = answer(
        computing,
        prompts,
        arms,
        judge=judge,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    note = f"plan {plan.id}"
    provenance = Provenance(
        "report",
        model_name(model),
        model_hash(model),
        prompts.name,
        prompts.hash,
        note,
        (plan.vectors.provenance,),
    )
    return Report(frame, provenance, computed_on)
