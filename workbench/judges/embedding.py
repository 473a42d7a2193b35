"""Texts as points: the last hidden states of any encoder or language model, averaged or of the last token.

    x = mean over tokens of h_last(text)      or h_last of the last token

The trap: padding is no text. Rows are padded on the right, where a causal model does not look, and no mean counts it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import AutoModel, PreTrainedModel, PreTrainedTokenizerBase

from workbench.chat import pad_id
from workbench.loading import Model, load_model
from workbench.loading.holding import Holding
from workbench.loading.sources import Checkpoint
from workbench.loading.tokenizer import read_tokenizer
from workbench.loading.weights import read_checkpoint
from workbench.memory import in_batches
from workbench.models import device_of, model_name, tokenizer_of, transformers_model, weights_hash
from workbench.provenance import content_hash

Pool: TypeAlias = Literal["mean", "last"]
_WRITES = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")


@dataclass(frozen=True, eq=False)
class Embedder:
    """A model that turns texts into points. Made by `load_embedder`."""

    name: str
    body: nn.Module
    tokenizer: PreTrainedTokenizerBase
    pool: Pool
    holder: PreTrainedModel
    batch_size: int = 32

    @cached_property
    def id(self) -> str:
        """A hash of the weights, the vocabulary and how tokens become one point."""
        vocabulary = sorted(self.tokenizer.get_vocab().items())
        return content_hash(weights_hash(self.holder), [list(pair) for pair in vocabulary], self.pool)

    @property
    def _longest(self) -> int | None:
        config: Any = self.holder.config
        held = getattr(config.get_text_config(), "max_position_embeddings", None)
        # RoBERTa's tables hold two positions more than texts may have: its tokenizer knows.
        return None if held is None else min(int(held), int(self.tokenizer.model_max_length))

    def embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """A point per text, in order: [text d_model]."""
        rows = list(texts)
        return np.concatenate(
            [
                found
                for _, found in in_batches(rows, self.batch_size, self._embed, lambda b: f"{len(b)} texts")
            ]
        )

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float32]:
        longest = self._longest
        ids = [
            self.tokenizer(text, truncation=longest is not None, max_length=longest)["input_ids"] or [0]
            for text in texts
        ]
        width = max(map(len, ids))
        fill = pad_id(self.tokenizer)
        tokens = torch.tensor([row + [fill] * (width - len(row)) for row in ids])
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids])
        device = device_of(self.holder)
        with torch.no_grad():
            hidden: Tensor = self.body(
                input_ids=tokens.to(device), attention_mask=mask.to(device)
            ).last_hidden_state
        hidden, mask = hidden.float().cpu(), mask[..., None]
        if self.pool == "last":
            found = hidden[torch.arange(len(ids)), mask[..., 0].sum(1) - 1]
        else:
            found = (hidden * mask).sum(1) / mask.sum(1)
        return np.asarray(found.numpy(), dtype=np.float32)


def load_embedder(
    x: str | Path | Model,
    *,
    pool: Pool = "mean",
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    batch_size: int = 32,
) -> Embedder:
    """An encoder or language model by its folder, hub id or embedded name, or one that `load_model` gave.

    `pool` takes the mean over a text's tokens, or its last token, which in a language model has read all others.
    Weights are whole and of safetensors, as in `load_model`.
    """
    if pool not in get_args(Pool):
        raise ValueError(f'got pool={pool!r}, expected "mean" or "last"')
    if isinstance(x, str | Path):
        checkpoint = Checkpoint.named(x)
        written = checkpoint.json("config.json").get("architectures") or ["ForCausalLM"]
        if not str(written[0]).endswith(_WRITES):
            # What sums a text up for another task is read past, and may be missing.
            model = read_checkpoint(
                checkpoint, Holding(dtype, device), reader=AutoModel, unused=("pooler.",)
            ).eval()
            if getattr(model, "pooler", None) is not None:
                model.pooler = None  # where it was missing, transformers has made one up
            encodes: Any = model.get_encoder() if model.config.is_encoder_decoder else model
            return Embedder(checkpoint.name, encodes, read_tokenizer(checkpoint), pool, model, batch_size)
        x = load_model(x, backend="plain", dtype=dtype, device=device)
    hf = transformers_model(x)
    if hf is None or hf is not x:
        raise TypeError(
            f"got a {type(x).__name__}, expected a name, a folder or a model of load_model(..., backend='plain')"
        )
    decoder: Any = hf.get_decoder()
    return Embedder(model_name(hf), decoder, tokenizer_of(hf), pool, hf, batch_size)
