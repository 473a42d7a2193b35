"""Intervals: exact small cases, the libraries' own, the ends of the scale, coverage under clustering, error texts."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import statsmodels.api as sm
from sklearn.metrics import roc_auc_score

from workbench.stats import auroc, cluster_bootstrap, cluster_frame, paired_difference, roc_area, wilson


def test_wilson_against_published_values():
    # Newcombe 1998, table I: 81/263, 15/148, 0/20, 1/29, method 3.
    for successes, n, low, high in [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ]:
        estimate = wilson(successes, n)
        assert estimate.low == pytest.approx(low, abs=5e-5)
        assert estimate.high == pytest.approx(high, abs=5e-5)


def test_wilson_never_has_zero_width_and_holds_its_mean():
    for n in (1, 5, 456):
        for successes in (0, n):
            estimate = wilson(successes, n)
            assert estimate.low <= estimate.mean <= estimate.high
            assert estimate.high - estimate.low > 0


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_all_alike_is_not_certain(value):
    values, clusters = np.full(456, value), [i % 128 for i in range(456)]
    estimate = cluster_bootstrap(values, clusters)
    assert estimate.mean == value
    assert estimate.high - estimate.low == pytest.approx(wilson(0, 128).high)
    assert estimate.n == 456
    assert "128 distinct" in estimate.method


def test_one_of_n_is_not_surer_than_none_of_n():
    clusters = [i % 128 for i in range(456)]
    none = cluster_bootstrap(np.zeros(456), clusters)
    one = cluster_bootstrap(np.eye(456)[0], clusters)
    assert one.high > none.high


def test_the_widest_column_wins_and_is_named():
    frame = pd.DataFrame({"row": range(400), "half": np.arange(400) % 20, "constant": "same"})
    values = (frame["half"] < 10).astype(float)  # every cluster of `half` is pure: no averaging within it
    estimate = cluster_bootstrap(values, frame)
    assert "bootstrap by half" in estimate.method
    assert estimate.clusters == 20
    alone = cluster_bootstrap(values, frame[["row"]])
    assert estimate.high - estimate.low > 2 * (alone.high - alone.low)


def test_without_clusters_the_bootstrap_agrees_with_the_normal_theory():
    values = np.random.default_rng(1).normal(3.0, 2.0, 400)
    estimate = cluster_bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(400)
    assert estimate.low == pytest.approx(values.mean() - half, abs=0.03)
    assert estimate.high == pytest.approx(values.mean() + half, abs=0.03)


def test_coverage_under_clustering():
    """With strong clusters the interval that knows them covers, the one that does not fails: the reason for them."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(40), 10)
    aware = unaware = 0
    for trial in range(100):
        rates = rng.beta(0.5, 0.5, 40)
        values = (rng.random(400) < rates[clusters]).astype(float)
        for_clusters = cluster_bootstrap(values, list(clusters), n_boot=400, seed=trial)
        independent = cluster_bootstrap(values, n_boot=400, seed=trial)
        aware += for_clusters.low <= 0.5 <= for_clusters.high
        unaware += independent.low <= 0.5 <= independent.high
    assert aware >= 88
    assert unaware <= 75


def test_unscored_values_are_left_out_and_not_counted():
    estimate = cluster_bootstrap([1.0, float("nan"), 0.0, float("nan")], ["a", "b", "c", "d"])
    assert estimate.mean == 0.5
    assert estimate.n == 2


def test_same_seed_same_interval():
    values = np.random.default_rng(3).random(50)
    assert cluster_bootstrap(values) == cluster_bootstrap(values)


def test_paired_difference_of_nothing_changed_is_not_certain():
    estimate = paired_difference(np.ones(300), np.ones(300), list(range(300)))
    assert estimate.mean == 0
    assert estimate.high == pytest.approx(wilson(0, 300).high)
    assert estimate.low == pytest.approx(-estimate.high)


def test_paired_difference_has_the_sign_of_a_minus_b():
    estimate = paired_difference([1, 1, 1, 1, 0, 0], [0, 0, 0, 0, 0, 0])
    assert estimate.mean == pytest.approx(4 / 6)
    assert estimate.low < estimate.mean < estimate.high


def test_auroc_small_cases():
    assert auroc([3, 4, 1, 2], [True, True, False, False]).mean == 1.0
    assert auroc([1, 2, 3, 4], [True, True, False, False]).mean == 0.0
    assert auroc([1, 1, 1, 1], [True, True, False, False]).mean == 0.5
    assert auroc([2, 4, 1, 3], [True, True, False, False]).mean == 0.75


def test_perfect_auroc_is_not_certain():
    scores = np.r_[np.arange(20) + 100, np.arange(20)]
    estimate = auroc(scores, np.arange(40) < 20)
    assert (estimate.mean, estimate.high) == (1.0, 1.0)
    assert estimate.low == pytest.approx(wilson(20, 20).low)


def test_random_scores_are_at_one_half():
    rng = np.random.default_rng(0)
    estimate = auroc(rng.random(400), np.arange(400) % 2 == 0)
    assert estimate.low < 0.5 < estimate.high


def tied_scores(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores of a few distinct values, labels that they tell something about, and clusters that move them together."""
    rng = np.random.default_rng(seed)
    clusters, positive = rng.integers(0, 20, n), rng.random(n) < 0.4
    return np.round(rng.normal(positive + rng.normal(0, 1, 20)[clusters], 0.7)), positive, clusters


@pytest.mark.parametrize("seed", range(3))
def test_the_auroc_is_that_of_the_rank_sum_test(seed):
    scores, positive, clusters = tied_scores(seed)
    yes, no = scores[positive], scores[~positive]
    expected = scipy.stats.mannwhitneyu(yes, no).statistic / (len(yes) * len(no))
    assert roc_area(scores, positive) == pytest.approx(expected)
    assert auroc(scores, positive, list(clusters)).mean == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_the_cluster_bootstrap_is_scipys_over_clusters(seed):
    """Scipy draws clusters as pairs of a sum and a size; the mean of a draw is the ratio of their sums."""
    values, _, clusters = tied_scores(seed)
    assert values.min() < 0  # no rates, hence no floor
    frame = pd.DataFrame({"value": values, "cluster": clusters}).groupby("cluster")["value"]
    expected = scipy.stats.bootstrap(
        (frame.sum(), frame.size()),
        lambda sums, sizes, axis: sums.sum(axis) / sizes.sum(axis),
        paired=True,
        n_resamples=20_000,
        method="percentile",
        rng=seed,
    ).confidence_interval
    ours = cluster_bootstrap(values, list(clusters), n_boot=20_000)
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), abs=0.02)
    assert ours.high - ours.low > 0.3  # as wide as sixteen times the tolerance


def test_the_cluster_bootstrap_errs_as_the_sandwich_does():
    """With many clusters it is as wide as the cluster-robust interval of a regression on a constant."""
    rng = np.random.default_rng(0)
    clusters = np.repeat(np.arange(150), 4)
    values = np.round(rng.normal(0, 1, 150)[clusters] + rng.normal(0, 1, 600))
    robust = sm.OLS(values, np.ones(600)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    estimate = cluster_bootstrap(values, list(clusters), n_boot=20_000)
    assert (estimate.low, estimate.high) == pytest.approx(tuple(robust.conf_int()[0]), abs=0.02)


def test_the_bootstrap_of_the_auroc_is_that_of_the_library_resample_by_resample():
    scores, positive, clusters = tied_scores(0)
    sides = [np.unique(clusters[mask]) for mask in (positive, ~positive)]

    def area(*drawn: np.ndarray) -> float:
        times = [np.bincount(side, minlength=20)[clusters] for side in drawn]
        return roc_auc_score(positive, scores, sample_weight=np.where(positive, *times))

    expected = scipy.stats.bootstrap(
        sides, area, vectorized=False, n_resamples=600, method="percentile", rng=0
    ).confidence_interval
    # With many distinct prompts Wilson's floor is narrow, and the bootstrap by cluster is what is seen.
    columns = pd.DataFrame({"cluster": clusters, "row": range(200)})
    ours, independent = auroc(scores, positive, columns, n_boot=2000), auroc(scores, positive)
    assert (ours.low, ours.high) == pytest.approx(tuple(expected), abs=0.02)
    assert ours.high - ours.low > independent.high - independent.low + 0.08


def test_the_floor_of_a_difference_is_square_and_add_of_two_wilson_intervals():
    """Where one prompt of many changed, by half, the floor is the wider one."""
    estimate = paired_difference(np.eye(200)[0] / 2, np.zeros(200))
    up, down = wilson(0.5, 200), wilson(0, 200)
    assert estimate.low == pytest.approx(up.mean - math.hypot(up.mean - up.low, down.high))
    assert estimate.high == pytest.approx(up.mean + math.hypot(up.high - up.mean, 0))


def test_who_measures_nothing_imports_no_statistics():
    code = "import sys, workbench.stats; sys.exit(any(m in sys.modules for m in ('statsmodels', 'sklearn', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_cluster_frame():
    frame = cluster_frame([(("verb", "steal"),), (("verb", "forge"), ("object", "a key"))])
    assert list(frame.columns) == ["verb", "object"]
    assert list(cluster_frame([(), ()]).columns) == ["prompt"]


def test_none_shares_nothing():
    pairs = [
        (("wrapper", "none"),),
        (("wrapper", "none"),),
        (("wrapper", "suffix"),),
        (("wrapper", "suffix"),),
    ]
    frame = cluster_frame(pairs)
    assert cluster_bootstrap([1, 0, 1, 0], frame).clusters == 3
    assert "at least Wilson with 3 distinct" in cluster_bootstrap([1, 0, 1, 0], frame).method
    assert list(cluster_frame(pairs[:2]).columns) == ["prompt"]


def test_a_missing_cluster_is_one_of_its_own():
    clusters = pd.DataFrame({"object": ["a", None, None, "a"]})
    assert cluster_bootstrap([1, 0, 1, 0], clusters).clusters == 3
    assert auroc([3, 4, 1, 2], [True, True, False, False], clusters).mean == 1.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wilson(3, 0), r"got 3 successes of 0, expected n ≥ 1"),
        (lambda: cluster_bootstrap([]), r"got values of shape \(0,\), expected one number per prompt"),
        (
            lambda: cluster_bootstrap([float("nan")]),
            r"none of 1 values is scored \(all NaN\): check the judge",
        ),
        (lambda: cluster_bootstrap([1, 0], ["a"]), r"got 1 cluster labels for 2 values"),
        (lambda: paired_difference([1, 0], [1]), r"got 2 and 1 values, expected one pair per prompt"),
        (lambda: paired_difference([5.0], [1.0]), r"got values beyond 0 to 1, expected rates"),
        (lambda: auroc([1, 2], [True, True]), r"got 2 positives only, expected both classes"),
        (lambda: auroc([1, 2], [False, False]), r"got 2 negatives only, expected both classes"),
        (lambda: auroc([1, float("nan")], [True, False]), r"got NaN or infinity for 1 of 2 scores"),
        (lambda: auroc([1, float("inf")], [True, False]), r"got NaN or infinity for 1 of 2 scores"),
        (lambda: auroc([1.0], [True, False]), r"got 1 scores and 2 labels"),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
