"""A plan on a user's own model, run in every way that there is here, each held against the plainest.

    rows = every prompt as it is, under the plan, and under the plan with its gate held open

The trap: where hooks are never reached every way agrees with every other, because none of them steers. So what arrives
between the blocks is measured too, and a plan without an effect is a fault.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, get_args

import pandas as pd
import torch
from transformers import PreTrainedModel

from workbench.decoding.asking import Prompts
from workbench.decoding.choosers import Forced
from workbench.decoding.sharing import shares_prompts
from workbench.gates import ThresholdGate
from workbench.generation import Completion, reply_to
from workbench.loading import Backend, Model, NoTwin, backend_of, load_model, plain_twin
from workbench.models import UnseenBlocks, carries_hooks, device_of, final_norm, model_name
from workbench.prompts import PromptSet, as_prompt_set
from workbench.steering import SteeringPlan, compile_shift, gate_site, require_space
from workbench.vectors import SteeringVectors, cosine_sentence
from workbench.verification.verdict import TOLERANCE, Verification
from workbench.verification.watching import Watch, unseen, visible
from workbench.verification.ways import batched, looked_at, one_by_one, whole_texts
from workbench.verification.yardstick import Yardstick

BACKENDS: tuple[Backend, ...] = get_args(Backend)
LARGE = 2_000_000_000
"""Parameters from which on a second copy of a model is made only where it is asked for."""

COLUMNS = (
    "backend", "way", "dtype", "rows", "steps", "absolute", "relative", "tolerance", "flips", "near_ties", "first",
    "decisions", "holds",
)  # fmt: skip


def verify(
    model: Model,
    plan: SteeringPlan,
    prompts: Prompts,
    *,
    own: SteeringVectors | None = None,
    backends: Sequence[Backend] | None = None,
    max_new_tokens: int = 8,
) -> Verification:
    """Compare the steered run of `model` under `plan` in every way there is, on a few prompts.

    Each prompt is run as it is, under the plan, and with the plan's gate held open, first by a plain loop, one pass
    over the whole text for every token; then its tokens are forced through every way of running the model, on each of
    `backends`: by default all that can hold these weights; "plain" is a bridge's twin (`plain_twin`). A
    HookedTransformer is a second copy in memory, as is the float32 copy that a model of half precision is compared
    with: a model of more than two thousand million parameters is copied only where `backends` names "hooked", and not
    to float32. A few prompts are enough, some of them harmful.

    `own` are the target's own vectors, with which the plan's are compared: by default those that its gate reads by.

    Raises `ValueError` for a plan that shifts nothing or does not act at resid_post, for logits that are no numbers,
    and where `backends` names one that cannot hold or run the model; `SpaceMismatch` for a plan made for other models.
    A plan that does not run as it says raises nothing: see `Verification.holds`, `.verdict` and `.require()`.
    """
    _require_verifiable(plan, max_new_tokens)
    prompts = as_prompt_set(prompts)
    require_space(model, [plan])
    models, refused = _on_backends(model, backends)
    ways: list[dict[str, Any]] = []
    shifts: list[pd.DataFrame] = []
    notes: list[str] = []
    if "plain" in models and models["plain"] is not model:
        notes.append("plain is the bridge's twin: the same tensors in a transformers model")
    effect = float("nan")
    try:
        yardstick = Yardstick.of(model, prompts, plan, max_new_tokens)
    except UnseenBlocks as error:
        shifts.append(unseen(backend_of(model), error.layers))
    else:
        effect = yardstick.effect
        notes += yardstick.notes
        if final_norm(model) is None:
            notes.append(
                "what arrives after the last block was not seen: no norm before the LM head is found"
            )
        for backend, held in models.items():
            try:
                found = list(_compare(backend, held, yardstick, shifts))
            except UnseenBlocks as error:
                shifts.append(unseen(backend, error.layers))
            except (
                ValueError,
                RuntimeError,
                TypeError,
                AttributeError,
                KeyError,
                NotImplementedError,
            ) as error:
                if held is model:
                    raise
                refused[backend] = f"it fails as it runs ({type(error).__name__}: {error})"
            else:
                ways += found
        ways += _beside_float32(model, yardstick, notes)
    if backends is not None and refused:
        told = "; ".join(f"{backend}: {reason}" for backend, reason in refused.items())
        raise ValueError(f"not every backend that was asked for can be verified: {told}")
    return Verification(
        pd.DataFrame(ways, columns=list(COLUMNS)),
        pd.concat(shifts, ignore_index=True),
        effect,
        refused,
        tuple(notes),
        _cosine(plan, own),
        model_name(model),
        plan.id,
        _named(_dtype(model)),
    )


def _require_verifiable(plan: SteeringPlan, max_new_tokens: int) -> None:
    if max_new_tokens < 2:
        raise ValueError(
            f"got max_new_tokens={max_new_tokens}, expected 2 or more: the first token does not tell whether replies "
            "are steered"
        )
    for what, site in (("vectors", plan.vectors.space.site), ("gate", gate_site(plan.gate))):
        if site != "resid_post":
            raise ValueError(
                f"got a plan whose {what} are at {site}, expected resid_post: what arrives is measured between the "
                "blocks; make both there"
            )
    if plan.refusal is not None:
        raise ValueError(
            "got a plan that answers with a preset refusal, for which nothing is added: there is nothing to verify"
        )
    if not plan.shift.any():
        raise ValueError(
            f"got a plan that shifts nothing (alpha={plan.alpha:g}, scale={plan.scale!r}), expected one that does: "
            "take an alpha other than 0, and layers at which the vectors are not zero"
        )


def _on_backends(
    model: Model, asked: Sequence[Backend] | None
) -> tuple[dict[Backend, Model], dict[str, str]]:
    """The model on every backend that is asked for and can hold it, and why the others cannot."""
    if asked is not None and (not asked or set(asked) - set(BACKENDS)):
        raise ValueError(f"got backends={list(asked)}, expected some of {', '.join(map(repr, BACKENDS))}")
    own = backend_of(model)
    models: dict[Backend, Model] = {own: model}
    refused: dict[str, str] = {}
    size = sum(weight.numel() for weight in model.parameters())
    for backend in BACKENDS if asked is None else asked:
        if backend == own:
            continue
        if backend == "plain" and own == "bridge":
            try:
                models[backend] = plain_twin(model)
            except NoTwin as error:
                refused[backend] = str(error)
        elif not isinstance(model, PreTrainedModel):
            refused[backend] = f'the model is loaded as {own!r}: load its checkpoint with backend="plain"'
        elif carries_hooks(model):
            refused[backend] = "the model carries hooks of its own, which would not go with it"
        elif backend == "hooked" and asked is None and size > LARGE:
            refused[backend] = (
                f"it would be a second copy of {size:,} parameters: ask for it with backends={list(BACKENDS)}"
            )
        else:
            try:
                models[backend] = load_model(model, backend=backend)
            except (ValueError, ImportError, RuntimeError, AttributeError, KeyError, TypeError) as error:
                refused[backend] = str(error)
    return models, refused


def _compare(
    backend: Backend, model: Model, yardstick: Yardstick, shifts: list[pd.DataFrame]
) -> Iterator[dict[str, Any]]:
    """Every way of running the model, held against the yardstick; what arrived joins `shifts`."""
    tolerance, replies = TOLERANCE[_dtype(model)], yardstick.replies
    told = {
        "backend": backend,
        "dtype": _named(_dtype(model)),
        "rows": len(yardstick),
        "steps": yardstick.steps,
    }
    rows, device = yardstick.rows, device_of(model)
    planned = compile_shift(yardstick.plans, yardstick.opened).to(device, torch.float32)
    watch = Watch(planned, [len(row.ids) for row in rows], Forced(replies.to(device)))
    batch = looked_at(model, rows, replies, watch)
    shifts.append(watch.frame(backend, visible(model), replies.shape[1]))
    yield told | {"way": "batched"} | yardstick.compared(batch, tolerance)
    yield told | {"way": "one by one"} | yardstick.compared(one_by_one(model, rows, replies), tolerance)
    whole = whole_texts(model, rows, replies, yardstick.opened)
    yield told | {"way": "whole texts"} | yardstick.compared(whole, tolerance)
    if shares_prompts(model):
        shared = batched(model, rows, replies, share=True)
        yield told | {"way": "sharing prompts"} | yardstick.compared(shared, tolerance)
    # Plan by plan, as it is called: where no prompt comes twice the pass over the prompts reads the gate itself.
    written: dict[int, Completion] = {}
    for plan in dict.fromkeys(yardstick.plans):
        where = [i for i, other in enumerate(yardstick.plans) if other is plan]
        asked = PromptSet(yardstick.prompts.name, tuple(yardstick.prompts[i] for i in where))
        replied = reply_to(  # which is silent about the cosine: the verdict tells it
            model,
            asked,
            plan,
            max_new_tokens=yardstick.n_steps,
            stop_ids=yardstick.stop_ids,
            batch_size=len(where),
        )
        written |= dict(zip(where, replied, strict=True))
    in_order = [written[i] for i in range(len(yardstick))]
    yield told | {"way": "generate"} | yardstick.replied(in_order, tolerance)


def _beside_float32(model: Model, yardstick: Yardstick, notes: list[str]) -> Iterator[dict[str, Any]]:
    """The same weights in float32, along the tokens and under the decisions of half precision."""
    dtype = _dtype(model)
    if dtype not in (torch.float16, torch.bfloat16) or not isinstance(model, PreTrainedModel):
        return
    size = sum(weight.numel() for weight in model.parameters())
    if size > LARGE or carries_hooks(model):
        notes.append(
            f"{_named(dtype)} was not compared with float32: that takes a copy of {size:,} parameters"
        )
        return
    copied = copy.deepcopy(model).float()
    whole = whole_texts(copied, yardstick.rows, yardstick.replies, yardstick.opened)
    told = {"backend": "plain", "dtype": "float32", "rows": len(yardstick), "steps": yardstick.steps}
    yield told | {"way": "beside float32"} | yardstick.compared(whole, TOLERANCE[dtype])


def _cosine(plan: SteeringPlan, own: SteeringVectors | None) -> str:
    """How far the plan's vectors lie along the target's own; empty where these are not known."""
    if own is None and isinstance(plan.gate, ThresholdGate):
        own = replace(plan.vectors, directions=plan.gate.directions, space=plan.gate.space)
    return "" if own is None else cosine_sentence(own, plan.vectors, plan.layers)


def _dtype(model: Model) -> torch.dtype:
    return next(model.parameters()).dtype


def _named(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
