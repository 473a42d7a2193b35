"""How directions and residuals lie to each other: between layers, between models, and within one layer.

    cos(v_l, v_m)        cos(s_l, θ_l)        principal components of a_l(P) over prompts     (the last by scikit-learn)

The trap: components have no sign, and a layer's need not continue those of the layer below. The first is turned so that
harm lies to the right; the second so that it agrees with the layer below.
"""

import numpy as np
import pandas as pd
from einops import einsum

from workbench.activations import Activations
from workbench.profiles.sides import require_intents
from workbench.vectors import SteeringVectors, random_band


def layer_cosines(*vectors: SteeringVectors) -> pd.DataFrame:
    """A row per model and pair of layers: the cosine between the directions of the two layers, 0 where one has none."""
    if not vectors:
        raise ValueError("got no vectors, expected those of one model or more: pass them one by one")
    frames = []
    for one in vectors:
        cosines = einsum(one.directions, one.directions, "layer d_model, other d_model -> layer other")
        depth = one.space.n_layers
        frames.append(
            pd.DataFrame(
                {
                    "model": one.provenance.model,
                    "layer": np.repeat(np.arange(depth), depth),
                    "other": np.tile(np.arange(depth), depth),
                    "cosine": cosines.double().numpy().ravel(),
                    "band": random_band(one.space.d_model),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def vector_cosines(ours: SteeringVectors, theirs: SteeringVectors) -> pd.DataFrame:
    """A row per layer: the cosine of two models' directions (SRV and SSV), and the `band` of random ones."""
    cosines = ours.cosine(theirs).double().numpy()
    return pd.DataFrame(
        {
            "model": ours.provenance.model,
            "other": theirs.provenance.model,
            "layer": np.arange(len(cosines)),
            "cosine": cosines,
            "band": random_band(ours.space.d_model),
        }
    )


def principal_components(activations: Activations) -> pd.DataFrame:
    """A row per prompt and layer: its place on the first two principal components of that layer's residuals.

    `first` and `second` in the residual's own units, from the mean of these prompts; `first_share` and `second_share`
    are the shares of variance along them.
    """
    from sklearn.decomposition import PCA  # here for the reason told in `stats`

    require_intents(activations, "the turn of the first component")
    if len(activations) < 3:
        raise ValueError(f"got {len(activations)} prompts, expected 3 or more: two always lie on a line")
    harmful, before, frames = activations.harmful.numpy(), None, []
    for layer in range(activations.space.n_layers):
        values = activations.values[:, layer].double().numpy()
        if np.ptp(values, axis=0).max() == 0:  # the template's last token, before any layer has written
            places, shares = np.zeros((len(values), 2)), np.zeros(2)
        else:
            # Full: the randomised solver would need a seed and gain nothing at these sizes.
            pca = PCA(2, svd_solver="full")
            places = pca.fit_transform(values)
            shares = pca.explained_variance_ratio_
        if places[harmful, 0].mean() < places[~harmful, 0].mean():
            places[:, 0] *= -1
        if before is not None and places[:, 1] @ before < 0:
            places[:, 1] *= -1
        before = places[:, 1]
        frames.append(
            pd.DataFrame(
                {
                    "model": activations.provenance.model,
                    "prompt": np.arange(len(values)),
                    "label": list(activations.labels),
                    "layer": layer,
                    "first": places[:, 0],
                    "second": places[:, 1],
                    "first_share": shares[0],
                    "second_share": shares[1],
                }
            )
        )
    return pd.concat(frames, ignore_index=True)
