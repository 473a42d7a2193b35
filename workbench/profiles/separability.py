"""Which vectors read which prompts: AUROC of every vector's projection on every kind of prompt, layer by layer.

    auroc[v, prompts, l] = P(a_l(harmful) · v_l > a_l(harmless) · v_l)

The trap: two kinds of prompts with one AUROC need not lie on one ruler. A vector may part each of them perfectly and
have a threshold, the paper's, that opens on none of one kind; how often it is right by that is `balanced`.
"""

from collections.abc import Mapping

import pandas as pd

from workbench.activations import Activations
from workbench.profiles.layers import layer_profile
from workbench.vectors import SteeringVectors


def separability(vectors: Mapping[str, SteeringVectors], asked: Mapping[str, Activations]) -> pd.DataFrame:
    """A row per vectors, prompts and layer: `made_from`, `asked` (both by their names), layer, auroc with its interval.

    `balanced_accuracy`, with its own, is that of the threshold half-way between the prompts that made the vectors.
    Pass prompts that made none of them, harmful and harmless ones of each kind.
    """
    for what, given in (("vectors", vectors), ("prompts", asked)):
        if not given:
            raise ValueError(f"got no {what}, expected some, by name: {{'words': ..., 'pictures': ...}}")
    found = [
        layer_profile(made, read).frame.assign(made_from=name, asked=kind)
        for kind, read in asked.items()
        for name, made in vectors.items()
    ]
    columns = ["model", "made_from", "asked", "layer"]
    ends = [f"{name}{end}" for name in ("auroc", "balanced_accuracy") for end in ("", "_low", "_high")]
    return pd.concat(found, ignore_index=True)[[*columns, *ends, "n"]]
