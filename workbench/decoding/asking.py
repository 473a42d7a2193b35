"""From what a call is given to its rows: checked against the model, and read where a reading cannot wait.

    row = (prompt, plan, decisions)      decisions None where the pass over the prompts takes them itself

The trap: decisions belong to a prompt, a gate and a model. A reading made elsewhere is refused wherever it tells.
"""

from collections.abc import Sequence
from typing import TypeAlias

from jaxtyping import Bool
from torch import Tensor

from workbench.activations import Activations, token_activations
from workbench.chat import tokenize
from workbench.decoding.resuming import can_resume
from workbench.decoding.rows import Row
from workbench.gates import GateReading
from workbench.loading import Model
from workbench.models import context_length, model_hash, model_name, n_layers, words_of
from workbench.prompts import Prompt, PromptSet, as_prompt_set
from workbench.steering import SteeringPlan, common_site, gate_site, require_clean, require_space

Prompts: TypeAlias = PromptSet | Sequence[Prompt | str]
Plans: TypeAlias = SteeringPlan | Sequence[SteeringPlan | None] | None


def rows_of(
    model: Model, prompts: Prompts, plans: Plans, reading: GateReading | None, room: int, batch_size: int
) -> list[Row]:
    """A row per prompt, in order, each with room for so many tokens of reply."""
    prompts = as_prompt_set(prompts)
    asked = list(dict.fromkeys(prompts))  # a sweep asks each of them many times
    tokens = tokenize(words_of(model), asked, context_length=context_length(model), reserve=room)
    by_prompt = dict(zip(asked, tokens, strict=True))
    return rows_of_tokens(
        model, prompts, [by_prompt[prompt] for prompt in prompts], plans, reading, batch_size
    )


def rows_of_tokens(
    model: Model,
    prompts: PromptSet,
    ids: Sequence[tuple[int, ...]],
    plans: Plans,
    reading: GateReading | None,
    batch_size: int,
) -> list[Row]:
    """`rows_of`, for prompts that are tokens already."""
    each = [plans] * len(prompts) if plans is None or isinstance(plans, SteeringPlan) else list(plans)
    if len(each) != len(prompts):
        raise ValueError(
            f"got {len(each)} plans for {len(prompts)} prompts: pass one plan, or one (or None) per prompt"
        )
    if reading is not None:
        require_clean(each)
    common_site(each)  # here too, so that it does not depend on the size of a batch
    require_space(model, list(dict.fromkeys(plan for plan in each if plan is not None)))
    if reading is None:
        opened = _read_ahead(model, prompts, ids, each, batch_size)
    else:
        _require_read_here(reading, model, prompts, each)
        opened = list(reading.open)
    return [
        Row(prompt, row_ids, plan, None if plan is None else decisions)
        for prompt, row_ids, plan, decisions in zip(prompts, ids, each, opened, strict=True)
    ]


def _require_read_here(
    reading: GateReading, model: Model, prompts: PromptSet, plans: Sequence[SteeringPlan | None]
) -> None:
    """Refuse a reading of other prompts, by another gate or on another model, as far as it tells."""
    if len(reading) != len(prompts) or reading.prompts_hash not in ("", prompts.hash):
        raise ValueError(
            f"the reading was made for {len(reading)} prompts (hash {reading.prompts_hash}), this batch has "
            f"{len(prompts)} (hash {prompts.hash}): read the gate for this batch, plan.read(model, prompts)"
        )
    for plan in plans:
        if plan is not None:
            reading.require_gate(plan.gate)
    if reading.open.shape[1] != n_layers(model):
        raise ValueError(
            f"the reading has decisions for {reading.open.shape[1]} layers, {model_name(model)!r} has "
            f"{n_layers(model)}: read the gate on this model, plan.read(model, prompts)"
        )
    if reading.model_hash and reading.model_hash != model_hash(model):
        raise ValueError(
            f"the reading was made on other weights than {model_name(model)!r} has here (another model, or another "
            "backend): read the gate on this model, plan.read(model, prompts)"
        )


def _read_ahead(
    model: Model,
    prompts: PromptSet,
    ids: Sequence[tuple[int, ...]],
    plans: Sequence[SteeringPlan | None],
    batch_size: int,
) -> Sequence[Bool[Tensor, "layer"] | None]:
    """The decisions of rows that want a clean reading, from one pass over their prompts; None where the prefill reads.

    That is every row that decides online, and all others where each prompt occurs once and no gate reads above what its
    plan adds, or the model's rows can go on from the middle of a pass.
    """
    clean = {i: plan for i, plan in enumerate(plans) if plan is not None and plan.deciding == "clean"}
    each = set(clean.values())
    repeated = len(set(ids)) < len(ids)
    preset = any(plan.refusal is not None for plan in each)
    in_prefill = all(plan.reads_before_it_adds for plan in each) or can_resume(model, filter(None, plans))
    if not clean or (in_prefill and not repeated and not preset):
        return [None] * len(plans)
    return decide(model, prompts, ids, plans, batch_size)


def decide(
    model: Model,
    prompts: PromptSet,
    ids: Sequence[tuple[int, ...]],
    plans: Sequence[SteeringPlan | None],
    batch_size: int,
) -> list[Bool[Tensor, "layer"] | None]:
    """What the gates make of every row, from one clean pass over the distinct prompts; None where none reads clean."""
    clean = {i: plan for i, plan in enumerate(plans) if plan is not None and plan.deciding == "clean"}
    asked = {ids[i]: prompts[i] for i in clean}
    number = {row_ids: i for i, row_ids in enumerate(asked)}
    distinct = PromptSet(prompts.name, tuple(asked.values()))
    # One pass serves every gate that reads at its site.
    activations: dict[str, Activations] = {}
    opened: dict[str, Bool[Tensor, "prompt layer"]] = {}
    for gate in {plan.gate.id: plan.gate for plan in clean.values()}.values():
        site = gate_site(gate)
        if site not in activations:
            activations[site] = token_activations(
                model, distinct, list(asked), site=site, batch_size=batch_size
            )
        opened[gate.id] = gate.read(activations[site]).open
    return [
        opened[clean[i].gate.id][number[row_ids]] if i in clean else None for i, row_ids in enumerate(ids)
    ]
