"""The paper's table for one target: every condition over one set of prompts, then numbers with intervals.

The trap: the chosen setting of a control is its own best on validation, its equal-α row is not. Both are measured, and
each says which it is.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from workbench.evaluation.answers import Arm, answer
from workbench.evaluation.conditions import CONTROLS, Condition, Who
from workbench.evaluation.metrics import METRICS, change, estimate, openings
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.loading import Model
from workbench.prompts import PromptSet
from workbench.stats import Estimate
from workbench.steering import SteeringPlan

CHANGES = ("asr_not_refused", "jailbreak_not_refused", "over_refusal", "contrast_refusal", "utility")
"""What is also told as a change against the model as it is, paired by prompt."""
AT_BEST = "@best"
"""Ends the names of arms that run a control at its own best setting."""


@dataclass(frozen=True, eq=False)
class Measured:
    """The judged replies of every condition for one target; one arm per condition, and per control at its own best."""

    frame: pd.DataFrame
    plans: Mapping[str, SteeringPlan]

    def arm(self, name: str) -> pd.DataFrame:
        """The rows of one arm."""
        part = self.frame[self.frame["arm"] == name]
        if part.empty:
            raise ValueError(
                f"nothing was measured for {name!r}: there is {', '.join(self.frame['arm'].unique())}"
            )
        return part

    @property
    def names(self) -> list[str]:
        """The conditions, in order; without the controls' own best."""
        return [name for name in self.frame["arm"].unique() if not name.endswith(AT_BEST)]

    def to_json(self) -> dict[str, Any]:
        """The `conditions` of figures/demo.json."""
        return {name: self._condition(name) for name in self.names}

    def gate_open(self) -> dict[str, Estimate]:
        """How often our gate opened, by label."""
        return openings(self.arm("inferaligner"))

    def _condition(self, name: str) -> dict[str, Any]:
        found = self._numbers(name)
        if name + AT_BEST in set(self.frame["arm"]):
            found["at_best"] = self._numbers(name + AT_BEST)
        return found

    def _numbers(self, name: str) -> dict[str, Any]:
        rows = self.arm(name)
        each = {metric: estimate(rows, metric) for metric in METRICS}
        numbers: dict[str, Any] = {
            metric: None if e is None else _round(e.mean) for metric, e in each.items()
        }
        numbers["n"] = {metric: e.n for metric, e in each.items() if e}
        numbers["clusters"] = {metric: e.clusters for metric, e in each.items() if e}
        numbers["intervals"] = {metric: [_round(e.low), _round(e.high)] for metric, e in each.items() if e}
        none = self.arm("none")
        moved = {metric: change(rows, none, metric) for metric in CHANGES}
        numbers["change"] = {m: [_round(x) for x in (e.mean, e.low, e.high)] for m, e in moved.items() if e}
        plan = self.plans.get(name)
        if plan is not None:
            numbers["plan"] = describe(plan)
        return numbers


def measure(
    models: Mapping[Who, Model],
    prompts: PromptSet,
    rows: Sequence[Condition],
    *,
    at_best: Mapping[str, Sequence[SteeringPlan]] | None = None,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    progress: bool = False,
) -> Measured:
    """Answer and judge `prompts` under every condition; all conditions of one model share their batches.

    `at_best` has, for controls, the plans at their own best setting.
    """
    if not any(row.name == "none" for row in rows):
        raise ValueError("got conditions without 'none': changes are measured against the model as it is")
    unknown = sorted(set(at_best or {}) - set(CONTROLS))
    if unknown:
        raise ValueError(
            f"got best settings for {', '.join(unknown)}, expected some of {', '.join(CONTROLS)}"
        )
    best = [
        Condition(name + AT_BEST, Arm(name + AT_BEST, tuple(plans), dealt=_deals(rows, name)))
        for name, plans in (at_best or {}).items()
    ]
    frames, everything = [], [*rows, *best]
    for who, model in models.items():
        arms = [row.arm for row in everything if row.who == who]
        if arms:
            frames.append(
                answer(
                    model, prompts, arms, judge=judge, max_new_tokens=max_new_tokens, batch_size=batch_size,
                    progress=progress,
                )
            )  # fmt: skip
    missing = sorted({row.who for row in everything} - set(models))
    if missing:
        raise ValueError(
            f"got conditions for {', '.join(missing)} and no such model: pass it, or leave them out"
        )
    return Measured(
        pd.concat(frames, ignore_index=True), {r.name: r.arm.plans[0] for r in everything if r.arm.plans}
    )


def describe(plan: SteeringPlan) -> dict[str, Any]:
    """Layers, α, scale, positions and gate of a plan, for tables and JSON."""
    reads = list(plan.gate.reads)
    return {
        "layers": list(plan.layers),
        "alpha": plan.alpha,
        "scale": plan.scale,
        "positions": plan.positions,
        "gate_layers": reads,
        "id": plan.id,
    }


def listed(layers: Sequence[int]) -> str:
    """Layers as sentences name them: 4, 5, 6."""
    return ", ".join(map(str, layers))


def _deals(rows: Sequence[Condition], name: str) -> bool:
    return any(row.name == name and row.arm.dealt for row in rows)


def _round(x: float) -> float | None:
    return None if math.isnan(x) else round(x, 4)
