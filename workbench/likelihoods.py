"""How likely a model holds a given continuation, in one pass, under the row's own shift.

    log p(continuation | context) = Σ_t log softmax(logits after context, token_1 ... token_(t−1))[token_t]      (nats)

What `decoding` writes token by token is read here at once: contexts padded on the left, continuations on the right, the
plan's shift at the context's tokens, at the continuation's, or at both, as its positions say.

The trap: a gate belongs to the context. It is decided once, at the context's last token, and holds for every
continuation of it; were it read at the end of each, four options of one question would be four decisions.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm

from workbench.chat import EncodedBatch, pad_id, pad_left
from workbench.decoding.asking import decide
from workbench.decoding.rows import Row, RowKey
from workbench.forward import next_token_logits
from workbench.loading import Model
from workbench.memory import in_batches
from workbench.models import context_length, device_of, residual_hooks, tokenizer_of
from workbench.prompts import PromptSet
from workbench.steering import compile_shift, require_clean


@dataclass(frozen=True, eq=False)
class Likelihood:
    """What a model makes of one continuation: each token's log-probability in nats, and whether greedy would say it."""

    log_probs: Float[Tensor, "token"]
    likeliest: Bool[Tensor, "token"]

    @cached_property
    def total(self) -> float:
        """The continuation's log-probability, in nats."""
        return float(self.log_probs.double().sum())

    @property
    def greedy(self) -> bool:
        """Whether greedy decoding would write it, token by token."""
        return bool(self.likeliest.all())


def likelihoods(
    model: Model,
    rows: Sequence[Row],
    continuations: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> list[Likelihood]:
    """What `model` makes of `continuations[i]` after `rows[i]`, under the row's plan, in order.

    Rows whose gate is still unread are read first, a context once however many rows have it.

    Raises `ValueError` for an empty continuation, one that the context does not hold, a plan that decides online (it
    reads in the pass that it steers), or one with a preset refusal, which no logits lead to.
    """
    found = {}
    read = continuation_logits(model, rows, continuations, batch_size=batch_size, progress=progress)
    for i, logits in read:
        given = torch.tensor(continuations[i], device=logits.device)
        log_probs = logits.log_softmax(-1).gather(-1, given[:, None])[:, 0]
        found[i] = Likelihood(log_probs.cpu(), (logits.argmax(-1) == given).cpu())
    return [found[i] for i in range(len(rows))]


def continuation_logits(
    model: Model,
    rows: Sequence[Row],
    continuations: Sequence[Sequence[int]],
    *,
    batch_size: int = 64,
    progress: bool = False,
) -> Iterator[tuple[int, Float[Tensor, "token d_vocab"]]]:
    """The logits before every token of every continuation, in float32, with the row's number, in no order.

    Raises as `likelihoods` does.
    """
    _require_scorable(model, rows, continuations)
    decided = _decided(model, rows, batch_size)
    # A row that no shift reaches is the unsteered row: what rows have in common is computed once.
    alike: dict[tuple[RowKey, tuple[int, ...]], list[int]] = {}
    for i, row in enumerate(decided):
        alike.setdefault((row.key, tuple(continuations[i])), []).append(i)
    members = {same[0]: same for same in alike.values()}
    # The longest first: what finds no room is told at once.
    queue = sorted(members, key=lambda i: len(rows[i].ids) + len(continuations[i]), reverse=True)

    def told(chosen: Sequence[int]) -> str:
        longest = len(rows[chosen[0]].ids) + len(continuations[chosen[0]])
        return f"{len(chosen)} continuation{'s' * (len(chosen) > 1)} of up to {longest:,} tokens, context included"

    compute = partial(_one_batch, model, decided, continuations)
    with tqdm(total=len(queue), desc="scoring", unit="continuation", disable=not progress) as bar:
        for chosen, logits in in_batches(queue, batch_size, compute, told):
            for first, row in zip(chosen, logits, strict=True):
                for i in members[first]:
                    yield i, row[: len(continuations[i])].float()
            bar.update(len(chosen))


@torch.no_grad()
def _one_batch(
    model: Model, rows: Sequence[Row], continuations: Sequence[Sequence[int]], chosen: Sequence[int]
) -> Float[Tensor, "row token d_vocab"]:
    contexts = pad_left([rows[i].ids for i in chosen], pad_id(tokenizer_of(model)))
    batch = _followed(contexts, [continuations[i] for i in chosen]).to(device_of(model))
    opened = [row.opened for row in (rows[i] for i in chosen)]
    depth = next((len(decisions) for decisions in opened if decisions is not None), 0)
    closed = torch.zeros(depth, dtype=torch.bool)
    shift = compile_shift(
        [rows[i].plan for i in chosen], torch.stack([closed if o is None else o for o in opened])
    ).to(device_of(model), next(model.parameters()).dtype)
    adders = shift.by_width(contexts.input_ids.shape[1]) if shift.any_open.any() else {}
    # The last token of the longest is never fed: nothing is read after it.
    keep = batch.input_ids.shape[1] - contexts.input_ids.shape[1] + 1
    with residual_hooks(model, shift.site, adders):
        return next_token_logits(model, batch, keep)


def _followed(contexts: EncodedBatch, continuations: Sequence[Sequence[int]]) -> EncodedBatch:
    """The contexts with all but the last token of each continuation after them, padded on the right."""
    longest = max(map(len, continuations))
    ids = torch.zeros(len(continuations), longest - 1, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for i, given in enumerate(continuations):
        ids[i, : len(given) - 1] = torch.tensor(given[:-1], dtype=torch.long)
        mask[i, : len(given) - 1] = 1
    return EncodedBatch(
        torch.cat([contexts.input_ids, ids], dim=1),
        torch.cat([contexts.attention_mask, mask], dim=1),
        contexts.images,
    )


def _decided(model: Model, rows: Sequence[Row], batch_size: int) -> list[Row]:
    """The rows with their gates' decisions."""
    unread = [i for i, row in enumerate(rows) if row.plan is not None and row.opened is None]
    if not unread:
        return list(rows)
    asked = PromptSet("contexts", tuple(rows[i].prompt for i in unread))
    opened = decide(model, asked, [rows[i].ids for i in unread], [rows[i].plan for i in unread], batch_size)
    read = dict(zip(unread, opened, strict=True))
    return [Row(row.prompt, row.ids, row.plan, read[i]) if i in read else row for i, row in enumerate(rows)]


def _require_scorable(model: Model, rows: Sequence[Row], continuations: Sequence[Sequence[int]]) -> None:
    if len(rows) != len(continuations):
        raise ValueError(f"got {len(continuations)} continuations for {len(rows)} rows: pass one for each")
    require_clean([row.plan for row in rows])
    if any(row.plan is not None and row.plan.refusal is not None for row in rows):
        raise ValueError(
            "got a plan that answers with a preset refusal, which no logits lead to: score under the same plan with "
            "refusal=None"
        )
    room = context_length(model)
    for row, given in zip(rows, continuations, strict=True):
        if not row.ids or not given:
            raise ValueError(
                f"got {len(row.ids)} tokens of context and {len(given)} to score after prompt {row.prompt.source!r}, "
                "expected at least one of each"
            )
        if len(row.ids) + len(given) - 1 > room:
            raise ValueError(
                f"prompt {row.prompt.source!r} has {len(row.ids)} tokens and {len(given)} to score after it, the "
                f"context holds {room}: shorten it"
            )
