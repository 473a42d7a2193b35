"""One left-padded batch, from its prompts to its last token, under the shifts of its rows.

    decide    where no gate reads above the first steered layer, in the pass over the prompts: read, then add
    act       one set of adders while the prompts are read, one while the replies are written

The trap: a hook sees neither padding, nor step, nor which rows are still there. This room owns all three: it passes masks
and positions explicitly, attaches adders for the prompt and for the reply apart, and cuts them down when finished rows
leave the batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from workbench.activations import Activations
from workbench.chat import EncodedBatch, pad_id, pad_left
from workbench.loading import Model
from workbench.models import device_of, n_layers, residual_hooks, space_of, tokenizer_of, transformers_model
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Provenance
from workbench.steering import Adder, Shift, SteeringPlan, compile_shift

NEAR_TIE = 1e-4
"""Two top logits closer than this may change places between batch sizes and backends, which agree to about 1e-6."""


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt under one plan.

    `opened` are the plan's gate's decisions; None for the unsteered model, and until the prefill has read them.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    plan: SteeringPlan | None
    opened: Bool[Tensor, "layer"] | None

    @property
    def acts(self) -> bool:
        """Whether the plan may do something: its gate is open at one of its layers, or unread."""
        return self.plan is not None and (
            self.opened is None or bool(self.opened[list(self.plan.layers)].any())
        )

    @property
    def refuses(self) -> bool:
        """Whether the reply is the plan's preset refusal."""
        return self.acts and self.plan.refusal is not None

    @property
    def key(self) -> tuple[tuple[int, ...], str | None]:
        """Rows of one key have one reply: a row that no shift reaches is the unsteered row."""
        return self.ids, self.plan.id if self.acts and self.plan.shift.any() else None


@runtime_checkable
class Chooser(Protocol):
    """Picks the next token of every row, and says which of them end their reply."""

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The tokens of `step`; `rows` are the rows of the batch that are still there."""

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Which of these tokens end a reply."""


class Greedy:
    """The most likely token, until a stop token. Counts near ties."""

    def __init__(self, n_rows: int, n_steps: int, stop: Int[Tensor, "stop"]) -> None:
        self.tokens = torch.zeros(n_rows, n_steps, dtype=torch.long, device=stop.device)
        self.near_ties = torch.zeros(n_rows, n_steps, dtype=torch.bool, device=stop.device)
        self.stop = stop

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The first of the largest logits."""
        first, second = logits.topk(2).values.unbind(-1)
        tokens = logits.argmax(-1)
        self.tokens[rows, step] = tokens
        self.near_ties[rows, step] = first - second < NEAR_TIE
        return tokens

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Stop tokens do."""
        return torch.isin(tokens, self.stop)

    def reply(self, row: int) -> tuple[tuple[int, ...], bool, int]:
        """The row's tokens up to and with its stop token, whether it had one, and its near ties."""
        stops = self.ends(self.tokens[row]).nonzero()
        length = int(stops[0]) + 1 if len(stops) else self.tokens.shape[1]
        return (
            tuple(self.tokens[row, :length].tolist()),
            len(stops) > 0,
            int(self.near_ties[row, :length].sum()),
        )


class Forced:
    """Given tokens, whatever the model makes of them. Keeps every step's logits."""

    def __init__(self, tokens: Int[Tensor, "row step"]) -> None:
        self.tokens = tokens
        self.logits: list[Tensor] = []

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The given token."""
        self.logits.append(logits)
        return self.tokens[rows, step]

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """None does: padded rows run on and are cut afterwards."""
        return torch.zeros_like(tokens, dtype=torch.bool)


@torch.no_grad()
def decode(model: Model, rows: Sequence[Row], chooser: Chooser, n_steps: int) -> Bool[Tensor, "row layer"]:
    """Run a batch through the model for at most `n_steps` tokens, which `chooser` picks; returns the rows' decisions.

    Rows that are done are carried along until half of the batch is, then dropped.
    """
    batch = pad_left([row.ids for row in rows], pad_id(tokenizer_of(model))).to(device_of(model))
    passes = _Passes(model, batch, n_steps)
    logits, shift, opened = _prefill(model, rows, passes, batch)
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


def decide(
    model: Model, rows: Sequence[Row], residuals: dict[int, Float[Tensor, "row d_model"]]
) -> Bool[Tensor, "row layer"]:
    """Every row's decisions, known or read from last-token residuals of the layers that the unread gates ask for."""
    opened = torch.zeros(len(rows), n_layers(model), dtype=torch.bool)
    unread: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        if row.opened is not None:
            opened[i] = row.opened
        elif row.plan is not None:
            unread.setdefault(row.plan.gate.id, []).append(i)
    for members in unread.values():
        plan = rows[members[0]].plan
        space = space_of(model, plan.vectors.space.site)
        # Layers that the gate does not read stay zero: no decision rests on them.
        values = torch.zeros(len(members), space.n_layers, space.d_model)
        for layer in plan.gate.reads:
            values[:, layer] = residuals[layer][members]
        prompts = PromptSet("prefill", tuple(rows[i].prompt for i in members))
        activations = Activations(values, prompts.labels, prompts, space, Provenance("activations"))
        opened[members] = plan.gate.read(activations).open
    return opened


def readable_in_prefill(plans: Sequence[SteeringPlan]) -> bool:
    """Whether every gate can be read in the one pass over the prompts: none reads above the first steered layer."""
    first_steered = min(layer for plan in plans for layer in plan.layers)
    return all(
        all(layer <= first_steered for layer in plan.gate.reads)
        and (plan.gate.space is None or plan.gate.space.site == plan.vectors.space.site)
        for plan in plans
    )


def _prefill(
    model: Model, rows: Sequence[Row], passes: "_Passes", batch: EncodedBatch
) -> tuple[Float[Tensor, "row d_vocab"], Shift, Bool[Tensor, "row layer"]]:
    """The pass over the prompts: logits of the first token, the batch's shift, and the decisions behind it."""
    plans = [row.plan for row in rows]
    weights = next(model.parameters())
    read_at = {layer for row in rows if row.plan and row.opened is None for layer in row.plan.gate.reads}
    residuals: dict[int, Tensor] = {}
    adders: dict[int, Adder] = {}
    opened, shift = None, None

    def compile_now() -> None:
        nonlocal opened, shift
        opened = decide(model, rows, residuals)
        shift = compile_shift(plans, opened).to(weights.device, weights.dtype)
        adders.update(shift.adders(shift.on_prompt[:, None]))

    def read_then_add(layer: int, residual: Tensor) -> Tensor | None:
        if layer in read_at:
            residuals[layer] = residual[:, -1].float().cpu()
            if layer == max(read_at):
                compile_now()
        return adders[layer](residual) if layer in adders else None

    if not read_at:
        compile_now()
    visited = read_at | {layer for plan in plans if plan for layer in plan.layers}
    site = next((plan.vectors.space.site for plan in plans if plan), "resid_post")
    with residual_hooks(model, site, {layer: partial(read_then_add, layer) for layer in visited}):
        logits = passes.next_logits(batch.input_ids)
    return logits, shift, opened


class _Passes:
    """Forward passes over a growing text, alike on three backends: token ids in, logits of the next token out."""

    def __init__(self, model: Model, batch: EncodedBatch, room: int) -> None:
        self.model, self.hf = model, transformers_model(model)
        n_rows = len(batch.input_ids)
        # Made for the longest text at once: a pass takes slices.
        self.mask = torch.cat([batch.attention_mask, batch.attention_mask.new_ones(n_rows, room)], dim=1)
        self.positions = EncodedBatch(self.mask, self.mask).position_ids
        self.length = 0
        if self.hf is not None:
            self.cache = DynamicCache(config=self.hf.config)
        else:
            # Here, because TransformerLens 4 has no HookedTransformer and no cache for it.
            from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

            self.cache = TransformerLensKeyValueCache.init_cache(model.cfg, self.mask.device, n_rows)

    def next_logits(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]:
        """The logits after `ids`, which go on from where the last pass ended."""
        past, self.length = self.length, self.length + ids.shape[1]
        if self.hf is None:
            mask = self.mask[:, past : self.length]
            return self.model(ids, attention_mask=mask, past_kv_cache=self.cache)[:, -1]
        output = self.model(
            ids,
            attention_mask=self.mask[:, : self.length],
            position_ids=self.positions[:, past : self.length],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return (output.logits if isinstance(self.model, PreTrainedModel) else output)[:, -1]

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Go on with these rows alone."""
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        if self.hf is not None:
            self.cache.batch_select_indices(rows)
            return
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]
        for entry in self.cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]
