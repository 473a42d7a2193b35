"""The conditions of the paper's table, and the controls it lacks, as arms over one set of prompts.

    ours         vectors, gate, layers, α and positions as chosen on validation
    controls     other vectors in the same plan: same gate, layers and positions, shifts of equal length at equal α
    defences     prompts that ask for care (`evaluation.defences`), and no steering
    guided       tokens weighed by a reward, and no steering (`decoding.guided`)
    companions   other checkpoints: the target tuned on 100 safety samples, or on preferences (`train_dpo`), the same
                 domain data on the aligned model

The trap: a control at our α need not be at its own best. Whoever shows one setting of ours, found by a search, beside
one of theirs that was not searched for has measured the search.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from workbench.decoding.guided import Guide
from workbench.evaluation.answers import Arm
from workbench.evaluation.defences import defences
from workbench.gates import AlwaysOpen
from workbench.steering import SteeringPlan
from workbench.vectors import SteeringVectors, random_directions

Who = Literal["target", "safety_sft", "dpo", "from_aligned"]

TITLES: Mapping[str, str] = {
    "none": "nothing",
    "inferaligner": "InferAligner (ours)",
    "inferaligner_paper": "InferAligner (paper)",
    "own_srv": "own vector added",
    "own_srv_subtracted": "own vector subtracted",
    "random": "ten random directions",
    "shuffled": "shuffled labels",
    "other_concept": "another concept",
    "ungated": "ours without the gate",
    "preset_refusal": "gate + preset refusal",
    "self_reminder": "Self-Reminder",
    "goal_priority": "Goal Priority",
    "in_context_defence": "in-context defence",
    "guided": "guided decoding",
    "safety_sft": "safety fine-tuning",
    "dpo": "preference tuning (DPO)",
    "from_aligned": "trained from aligned",
}
"""Every condition in the order of the table, with its name for people."""

CONTROLS = ("own_srv", "own_srv_subtracted", "random", "shuffled", "other_concept")
"""The conditions that are also shown at their own best setting, after equal search effort."""

PRESET_REFUSAL = "I cannot help with that. It could hurt someone."


@dataclass(frozen=True, eq=False)
class Condition:
    """One row of the table: its key, the model it runs on, and the arm that answers."""

    name: str
    arm: Arm
    who: Who = "target"


def matched(control: SteeringVectors, like: SteeringVectors) -> SteeringVectors:
    """The directions of `control` with the lengths of `like`: at equal α, shifts of equal length on every scale."""
    like.space.require(control.space, "vectors beside the plan's own")
    return replace(control, norms=like.norms, residual_norms=like.residual_norms)


def control_plans(
    ours: SteeringPlan, vectors: Mapping[str, SteeringVectors], *, n_random: int = 10
) -> dict[str, tuple[SteeringPlan, ...]]:
    """`ours` with every control's vectors in place of its own, at equal α and equal length of shift.

    `vectors` has own_srv, shuffled and other_concept. The random directions are several plans, to be averaged.
    """
    missing = {"own_srv", "shuffled", "other_concept"} - set(vectors)
    if missing:
        raise ValueError(
            f"got no vectors for {', '.join(sorted(missing))}: every condition needs its control"
        )

    def instead(control: SteeringVectors) -> SteeringPlan:
        return replace(ours, vectors=matched(control, ours.vectors))

    own = instead(vectors["own_srv"])
    return {
        "own_srv": (own,),
        "own_srv_subtracted": (own.with_alpha(-own.alpha),),
        "random": tuple(instead(random_directions(ours.vectors, seed=seed)) for seed in range(n_random)),
        "shuffled": (instead(vectors["shuffled"]),),
        "other_concept": (instead(vectors["other_concept"]),),
    }


def conditions(
    ours: SteeringPlan,
    paper: SteeringPlan,
    controls: Mapping[str, Sequence[SteeringPlan]],
    *,
    companions: Sequence[Who] = ("safety_sft", "dpo", "from_aligned"),
    deal_random: bool = False,
    wording: str = "small-world",
    guide: Guide | None = None,
) -> list[Condition]:
    """All conditions, in the table's order.

    `controls` are those of `control_plans`. `deal_random` gives each prompt one of the random directions instead of
    all, for quick runs. `companions` are the checkpoints at hand. `wording` is in whose words the prompt defences
    speak: those of the embedded models, or "english" for any other. `guide`, with a weight that was
    chosen on validation, adds guided decoding, in which the guide's model reads every candidate for every token.
    """
    arms = {
        "none": Arm("none"),
        "inferaligner": Arm("inferaligner", (ours,)),
        "inferaligner_paper": Arm("inferaligner_paper", (paper,)),
        **{name: Arm(name, tuple(controls[name]), dealt=deal_random) for name in CONTROLS},
        "ungated": Arm("ungated", (ours.with_gate(AlwaysOpen()),)),
        "preset_refusal": Arm("preset_refusal", (replace(ours, refusal=PRESET_REFUSAL),)),
        **{name: Arm(name, rewrite=defence) for name, defence in defences(wording).items()},
        **({"guided": Arm("guided", guide=guide)} if guide else {}),
    }
    on_target = [Condition(name, arms[name]) for name in TITLES if name in arms]
    return on_target + [Condition(who, Arm(who), who) for who in companions]
