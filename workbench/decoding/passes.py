"""Forward passes over a growing text, alike on three backends: token ids in, logits of the next token out.

The trap: a backend that is left to guess counts padding as text. Masks and positions are passed explicitly, or kept
where a backend keeps them itself.
"""

from abc import ABC, abstractmethod
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from workbench.chat import EncodedBatch
from workbench.decoding.branching import Branching
from workbench.decoding.caches import reserved_cache
from workbench.forward import seeing
from workbench.loading import Model
from workbench.models import transformers_model


class Passes(ABC):
    """The passes over one batch, each going on from where the last one ended; the first has its images."""

    def __init__(self, model: Model, batch: EncodedBatch, room: int) -> None:
        self.model: Any = model
        # Made for the longest text at once: a pass takes slices.
        ones = batch.attention_mask.new_ones(len(batch.input_ids), room)
        self.mask = torch.cat([batch.attention_mask, ones], dim=1)
        self.length, self.batch = 0, batch

    def next_logits(self, ids: Int[Tensor, "row pos"]) -> Float[Tensor, "state d_vocab"]:
        """The logits after `ids`, the text's next tokens: one per row, more where rows branch off in the pass."""
        past, self.length = self.length, self.length + ids.shape[1]
        with nullcontext() if past else seeing(self.model, self.batch):
            return self.logits(ids, past)[:, -1]

    @abstractmethod
    def logits(self, ids: Int[Tensor, "row pos"], past: int) -> Float[Tensor, "state seen d_vocab"]:
        """The logits of (at least) the last position of `ids`, whose first token has `past` others before it."""

    @abstractmethod
    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        """Go on with these rows alone."""


class TransformersPasses(Passes):
    """On a plain model, or through a bridge around one."""

    def __init__(self, model: Model, hf: PreTrainedModel, batch: EncodedBatch, room: int) -> None:
        super().__init__(model, batch, room)
        self.name = type(hf).__name__
        self.positions = EncodedBatch(self.mask, self.mask).position_ids
        self.cache = reserved_cache(hf, self.mask.shape[1])

    def logits(self, ids: Int[Tensor, "row pos"], past: int) -> Float[Tensor, "state seen d_vocab"]:
        layers: Any = self.cache.layers
        if past and not any(layer.get_seq_length() == past for layer in layers):
            raise ValueError(
                f"a {self.name} has kept no keys and values of the {past} tokens so far, and would go on without them: "
                "steered replies need a model that takes a cache"
            )
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

    def take(self, other: "TransformersPasses", rows: Int[Tensor, "taken"], *, above: int) -> None:
        """Take what another pass over these rows has left in the layers above one."""
        layers: list[tuple[Any, Any]] = list(zip(self.cache.layers, other.cache.layers, strict=True))
        for mine, theirs in layers[above + 1 :]:
            mine.keys[rows], mine.values[rows] = theirs.keys, theirs.values

    def spread(self, branching: Branching) -> None:
        """Go on with the rows that branched off the prompts in the pass so far."""
        prompts = torch.tensor(branching.prompts, device=self.mask.device)
        self.mask, self.positions = self.mask[prompts], self.positions[prompts]
        layers: Any = self.cache.layers
        for number, layer in enumerate(layers):
            layer.batch_select_indices(torch.tensor(branching.kept(number), device=self.mask.device))


class _LensPasses(Passes):
    """On a HookedTransformer, whose cache remembers the mask and counts the positions from it."""

    def __init__(self, model: Any, batch: EncodedBatch, room: int) -> None:
        # Here, because TransformerLens 4 has neither HookedTransformer nor its cache.
        from transformer_lens.cache.key_value_cache import TransformerLensKeyValueCache

        super().__init__(model, batch, room)
        self.cache = TransformerLensKeyValueCache.init_cache(model.cfg, self.mask.device, len(self.mask))

    def logits(self, ids: Int[Tensor, "row pos"], past: int) -> Float[Tensor, "state seen d_vocab"]:
        return self.model(ids, attention_mask=self.mask[:, past : self.length], past_kv_cache=self.cache)

    def keep(self, rows: Int[Tensor, "kept"]) -> None:
        self.mask = self.mask[rows]
        self.cache.previous_attention_mask = self.cache.previous_attention_mask[rows]
        for entry in self.cache.entries:
            entry.past_keys, entry.past_values = entry.past_keys[rows], entry.past_values[rows]


def passes_over(model: Model, batch: EncodedBatch, room: int) -> Passes:
    """Passes that begin with `batch` and have room for so many tokens more."""
    hf = transformers_model(model)
    return _LensPasses(model, batch, room) if hf is None else TransformersPasses(model, hf, batch, room)
