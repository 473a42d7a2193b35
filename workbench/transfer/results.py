"""What a transfer matrix found, and what predicted it.

    ρ        Spearman's rank correlation over carried vectors, one per (source, target, arm, draw)
    interval bootstrap over (source, target) pairs: the arms of one pair are no independent observations

The trap: few pairs. An interval from three of them says little, and the frame says of how many each is.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from workbench.provenance import Provenance
from workbench.transfer.carrying import CARRIED, CONTROLS, WITHOUT_SOURCE
from workbench.transfer.maps import ResidualMap

PREDICTORS = ("cosine_native", "beyond_own", "cosine_own", "r2")
Marks: TypeAlias = "np.ndarray[tuple[int, int], np.dtype[np.float64]]"
"""A row per vector: what predicts, and what it did."""


@dataclass(frozen=True, eq=False)
class TransferResult:
    """A tidy row per target, source, arm and metric in `frame`, and the ridge maps between bases it rests on.

    Columns: source (empty for arms that have none), target, arm (as `carrying` names them), draw, metric, mean, low,
    high, n, clusters, method; layers, positions and alpha as chosen on validation; over these layers, the mean of
    `cosine_native` (to the vector of the target's own base's aligned model), `cosine_own` (to the target's own vector),
    `beyond_own` (how much lies along what the native one adds to the own one) and `r2` (the map's, on held-out texts).
    A number that is not known is NaN: the first and the third where no source comes from the target's own base.
    """

    frame: pd.DataFrame
    maps: Mapping[tuple[str, str], ResidualMap]
    provenance: Provenance

    def table(self, metric: str = "refused") -> pd.DataFrame:
        """One metric's means: a row per source and arm, a column per target; draws are averaged."""
        part = self.frame[self.frame["metric"] == metric]
        if part.empty:
            raise ValueError(
                f"got metric {metric!r}, expected one of {', '.join(self.frame['metric'].unique())}"
            )
        wide = part.pivot_table(index=["source", "arm"], columns="target", values="mean")
        order = [*CARRIED, *CONTROLS, *WITHOUT_SOURCE]
        return wide.sort_index(key=lambda level: level.map(order.index) if level.name == "arm" else level)[
            list(part["target"].unique())
        ]

    def predictors(self, *, metric: str = "refused", n_boot: int = 1000, seed: int = 0) -> pd.DataFrame:
        """How well each of `PREDICTORS` ranks what carried vectors do: rho, low, high, n arms, n pairs."""
        return rank_predictors(self.frame, metric=metric, n_boot=n_boot, seed=seed)


def rank_predictors(
    frame: pd.DataFrame, *, metric: str = "refused", n_boot: int = 1000, seed: int = 0
) -> pd.DataFrame:
    """A row per group of arms and predictor: Spearman's rho with the metric, a 95 % interval, and of how many.

    `among` is "maps" (every arm that goes through a map, controls included) and "maps between bases" (ridge,
    procrustes, calm texts). Vectors that need no map are in neither: their cosine to the native one is 1, or nearly,
    by what they are. rho is NaN where fewer than three arms, or no two different values, are there, the interval
    where there are fewer than two pairs; of a predictor that is known of no arm n is 0.
    """
    part = frame[(frame["metric"] == metric) & frame["r2"].notna()]
    groups = {
        "maps": part,
        "maps between bases": part[part["arm"].isin(["ridge", "procrustes", "calm texts"])],
    }
    rows = []
    for among, arms in groups.items():
        for predictor in PREDICTORS:
            known = arms.dropna(subset=[predictor])
            pairs = [
                group[[predictor, "mean"]].to_numpy(dtype=np.float64)
                for _, group in known.groupby(["source", "target"], sort=False)
            ]
            low, high = _interval(pairs, n_boot, np.random.default_rng(seed))
            rows.append(
                {
                    "among": among,
                    "predictor": predictor,
                    "rho": _rho(np.concatenate(pairs)) if pairs else float("nan"),
                    "low": low,
                    "high": high,
                    "n": len(known),
                    "pairs": len(pairs),
                }
            )
    return pd.DataFrame(rows)


def _rho(marks: Marks) -> float:
    if len(marks) < 3 or (np.ptp(marks, axis=0) == 0).any():
        return float("nan")
    return float(np.corrcoef(rankdata(marks, axis=0), rowvar=False)[0, 1])


def _interval(pairs: list[Marks], n_boot: int, rng: np.random.Generator) -> tuple[float, float]:
    if len(pairs) < 2:
        return float("nan"), float("nan")
    drawn = (rng.integers(len(pairs), size=len(pairs)) for _ in range(n_boot))
    found = [rho for one in drawn if (rho := _rho(np.concatenate([pairs[i] for i in one]))) == rho]
    if not found:
        return float("nan"), float("nan")
    low, high = np.quantile(found, [0.025, 0.975])
    return float(low), float(high)
