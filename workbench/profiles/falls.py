"""Where each prompt falls along a direction, layer by layer, and where a gate would draw the line.

    x_l(P) = (a_l(P)·v_l − midpoint_l) / ‖v'_l‖       0 half-way between the class means of the extraction prompts

The trap: a gate that was moved after it was fitted, as `calibrate` does, does not draw its line at 0.
"""

import numpy as np
import pandas as pd
import torch
from einops import rearrange, repeat

from workbench.activations import Activations
from workbench.gates import ThresholdGate, project
from workbench.profiles.sides import require_both
from workbench.vectors import SteeringVectors


def projections(
    vectors: SteeringVectors,
    activations: Activations,
    *,
    train: Activations,
    gate: ThresholdGate | None = None,
) -> pd.DataFrame:
    """A row per prompt and layer: its projection in units of ‖v'_l‖, 0 half-way between the class means of `train`.

    `train` is what the vectors were made from: its harmful and harmless prompts are centred at +½ and −½ by
    construction. Those of `activations` fall where they fall, and a shift of all of them is seen. Where a layer has no
    direction every prompt is at 0. With a `gate` that reads along `vectors`, `threshold` is where it opens in the same
    units, and `decides` tells the layers that it goes by.
    """
    for given in (activations, train):
        vectors.space.require(given.space, "activations")
    require_both(train, "the midpoint of train")
    values = project(vectors, activations)
    plain = train.labelled("harmful", "harmless")
    inner, harmful = project(vectors, plain), plain.harmful
    middle = (inner[harmful].mean(0) + inner[~harmful].mean(0)) / 2
    unit = torch.where(vectors.norms > 0, vectors.norms, 1.0)
    scaled = (values - middle) / unit
    n_prompts, n_layers = values.shape
    frame = pd.DataFrame(
        {
            "prompt": repeat(np.arange(n_prompts), "prompt -> (prompt layer)", layer=n_layers),
            "label": repeat(np.array(activations.labels), "prompt -> (prompt layer)", layer=n_layers),
            "layer": repeat(np.arange(n_layers), "layer -> (prompt layer)", prompt=n_prompts),
            "projection": rearrange(scaled.double().numpy(), "prompt layer -> (prompt layer)"),
        }
    )
    if gate is None:
        return frame
    gate.require_along(vectors)
    threshold = ((-gate.bias - middle) / unit).tolist()
    return frame.assign(
        threshold=[threshold[layer] for layer in frame["layer"]], decides=frame["layer"].isin(gate.reads)
    )
