"""The grid on steering-vectors: `SteeringVector(...).apply(model, multiplier=...)` around `model.generate`.

It has no gate. Its `token_indices` takes a mask over rows and positions, which it adds by: with a column of ones and
zeros it steers the open rows of a batch alone, in every pass.
"""

import torch
from steering_vectors import SteeringVector
from torch import Tensor
from transformers import AutoModelForCausalLM
from worker import Batch, Steering, Write, serve


def load(checkpoint: str) -> Write:
    """The model, and how it writes a batch."""
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()

    def write(batch: Batch, steering: Steering | None) -> Tensor:
        if steering is None:
            return model.generate(**batch.inputs, **batch.options)
        vector = SteeringVector(dict(steering.vectors), "decoder_block")
        rows = batch.open[:, None].float()
        with vector.apply(model, multiplier=steering.alpha, min_token_index=None, token_indices=rows):
            return model.generate(**batch.inputs, **batch.options)

    return write


if __name__ == "__main__":
    serve(load)
