"""Which conditions a reproduction runs, by kind: the table's, and those of the paper's other results.

    ablation      the target's own vector and the aligned model's, each added and subtracted

The trap: a safety vector that is subtracted makes a model do harm. Such arms exist for the embedded models, whose
replies harm nobody, and are refused for any other.
"""

from collections.abc import Mapping, Sequence
from typing import cast

from workbench.decoding.guided import Guide
from workbench.evaluation.answers import Arm
from workbench.evaluation.conditions import TITLES, Condition, Who, conditions, control_plans
from workbench.reproduction.checkpoints import is_embedded, models_of, wording_of
from workbench.reproduction.config import COMPANIONS, SSV_SUBTRACTED, Experiment, Kind, Target
from workbench.steering import SteeringPlan
from workbench.sweep.evidence import Evidence

NAMES: Mapping[str, str] = {**TITLES, SSV_SUBTRACTED: "ours subtracted"}
"""Every condition with its name for people, in the order of tables."""
RAISES_HARM = ("own_srv_subtracted", SSV_SUBTRACTED)
_STEERED = ("none", "inferaligner", "inferaligner_paper")
DEFAULTS: Mapping[Kind, tuple[str, ...]] = {
    "table1": tuple(name for name in NAMES if name not in (*RAISES_HARM, "guided")),
    "scale": (*_STEERED, "random"),
    "adaptability": (*_STEERED, "random"),
    "ablation": ("none", "inferaligner", "own_srv", *RAISES_HARM, "random"),
    "cost": (*_STEERED, "self_reminder", "goal_priority", "in_context_defence"),
    "mm": (*_STEERED, "own_srv", "random", "ungated", "self_reminder", "goal_priority"),
}
"""What a kind runs where its file does not say, as far as its models allow. Guided decoding, which reads
every candidate for every token, is to be asked for: it costs an order of magnitude."""


def wanted(experiment: Experiment) -> tuple[str, ...]:
    """The conditions that a file asks for, or that its kind runs."""
    return experiment.conditions or DEFAULTS[experiment.kind]


def require_harmless(experiment: Experiment) -> None:
    """Refuse arms that raise harm for any model that is not embedded."""
    asked = [name for name in experiment.conditions or () if name in RAISES_HARM]
    real = [
        name
        for t in experiment.targets
        for name in models_of(experiment, t).values()
        if not is_embedded(name)
    ]
    if asked and real:
        raise ValueError(
            f"got the conditions {', '.join(asked)} with {real[0]}: to subtract a safety vector raises harm, so these "
            "run on the embedded models alone, whose replies harm nobody; leave them out"
        )


def require_runnable(experiment: Experiment) -> None:
    """Refuse conditions that are asked for and that some target has not what it takes for."""
    for target in experiment.targets:
        lacking = {name for name in COMPANIONS if name not in target.companions}
        if experiment.kind == "cost":
            lacking |= set(COMPANIONS)
        if asked := [name for name in experiment.conditions or () if name in lacking]:
            raise ValueError(
                f"got the conditions {', '.join(asked)} for {target.name}, which cannot run there: companions need a "
                f"line of their own in [targets.{target.name}], as {COMPANIONS[0]} = NAME, and none is timed"
            )


def conditions_of(
    experiment: Experiment,
    target: Target,
    ours: SteeringPlan,
    paper: SteeringPlan,
    evidence: Evidence,
    guide: Guide | None,
) -> list[Condition]:
    """The conditions of one target, in the order of tables."""
    controls = control_plans(ours, evidence.controls)
    every = conditions(
        ours, paper, controls, companions=cast(Sequence[Who], tuple(target.companions)), deal_random=True,
        wording=wording_of(experiment, target), guide=guide,
    )  # fmt: skip
    every.append(Condition(SSV_SUBTRACTED, Arm(SSV_SUBTRACTED, (ours.with_alpha(-ours.alpha),))))
    embedded = all(is_embedded(name) for name in models_of(experiment, target).values())
    return [c for c in every if c.name in wanted(experiment) and (embedded or c.name not in RAISES_HARM)]
