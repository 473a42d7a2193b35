"""On the image: which of its patches lies on the harmful side, layer by layer.

    reads[l, patch] = (x_l[pos of the patch] · s_l − m_l) / ‖v'_l‖        the ruler of `insight.tokens`

The trap: what is drawn under the patches has to be what the model saw, and that is not the file: processors scale, and
cut off what does not fit a square.
"""

from math import isqrt

import numpy as np
import pandas as pd
from jaxtyping import UInt8
from transformers import ProcessorMixin

from workbench.gates import ThresholdGate
from workbench.images import Image
from workbench.insight.tokens import token_map
from workbench.loading import Model
from workbench.models import model_name, words_of
from workbench.prompts import Prompt
from workbench.vectors import SteeringVectors

_TILES = "its tiles lie over each other, take a model that reads an image as one (LLaVA-1.5)"


def patch_map(
    vectors: SteeringVectors, model: Model, prompt: Prompt, *, gate: ThresholdGate | None = None
) -> pd.DataFrame:
    """A row per image of the prompt, patch and layer: `token_map`'s reading, with the patch's row and column.

    Columns: image (number), row, column (from the upper left), layer, projection, threshold, reads, model.

    Raises `ValueError` for a prompt without an image, and for a model that cuts images into tiles of its own.
    """
    frame = token_map(vectors, model, [prompt], gate=gate)
    patches = frame[frame["image"] >= 0]
    if patches.empty:
        raise ValueError(
            f"prompt {prompt.source or prompt.text!r} has no image: give it one, "
            "Prompt.user(text, images=[PATH]), or read its words, token_map"
        )
    number = patches.groupby(["image", "layer"]).cumcount()
    counts = patches.groupby("image")["position"].nunique()
    sides = counts.map(isqrt)
    if (sides**2 != counts).any():
        raise ValueError(
            f"{model_name(model)!r} reads an image in {counts.max()} pieces, which are no square of patches: {_TILES}"
        )
    side = patches["image"].map(sides)
    placed = patches.assign(row=number // side, column=number % side)
    columns = ["image", "row", "column", "layer", "projection", "threshold", "reads", "model"]
    return placed[columns].reset_index(drop=True)


def as_seen(model: Model, image: Image) -> UInt8[np.ndarray, "height width 3"]:
    """The image as it reaches the model's vision tower: scaled and cut, its colours as they are.

    Raises `ValueError` for a model that sees none, or that cuts images into tiles of its own.
    """
    words = words_of(model)
    if not isinstance(words, ProcessorMixin):
        raise ValueError(f"{model_name(model)!r} reads text alone: it has no processor, and sees no image")
    made = words.image_processor(
        images=[image.pixels()], do_normalize=False, do_rescale=False, return_tensors="np"
    )
    seen = np.asarray(made["pixel_values"][0])
    if seen.ndim != 3:
        raise ValueError(f"{model_name(model)!r} reads an image in {len(seen)} tiles: {_TILES}")
    return seen.transpose(1, 2, 0).clip(0, 255).astype(np.uint8)
