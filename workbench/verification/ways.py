"""The ways in which the workbench runs decided rows along given replies: what `loop` is compared with.

    batched             one left-padded batch, keys and values kept: what `generate` runs
    one by one          the same, each row alone
    sharing prompts     the same, where rows of one prompt share its lower layers: what a sweep runs
    whole texts         one pass over prompts and replies at once, nothing kept: what `steered` runs by hand

The trap: ways that choose their own tokens part at the first near tie, and say nothing of each other from there on. So
decisions and replies are given, and what a way would have chosen is read off its logits; `generate` chooses for itself.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.chat import pad_id, pad_left
from workbench.decoding.batches import decode
from workbench.decoding.choosers import Forced
from workbench.decoding.rows import Row
from workbench.forward import seeing
from workbench.loading import Model
from workbench.models import device_of, residual_hooks, tokenizer_of, transformers_model
from workbench.steering import compile_shift
from workbench.verification.watching import Watch, watched


def batched(
    model: Model, rows: Sequence[Row], replies: Int[Tensor, "row step"], *, share: bool = False
) -> Float[Tensor, "row step d_vocab"]:
    """All rows as one batch, in the loop of `generate`."""
    forced = Forced(replies.to(device_of(model)))
    decode(model, rows, forced, replies.shape[1], share=share)
    return _logits(forced)


def looked_at(
    model: Model, rows: Sequence[Row], replies: Int[Tensor, "row step"], watch: Watch
) -> Float[Tensor, "row step d_vocab"]:
    """The same, while `watch` looks on from outside."""
    with watched(model, watch):
        decode(model, rows, watch.chooser, replies.shape[1])
    return _logits(watch.chooser)


def one_by_one(
    model: Model, rows: Sequence[Row], replies: Int[Tensor, "row step"]
) -> Float[Tensor, "row step d_vocab"]:
    """Every row as a batch of its own."""
    each = zip(rows, replies, strict=True)
    return torch.cat([batched(model, [row], reply[None]) for row, reply in each])


def whole_texts(
    model: Model, rows: Sequence[Row], replies: Int[Tensor, "row step"], opened: Bool[Tensor, "row layer"]
) -> Float[Tensor, "row step d_vocab"]:
    """One pass over everything, without a cache."""
    prompts = pad_left([row.ids for row in rows], pad_id(tokenizer_of(model)))
    width, written = prompts.input_ids.shape[1], replies[:, :-1]  # nothing comes after the last token
    batch = replace(
        prompts,
        input_ids=torch.cat([prompts.input_ids, written], dim=1),
        attention_mask=torch.cat([prompts.attention_mask, torch.ones_like(written)], dim=1),
    ).to(device_of(model))
    weight = next(model.parameters())
    shift = compile_shift([row.plan for row in rows], opened).to(weight.device, weight.dtype)
    given: dict[str, Any] = {"attention_mask": batch.attention_mask}
    if transformers_model(model) is not None:
        given |= {
            "position_ids": batch.position_ids,
            "use_cache": False,
            "logits_to_keep": replies.shape[1],
        }
    with (
        torch.no_grad(),
        seeing(model, batch),
        residual_hooks(model, shift.site, shift.by_width(width)),
    ):
        output = model(batch.input_ids, **given)
    logits = getattr(output, "logits", output)[:, -replies.shape[1] :]
    return logits.float().cpu()


def _logits(forced: Forced) -> Float[Tensor, "row step d_vocab"]:
    return torch.stack(forced.logits, dim=1).float().cpu()
