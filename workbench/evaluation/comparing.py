"""Conditions against one of them, prompt by prompt: how far each moved, whether that is chance, whether n was enough.

    change    paired bootstrap by clusters, never surer than Wilson                      (stats.paired_difference)
    p         McNemar's, exact; p_clusters: sign flip by whole clusters                  (stats.paired_test)
    p_holm    p_clusters, corrected for all rows of the frame that have one              (stats.holm)
    needed    prompts that would tell a change of `worth` four times in five             (stats.prompts_to_tell)

The trap: a correction covers the comparisons that it is shown. All that were looked at go into one call; who compares
twice and reports the better has corrected for half.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from workbench.evaluation.metrics import METRICS, paired_values
from workbench.stats import (
    WORTH_TELLING,
    design_effect,
    holm,
    paired_difference,
    paired_test,
    prompts_to_tell,
    too_few,
)

COLUMNS = (
    "arm", "against", "metric", "change", "low", "high", "b", "c", "p", "p_clusters", "p_holm", "n", "needed",
)  # fmt: skip
"""Of what `compare` gives. `b` prompts rose, which `arm` alone has; `c` fell, which `against` alone has."""


def compare(
    frame: pd.DataFrame,
    against: str = "none",
    metrics: str | Sequence[str] = tuple(METRICS),
    *,
    arms: Sequence[str] | None = None,
    worth: float | int = WORTH_TELLING,
    n_draws: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Every arm of a judged frame against one of them, a tidy row per arm and metric; columns as `COLUMNS`.

    `frame` has the columns that `answers.answer` makes, `metrics` names some of `metrics.METRICS`; metrics that no
    prompt of the frame counts for are left out. `arms` are all others unless given. `n` counts prompts that both arms
    have a verdict for; where there is none it is 0, and numbers are NaN. `needed` is told from how many of those
    prompts changed and how these cluster, for a change of `worth`.

    Raises `ValueError` where an arm is not there, or answered other prompts than `against` did.
    """
    there = list(dict.fromkeys(frame["arm"]))
    chosen = [name for name in there if name != against] if arms is None else list(arms)
    if unknown := [name for name in (against, *chosen) if name not in there]:
        raise ValueError(f"got arms {', '.join(unknown)}, the frame has {', '.join(there)}")
    if against in chosen or not chosen:
        raise ValueError(
            f"got {against!r} against itself, expected arms to compare with it: {', '.join(there)}"
        )
    before = frame[frame["arm"] == against]
    found = [
        row
        for name in chosen
        for metric in ([metrics] if isinstance(metrics, str) else metrics)
        if (row := _one(frame[frame["arm"] == name], before, metric, worth, n_draws, seed))
    ]
    table = pd.DataFrame(found, columns=[column for column in COLUMNS if column != "p_holm"])
    table.insert(COLUMNS.index("p_holm"), "p_holm", holm(table["p_clusters"].to_numpy(float)))
    return table


def shortfalls(comparison: pd.DataFrame, *, worth: float | int = WORTH_TELLING) -> list[str]:
    """A sentence per metric that has too few prompts to tell a change of `worth` in some arm, by its worst arm.

    Of the arms whose interval has no change in it: a change that was told needs no more prompts. The power is that of
    one comparison alone; corrected for many it takes more.
    """
    sentences = []
    untold = comparison[~((comparison["low"] > 0) | (comparison["high"] < 0))]
    for metric, rows in untold.groupby("metric", sort=False):
        worst = max(rows.to_dict("records"), key=lambda row: row["needed"] / max(row["n"], 1))
        if sentence := too_few(worst["n"], worst["needed"], change=worth):
            sentences.append(f"{metric}, {worst['arm']} against {worst['against']}: {sentence}")
    return sentences


def _one(
    rows: pd.DataFrame, before: pd.DataFrame, metric: str, worth: float | int, n_draws: int, seed: int
) -> dict[str, object] | None:
    values, base, clusters = paired_values(rows, before, metric)
    if not len(values):
        return None
    row: dict[str, object] = {"arm": rows["arm"].iat[0], "against": before["arm"].iat[0], "metric": metric}
    if np.isnan(values - base).all():  # not one verdict in common: told, not dropped
        return row | {"b": 0, "c": 0, "n": 0, "needed": prompts_to_tell(worth)}
    moved = paired_difference(values, base, clusters)
    test = paired_test(values, base, clusters, n_draws=n_draws, seed=seed)
    changing, effect = (test.rose + test.fell) / test.n, design_effect(values - base, clusters)
    return row | {
        "change": moved.mean,
        "low": moved.low,
        "high": moved.high,
        "b": test.rose,
        "c": test.fell,
        "p": test.p,
        "p_clusters": test.p_clusters,
        "n": test.n,
        "needed": prompts_to_tell(worth, changing=changing, design_effect=effect),
    }
