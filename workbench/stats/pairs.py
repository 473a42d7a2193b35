"""Tests of whether two conditions differ on the same prompts, and what remains of them when many are made.

    McNemar (1947), exact:   of b + c prompts that changed, b is as many as a fair coin would give            (by scipy)
    sign flip by clusters:   share of the 2^k ways to exchange the two conditions, in whole clusters, whose sum of
                             differences is as far from 0 as the one seen                                        (ours)
    Holm (1979):             the i-th smallest of m p-values times m − i + 1, never falling            (by statsmodels)

The trap: McNemar takes prompts for independent. Of prompts that share a verb or a wrapper, ten that change may be one
change seen ten times, and its p is then far too small; the sign flip exchanges what hangs together as one. With few
clusters it cannot be small: of k, no p is below 2 / 2^k.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from workbench.stats.clusters import Clusters, Floats, cluster_codes, distinct_prompts, scored

AT_ONCE = 1_000
"""Draws that are held in memory together."""


@dataclass(frozen=True)
class PairedTest:
    """How many prompts rose and fell from `b` to `a` of `n`, and how likely so much is where nothing differs.

    `p` is McNemar's, which takes prompts for independent; `p_clusters` the sign flip's, the largest over the columns.
    """

    rose: int
    fell: int
    n: int
    p: float
    p_clusters: float


def paired_test(
    a: ArrayLike, b: ArrayLike, clusters: Clusters | None = None, *, n_draws: int = 10_000, seed: int = 0
) -> PairedTest:
    """Whether `a` and `b`, over the same prompts, differ: two-sided, without and with regard to clusters.

    Of values that are no plain 0 or 1, such as means over several plans, McNemar's is the sign test: it counts prompts
    that rose and fell, by however much. All 2^k exchanges are counted where those are at most `n_draws`, else so many
    are drawn, and the one seen counts among them.
    """
    from scipy.stats import binomtest  # here for the reason that `wilson` gives

    first, second = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    if first.shape != second.shape:
        raise ValueError(
            f"got {first.shape[0]} and {second.shape[0]} values, expected one pair per prompt: align them"
        )
    if n_draws < 100:
        raise ValueError(
            f"got n_draws={n_draws}, expected 100 or more: no p below {1 / (n_draws + 1):.2g} is possible"
        )
    kept, columns = scored(first - second, clusters)
    rose, fell = int((kept > 0).sum()), int((kept < 0).sum())
    p = float(binomtest(rose, rose + fell).pvalue) if rose + fell else 1.0
    by_column = []
    for name in columns.columns:
        codes = cluster_codes(columns[name])
        if codes.max() > 0:  # a column that is constant says nothing about what is exchangeable
            by_column.append(_sign_flip(np.bincount(codes, kept).astype(np.float64), n_draws, seed))
    return PairedTest(rose, fell, len(kept), p, max(by_column, default=1.0))


def holm(p_values: ArrayLike) -> Floats:
    """The p-values, corrected for their number; each below 0.05 holds with all others at once. NaN stays, uncounted."""
    found = np.asarray(p_values, dtype=np.float64).copy()
    known = ~np.isnan(found)
    if ((found[known] < 0) | (found[known] > 1)).any():
        raise ValueError("got p-values beyond 0 to 1: expected one probability per comparison")
    if known.any():
        from statsmodels.stats.multitest import multipletests  # here for the reason that `wilson` gives

        found[known] = multipletests(found[known], method="holm")[1]
    return found


def design_effect(values: ArrayLike, clusters: Clusters | None = None) -> float:
    """How many such prompts tell as much as one independent prompt does: the worst cluster column's, at least 1.

    The variance of the mean by clusters over that of independent prompts. Values that are all alike show no spread to
    compare: there it is prompts per distinct prompt, which `cluster_bootstrap` also falls back on.
    """
    kept, columns = scored(values, clusters)
    away = kept - kept.mean()
    if not away.any():
        return len(kept) / distinct_prompts(columns)
    spread = float(away @ away)
    each = (np.bincount(cluster_codes(columns[name]), away) for name in columns.columns)
    return max([1.0, *(float(sums @ sums) / spread for sums in each if len(sums) > 1)])


def _sign_flip(sums: Floats, n_draws: int, seed: int) -> float:
    """The share of exchanges whose total is as far from 0 as that of `sums`, of all of them or of those drawn."""
    moved = sums[np.abs(sums) > 1e-12]  # a cluster without a difference is the same either way
    if not len(moved):
        return 1.0
    enough = abs(float(moved.sum())) * (1 - 1e-9) - 1e-12  # rounding must not tell equals apart
    exact = 2 ** len(moved) <= n_draws
    as_far = sum(
        int((np.abs(signs @ moved) >= enough).sum())
        for signs in (_every(len(moved)) if exact else _drawn(len(moved), n_draws, seed))
    )
    return as_far / 2 ** len(moved) if exact else (as_far + 1) / (n_draws + 1)


def _every(k: int) -> Iterator[Floats]:
    numbers: NDArray[np.int64] = np.arange(2**k)
    yield 1 - 2 * ((numbers[:, None] >> np.arange(k)) & 1).astype(np.float64)


def _drawn(k: int, n: int, seed: int) -> Iterator[Floats]:
    rng = np.random.default_rng(seed)
    for start in range(0, n, AT_ONCE):
        yield 1 - 2 * rng.integers(0, 2, (min(AT_ONCE, n - start), k)).astype(np.float64)
