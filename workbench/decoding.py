"""One left-padded batch, from its prompts to its last token, under the shifts of its rows.

    decide    where no gate reads above the first steered layer, in the pass over the prompts: read, then add
    act       one set of adders while the prompts are read, one while the replies are written

The trap: a hook sees neither padding, nor step, nor which rows are still there. This room owns all three: it passes
masks and positions explicitly, attaches adders for the prompt and for the reply apart, and cuts them down when finished
rows leave the batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel

from workbench.activations import Activations
from workbench.chat import EncodedBatch, pad_id, pad_left
from workbench.loading import Model
from workbench.models import device_of, n_layers, residual_hooks, tokenizer_of, transformers_model
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Provenance
from workbench.steering import Adder, Shift, SteeringPlan, common_site, compile_shift, gate_site

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
        if self.plan is None or self.opened is None:
            return self.plan is not None
        return bool(self.opened[list(self.plan.layers)].any())

    @property
    def refusal(self) -> str | None:
        """The preset text that is this row's reply, if it is one."""
        return self.plan.refusal if self.plan is not None and self.acts else None

    @property
    def key(self) -> tuple[tuple[int, ...], str | None]:
        """Rows of one key have one reply: a row that no shift reaches is the unsteered row."""
        moved = self.plan is not None and self.acts and bool(self.plan.shift.any())
        return self.ids, self.plan.id if self.plan is not None and moved else None


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
    """The most likely token, until a stop token. Counts near ties, and remembers logits that are no numbers."""

    def __init__(self, n_rows: int, n_steps: int, stop: Int[Tensor, "stop"]) -> None:
        self.tokens = torch.zeros(n_rows, n_steps, dtype=torch.long, device=stop.device)
        self.near_ties = torch.zeros(n_rows, n_steps, dtype=torch.bool, device=stop.device)
        self.not_finite = torch.zeros_like(self.near_ties)
        self.stop = stop

    def choose(
        self, logits: Float[Tensor, "row d_vocab"], rows: Int[Tensor, "row"], step: int
    ) -> Int[Tensor, "row"]:
        """The first of the largest logits."""
        first, second = logits.topk(2).values.unbind(-1)
        tokens = logits.argmax(-1)
        self.tokens[rows, step] = tokens
        self.near_ties[rows, step] = first - second < NEAR_TIE
        # NaN counts as the largest, so the first tells of any.
        self.not_finite[rows, step] = ~first.isfinite()
        return tokens

    def ends(self, tokens: Int[Tensor, "row"]) -> Bool[Tensor, "row"]:
        """Stop tokens do."""
        return torch.isin(tokens, self.stop)

    def require_finite(self, prompts: Sequence[Prompt]) -> None:
        """Refuse replies that rest on NaN or infinity: called once, after the last step, to wait for the device once.

        What comes after a row's stop token is no part of its reply.
        """
        ends = torch.isin(self.tokens, self.stop).int()
        bad = (self.not_finite & (ends.cumsum(1) - ends == 0)).nonzero().tolist()
        if bad:
            row, step = bad[0]
            raise ValueError(
                f"prompt {prompts[row].source or prompts[row].text!r}: the model's logits are NaN or infinite at token "
                f"{step} of the reply: load the model in float32 or bfloat16, take a smaller alpha, or look at its "
                "weights"
            )

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

    Rows that are done are carried along until half of the batch is, then dropped. A smaller batch may round the last
    bit of a logit differently; `Greedy.near_ties` counts the steps at which that could matter.
    """
    batch = pad_left([row.ids for row in rows], pad_id(tokenizer_of(model))).to(device_of(model))
    passes = _passes(model, batch, n_steps)
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
    plans: dict[str, SteeringPlan] = {}
    for i, row in enumerate(rows):
        if row.opened is not None:
            opened[i] = row.opened
        elif row.plan is not None:
            plans[row.plan.gate.id] = row.plan
            unread.setdefault(row.plan.gate.id, []).append(i)
    for gate_id, members in unread.items():
        gate = plans[gate_id].gate
        # The model's own: `require_space` has seen to that.
        space = gate.space or plans[gate_id].vectors.space
        # Layers that the gate does not read stay zero: no decision rests on them.
        values = torch.zeros(len(members), space.n_layers, space.d_model)
        for layer in gate.reads:
            values[:, layer] = residuals[layer][members]
        prompts = PromptSet("prefill", tuple(rows[i].prompt for i in members))
        activations = Activations(values, prompts.labels, prompts, space, Provenance("activations"))
        opened[members] = gate.read(activations).open
    return opened


def readable_in_prefill(plans: Sequence[SteeringPlan]) -> bool:
    """Whether every gate can be read in the one pass over the prompts: none reads above the first steered layer."""
    first_steered = min(layer for plan in plans for layer in plan.layers)
    return all(
        all(layer <= first_steered for layer in plan.gate.reads)
        and (not plan.gate.reads or gate_site(plan.gate) == plan.vectors.space.site)
        for plan in plans
    )


def _prefill(
    model: Model, rows: Sequence[Row], passes: "_Passes", batch: EncodedBatch
) -> tuple[Float[Tensor, "row d_vocab"], Shift, Bool[Tensor, "row layer"]]:
    """The pass over the prompts: logits of the first token, the batch's shift, and the decisions behind it."""
    plans = [row.plan for row in rows]
    steering = [plan for plan in plans if plan is not None]
    read_at = {layer for row in rows if row.plan and row.opened is None for layer in row.plan.gate.reads}
    residuals: dict[int, Tensor] = {}
    adders: dict[int, Adder] = {}
    decided: list[tuple[Shift, Tensor]] = []

    def decide_and_compile() -> None:
        opened = decide(model, rows, residuals)
        shift = compile_shift(plans, opened).to(*_where_and_how(model))
        adders.update(shift.adders(shift.on_prompt[:, None]))
        decided.append((shift, opened))

    def read_then_add(layer: int, residual: Tensor) -> Tensor | None:
        if layer in read_at:
            residuals[layer] = residual[:, -1].float().cpu()
            if layer == max(read_at):
                decide_and_compile()
        return adders[layer](residual) if layer in adders else None

    if not read_at:
        decide_and_compile()
    visited = read_at.union(*(plan.layers for plan in steering))
    # The site of the shift, which is not there yet where gates are read in this very pass.
    with residual_hooks(
        model, common_site(plans), {layer: partial(read_then_add, layer) for layer in visited}
    ):
        logits = passes.next_logits(batch.input_ids)
    [(shift, opened)] = decided
    return logits, shift, opened


def _where_and_how(model: Model) -> tuple[torch.device, torch.dtype]:
    weight = next(model.parameters())
    return weight.device, weight.dtype


class _Passes(ABC):
    """Forward passes over a growing text, alike on three backends: token ids in, logits of the next token out."""

    def __init__(self, batch: EncodedBatch, room: int) -> None:
        # Made for the longest text at once: a pass takes slices.
        ones = batch.attention_mask.new_ones(len(batch.input_ids), room)
        self.mask = torch.cat([batch.attention_mask, ones], dim=1)
        self.length = 0

    def next_logits(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "row d_vocab"]:
        """The logits after `ids`, which go on from where the last pass ended."""
        past, self.length = self.length, self.length + ids.shape[1]
        return self.logits(ids, past)[:, -1]

    @abstractmethod
    def logits(self, ids: Int[Tensor, "row pos"], past: int) -> Float[Tensor, "row seen d_vocab"]:
        """The logits of (at least) the last position of `ids`, whose first token has `past` others before it."""

    @abstractmethod
    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Go on with these rows alone."""


class _TransformersPasses(_Passes):
    """On a plain model, or through a bridge around one."""

    def __init__(self, model: Model, hf: PreTrainedModel, batch: EncodedBatch, room: int) -> None:
        super().__init__(batch, room)
        self.model = model
        self.positions = EncodedBatch(self.mask, self.mask).position_ids
        self.cache = DynamicCache(config=hf.config)

    def logits(self, ids: Int[Tensor, "row pos"], past: int) -> Float[Tensor, "row seen d_vocab"]:
        output = self.model(
            ids,
            attention_mask=self.mask[:, : self.length],
            position_ids=self.positions[:, past : self.length],
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return output.logits if isinstance(self.model, PreTrainedModel) else output

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.mask, self.positions = self.mask[rows], self.positions[rows]
        self.cache.batch_select_indices(rows)


class _LensPasses(_Passes):
    """On a HookedTransformer, whose cache remembers the mask and counts the positions from it."""

    def __init__(self, model: Any, batch: EncodedBatch, room: int) -> None:
        # Here, because TransformerLens 4 has neither HookedTransformer nor its cache.
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        super().__init__(batch, room)
        self.model = model
        self.cache = TransformerLensKeyValueCache.init_cache(model.cfg, self.mask.device, len(self.mask))

    def logits(self, ids: Int[Tensor, "row pos"], past: int) -> Float[Tensor, "row seen d_vocab"]:
        return self.model(ids, attention_mask=self.mask[:, past : self.length], past_kv_cache=self.cache)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.mask = self.mask[rows]
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]
        for entry in self.cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]


def _passes(model: Model, batch: EncodedBatch, room: int) -> _Passes:
    hf = transformers_model(model)
    return _LensPasses(model, batch, room) if hf is None else _TransformersPasses(model, hf, batch, room)
