"""What prompts share, and how far a number moves when whole clusters of them are drawn anew.

    cluster bootstrap:  draw whole clusters with replacement, average their prompts, take percentiles        (ours)

Prompts that share a verb, an object, a category or a wrapper are not independent; one without a wrapper shares none.
Every cluster column is resampled in turn and the widest interval is reported with the name of its column: no single
column is known to be the right one, and the widest holds whichever is.

The trap: with few clusters (below ten, say) a bootstrap interval is too narrow; `clusters` tells how many there were.
"""

from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats: TypeAlias = NDArray[np.float64]
Clusters: TypeAlias = pd.DataFrame | Sequence[Hashable]
Interval: TypeAlias = tuple[float, float, int, str]
"""Low, high, how many clusters were drawn, and which column they are of."""
LEVEL = 0.05  # two-sided 95 %, the only one the workbench reports
PERCENTILES = [100 * LEVEL / 2, 100 * (1 - LEVEL / 2)]


def cluster_frame(clusters: Sequence[Iterable[tuple[str, Hashable]]]) -> pd.DataFrame:
    """One row per prompt and one column per kind of cluster, from each prompt's (kind, value) pairs.

    "none" is missing: prompts without a wrapper share none. Prompts that share nothing at all get a column of their
    numbers.
    """
    frame = pd.DataFrame([dict(pairs) for pairs in clusters], index=range(len(clusters)))
    frame = frame.replace("none", None).dropna(axis=1, how="all")
    return frame if len(frame.columns) else pd.DataFrame({"prompt": range(len(clusters))})


def framed(clusters: Clusters | None, n: int) -> pd.DataFrame:
    """`clusters` as a frame with a row per value; without them every value is a cluster of its own."""
    if clusters is None:
        return pd.DataFrame({"prompt": range(n)})
    frame = clusters if isinstance(clusters, pd.DataFrame) else pd.DataFrame({"cluster": list(clusters)})
    if len(frame) != n:
        raise ValueError(f"got {len(frame)} cluster labels for {n} values, expected one per value")
    return frame.reset_index(drop=True)


def scored(values: ArrayLike, clusters: Clusters | None) -> tuple[Floats, pd.DataFrame]:
    """The values that are numbers, and the clusters of these; `ValueError` where there are none."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"got values of shape {array.shape}, expected one number per prompt and at least one prompt"
        )
    columns = framed(clusters, len(array))
    known = ~np.isnan(array)
    if not known.any():
        raise ValueError(f"none of {len(array)} values is scored (all NaN): check the judge")
    return array[known], columns[known].reset_index(drop=True)


def distinct_prompts(columns: pd.DataFrame) -> int:
    """How many prompts differ in some column; one that shares nothing is distinct from all."""
    alone = columns.isna().all(axis=1)
    return int(alone.sum()) + len(columns[~alone].drop_duplicates())


def widest(values: Floats, columns: pd.DataFrame, n_boot: int, seed: int) -> Interval:
    """The widest interval of the mean over the columns; no width where none has two clusters."""
    mean = float(values.mean())
    best: Interval | None = None
    for name in columns.columns:
        codes = cluster_codes(columns[name])
        k = int(codes.max()) + 1
        if k < 2:  # one cluster cannot be resampled: a column that is constant says nothing about spread
            continue
        sums, sizes = np.bincount(codes, values, k), np.bincount(codes, minlength=k)
        draws = _draws(k, n_boot, seed)
        low, high = np.percentile((draws @ sums) / (draws @ sizes), PERCENTILES)
        if best is None or high - low > best[1] - best[0]:
            best = float(low), float(high), k, str(name)
    return best or (mean, mean, 1, "nothing")


def two_sided(
    drawn: Callable[[Floats, Floats], Floats],
    truth: NDArray[np.bool_],
    columns: pd.DataFrame,
    mean: float,
    n_boot: int,
    seed: int,
) -> Interval:
    """The widest interval over the columns, clusters resampled within positives and negatives apart.

    `drawn` gives a number per resample, from how often each positive and each negative is in it.
    """
    low, high, k, column = mean, mean, 0, ""
    for name in columns.columns:
        sides = [cluster_codes(columns.loc[mask, name]) for mask in (truth, ~truth)]
        counts = [int(side.max()) + 1 for side in sides]
        if min(counts) < 2:
            continue
        drawings = (_draws(count, n_boot, seed + side) for side, count in enumerate(counts))
        yes, no = (draws[:, codes] for draws, codes in zip(drawings, sides, strict=True))
        bounds = np.percentile(drawn(yes, no), PERCENTILES)
        if not column or bounds[1] - bounds[0] > high - low:
            low, high, k, column = float(bounds[0]), float(bounds[1]), min(counts), str(name)
    return low, high, k, column


@lru_cache(maxsize=64)
def _draws(k: int, n_boot: int, seed: int) -> Floats:
    """How often each of `k` clusters is drawn, per resample: the costly part, and the same for equal `k`."""
    drawn = np.random.default_rng(seed).multinomial(k, np.full(k, 1 / k), n_boot).astype(np.float64)
    drawn.setflags(write=False)
    return drawn


def cluster_codes(column: "pd.Series[Any]") -> NDArray[np.int64]:
    """Cluster numbers from 0; a missing label makes a cluster of its own."""
    codes, labels = pd.factorize(column)
    missing = codes < 0
    codes[missing] = len(labels) + np.arange(missing.sum())
    return codes.astype(np.int64)
