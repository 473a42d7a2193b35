"""How long the vectors are, layer by layer, and how the reading of intent grows with the prompts they are made from.

    ‖v'_l‖ = ‖mean a_l(harmful) − mean a_l(harmless)‖        (InferAligner, arXiv 2401.11206, eq. 1)

The trap: a mean difference is never of length 0. Noise alone gives it some, the more the fewer the prompts and the
wider the layer: read it beside what shuffled labels reach. The length of a bootstrap's difference is too large for the
same reason; what is resampled here is its part along the vector itself, whose mean is ‖v'_l‖.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from tqdm.auto import tqdm

from workbench.activations import Activations
from workbench.gates import project
from workbench.profiles.sides import clusters_of, require_both, require_intents
from workbench.stats import auroc, gap_between
from workbench.vectors import mean_difference, shuffled_labels

SHUFFLES = 20


def vector_strength(*activations: Activations, seed: int = 0) -> pd.DataFrame:
    """A row per model and layer: ‖v'_l‖ of the mean difference of these extraction prompts, with its interval.

    `gap_norm`, and `share` of the mean residual norm, with `_low` and `_high` (bootstrap over the extraction prompts,
    by cluster); `residual_norm`; `shuffled` and `shuffled_share`, the mean length under shuffled labels.
    """
    if not activations:
        raise ValueError("got no activations, expected those of one model or more: pass them one by one")
    rows = []
    for read in activations:
        require_both(read, "a vector")
        vectors, clusters = mean_difference(read), clusters_of(read)
        along, harmful = project(vectors, read).double().numpy(), read.harmful.numpy()
        draws = [shuffled_labels(read, seed=seed + i).norms for i in range(SHUFFLES)] if _halves(read) else []
        shuffled = torch.stack(draws).mean(0).tolist() if draws else [float("nan")] * along.shape[1]
        for layer in range(along.shape[1]):
            found = gap_between(along[:, layer], harmful, clusters, seed=seed)
            gap, residual = float(vectors.norms[layer]), float(vectors.residual_norms[layer])
            per = 1 / residual if residual else 0.0
            rows.append(
                {
                    "model": read.provenance.model,
                    "layer": layer,
                    "gap_norm": gap,
                    "gap_norm_low": max(0.0, found.low),
                    "gap_norm_high": found.high,
                    "residual_norm": residual,
                    "share": gap * per,
                    "share_low": max(0.0, found.low) * per,
                    "share_high": found.high * per,
                    "shuffled": shuffled[layer],
                    "shuffled_share": shuffled[layer] * per,
                    "n": found.n,
                    "clusters": found.clusters,
                }
            )
    return pd.DataFrame(rows)


def extraction_growth(
    train: Activations,
    held_out: Activations,
    *,
    sizes: Sequence[int] | None = None,
    draws: int = 10,
    seed: int = 0,
    progress: bool = False,
) -> pd.DataFrame:
    """How well vectors of ever more extraction prompts tell the intent of `held_out`: a row per size and layer.

    A size counts prompts of each kind, harmful and harmless; each of `draws` takes as many of `train` at random.
    Without `sizes`: 1, 2, 4, … up to 128, or all there are. `auroc` is the mean over draws. `low` to `high` is the
    wider of two spreads, at either end: of the draws (2.5 to 97.5 %), and of the held-out prompts under the vectors of
    one draw.
    """
    train.space.require(held_out.space, "held-out activations")
    require_both(train, "a vector")
    require_intents(held_out, "an AUROC")
    if draws < 1:
        raise ValueError(f"got draws={draws}, expected 1 or more")
    sides = [[i for i, label in enumerate(train.labels) if label == side] for side in ("harmful", "harmless")]
    most = min(map(len, sides))
    if sizes is None:
        sizes = sorted({2**k for k in range(8) if 2**k <= most} | ({most} if most < 128 else set()))
    if not sizes or min(sizes) < 1 or max(sizes) > most:
        raise ValueError(
            f"got sizes {list(sizes)}, expected numbers from 1 to {most}: train has {len(sides[0])} harmful and "
            f"{len(sides[1])} harmless prompts"
        )
    everyday = held_out.where(torch.tensor([label != "domain" for label in held_out.labels]))
    clusters, truth = clusters_of(everyday), everyday.harmful.numpy()
    rng, rows = np.random.default_rng(seed), []
    for size in tqdm(sizes, desc="growing the extraction set", unit="size", disable=not progress):
        # All of the prompts are the same prompts in every draw.
        number = 1 if size == len(sides[0]) == len(sides[1]) else draws
        found = []
        for _ in range(number):
            drawn = torch.zeros(len(train), dtype=torch.bool)
            for side in sides:
                drawn[rng.choice(side, size, replace=False)] = True
            found.append(project(mean_difference(train.where(drawn)), everyday).double().numpy())
        for layer in range(train.space.n_layers):
            estimates = [auroc(scores[:, layer], truth, clusters, n_boot=200) for scores in found]
            means = [estimate.mean for estimate in estimates]
            # The draw in the middle stands for what the held-out prompts themselves leave open.
            middle = estimates[int(np.argsort(means)[len(means) // 2])]
            low, high = np.percentile(means, [2.5, 97.5])
            rows.append(
                {
                    "model": held_out.provenance.model,
                    "size": size,
                    "layer": layer,
                    "auroc": float(np.mean(means)),
                    "low": min(float(low), middle.low),
                    "high": max(float(high), middle.high),
                    "draws": number,
                    "n": middle.n,
                }
            )
    return pd.DataFrame(rows)


def _halves(activations: Activations) -> bool:
    """Whether each side has two prompts or more, the least that shuffled labels need."""
    harmful = int(activations.harmful.sum())
    return min(harmful, len(activations) - harmful) >= 2
