"""nnsight: layers' outputs saved in `model.trace`, or written into in `model.generate`, at every step.

It has no gate. An intervention is plain code on the batch, so rows are steered by a shift that is zero for the others.
"""

import warnings
from collections.abc import Sequence
from typing import Any

import torch
from nnsight import LanguageModel
from torch import Tensor

from peers.worker import Batch, Pair, Steering, Vectors, serve


class NNsight:
    """A `LanguageModel` around a model."""

    def __init__(self, hf: Any, tokenizer: Any) -> None:
        # An open-ended loop over the steps ends with the last one, and says so each time.
        warnings.filterwarnings("ignore", message=".*was never reached.*")
        self.hf, self.tokenizer = hf, tokenizer
        self.model = LanguageModel(hf, tokenizer=tokenizer)

    def write(self, batch: Batch, steering: Steering | None) -> Tensor:
        """Open rows steered at every position."""
        model, inputs = self.model, dict(batch.inputs)
        if steering is None:
            with model.generate(inputs, **batch.options) as tracer:
                written = tracer.result.save()
            return written
        rows = batch.open[:, None, None].float()
        shifts = {layer: steering.alpha * rows * vector for layer, vector in steering.vectors.items()}
        with model.generate(**batch.options) as tracer:
            with tracer.invoke(inputs):
                for _ in tracer.iter[:]:
                    for layer, shift in shifts.items():
                        model.model.layers[layer].output += shift
            # An invoke of its own: what follows an open-ended loop in the same one is never reached.
            with tracer.invoke():
                written = tracer.result.save()
        return written

    @torch.no_grad()
    def read(self, pairs: Sequence[Pair], batch_size: int) -> Vectors:
        """All layers; the pass is stopped after the last one, before the LM head."""
        model, depth = self.model, len(self.hf.model.layers)
        texts = [text for side in zip(*pairs, strict=True) for text in side]
        # By length, as ours does: nnsight leaves the order of a batch to its user.
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        read = torch.empty(depth, len(texts), self.hf.config.hidden_size)
        for start in range(0, len(order), batch_size):
            part = order[start : start + batch_size]
            inputs = self.tokenizer([texts[i] for i in part], return_tensors="pt", padding=True)
            with model.trace(dict(inputs)) as tracer:
                last: Any = list().save()  # type: ignore[attr-defined]  # nnsight gives every object a `save`
                for layer in range(depth):
                    last.append(model.model.layers[layer].output[:, -1].clone())
                tracer.stop()
            for layer in range(depth):
                read[layer, part] = last[layer]
        harmful, harmless = read[:, : len(pairs)].mean(1), read[:, len(pairs) :].mean(1)
        return dict(enumerate(harmful - harmless))


if __name__ == "__main__":
    serve(NNsight)
