"""steering-vectors: `train_steering_vector` reads, `SteeringVector(...).apply(model, ...)` around `generate` writes.

It has no gate. Its `token_indices` takes a mask over rows and positions, which it adds by: with a column of ones and
zeros it steers the open rows of a batch alone, in every pass.
"""

from collections.abc import Sequence
from typing import Any

from steering_vectors import SteeringVector, train_steering_vector
from torch import Tensor

from peers.worker import Batch, Pair, Steering, Vectors, serve


class SteeringVectors:
    """Its two verbs, around a model that they leave as it is."""

    def __init__(self, hf: Any, tokenizer: Any) -> None:
        self.hf, self.tokenizer = hf, tokenizer

    def write(self, batch: Batch, steering: Steering | None) -> Tensor:
        """Open rows steered at every position."""
        if steering is None:
            return self.hf.generate(**batch.inputs, **batch.options)
        vector = SteeringVector(dict(steering.vectors), "decoder_block")
        # Told nothing, it steers every row, and needs no mask to multiply by.
        rows = None if batch.open.all() else batch.open[:, None].float()
        with vector.apply(self.hf, multiplier=steering.alpha, min_token_index=None, token_indices=rows):
            return self.hf.generate(**batch.inputs, **batch.options)

    def read(self, pairs: Sequence[Pair], batch_size: int) -> Vectors:
        """All layers; its batches are of pairs, whose two sides it runs one after the other."""
        return train_steering_vector(
            self.hf, self.tokenizer, list(pairs), batch_size=batch_size
        ).layer_activations


if __name__ == "__main__":
    serve(SteeringVectors)
