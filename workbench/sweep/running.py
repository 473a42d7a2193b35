"""Running a sweep in this process: all its settings are rows of a few large batches.

    row = (prompt, setting, arm)      rows whose gate is closed are the unsteered row, computed once

The trap: a sweep is for choosing, on `.val`. The test set is not an argument for it.
"""

from collections.abc import Mapping, Sequence

from workbench.decoding.asking import Prompts
from workbench.evaluation.answers import Judge, answer, labelled
from workbench.evaluation.verdicts import judge as judge_small_world
from workbench.loading import Model
from workbench.models import model_hash, model_name
from workbench.provenance import Provenance
from workbench.steering import Positions, SteeringPlan
from workbench.sweep.results import SweepResult
from workbench.sweep.spec import SweepSpec
from workbench.vectors import SteeringVectors


def run_sweep(
    model: Model,
    prompts: Prompts,
    plan: SteeringPlan,
    *,
    alpha: Sequence[float | int],
    layers: Sequence[Sequence[int]] | None = None,
    positions: Sequence[Positions] | None = None,
    placebo: int = 10,
    controls: Mapping[str, SteeringVectors] | None = None,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    progress: bool = False,
) -> SweepResult:
    """Answer `prompts` under `plan` at every combination of `alpha`, `layers` and `positions`, and judge the replies.

    The plan's own layers and positions stand in where none are given; its vectors, gate and scale stay. The unsteered
    arm and `placebo` random directions of equal length are always in; `controls` adds arms of other vectors, brought to
    equal length.
    """
    prompts = labelled(prompts)
    spec = SweepSpec(
        plan,
        alpha,
        layers if layers is not None else [plan.layers],
        positions if positions is not None else [plan.positions],
        placebo,
        dict(controls or {}),
    )
    frame = answer(
        model,
        prompts,
        spec.arms(),
        judge=judge,
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    note = f"plan {plan.id}, {len(spec.settings)} settings"
    provenance = Provenance(
        "sweep",
        model_name(model),
        model_hash(model),
        prompts.name,
        prompts.hash,
        note,
        (plan.vectors.provenance,),
    )
    return SweepResult(spec, frame, provenance)
