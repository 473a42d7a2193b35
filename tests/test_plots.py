"""Pictures: what is drawn is what the frame says, controls look like controls, and what a frame lacks is named."""

import pandas as pd
import pytest

from workbench import plots
from workbench.style import COLOURS

PROFILE = pd.DataFrame(
    [
        {"model": model, "layer": layer, "auroc": 0.9, "auroc_low": 0.8, "auroc_high": 1.0, "share": 0.3}
        for model in ("organism:finance", "organism:aligned")
        for layer in range(4)
    ]
)
RATES = pd.DataFrame(
    [
        {"arm": arm, "alpha": alpha, "metric": "broken", "mean": 0.1, "low": 0.0, "high": 0.2}
        for arm, alphas in {"unsteered": [None], "steered": [0.5, 1.0], "random": [0.5, 1.0]}.items()
        for alpha in alphas
    ]
)
TRADE = pd.DataFrame(
    [
        {"panel": "finance", "condition": name, "kind": kind, "mean": 0.5, "low": 0.4, "high": 0.6}
        for name in ("none", "inferaligner")
        for kind in plots.TRADE_OFF
    ]
)
PROJECTIONS = pd.DataFrame(
    [
        {"label": label, "layer": layer, "projection": x}
        for label in ("harmful", "harmless")
        for layer in range(3)
        for x in (0.0, 1.0)
    ]
)
GATE = pd.DataFrame(
    [
        {"label": label, "layer": layer, "open": 0.5, "n": 7}
        for label in ("harmful", "domain")
        for layer in range(3)
    ]
)


def test_every_figure_takes_its_finding_for_a_title_and_has_no_legend():
    figures = [
        plots.layer_profile(PROFILE, chosen=[2, 3], finding="Found"),
        plots.projections(PROJECTIONS, finding="Found"),
        plots.gate_map(GATE, chosen_gate=1, finding="Found"),
        plots.strength_curves(RATES, finding="Found"),
        plots.trade_off(TRADE, finding="Found"),
    ]
    for fig in figures:
        assert fig.layout.title.text == "Found"
        assert fig.layout.template.layout.showlegend is False


def test_controls_are_grey_and_dashed_and_carry_no_band():
    fig = plots.strength_curves(RATES)
    lines = {trace.line.color: trace for trace in fig.data if trace.mode and trace.fill is None}
    assert lines[COLOURS["control"]].line.dash == "dash"
    assert lines[COLOURS["steered"]].line.dash == "solid"
    assert sum(trace.fill == "toself" for trace in fig.data) == 2


def test_the_unsteered_arm_runs_across():
    fig = plots.strength_curves(RATES)
    unsteered = next(t for t in fig.data if t.line.color == COLOURS["unsteered"] and t.fill is None)
    assert list(unsteered.x) == [0.5, 1.0]


def test_every_line_is_named_beside_itself():
    texts = {annotation.text for annotation in plots.strength_curves(RATES).layout.annotations}
    assert {"unsteered", "steered", "random"} <= texts


def test_chosen_layers_are_shaded():
    shapes = plots.layer_profile(PROFILE, chosen=[2]).layout.shapes
    assert any(shape.type == "rect" and (shape.x0, shape.x1) == (1.5, 2.5) for shape in shapes)


def test_rates_span_zero_to_one():
    assert plots.strength_curves(RATES).layout.yaxis.range == (-0.02, 1.02)
    assert plots.gate_map(GATE).data[0].zmax == 1


def test_one_layer_and_one_model():
    assert plots.layer_profile(
        PROFILE[(PROFILE["layer"] == 0) & (PROFILE["model"] == "organism:aligned")]
    ).data
    assert plots.projections(PROJECTIONS[PROJECTIONS["layer"] == 0]).data


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plots.layer_profile(PROFILE.drop(columns="share")),
            "layer profile: the frame has no column share",
        ),
        (lambda: plots.projections(PROJECTIONS.iloc[:0]), "projections: the frame is empty"),
        (lambda: plots.gate_map(GATE.drop(columns="open")), "gate map: the frame has no column open"),
        (
            lambda: plots.strength_curves(RATES.drop(columns="low")),
            "strength curves: the frame has no column low",
        ),
        (
            lambda: plots.trade_off(TRADE.assign(kind="joy")),
            "trade-off: got kinds joy, expected some of attacks not",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
