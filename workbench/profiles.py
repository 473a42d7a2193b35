"""What each layer can tell: how well a projection separates harmful intent from harmless, layer by layer.

    L_G = the layers at which *both* models tell harmful from harmless accurately    (InferAligner, arXiv 2401.11206)

The paper gives neither numbers nor a measure of "accurately"; here it is the AUROC of the projection a_l·v_l on prompts
that made no vector, and a threshold on it.

The trap: on the prompts that the vector was made from, almost every layer separates almost perfectly; profile `.val`.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from einops import rearrange, repeat

from workbench.activations import Activations
from workbench.gates import Gate, project
from workbench.provenance import Provenance, Space
from workbench.stats import auroc, cluster_frame
from workbench.vectors import SteeringVectors


class NoLayers(ValueError):
    """No layer reads intent well enough in every model: a finding about them, unlike other wrong values."""


@dataclass(frozen=True, eq=False)
class LayerProfile:
    """One row per layer in `frame`.

    `auroc` with `auroc_low` and `auroc_high`; `balanced_accuracy` of a gate with the paper's bias: its threshold lies
    half-way between the two means of the prompts that the vectors were made from (`SteeringVectors.midpoints`), so no
    scored prompt has a say in it; NaN where the vectors hold no midpoints. `gap_norm` ‖v'_l‖, `residual_norm`, and
    `share`, the first over the second.
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
    from sklearn.metrics import balanced_accuracy_score  # here for the reason told in `stats`

    vectors.space.require(activations.space, "activations")
    missing = [label for label in ("harmful", "harmless") if label not in activations.labels]
    if missing:
        present = ", ".join(sorted(set(activations.labels)))
        raise ValueError(
            f"got prompts labelled {present}, none {' and none '.join(missing)}: "
            "a profile compares harmful with harmless"
        )
    everyday = activations.labelled("harmful", "jailbroken", "harmless", "contrast")
    projections, harmful = project(vectors, everyday), everyday.harmful
    clusters = cluster_frame([p.cluster for p in everyday.prompts]) if everyday.prompts else None
    midpoints, rows = vectors.midpoints, []
    for layer in range(vectors.space.n_layers):
        scores = projections[:, layer]
        separation = auroc(scores.numpy(), harmful.numpy(), clusters)
        accuracy = float("nan")
        if midpoints is not None:
            accuracy = float(balanced_accuracy_score(harmful.numpy(), (scores > midpoints[layer]).numpy()))
        gap, residual = float(vectors.norms[layer]), float(vectors.residual_norms[layer])
        rows.append(
            {
                "layer": layer,
                "auroc": separation.mean,
                "auroc_low": separation.low,
                "auroc_high": separation.high,
                "balanced_accuracy": accuracy,
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


def projections(vectors: SteeringVectors, activations: Activations, *, train: Activations) -> pd.DataFrame:
    """A row per prompt and layer: its projection in units of ‖v'_l‖, 0 half-way between the class means of `train`.

    `train` is what the vectors were made from: its harmful and harmless prompts are centred at +½ and −½ by
    construction. Those of `activations` fall where they fall, and a shift of all of them is seen. Where a layer has no
    direction every prompt is at 0.
    """
    for given in (activations, train):
        vectors.space.require(given.space, "activations")
    values = project(vectors, activations)
    plain = train.labelled("harmful", "harmless")
    inner, harmful = project(vectors, plain), plain.harmful
    middle = (inner[harmful].mean(0) + inner[~harmful].mean(0)) / 2
    scaled = (values - middle) / torch.where(vectors.norms > 0, vectors.norms, 1.0)
    n_prompts, n_layers = values.shape
    return pd.DataFrame(
        {
            "prompt": repeat(np.arange(n_prompts), "prompt -> (prompt layer)", layer=n_layers),
            "label": repeat(np.array(activations.labels), "prompt -> (prompt layer)", layer=n_layers),
            "layer": repeat(np.arange(n_layers), "layer -> (prompt layer)", prompt=n_prompts),
            "projection": rearrange(scaled.double().numpy(), "prompt layer -> (prompt layer)"),
        }
    )


def gate_map(gate: Gate, activations: Activations) -> pd.DataFrame:
    """A row per label and layer: the share of prompts on which the gate is open there, and how many there were."""
    opened = gate.read(activations).open
    frame = pd.DataFrame(opened.float().numpy())
    frame["label"] = list(activations.labels)
    shares = frame.groupby("label", sort=False)
    tidy = shares.mean().reset_index().melt("label", var_name="layer", value_name="open")
    tidy["n"] = tidy["label"].map(shares.size())
    return tidy
