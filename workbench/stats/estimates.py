"""Estimates with intervals that are honest about templated prompts.

    Wilson (1927):      (p + z²/2n ± z √(p(1 − p)/n + z²/4n²)) / (1 + z²/n)                        (by statsmodels)
    AUROC:              the chance that a positive scores above a negative, ties counting half      (by scikit-learn)

A bootstrap (`stats.clusters`) sees no spread where every reply is alike (0 of n), and too little where nearly all are,
so an interval of rates is never narrower than Wilson's with the number of *distinct* prompts, those that differ in some
cluster column, in place of n. The two together are continuous: 1 of n is never surer than 0 of n.

The trap: an interval holds for prompts like these; that they are templates, however many, no interval tells.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from workbench.stats.clusters import (
    LEVEL,
    Clusters,
    Floats,
    Interval,
    distinct_prompts,
    framed,
    scored,
    two_sided,
    widest,
)


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval, how many values and clusters it rests on, and how the interval was made.

    `n` counts scored values; unscored ones (NaN) are left out of everything.
    """

    mean: float
    low: float
    high: float
    n: int
    clusters: int
    method: str

    def __str__(self) -> str:
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def wilson(successes: float | int, n: int) -> Estimate:
    """The Wilson interval of a proportion: right at 0 and n too, where the textbook interval has no width.

    `successes` may be fractional, as when every value is itself a mean of several runs.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"got {successes} successes of {n}, expected n ≥ 1 and 0 ≤ successes ≤ n")
    # Imported here, as scikit-learn is below: the two take a second, which whoever measures nothing need not pay.
    from statsmodels.stats.proportion import proportion_confint

    mean = successes / n
    low, high = proportion_confint(successes, n, alpha=LEVEL, method="wilson")
    # At the ends the exact bound is 0 or 1; rounding must not push the interval past its own mean.
    return Estimate(mean, min(mean, float(low)), max(mean, float(high)), n, n, "Wilson, independent")


def cluster_bootstrap(
    values: ArrayLike, clusters: Clusters | None = None, *, n_boot: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of `values` with the widest interval over the columns of `clusters`; see the module.

    `clusters` is a frame with one row per value, or one label per value; without it every value is on its own.
    Values from 0 to 1 count as rates and get Wilson's floor.
    """
    kept, columns = scored(values, clusters)
    mean = float(kept.mean())
    low, high, k, column = widest(kept, columns, n_boot, seed)
    if kept.min() < 0 or kept.max() > 1:
        return Estimate(mean, low, high, len(kept), k, f"bootstrap by {column}")
    distinct = distinct_prompts(columns)
    floor = wilson(mean * distinct, distinct)
    method = f"bootstrap by {column}, at least Wilson with {distinct} distinct"
    return Estimate(mean, min(low, floor.low), max(high, floor.high), len(kept), k, method)


def paired_difference(
    a: ArrayLike, b: ArrayLike, clusters: Clusters | None = None, *, n_boot: int = 2000, seed: int = 0
) -> Estimate:
    """The mean of a − b over the same prompts, both from 0 to 1, with the widest interval over the cluster columns.

    Where no prompt changed, a bootstrap would be certain. So the interval is never narrower than Wilson's for the share
    that went up and the share that went down, joined by square-and-add (Newcombe 1998; MOVER, Zou & Donner 2008), which
    takes the two for independent: where many went either way, the bootstrap is the wider one.
    """
    from statsmodels.stats.proportion import confint_proportions_2indep  # for the reason see `wilson`

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"got {first.shape[0]} and {second.shape[0]} values, expected one pair per prompt: align them"
        )
    kept, columns = scored(first - second, clusters)
    if np.abs(kept).max() > 1:
        raise ValueError("got values beyond 0 to 1, expected rates: score every prompt from 0 to 1")
    low, high, k, column = widest(kept, columns, n_boot, seed)
    distinct, mean = distinct_prompts(columns), float(kept.mean())
    up, down = float(np.maximum(kept, 0).mean()), float(np.maximum(-kept, 0).mean())
    floor_low, floor_high = confint_proportions_2indep(
        up * distinct, distinct, down * distinct, distinct, method="newcomb", compare="diff", alpha=LEVEL
    )
    method = f"paired bootstrap by {column}, at least Wilson with {distinct} distinct"
    return Estimate(mean, min(low, float(floor_low)), max(high, float(floor_high)), len(kept), k, method)


def auroc(
    scores: ArrayLike,
    positive: ArrayLike,
    clusters: Clusters | None = None,
    *,
    n_boot: int = 500,
    seed: int = 0,
) -> Estimate:
    """The chance that a positive scores above a negative (ties count half), with its interval.

    Clusters are resampled within positives and negatives apart. Wilson's floor counts the distinct prompts of the
    smaller side: an AUROC of 1 on 20 prompts is not certain either.
    """
    values, truth = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    if values.shape != truth.shape:
        raise ValueError(f"got {len(values)} scores and {len(truth)} labels, expected one label per score")
    if truth.all() or not truth.any():
        side = "positives" if len(truth) and truth.all() else "negatives"
        raise ValueError(
            f"got {len(truth)} {side} only, expected both classes: add prompts of the other label"
        )
    if not np.isfinite(values).all():
        raise ValueError(
            f"got NaN or infinity for {int((~np.isfinite(values)).sum())} of {len(values)} scores, expected numbers: "
            "drop those prompts first"
        )
    columns = framed(clusters, len(values))
    mean, wins = roc_area(values, truth), _wins(values, truth)

    def drawn(yes: Floats, no: Floats) -> Floats:
        return ((yes @ wins) * no).sum(1) / (yes.sum(1) * no.sum(1))

    return _floored(two_sided(drawn, truth, columns, mean, n_boot, seed), mean, truth, columns)


def balanced_accuracy(
    opened: ArrayLike,
    positive: ArrayLike,
    clusters: Clusters | None = None,
    *,
    n_boot: int = 500,
    seed: int = 0,
) -> Estimate:
    """The mean of two shares, positives that were `opened` and negatives that were not, with its interval.

    Clusters are resampled, and Wilson's floor is set, as `auroc` does.
    """
    truth = np.asarray(positive, dtype=bool)
    right = (np.asarray(opened, dtype=bool) == truth).astype(np.float64)
    columns = framed(clusters, len(right))
    yes, no = _sides(right, truth)

    def drawn(weights: Floats, others: Floats) -> Floats:
        return (weights @ yes / weights.sum(1) + others @ no / others.sum(1)) / 2

    mean = float((yes.mean() + no.mean()) / 2)
    return _floored(two_sided(drawn, truth, columns, mean, n_boot, seed), mean, truth, columns)


def gap_between(
    values: ArrayLike,
    positive: ArrayLike,
    clusters: Clusters | None = None,
    *,
    n_boot: int = 2000,
    seed: int = 0,
) -> Estimate:
    """The mean of the positives minus that of the negatives, clusters resampled within each side."""
    array, truth = np.asarray(values, dtype=np.float64), np.asarray(positive, dtype=bool)
    columns = framed(clusters, len(array))
    yes, no = _sides(array, truth)

    def drawn(weights: Floats, others: Floats) -> Floats:
        return weights @ yes / weights.sum(1) - others @ no / others.sum(1)

    mean = float(yes.mean() - no.mean())
    low, high, k, column = two_sided(drawn, truth, columns, mean, n_boot, seed)
    return Estimate(mean, low, high, len(array), k, f"bootstrap by {column or 'nothing'}")


def roc_area(scores: ArrayLike, positive: ArrayLike) -> float:
    """The AUROC alone: the chance that a positive scores above a negative, ties counting half."""
    from sklearn.metrics import roc_auc_score  # for the reason see `wilson`

    return float(roc_auc_score(positive, scores))


def _floored(drawn: Interval, mean: float, truth: NDArray[np.bool_], columns: pd.DataFrame) -> Estimate:
    """An interval that is never narrower than Wilson's with the distinct prompts of the smaller side."""
    low, high, k, column = drawn
    distinct = min(distinct_prompts(columns[truth]), distinct_prompts(columns[~truth]))
    floor = wilson(mean * distinct, distinct)
    method = f"bootstrap by {column or 'nothing'}, at least Wilson with {distinct} distinct"
    return Estimate(mean, min(low, floor.low), max(high, floor.high), len(truth), k, method)


def _sides(values: Floats, truth: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    if values.shape != truth.shape:
        raise ValueError(f"got {len(values)} values and {len(truth)} labels, expected one label per value")
    if truth.all() or not truth.any():
        side = "positives" if len(truth) and truth.all() else "negatives"
        raise ValueError(
            f"got {len(truth)} {side} only, expected both classes: add prompts of the other label"
        )
    return values[truth], values[~truth]


def _wins(scores: Floats, positive: NDArray[np.bool_]) -> Floats:
    """A row per positive, a column per negative: 1 where the former scores above, ½ at a tie.

    Its mean is the AUROC; weighted by how often each was drawn, that of a resample, some hundred times sooner than
    the library has it.
    """
    difference = scores[positive][:, None] - scores[~positive][None, :]
    return (difference > 0) + 0.5 * (difference == 0)
