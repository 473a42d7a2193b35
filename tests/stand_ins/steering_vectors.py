"""The two verbs of steering-vectors that the benchmarks call, as plain hooks: the library wants its own environment.

`STAND_IN_FACTOR` lengthens what is added and what is read: a peer that does other work.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

FACTOR = float(os.environ.get("STAND_IN_FACTOR", "1"))


class SteeringVector:
    """Vectors by layer."""

    def __init__(self, layer_activations: Mapping[int, Tensor], layer_type: str) -> None:
        assert layer_type == "decoder_block"
        self.layer_activations = layer_activations

    @contextmanager
    def apply(
        self, model: Any, *, multiplier: float, min_token_index: None, token_indices: Tensor | None
    ) -> Iterator[None]:
        """Added at every position, to the rows that are told."""
        rows = 1.0 if token_indices is None else token_indices[:, None]
        handles = []
        for layer, vector in self.layer_activations.items():
            shift = FACTOR * multiplier * rows * vector
            block = model.model.layers[layer]
            handles.append(
                block.register_forward_hook(lambda module, args, output, shift=shift: output + shift)
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


@torch.no_grad()
def train_steering_vector(
    model: Any, tokenizer: Any, pairs: Sequence[tuple[str, str]], *, batch_size: int
) -> SimpleNamespace:
    """Mean difference of all layers, text by text."""
    sums: dict[int, Tensor] = {}
    for pair in pairs:
        for sign, text in zip((1, -1), pair, strict=True):
            kept: list[Tensor] = []
            handles = [
                block.register_forward_hook(
                    lambda module, args, output, kept=kept: kept.append(output[0, -1])
                )
                for block in model.model.layers
            ]
            model(**tokenizer(text, return_tensors="pt"))
            for handle in handles:
                handle.remove()
            for layer, last in enumerate(kept):
                sums[layer] = sums.get(layer, 0) + FACTOR * sign * last / len(pairs)
    return SimpleNamespace(layer_activations=sums)
