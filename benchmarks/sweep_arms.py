"""The arms that `sweep.py` times in its own process: ours, the strongest fair loop, and the floor.

    floor = distinct rows x the cost of an unsteered row, written by our own loop at its best batch size

All take a grid and return its replies in the same order, setting by setting, so that they can be compared token by
token. The loop knows the method: it reads every gate once, steers open rows alone, and stops a batch when its last row
is done. What it does not do is let settings meet in a batch.

The trap: greedy replies of two batch sizes may part where the two top logits nearly tie. Such rows are counted; a row
that differs without one means that two arms did not do the same work.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypeAlias, get_args

import torch
from sweep_grid import NEW_TOKENS, Grid
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel, StaticCache

from workbench import PromptSet, generate, last_token_activations
from workbench.chat import EncodedBatch, pad_id, pad_left, tokenize
from workbench.decoding.asking import rows_of
from workbench.decoding.batches import decode
from workbench.decoding.choosers import Greedy
from workbench.decoding.rows import Row
from workbench.models import blocks, device_of, tokenizer_of, transformers_model

Tokens: TypeAlias = tuple[int, ...]
Way: TypeAlias = Literal["own loop, dynamic cache", "own loop, static cache", "model.generate"]
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class Replies:
    """Token rows, setting by setting; `near_ties` of each where the arm counts them."""

    tokens: tuple[Tokens, ...]
    near_ties: tuple[int, ...] = ()


def write_ours(grid: Grid, *, batch_size: int, packed: bool = True, share_closed: bool = True) -> Replies:
    """Ours: the whole grid as rows of a few batches. Each switch leaves one of the savings out.

    The engine has no switches of its own yet: without packing, settings go to `generate` one by one, and the closed
    prompts once for all; without sharing, every row is decoded, whoever its twins are.
    """
    prompts = PromptSet("grid", grid.prompts.prompts * len(grid.plans))
    plans = [plan for plan in grid.plans for _ in grid.prompts]
    if not share_closed:
        return _decode(grid, rows_of(grid.model, prompts, plans, None, NEW_TOKENS, batch_size), batch_size)
    if not packed:
        return _write_one_by_one(grid, batch_size)
    found = generate(
        grid.model, prompts, plans, max_new_tokens=NEW_TOKENS, batch_size=batch_size, stop_ids=[grid.stop]
    )
    return Replies(tuple(reply.tokens for reply in found), tuple(reply.near_ties for reply in found))


def write_unsteered(grid: Grid, *, batch_size: int) -> Replies:
    """The floor: the prompt of each distinct row, unsteered, nothing shared between rows."""
    rows = [
        Row(prompt, tuple(ids), None, None)
        for prompt, ids, is_open in zip(
            grid.prompts, tokenize(tokenizer_of(grid.model), grid.prompts), grid.opened, strict=True
        )
        for _ in range(len(grid.plans) if is_open else 1)
    ]
    return _decode(grid, rows, batch_size)


def write_looped(grid: Grid, *, batch_size: int, way: Way) -> Replies:
    """The fair loop: plain transformers with hooks on its decoder blocks, one setting after the other."""
    model, tokenizer = transformers_model(grid.model), tokenizer_of(grid.model)
    assert model is not None
    opened = grid.plans[0].gate.read(last_token_activations(model, grid.prompts)).open
    ids = tokenize(tokenizer, grid.prompts)
    by_length = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    parts = [by_length[start : start + batch_size] for start in range(0, len(ids), batch_size)]
    batches = [pad_left([ids[i] for i in part], pad_id(tokenizer)).to(device_of(model)) for part in parts]
    weight = next(model.parameters())
    write = _generate if way == "model.generate" else partial(_greedy, way=way)
    replies: list[Tokens] = []
    for plan in grid.plans:
        of_setting: dict[int, Tokens] = {}
        for part, batch in zip(parts, batches, strict=True):
            shifts = {
                layer: (opened[part][:, layer, None, None] * vector).to(weight)
                for layer, vector in zip(plan.layers, plan.shift, strict=True)
            }
            with _shifted(model, shifts), torch.inference_mode():
                written = write(model, batch, grid.stop)
            of_setting |= dict(zip(part, written, strict=True))
        replies += [of_setting[i] for i in range(len(ids))]
    return Replies(tuple(replies))


def differing(ours: Replies, others: Sequence[Tokens]) -> tuple[int, int]:
    """How many rows differ, and how many of those have no near tie to part at."""
    pairs = zip(ours.tokens, others, ours.near_ties, strict=True)
    parted = [near_ties for mine, theirs, near_ties in pairs if mine != theirs]
    return len(parted), parted.count(0)


def until_stop(row: Sequence[int], stop: int) -> Tokens:
    """The tokens up to and with the stop token."""
    return tuple(row[: row.index(stop) + 1] if stop in row else row)


def _write_one_by_one(grid: Grid, batch_size: int) -> Replies:
    """Each setting by itself, the gate read once; the closed prompts once for all settings."""
    closed = [i for i, is_open in enumerate(grid.opened) if not is_open]
    rest = [i for i, is_open in enumerate(grid.opened) if is_open]
    asked = PromptSet("open", tuple(grid.prompts[i] for i in rest))
    reading = grid.plans[0].gate.read(last_token_activations(grid.model, asked))
    write = partial(
        generate, grid.model, max_new_tokens=NEW_TOKENS, batch_size=batch_size, stop_ids=[grid.stop]
    )
    unsteered = write(PromptSet("closed", tuple(grid.prompts[i] for i in closed))) if closed else []
    found = []
    for plan in grid.plans:
        of_setting = dict(zip(rest, write(asked, plan, reading=reading), strict=True))
        of_setting |= dict(zip(closed, unsteered, strict=True))
        found += [of_setting[i] for i in range(len(grid.prompts))]
    return Replies(tuple(reply.tokens for reply in found), tuple(reply.near_ties for reply in found))


def _decode(grid: Grid, rows: Sequence[Row], batch_size: int) -> Replies:
    """All of the rows, twins too, by length as `generate` does; replies in the rows' order."""
    stop = torch.tensor([grid.stop], device=device_of(grid.model))
    queue = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[int, tuple[Tokens, bool, int]] = {}
    for start in range(0, len(queue), batch_size):
        batch = queue[start : start + batch_size]
        greedy = Greedy(len(batch), NEW_TOKENS, stop)
        decode(grid.model, [rows[i] for i in batch], greedy, NEW_TOKENS)
        found |= {i: greedy.reply(place) for place, i in enumerate(batch)}
    tokens, _, near_ties = zip(*(found[i] for i in range(len(rows))), strict=True)
    return Replies(tokens, near_ties)


@contextmanager
def _shifted(model: PreTrainedModel, shifts: Mapping[int, Tensor]) -> Iterator[None]:
    def add(module: Any, args: Any, residual: Tensor, *, shift: Tensor) -> Tensor:
        return residual + shift

    handles = [
        blocks(model)[layer].register_forward_hook(partial(add, shift=shift))
        for layer, shift in shifts.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _greedy(model: PreTrainedModel, batch: EncodedBatch, stop: int, *, way: Way) -> list[Tokens]:
    n_rows, width = batch.input_ids.shape
    mask = torch.cat([batch.attention_mask, batch.attention_mask.new_ones(n_rows, NEW_TOKENS)], dim=1)
    positions = EncodedBatch(mask, mask).position_ids
    cache = (
        DynamicCache(config=model.config)
        if way == "own loop, dynamic cache"
        else StaticCache(config=model.config, max_cache_len=width + NEW_TOKENS)
    )
    ids, done, written = batch.input_ids, mask.new_zeros(n_rows, 1, dtype=torch.bool), []
    for length in range(width, width + NEW_TOKENS):
        output = model(
            ids,
            attention_mask=mask[:, :length],
            position_ids=positions[:, length - ids.shape[1] : length],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        ids = output.logits[:, -1].argmax(-1, keepdim=True)
        written.append(ids)
        done |= ids == stop
        if bool(done.all()):
            break
    return [until_stop(row, stop) for row in torch.cat(written, dim=1).tolist()]


def _generate(model: Any, batch: EncodedBatch, stop: int) -> list[Tokens]:
    written = model.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=NEW_TOKENS,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=pad_id(tokenizer_of(model)),
    )
    return [until_stop(row, stop) for row in written[:, batch.input_ids.shape[1] :].tolist()]
