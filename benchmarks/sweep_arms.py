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

from workbench import InProcess, PromptSet, last_token_activations
from workbench.chat import EncodedBatch, pad_id, pad_left, tokenize
from workbench.decoding.asking import rows_of
from workbench.decoding.replies import Reply
from workbench.decoding.rows import Row
from workbench.generation import distinct_rows
from workbench.models import blocks, device_of, tokenizer_of, transformers_model
from workbench.sweep.executors import Terms
from workbench.sweep.packing import pack

Tokens: TypeAlias = tuple[int, ...]
Way: TypeAlias = Literal["own loop, dynamic cache", "own loop, static cache", "model.generate"]
READING_BATCH = 64
WAYS: tuple[Way, ...] = get_args(Way)


@dataclass(frozen=True)
class Replies:
    """Token rows, setting by setting; `near_ties` of each where the arm counts them."""

    tokens: tuple[Tokens, ...]
    near_ties: tuple[int, ...] = ()


def write_ours(
    grid: Grid,
    *,
    batch_size: int | None = None,
    packed: bool = True,
    share_closed: bool = True,
    share_prefix: bool = True,
) -> Replies:
    """Ours: the whole grid as rows of a few batches. Each switch leaves one of the savings out.

    Without packing, settings go through the engine one by one, and the closed prompts once for all; without sharing of
    closed gates, every row is computed, whoever its twins are. A batch holds as much as the engine finds best, unless
    `batch_size` says otherwise.
    """
    rows = rows_on(grid)
    size = len(rows) if packed else len(grid.prompts)
    executor, found = InProcess(grid.model, share_prefix), dict[object, Reply]()
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        todo = [row for row in distinct_rows(part) if row.key not in found] if share_closed else part
        # Rows that share nothing are told apart by being themselves.
        written = _write(executor, todo, grid.stop, batch_size)
        found |= {row.key if share_closed else id(row): reply for row, reply in written}
    replies = [found[row.key if share_closed else id(row)] for row in rows]
    return Replies(tuple(reply.tokens for reply in replies), tuple(reply.near_ties for reply in replies))


def rows_on(grid: Grid) -> list[Row]:
    """Every row that the grid asks for, setting by setting, its gate read."""
    prompts = PromptSet("grid", grid.prompts.prompts * len(grid.plans))
    plans = [plan for plan in grid.plans for _ in grid.prompts]
    return rows_of(grid.model, prompts, plans, None, NEW_TOKENS, READING_BATCH)


def write_unsteered(grid: Grid, *, batch_size: int | None = None) -> Replies:
    """The floor: the prompt of each distinct row, unsteered, nothing shared between rows."""
    rows = [
        Row(prompt, tuple(ids), None, None)
        for prompt, ids, is_open in zip(
            grid.prompts, tokenize(tokenizer_of(grid.model), grid.prompts), grid.opened, strict=True
        )
        for _ in range(len(grid.plans) if is_open else 1)
    ]
    replies = [reply for _, reply in _write(InProcess(grid.model, False), rows, grid.stop, batch_size)]
    return Replies(tuple(reply.tokens for reply in replies), tuple(reply.near_ties for reply in replies))


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
    by_generate = way == "model.generate"
    write = partial(generated, new_tokens=NEW_TOKENS) if by_generate else partial(_greedy, way=way)
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


def _write(
    executor: InProcess, rows: Sequence[Row], stop: int, batch_size: int | None
) -> Iterator[tuple[Row, Reply]]:
    """Every row with its reply, in the order of packing."""
    width = max(len(row.ids) for row in rows) + NEW_TOKENS
    budget = batch_size * width if batch_size else executor.find_budget(width, len(rows))
    batches = list(pack(rows, budget, NEW_TOKENS))
    for number, replies in executor.write(batches, Terms(NEW_TOKENS, (stop,))):
        yield from zip(batches[number], replies, strict=True)


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


def generated(model: Any, batch: EncodedBatch, stop: int, *, new_tokens: int) -> list[Tokens]:
    """What transformers' own `generate` writes, greedily."""
    written = model.generate(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        max_new_tokens=new_tokens,
        do_sample=False,
        eos_token_id=stop,
        pad_token_id=pad_id(tokenizer_of(model)),
    )
    return [until_stop(row, stop) for row in written[:, batch.input_ids.shape[1] :].tolist()]
