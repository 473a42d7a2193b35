"""The grid on nnsight: the shift written into the layers' outputs inside `model.generate`, at every step.

It has no gate. An intervention is plain code on the batch, so rows are steered by a shift that is zero for the others.
"""

import warnings

import torch
from nnsight import LanguageModel
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer
from worker import Batch, Steering, Write, serve


def load(checkpoint: str) -> Write:
    """The model, and how it writes a batch."""
    # An open-ended loop over the steps ends with the last one, and says so each time.
    warnings.filterwarnings("ignore", message=".*was never reached.*")
    hf = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    model = LanguageModel(hf, tokenizer=AutoTokenizer.from_pretrained(checkpoint))

    def write(batch: Batch, steering: Steering | None) -> Tensor:
        inputs = dict(batch.inputs)
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

    return write


if __name__ == "__main__":
    serve(load)
