"""What each layer can tell: how well a projection separates harmful intent from harmless, layer by layer.

    L_G = the layers at which *both* models tell harmful from harmless accurately    (InferAligner, arXiv 2401.11206)

The paper gives neither numbers nor a measure of "accurately"; here it is the AUROC of the projection a_l·v_l on prompts
that made no vector, and a threshold on it.

The trap: on the prompts that the vector was made from, almost every layer separates almost perfectly; profile `.val`.
"""

import math
from dataclasses import dataclass

import pandas as pd

from workbench.activations import Activations
from workbench.gates import project
from workbench.profiles.sides import clusters_of, require_both
from workbench.provenance import Provenance, Space
from workbench.stats import Estimate, auroc, balanced_accuracy
from workbench.vectors import SteeringVectors

UNKNOWN = Estimate(math.nan, math.nan, math.nan, 0, 0, "unknown")


class NoLayers(ValueError):
    """No layer reads intent well enough in every model: a finding about them, unlike other wrong values."""


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """One row per layer in `frame`.

    `auroc` and `balanced_accuracy`, each with `_low` and `_high`. The latter is that of a gate with the paper's bias:
    its threshold lies half-way between the two means of the prompts that the vectors were made from
    (`SteeringVectors.midpoints`), so no scored prompt has a say in it; NaN where the vectors hold no midpoints.
    `gap_norm` ‖v'_l‖, `residual_norm`, and `share`, the first over the second.
    """

    frame: pd.DataFrame
    space: Space
    provenance: Provenance


def layer_profile(vectors: SteeringVectors, activations: Activations) -> LayerProfile:
    """How well `vectors` tell prompts that mean harm (harmful, jailbroken) from those that do not (harmless, contrast).

    Contrast prompts share the words of harm, jailbroken ones the wrappers of harmless prompts: a layer that reads words
    alone does not tell them apart. Domain prompts are left out, since `choose_gate` sees to them. Pass prompts that
    made no vector: the accuracy is at the threshold of those that did (see `LayerProfile`).
    """
    vectors.space.require(activations.space, "activations")
    require_both(activations, "a profile")
    everyday = activations.labelled("harmful", "jailbroken", "harmless", "contrast")
    projections, harmful = project(vectors, everyday), everyday.harmful
    clusters = clusters_of(everyday)
    midpoints, rows = vectors.midpoints, []
    for layer in range(vectors.space.n_layers):
        scores = projections[:, layer]
        separation = auroc(scores.numpy(), harmful.numpy(), clusters)
        accuracy = UNKNOWN
        if midpoints is not None:
            opened = (scores > midpoints[layer]).numpy()
            accuracy = balanced_accuracy(opened, harmful.numpy(), clusters)
        gap, residual = float(vectors.norms[layer]), float(vectors.residual_norms[layer])
        rows.append(
            {
                "layer": layer,
                "auroc": separation.mean,
                "auroc_low": separation.low,
                "auroc_high": separation.high,
                "balanced_accuracy": accuracy.mean,
                "balanced_accuracy_low": accuracy.low,
                "balanced_accuracy_high": accuracy.high,
                "gap_norm": gap,
                "residual_norm": residual,
                "share": gap / residual if residual else 0.0,
                "n": separation.n,
                "model": activations.provenance.model,
            }
        )
    provenance = Provenance("profile", parents=(vectors.provenance, activations.provenance))
    return LayerProfile(pd.DataFrame(rows), vectors.space, provenance)


def select_layers(*profiles: LayerProfile, min_auroc: float = 0.95) -> tuple[int, ...]:
    """The layers at which every profile reaches `min_auroc`, the paper's L_G.

    Raises `NoLayers`, naming the best layer, where there is none.
    """
    if not profiles:
        raise ValueError(
            "got no profile, expected one per model: pass layer_profile(...) of target and aligned model"
        )
    for other in profiles[1:]:
        profiles[0].space.require(other.space, "profiles")
    weakest = pd.concat([profile.frame.set_index("layer")["auroc"] for profile in profiles], axis=1).min(
        axis=1
    )
    chosen = tuple(int(layer) for layer in weakest.index[weakest >= min_auroc])
    if not chosen:
        raise NoLayers(
            f"no layer reaches AUROC {min_auroc:g} in all {len(profiles)} profiles, the best is layer "
            f"{weakest.idxmax()} with {weakest.max():.3f}: lower min_auroc, or extract from more prompts"
        )
    return chosen
