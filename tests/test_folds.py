"""Folds: every item in one, the like together, every label in each."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.folds import deal

ITEMS = st.lists(st.tuples(st.sampled_from(["harmful", "harmless"]), st.integers(0, 30)), min_size=1)


@given(ITEMS, st.integers(2, 6), st.integers(0, 5))
def test_the_like_lie_together_and_every_fold_has_every_label(
    items: list[tuple[str, int]], n: int, seed: int
) -> None:
    labels = [label for label, _ in items]
    keys = [(label, number) for label, number in items]
    groups = Counter(label for label, _ in set(keys))
    if min(groups.values()) < n:
        with pytest.raises(ValueError, match=r"the set: got n=\d folds and \d separate groups of harm"):
            deal(n, labels=labels, keys=keys, seed=seed)
        return
    folds = deal(n, labels=labels, keys=keys, seed=seed)
    assert len(folds) == len(items) and set(folds) == set(range(n))
    assert len(set(zip(keys, folds, strict=True))) == len(set(keys))
    for label in groups:
        assert {fold for fold, own in zip(folds, labels, strict=True) if own == label} == set(range(n))
    assert folds == deal(n, labels=labels, keys=keys, seed=seed)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 7), st.integers(0, 5))
def test_shares_are_even_where_nothing_stays_together(harmful: int, harmless: int, n: int, seed: int) -> None:
    n = min(n, harmful, harmless)
    labels = ["harmful"] * harmful + ["harmless"] * harmless
    folds = deal(n, labels=labels, keys=range(len(labels)), seed=seed)
    for label in set(labels):
        shares = Counter(fold for fold, own in zip(folds, labels, strict=True) if own == label).values()
        assert max(shares) - min(shares) <= 1


def test_groups_of_several_labels_stay_together() -> None:
    """A cluster may hold harmful and harmless prompts: it is dealt as one."""
    labels = ["harmful", "harmless"] * 6
    keys = ["ring", "ring", "ring", "ring", "boat", "boat", "lock", "lock", "boat", "boat", "lamp", "lamp"]
    folds = deal(2, labels=labels, keys=keys, seed=0)
    assert len(set(zip(keys, folds, strict=True))) == 4
    assert [Counter(folds)[k] for k in range(2)] == [6, 6]


def test_seeds_deal_otherwise() -> None:
    labels = ["harmful"] * 12 + ["harmless"] * 12
    dealt = {deal(3, labels=labels, keys=range(24), seed=seed) for seed in range(5)}
    assert len(dealt) == 5


def test_fewer_than_two_folds_are_none() -> None:
    for n in (1, 0, -1):
        with pytest.raises(
            ValueError, match=rf"pairs: got n={n} folds, expected 2 or more, one to choose on"
        ):
            deal(n, labels=["harmful"], keys=[0], seed=0, what="pairs")
