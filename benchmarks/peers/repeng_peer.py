"""repeng: `batched_get_hiddens` reads, a `ControlModel` around the layers writes.

It has neither gate nor mask over rows: it steers whole batches. What it reads at the last layer is taken after the
final norm, so that layer is left out. Its `ControlVector.train` would fit principal components to what is read; the
means are taken instead, which is less work.
"""

import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from peers.worker import Batch, Pair, Steering, Vectors, serve

os.environ.setdefault("TQDM_DISABLE", "1")  # read when repeng is imported; it draws a bar for every call

from repeng import ControlModel
from repeng.extract import batched_get_hiddens


class Repeng:
    """A model whose layers are wrapped while something is written."""

    def __init__(self, hf: Any, tokenizer: Any) -> None:
        self.hf, self.tokenizer = hf, tokenizer

    def write(self, batch: Batch, steering: Steering | None) -> Tensor:
        """Every row steered at every position but padding."""
        if steering is None:
            return self.hf.generate(**batch.inputs, **batch.options)
        if not batch.open.all():
            raise ValueError("got rows to leave alone, which repeng cannot: expected open gates only")
        model = ControlModel(self.hf, list(steering.vectors))
        try:
            model.set_raw_control(
                {layer: steering.alpha * vector for layer, vector in steering.vectors.items()}
            )
            return model.generate(**batch.inputs, **batch.options)
        finally:
            model.unwrap()

    def read(self, pairs: Sequence[Pair], batch_size: int) -> Vectors:
        """All layers but the last."""
        texts = [text for side in zip(*pairs, strict=True) for text in side]
        layers = list(range(len(self.hf.model.layers) - 1))
        read = batched_get_hiddens(self.hf, self.tokenizer, texts, layers, batch_size)
        n = len(pairs)
        return {
            layer: torch.from_numpy(read[layer][:n].mean(0) - read[layer][n:].mean(0)) for layer in layers
        }


if __name__ == "__main__":
    serve(Repeng)
