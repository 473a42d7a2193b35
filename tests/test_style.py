"""The look: labels that never touch, tints, titles that fit."""

from itertools import pairwise

import plotly.graph_objects as go
import pytest
from hypothesis import given
from hypothesis import strategies as st

from workbench.style import COLOURS, dress, spread, tint


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_spread_labels_keep_apart_in_order_and_in_bounds(wanted):
    placed = spread(wanted, 0.1, 0.0, 1.0)
    assert all(-1e-9 <= y <= 1 + 1e-9 for y in placed)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [placed[b] - placed[a] for a, b in pairwise(order)]
    assert all(gap >= 0.1 - 1e-9 for gap in gaps)


def test_spread_leaves_labels_that_do_not_touch():
    assert spread([0.9, 0.1, 0.5], 0.1, 0.0, 1.0) == pytest.approx([0.9, 0.1, 0.5])


def test_spread_shares_room_that_is_too_small():
    assert spread([0.5, 0.5, 0.5], 0.8, 0.0, 1.0) == pytest.approx([0.0, 0.5, 1.0])


def test_spread_centres_a_crowd():
    assert spread([0.5, 0.5], 0.2, 0.0, 1.0) == pytest.approx([0.4, 0.6])


def test_colours_have_one_meaning_each():
    assert len(set(COLOURS.values())) == len(COLOURS)


def test_tint():
    assert tint("#D55E00", 0.5) == "rgba(213, 94, 0, 0.5)"


def test_long_titles_wrap_and_get_room():
    short = dress(go.Figure(), "Found", "how")
    long = dress(go.Figure(), "found " * 40, "how " * 60)
    assert "<br>" in long.layout.title.text
    assert long.layout.margin.t > short.layout.margin.t
    assert long.layout.height - long.layout.margin.t == pytest.approx(
        short.layout.height - short.layout.margin.t, abs=60
    )


def test_a_number_stays_with_its_per_cent():
    for words in range(8, 24):
        fig = dress(go.Figure(), "a " * words + "50 % of it", "m", width=300)
        assert "50<br>%" not in fig.layout.title.text and "50 %" in fig.layout.title.text
