"""Paired tests, Holm, power, seeds: published examples, closed forms, error rates by simulation, error texts."""

import itertools
import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
from statsmodels.stats.contingency_tables import mcnemar

from workbench.stats import (
    bound_of_none,
    cluster_bootstrap,
    design_effect,
    holm,
    mean_over_seeds,
    paired_test,
    prompts_to_bound,
    prompts_to_tell,
    too_few,
)


def changed(rose, fell, alike=0):
    """Two conditions of which `rose` prompts go up from the second to the first, `fell` down."""
    return np.array([1] * rose + [0] * fell + [1] * alike), np.array([0] * rose + [1] * fell + [1] * alike)


@pytest.mark.parametrize(("rose", "fell"), [(9, 1), (0, 5), (6, 6), (150, 86), (3, 14)])
def test_mcnemar_is_the_librarys(rose, fell):
    found = paired_test(*changed(rose, fell, alike=20))
    table = [[20, rose], [fell, 0]]
    assert found.p == pytest.approx(mcnemar(table, exact=True).pvalue)
    assert (found.rose, found.fell, found.n) == (rose, fell, 20 + rose + fell)


def test_mcnemar_against_its_closed_form():
    # Nine up and one down: 2 (1 + 10) / 2^10. All five down: 2 / 2^5.
    assert paired_test(*changed(9, 1)).p == pytest.approx(22 / 1024)
    assert paired_test(*changed(0, 5)).p == pytest.approx(2 / 32)


def test_every_prompt_its_own_cluster_makes_the_sign_flip_mcnemars():
    found = paired_test(*changed(9, 1, alike=4))
    assert found.p_clusters == pytest.approx(found.p)


def test_the_sign_flip_is_scipys_permutation_test_of_cluster_sums():
    rng = np.random.default_rng(0)
    differences, clusters = rng.integers(-1, 2, 60).astype(float), np.arange(60) % 9
    sums = [differences[clusters == k].sum() for k in range(9)]
    expected = scipy.stats.permutation_test(
        (np.array(sums), np.zeros(9)),
        lambda x, y: np.sum(x - y),
        permutation_type="samples",
        n_resamples=np.inf,
    ).pvalue
    ups, downs = np.maximum(differences, 0), np.maximum(-differences, 0)
    assert paired_test(ups, downs, clusters.tolist()).p_clusters == pytest.approx(expected)


def test_one_change_seen_ten_times_is_one_change():
    up, down = changed(10, 0, alike=10)
    found = paired_test(up, down, ["a"] * 10 + list("bcdefghijk"))
    assert found.p < 0.002
    assert found.p_clusters == 1


def test_the_worst_column_decides_and_a_constant_one_says_nothing():
    frame = pd.DataFrame({"row": range(12), "half": np.arange(12) // 3, "same": "x"})
    found = paired_test(*changed(12, 0), frame)
    assert found.p_clusters == pytest.approx(2 / 2**4)


def test_drawn_flips_come_to_what_all_of_them_do():
    up, down = changed(14, 4)
    exact, drawn = (paired_test(up, down, n_draws=n).p_clusters for n in (2**18, 20_000))
    assert drawn == pytest.approx(exact, abs=0.006)
    assert drawn != exact


def test_drawn_flips_are_never_certain():
    assert paired_test(*changed(40, 0), n_draws=999).p_clusters == 1 / 1000


def test_means_over_plans_count_by_their_sign():
    found = paired_test([0.3, 0.9, 0.5], [0.1, 1.0, 0.5])
    assert (found.rose, found.fell, found.n) == (1, 1, 3)


def test_unscored_pairs_are_left_out():
    found = paired_test([1, math.nan, 1], [0, 0, math.nan])
    assert (found.rose, found.fell, found.n) == (1, 0, 1)


def test_nothing_changed_is_no_evidence():
    found = paired_test([1, 0, 1], [1, 0, 1])
    assert (found.p, found.p_clusters) == (1, 1)


def test_errors_under_clustering():
    """Where nothing differs, 5 % of the tests may say otherwise: McNemar's do far more often, flips do not."""
    rng, clusters = np.random.default_rng(3), np.repeat(np.arange(20), 8)
    wrong = np.zeros(2)
    for _ in range(300):
        side = rng.choice([-1, 0, 1], 20, p=[0.2, 0.6, 0.2])[clusters]  # a cluster goes one way
        moved = side * (rng.random(160) < 0.8)
        found = paired_test(np.maximum(moved, 0), np.maximum(-moved, 0), clusters.tolist(), n_draws=400)
        wrong += found.p < 0.05, found.p_clusters < 0.05
    mcnemars, flip = wrong / 300
    assert mcnemars > 0.3
    assert flip < 0.05 + 2 * math.sqrt(0.05 * 0.95 / 300)


def test_holm_against_its_definition():
    p = [0.01, 0.04, 0.03, 0.005]  # 4 × .005, 3 × .01, 2 × .03, then no smaller: .06
    assert holm(p) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == pytest.approx([1, 1])


def test_holm_counts_what_there_is():
    found = holm([0.01, math.nan, 0.02])
    assert found[[0, 2]] == pytest.approx([0.02, 0.02])
    assert math.isnan(found[1])
    assert len(holm([])) == 0


# Power --------------------------------------------------------------------------------------------


def test_none_seen_of_how_many():
    # The rule of three, exactly: 59 for 5 %, 299 for 1 % (both are published everywhere).
    assert [prompts_to_bound(rate) for rate in (0.05, 0.01)] == [59, 299]
    for rate in (0.5, 0.2, 0.033, 0.001):
        n = prompts_to_bound(rate)
        assert bound_of_none(n) <= rate < bound_of_none(n - 1) if n > 1 else bound_of_none(n) <= rate
        # Clopper-Pearson's one-sided bound at none of n is Beta(1, n)'s.
        assert bound_of_none(n) == pytest.approx(scipy.stats.beta.ppf(0.95, 1, n))


def test_prompts_to_tell_against_its_formula():
    # p10 = .15, p01 = .10, so ψ = .25 and d = .05: (1.959964 × .5 + .841621 × √.2475)² / .0025.
    assert prompts_to_tell(0.05, changing=0.25) == math.ceil(
        (1.959964 * 0.5 + 0.841621 * math.sqrt(0.2475)) ** 2 / 0.0025
    )
    assert prompts_to_tell(-0.05, changing=0.25) == prompts_to_tell(0.05, changing=0.25)
    assert prompts_to_tell(0.05, changing=0.25, design_effect=3) == pytest.approx(3 * 783, abs=3)
    assert prompts_to_tell(0.05) == prompts_to_tell(0.05, changing=0.01)  # so many change at the least


def test_so_many_prompts_do_tell_it_four_times_in_five():
    n, rng = prompts_to_tell(0.1, changing=0.2), np.random.default_rng(0)
    draws = rng.multinomial(n, [0.15, 0.05, 0.8], 4000)
    told = np.mean([scipy.stats.norm.sf((b - c) / math.sqrt(b + c)) < 0.025 for b, c, _ in draws])
    assert told == pytest.approx(0.8, abs=0.025)


def test_too_few_is_a_sentence_and_enough_is_none():
    assert too_few(40, 783) == (
        "40 prompts are too few to tell a change of 5 points (80 % power): 783 are needed, so no difference seen is "
        "not no difference"
    )
    assert too_few(783, 783) == ""


def test_design_effect_of_equal_values_in_clusters_is_their_size():
    values = np.repeat([1.0, 0.0, 0.0, 1.0], 5)
    assert design_effect(values, np.repeat(range(4), 5).tolist()) == pytest.approx(5)
    assert design_effect(values) == 1
    assert (
        design_effect(np.tile([1.0, 0.0], 5), np.repeat(range(5), 2).tolist()) == 1
    )  # spread within is no gain
    assert design_effect(np.zeros(20), np.repeat(range(4), 5).tolist()) == 5


# Seeds --------------------------------------------------------------------------------------------


def test_one_seed_says_so_and_is_that_runs_interval():
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    found, alone = mean_over_seeds([values]), cluster_bootstrap(values)
    assert (found.mean, found.low, found.high) == (alone.mean, alone.low, alone.high)
    assert found.method.endswith("one seed: seeds were not varied")


def test_seeds_that_agree_add_nothing():
    values = [1.0, 0.0, 0.0, 1.0, 1.0]
    found, alone = mean_over_seeds([values] * 3), cluster_bootstrap(values)
    assert (found.low, found.high) == pytest.approx((alone.low, alone.high))
    assert found.method.endswith("3 seeds by t, square-and-add")


def test_of_seeds_alone_it_is_the_t_interval():
    means = [2.0, 3.0, 7.0]  # every prompt alike: no spread of prompts
    found = mean_over_seeds([[mean] * 50 for mean in means])
    low, high = scipy.stats.t.interval(0.95, 2, np.mean(means), scipy.stats.sem(means))
    assert (found.low, found.high) == pytest.approx((low, high))


def test_a_rate_stays_a_rate():
    found = mean_over_seeds([[1.0] * 9, [0.0] * 9])
    assert (found.low, found.mean, found.high) == (0, 0.5, 1)


def test_a_prompt_that_one_run_left_unscored_counts_in_none():
    found = mean_over_seeds([[1.0, 1.0, math.nan], [0.0, 1.0, 0.0]])
    assert (found.mean, found.n) == (0.75, 2)


def test_coverage_over_seeds_and_prompts():
    """Three seeds and forty prompts, both random: the interval holds the mean nine times in ten, one run's does not."""
    rng, held, alone = np.random.default_rng(1), 0, 0
    for _ in range(300):
        runs = (
            5
            + 0.5 * rng.standard_normal((3, 1))
            + rng.standard_normal(40)
            + 0.5 * rng.standard_normal((3, 40))
        )
        together, single = mean_over_seeds(runs, n_boot=400), cluster_bootstrap(runs[0], n_boot=400)
        held += together.low <= 5 <= together.high
        alone += single.low <= 5 <= single.high
    assert held / 300 > 0.92
    assert alone / 300 < 0.8


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: paired_test([1, 0], [1]), "got 2 and 1 values, expected one pair per prompt: align them"),
        (
            lambda: paired_test([1], [0], n_draws=10),
            "got n_draws=10, expected 100 or more: no p below 0.091 is possible",
        ),
        (lambda: paired_test([math.nan], [0]), r"none of 1 values is scored \(all NaN\): check the judge"),
        (lambda: holm([0.5, 1.5]), "got p-values beyond 0 to 1: expected one probability per comparison"),
        (
            lambda: prompts_to_bound(0),
            "got a rate of 0, expected one between 0 and 1: no number of prompts shows",
        ),
        (lambda: bound_of_none(0), "got 0 prompts, expected one or more"),
        (
            lambda: prompts_to_tell(0),
            "got change=0, changing=None, design_effect=1: expected a change other than 0",
        ),
        (lambda: prompts_to_tell(0.1, changing=2), "got change=0.1, changing=2"),
        (lambda: prompts_to_tell(0.1, design_effect=0.5), "expected .* a design effect of 1 or more"),
        (
            lambda: mean_over_seeds([1, 0]),
            r"got runs of shape \(2,\), expected a row per seed and a column per prompt",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_every_flip_is_counted_once():
    up, down = changed(3, 0)
    totals = [abs(sum(signs)) for signs in itertools.product([1, -1], repeat=3)]
    assert paired_test(up, down).p_clusters == sum(total >= 3 for total in totals) / 8
