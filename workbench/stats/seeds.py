"""One number from several runs that differ by their seed: the spread of seeds and that of prompts, in one interval.

    mean ± √(prompts² + seeds²):   prompts  from the mean to either end of the cluster interval of the prompts' means
                                   seeds    t(K − 1) · s / √K of the K runs' own means             (square-and-add)

Seeds and prompts are crossed, every run answers the same prompts, so that their variances add; what both share (a
prompt that only one seed gets wrong) is in either, and the interval errs to the wide side.

The trap: to draw three seeds anew with replacement, as a two-level bootstrap does, gives a third too little of their
variance, and a normal's tails instead of those of t(2). So seeds get the t interval, which knows how few they are. The
interval of a single run holds for that run: another seed may lie outside of it.
"""

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from workbench.stats.clusters import LEVEL, Clusters
from workbench.stats.estimates import Estimate, cluster_bootstrap


def mean_over_seeds(
    runs: ArrayLike, clusters: Clusters | None = None, *, n_boot: int = 2000, seed: int = 0
) -> Estimate:
    """The mean over `runs`, a row per seed and a column per prompt, with seeds and prompts in its interval.

    A prompt that some run left unscored (NaN) is left out of all. With one run it is that run's interval, and `method`
    says that seeds were not varied.
    """
    values = np.asarray(runs, dtype=np.float64)
    if values.ndim != 2 or values.size == 0:
        raise ValueError(
            f"got runs of shape {values.shape}, expected a row per seed and a column per prompt, the same prompts in "
            "every row"
        )
    # A mean over the seeds that scored it would weigh one seed more than the other: NaN in one is NaN.
    of_prompts = cluster_bootstrap(values.mean(0), clusters, n_boot=n_boot, seed=seed)
    n_seeds = len(values)
    if n_seeds == 1:
        return replace(of_prompts, method=f"{of_prompts.method}; one seed: seeds were not varied")
    from scipy.stats import t  # here for the reason that `wilson` gives

    known = values[:, ~np.isnan(values).any(0)]
    half = float(t.ppf(1 - LEVEL / 2, n_seeds - 1) * known.mean(1).std(ddof=1) / np.sqrt(n_seeds))
    low = of_prompts.mean - float(np.hypot(of_prompts.mean - of_prompts.low, half))
    high = of_prompts.mean + float(np.hypot(of_prompts.high - of_prompts.mean, half))
    if known.min() >= 0 and known.max() <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return replace(
        of_prompts, low=low, high=high, method=f"{of_prompts.method}; {n_seeds} seeds by t, square-and-add"
    )
