"""One left-padded batch, from its prompts to its last token, under the shifts of its rows.

    decide    in the pass over the prompts: where no gate reads above what its plan adds, or online, read, then add;
              else read, then go on from below the first shift once more, with the rows that are shifted
    act       one set of adders while the prompts are read, one while the replies are written

The trap: a hook sees neither padding, nor step, nor which rows are still there. This room owns all three: it passes
masks and positions explicitly, attaches adders for the prompt and for the reply apart, and cuts them down when finished
rows leave the batch.
"""

from collections.abc import Sequence
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.chat import pad_id, pad_left
from workbench.decoding.branching import branch, branched
from workbench.decoding.choosers import Chooser
from workbench.decoding.passes import Passes, TransformersPasses, passes_over
from workbench.decoding.resuming import output_of, standing_in
from workbench.decoding.rows import Decisions, Row
from workbench.loading import Model
from workbench.models import blocks, device_of, n_layers, residual_hooks, tokenizer_of
from workbench.shifts import Shift
from workbench.steering import compile_shift

Begun: TypeAlias = tuple[Passes, Float[Tensor, "row d_vocab"], Shift, Bool[Tensor, "row layer"]]
WORTH_SHARING = 0.9
"""Rows of one prompt share its lower layers where that leaves at most this share of the pass over the prompts."""


@torch.no_grad()
def decode(
    model: Model, rows: Sequence[Row], chooser: Chooser, n_steps: int, *, share: bool = False
) -> Bool[Tensor, "row layer"]:
    """Run a batch through the model for at most `n_steps` tokens, which `chooser` picks; returns the rows' decisions.

    Rows that are done are carried along until half of the batch is, then dropped. A smaller batch may round the last
    bit of a logit differently; `Greedy.near_ties` counts the steps at which that could matter. `share` lets rows of one
    prompt share what their shifts leave alone, on a model that `sharing.shares_prompts` has seen do so.
    """
    passes, logits, shift, opened = (share and _begin_shared(model, rows, n_steps)) or _begin(
        model, rows, n_steps
    )
    there = torch.arange(len(rows), device=logits.device)
    step = 0
    tokens = chooser.choose(logits, there, step)
    writing = ~chooser.ends(tokens)
    n_writing = int(writing.sum())
    while n_writing and step + 1 < n_steps:
        if n_writing < len(there):
            kept = writing.nonzero()[:, 0]
            passes.keep(kept)
            there, tokens, writing, shift = there[kept], tokens[kept], writing[kept], shift.rows(kept)
        with residual_hooks(model, shift.site, shift.adders(shift.on_reply[:, None])):
            while 2 * n_writing > len(there) and step + 1 < n_steps:
                step += 1
                tokens = chooser.choose(passes.next_logits(tokens[:, None]), there, step)
                writing &= ~chooser.ends(tokens)
                n_writing = int(writing.sum())
    return opened


def _begin(model: Model, rows: Sequence[Row], n_steps: int) -> Begun:
    """The pass over the prompts, a state per row: decisions that are still to come are read in it."""
    if not all(row.plan is None or row.opened is not None or row.plan.reads_before_it_adds for row in rows):
        return _begin_twice(model, rows, n_steps)
    batch = pad_left([row.ids for row in rows], pad_id(tokenizer_of(model))).to(device_of(model))
    passes = passes_over(model, batch, n_steps)
    decisions = Decisions(rows, n_layers(model))
    # Compiled once. A layer takes its rows from it when it is reached: its decisions are there by then.
    all_open = compile_shift([row.plan for row in rows], torch.ones_like(decisions.opened))
    all_open = all_open.to(*_where_and_how(model))

    def read_then_add(layer: int, residual: Tensor) -> Tensor | None:
        if layer in decisions.layers:
            decisions.read(layer, residual[:, -1].float().cpu())
        here = all_open.at(layer).gated(decisions.opened)
        add = here.adders(here.on_prompt[:, None]).get(layer)
        return None if add is None else add(residual)

    visited = decisions.layers.union(all_open.layers)
    with residual_hooks(model, all_open.site, {layer: partial(read_then_add, layer) for layer in visited}):
        logits = passes.next_logits(batch.input_ids)
    return passes, logits, all_open.gated(decisions.opened), decisions.opened


def _begin_twice(model: Model, rows: Sequence[Row], n_steps: int) -> Begun:
    """A clean pass over the prompts, in which the gates read; the rows that are shifted go on from its middle."""
    batch = pad_left([row.ids for row in rows], pad_id(tokenizer_of(model))).to(device_of(model))
    passes = passes_over(model, batch, n_steps)
    assert isinstance(passes, TransformersPasses)
    decisions = Decisions(rows, n_layers(model))
    all_open = compile_shift([row.plan for row in rows], torch.ones_like(decisions.opened))
    first = all_open.layers[0]

    def read(layer: int, residual: Tensor) -> None:
        decisions.read(layer, residual[:, -1].float().cpu())

    reads = {layer: partial(read, layer) for layer in decisions.layers}
    with residual_hooks(model, all_open.site, reads), output_of(blocks(model)[first]) as given:
        logits = passes.next_logits(batch.input_ids)
    shift = all_open.to(*_where_and_how(model)).gated(decisions.opened)
    moved = (shift.any_open & shift.on_prompt).nonzero()[:, 0]
    if len(moved):
        part = batch.rows(moved)
        again = passes_over(model, part, n_steps)
        assert isinstance(again, TransformersPasses)
        adders = (here := shift.rows(moved)).adders(here.on_prompt[:, None])
        with (
            standing_in(blocks(model)[: first + 1], given[0], moved),
            residual_hooks(model, shift.site, adders),
        ):
            logits[moved] = again.next_logits(part.input_ids)
        passes.take(again, moved, above=first)
    return passes, logits, shift, decisions.opened


def _begin_shared(model: Model, rows: Sequence[Row], n_steps: int) -> Begun | None:
    """The pass over the distinct prompts, from which rows branch off; None where that would not pay, or cannot be."""
    number = {ids: i for i, ids in enumerate(dict.fromkeys(row.ids for row in rows))}
    if len(number) == len(rows) or any(row.plan is not None and row.opened is None for row in rows):
        return None
    decisions = Decisions(rows, n_layers(model))
    shift = compile_shift([row.plan for row in rows], decisions.opened)
    branching = branch(shift, [number[row.ids] for row in rows], n_layers(model))
    if shift.site != "resid_post" or branching.share > WORTH_SHARING:
        return None
    shift = shift.to(*_where_and_how(model))
    batch = pad_left(list(number), pad_id(tokenizer_of(model))).to(device_of(model))
    passes = passes_over(model, batch, n_steps)
    assert isinstance(passes, TransformersPasses)
    with branched(model, branching, shift):
        logits = passes.next_logits(batch.input_ids)
    passes.spread(branching)
    return passes, logits, shift, decisions.opened


def _where_and_how(model: Model) -> tuple[torch.device, torch.dtype]:
    return device_of(model), next(model.parameters()).dtype
