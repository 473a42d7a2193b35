"""Running a sweep: every combination of its axes is an arm, and all arms are answered together.

The trap: a sweep is for choosing, on `.val`. The test set is not an argument for it.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

from workbench.decoding.asking import Prompts
from workbench.evaluation.answers import labelled
from workbench.gates import Gate
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.kinship import warn_if_unrelated
from workbench.loading import Model
from workbench.models import model_hash, model_name
from workbench.provenance import Provenance
from workbench.steering import Positions, Scale, SteeringPlan
from workbench.sweep.answering import answer_arms
from workbench.sweep.executors import Executor
from workbench.sweep.results import SweepResult
from workbench.sweep.spec import SweepSpec
from workbench.vectors import SteeringVectors

Alpha: TypeAlias = Sequence[float | int] | Mapping[Scale, Sequence[float | int]]


def run_sweep(
    model: Model,
    prompts: Prompts,
    plan: SteeringPlan | SweepSpec,
    *,
    alpha: Alpha | None = None,
    layers: Sequence[Sequence[int]] | None = None,
    positions: Sequence[Positions] | None = None,
    gates: Mapping[str, Gate] | None = None,
    bias: Sequence[float | int] | None = None,
    vectors: Mapping[str, SteeringVectors] | None = None,
    placebo: int | None = None,
    controls: Mapping[str, SteeringVectors] | None = None,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    ledger: str | Path | None = None,
    keep_text: bool = True,
    executor: Executor | None = None,
    twin: bool = True,
    progress: bool = False,
) -> SweepResult:
    """Answer `prompts` under `plan` at every combination of the values given, and judge the replies.

    Axes are those of `SweepSpec`; where none are given the plan's own stand in. A `SweepSpec` in the plan's place says
    all of that itself. The unsteered arm and `placebo` (10) random directions of equal length are always in; `controls`
    adds arms of other vectors, brought to equal length.

    `ledger` is a file that keeps every reply: the same call goes on where it stopped, and a call with more values
    computes what is new. `keep_text=False` keeps verdicts there, and no texts; the frame has none either. `batch_size`
    is in rows; without it batches hold as many tokens as keep the machine busy. `executor` computes the batches
    elsewhere, on the same weights; gates are read here. Without one a bridge's rows are computed by its plain twin,
    where it has one (`plain_twin`), under the bridge's name and hash: a ledger that began on the one goes on with the
    other. `twin=False` keeps them on the bridge. Warns (`Unrelated`) of vectors that lie to the target's
    own as random directions do; controls are meant to.

    Raises `ValueError` for axes beside a `SweepSpec`, and for an executor with other weights; `LedgerError` for a
    ledger that cannot be used.
    """
    prompts = labelled(prompts)
    axes = dict(alpha=alpha, layers=layers, positions=positions, gates=gates, bias=bias, vectors=vectors)
    spec = _spec(plan, axes, placebo, controls)
    arms = spec.arms()
    warn_if_unrelated(plan for arm in arms if arm.name == "steered" for plan in arm.plans)
    found = answer_arms(
        model, prompts, arms, judge=judge, max_new_tokens=max_new_tokens, batch_size=batch_size, ledger=ledger,
        keep_text=keep_text, executor=executor, twin=twin, progress=progress,
    )  # fmt: skip
    provenance = Provenance(
        "sweep",
        model_name(model),
        model_hash(model),
        prompts.name,
        prompts.hash,
        f"plan {spec.plan.id}, {len(spec.settings)} settings",
        (spec.plan.vectors.provenance,),
    )
    return SweepResult(spec, found.frame, provenance, found.sharing, found.computed_on)


def _spec(
    plan: SteeringPlan | SweepSpec,
    axes: Mapping[str, object],
    placebo: int | None,
    controls: Mapping[str, SteeringVectors] | None,
) -> SweepSpec:
    axes = {**axes, "placebo": placebo, "controls": controls}
    given = {name: values for name, values in axes.items() if values is not None}
    if isinstance(plan, SweepSpec):
        if given:
            beside = ", ".join(given)
            raise ValueError(
                f"got a SweepSpec and {beside} beside it, expected one or the other: put them into the spec"
            )
        return plan
    if "alpha" not in given:
        raise ValueError("got a plan and no alpha, expected the strengths to try: alpha=[0.1, 0.2]")
    return SweepSpec(plan, **{"layers": [plan.layers], "positions": [plan.positions], **given})  # type: ignore[arg-type]
