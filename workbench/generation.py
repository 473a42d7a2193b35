"""Rows in, completions out: every row is a prompt under its own plan, and a batch may mix them as it likes.

    token_t = argmax of the logits after the prompt and token_1 ... token_(t-1), every pass under the row's shift

A row whose gate is closed *is* the unsteered row: where both are asked for, they are computed once.

The trap: a gate's decision belongs to the prompt it was read from. It is read before anything is added, kept for the
whole reply, and refused for any other batch.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm.auto import tqdm
from transformers import PreTrainedTokenizerBase

from workbench.chat import EncodedBatch, encode
from workbench.decoding.asking import Plans, Prompts, rows_of
from workbench.decoding.batches import decode
from workbench.decoding.choosers import Forced
from workbench.decoding.guided import Guide
from workbench.decoding.replies import Reply, stop_tokens, write_replies
from workbench.decoding.rows import Row, RowKey, size_of
from workbench.gates import GateReading
from workbench.kinship import warn_if_unrelated
from workbench.loading import Model
from workbench.memory import in_batches, room_for
from workbench.models import (
    context_length,
    device_of,
    input_hook,
    residual_hooks,
    tokenizer_of,
)
from workbench.prompts import Prompt, PromptSet, as_prompt_set
from workbench.shifts import Adder, Shift
from workbench.steering import SteeringPlan, compile_shift

LONGEST_REPLY = 256
"""The most tokens of a reply, as in the paper, where a call does not say and the context has room for them."""


@dataclass(frozen=True)
class Completion:
    """A reply and what was done to it.

    `tokens` are the generated ones, the stop token included; `finished` says whether there was one, or the reply is a
    preset refusal. `plan_id` and `gate_open` (per layer) are None for the unsteered model. `near_ties` counts the steps
    whose two top logits were closer than `choosers.NEAR_TIE`: there another batch size or backend may go another way.
    """

    prompt: Prompt
    text: str
    tokens: tuple[int, ...]
    finished: bool
    plan_id: str | None = None
    gate_open: tuple[bool, ...] | None = None
    near_ties: int = 0


def generate(
    model: Model,
    prompts: Prompts,
    plans: Plans = None,
    *,
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    reading: GateReading | None = None,
    stop_ids: Sequence[int] | None = None,
    guide: Guide | None = None,
    progress: bool = False,
) -> list[Completion]:
    """Greedy replies to `prompts`, in order, each row under its own plan.

    A reply has at most `max_new_tokens` tokens; by default as many as fit after the call's longest prompt, up to 256 as
    in the paper.

    `plans` is None (unsteered), one plan for every prompt, or one plan or None per prompt. To compare settings, repeat
    the prompts, one row per setting: a prompt that occurs more than once is read once, and all its rows that no shift
    reaches (unsteered, gate closed, alpha 0) are one computation. Rows that decide online are read as they are steered,
    and shared with rows of their own plan only. `reading` skips the reading, where `plan.read` has done it for exactly
    these prompts. `stop_ids` end a reply; by default they are what the tokenizer and the model's generation config call
    the end of a text. Under a `guide`, a baseline beside steering and not on top of it, a token is the one
    that logit and reward together like best.

    Where memory runs out on a batch it goes on in smaller ones, with the same tokens up to near ties, and warns
    (`SmallerBatches`). It warns (`Unrelated`) of vectors that lie to the target's own as random directions do.

    Raises `ValueError` for a prompt without room for its reply (by default, for one token of it), for plans or a
    reading made for other prompts, and for logits that are no numbers; `SpaceMismatch` for a plan made for other
    models; `NoRoom` for a row that finds no room in memory alone.
    """
    warn_if_unrelated([plans] if isinstance(plans, SteeringPlan) else plans or ())
    return reply_to(
        model, prompts, plans, max_new_tokens=max_new_tokens, batch_size=batch_size, reading=reading,
        stop_ids=stop_ids, guide=guide, progress=progress,
    )  # fmt: skip


def reply_to(
    model: Model,
    prompts: Prompts,
    plans: Plans,
    *,
    max_new_tokens: int | None,
    batch_size: int,
    reading: GateReading | None = None,
    stop_ids: Sequence[int] | None = None,
    guide: Guide | None = None,
    progress: bool = False,
) -> list[Completion]:
    """`generate`, for plans of which some are controls: no word about whose vectors they are."""
    asked = 1 if max_new_tokens is None else max_new_tokens
    if asked < 1 or batch_size < 1:
        raise ValueError(
            f"got max_new_tokens={max_new_tokens}, batch_size={batch_size}: expected 1 or more of each"
        )
    if guide is not None:
        guide.require_words_of(model)
        if any(plan is not None for plan in ([plans] if isinstance(plans, SteeringPlan) else plans or ())):
            raise ValueError(
                "got a guide and a plan: guided decoding is a baseline of its own, compare the two"
            )
        batch_size = max(1, batch_size // guide.top_k)  # the reader has so many rows for each
    rows = rows_of(model, prompts, plans, reading, asked, batch_size)
    if max_new_tokens is None:
        max_new_tokens = min(LONGEST_REPLY, context_length(model) - max(len(row.ids) for row in rows))
    listed = stop_tokens(model) if stop_ids is None else list(stop_ids)
    # By length, because prompts of one length need no padding.
    queue = sorted(distinct_rows(rows), key=lambda row: len(row.ids))
    replies: dict[RowKey, Reply] = {}
    write = partial(write_replies, model, max_new_tokens=max_new_tokens, stop_ids=listed, guide=guide)
    told = partial(size_of, max_new_tokens=max_new_tokens)
    with tqdm(total=len(queue), desc="generating", unit="row", disable=not progress) as bar:
        for batch, written in in_batches(queue, batch_size, write, told):
            replies |= {row.key: reply for row, reply in zip(batch, written, strict=True)}
            bar.update(len(batch))
    return completions(rows, tokenizer_of(model), replies)


def teacher_forced_logits(
    model: Model,
    prompts: Prompts,
    replies: Sequence[Sequence[int]],
    plans: Plans = None,
    *,
    reading: GateReading | None = None,
) -> list[Float[Tensor, "step d_vocab"]]:
    """The logits before each token of given replies, one tensor per row, from the very loop that `generate` runs.

    All rows are one batch. Two backends, or two plans, are compared this way step by step without drifting apart.

    Raises `ValueError` for a plan that answers with a preset refusal: it says that, whatever the logits.
    """
    n_steps = max(map(len, replies), default=0)
    if n_steps < 1:
        raise ValueError(
            f"got {len(replies)} replies without a single token: expected one reply per prompt, with a token to force"
        )
    rows = rows_of(model, prompts, plans, reading, n_steps, len(replies))
    if len(rows) != len(replies):
        raise ValueError(f"got {len(replies)} replies for {len(rows)} prompts: pass one reply per prompt")
    if any(row.plan is not None and row.plan.refusal is not None for row in rows):
        raise ValueError(
            "got a plan that answers with a preset refusal, which no logits lead to: force replies under the same plan "
            "with refusal=None, or use generate(...)"
        )
    padded = [[*reply, *[0] * (n_steps - len(reply))] for reply in replies]
    forced = Forced(torch.tensor(padded, device=device_of(model)))
    with room_for(
        size_of(rows, max_new_tokens=n_steps), "all rows are one batch here: force fewer at a time"
    ):
        decode(model, rows, forced, n_steps)
    logits = torch.stack(forced.logits, dim=1)
    return [row[: len(reply)] for row, reply in zip(logits, replies, strict=True)]


@dataclass(eq=False)
class SteeredRun:
    """A model under a plan, for a few prompts at hand: what the gate read, what is added, and the encoded batch.

    Inside `with steered(...) as run`, `model(run.batch.input_ids, attention_mask=run.batch.attention_mask)` and
    `run_with_cache` show the steered model; `run.generate()` writes the replies.
    """

    model: Model
    plan: SteeringPlan
    prompts: PromptSet
    reading: GateReading
    shift: Shift
    batch: EncodedBatch
    _paused: bool = False

    def generate(self, *, max_new_tokens: int | None = None) -> list[Completion]:
        """The steered replies, from the reading that is at hand, as long as `generate` makes them."""
        # The loop attaches adders of its own: with those of `steered` besides, everything would be added twice.
        self._paused = True
        try:
            return generate(
                self.model, self.prompts, self.plan, reading=self.reading, max_new_tokens=max_new_tokens
            )
        finally:
            self._paused = False

    def _unless_paused(self, add: Adder) -> Callable[[Tensor], Tensor | None]:
        return lambda residual: None if self._paused else add(residual)

    def _require_own(self, ids: Int[Tensor, "batch pos"]) -> None:
        """Refuse a pass over other prompts. One of fewer tokens than theirs goes on from a cache, and tells nothing."""
        n_rows, width = self.batch.input_ids.shape
        if self._paused:
            return
        if len(ids) != n_rows:
            raise ValueError(
                f"got a pass over {len(ids)} rows, this block steers {n_rows} prompts: run all of run.batch, or open "
                "another steered(...) for the prompts you run"
            )
        real = self.batch.attention_mask.bool()
        if ids.shape[1] >= width and not torch.equal(ids[:, :width][real], self.batch.input_ids[real]):
            raise ValueError(
                f"got a pass over other prompts than the {n_rows} that this block steers: run run.batch, with the "
                "reply's tokens after it if you like, or open another steered(...) for the prompts you run"
            )


@contextmanager
def steered(model: Model, plan: SteeringPlan, prompts: Prompts) -> Iterator[SteeredRun]:
    """The model under a plan, by hand: reads the gate for `prompts`, then shifts every pass over them inside the block.

    A pass over other prompts is refused: over another number of rows, or over texts that do not begin with `run.batch`,
    row by row (any tokens may stand in its padding). So is one that goes on from a cache, under a plan that shifts the
    prompt or the reply only: there the first positions of every pass are taken for the prompt's. Under a plan that
    shifts everywhere such a pass is taken at its word.
    """
    warn_if_unrelated([plan])
    prompts = as_prompt_set(prompts)
    if seen := [prompt for prompt in prompts if prompt.images]:
        raise ValueError(
            f"prompt {seen[0].source!r} has an image, and a pass by hand over tokens alone would not see it: ask with "
            "generate(model, prompts, plan), or leave images out"
        )
    reading = plan.read(model, prompts)
    shift = compile_shift(plan, reading.open)
    batch = encode(tokenizer_of(model), prompts, context_length=context_length(model)).to(device_of(model))
    run = SteeredRun(model, plan, prompts, reading, shift, batch)
    adders = {
        layer: run._unless_paused(add) for layer, add in shift.by_width(batch.input_ids.shape[1]).items()
    }
    with input_hook(model, run._require_own), residual_hooks(model, shift.site, adders):
        yield run


def distinct_rows(rows: Sequence[Row]) -> list[Row]:
    """One row of each kind that is to be computed: those that share a reply, and preset refusals, are left out."""
    return list({row.key: row for row in rows if row.refusal is None}.values())


def completions(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, replies: Mapping[RowKey, Reply]
) -> list[Completion]:
    """What was asked for, in order, from the `replies` of its distinct rows, by key."""
    found = []
    for row in rows:
        refusal = row.refusal
        reply = replies[row.key] if refusal is None else _preset(tokenizer, refusal)
        opened = reply.opened if row.opened is None else row.opened
        plan_id = None if row.plan is None else row.plan.id
        gate_open = None if row.plan is None or opened is None else tuple(opened.tolist())
        found.append(
            Completion(
                row.prompt, reply.text, reply.tokens, reply.finished, plan_id, gate_open, reply.near_ties
            )
        )
    return found


def _preset(tokenizer: PreTrainedTokenizerBase, refusal: str) -> Reply:
    return Reply(refusal, tuple(tokenizer(refusal, add_special_tokens=False)["input_ids"]), True, 0)
