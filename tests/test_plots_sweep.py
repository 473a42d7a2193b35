"""Pictures of sweeps and searches: what is drawn is what the frame says, controls beside it; what it lacks is named."""

import math

import pandas as pd
import pytest

from workbench import plots
from workbench.style import COLOURS
from workbench.sweep import Setting

UNREFUSED = {
    (layers, alpha): share
    for layers, shares in {"3": (0.9, 0.2), "2 3 4": (0.1, 0.0), "1": (1.0, 1.0)}.items()
    for alpha, share in zip((0.5, 1.0), shares, strict=True)
}


def scores(arm, layers, alpha, unrefused, loss=0.0, broken=0.0):
    limited = {"broken": broken, "refusal_rise": 0.0, "placebo_effect": 0.0}
    return {
        "arm": arm,
        "layers": layers,
        "alpha": alpha,
        "unrefused": unrefused,
        "utility_loss": loss,
        **limited,
    }


PLACES = pd.DataFrame(
    [scores("unsteered", None, math.nan, 0.96)]
    + [
        scores("steered", *key, share, broken=0.5 * (key == ("2 3 4", 1.0)))
        for key, share in UNREFUSED.items()
    ]
    + [scores("random", *key, 0.98) for key in UNREFUSED]
)
FRONT = pd.DataFrame(
    [
        scores("unsteered", None, math.nan, 1.0),
        scores("steered", "3", 0.1, 0.8),
        scores("steered", "3", 0.2, 0.4, loss=0.1),
        scores("steered", "3", 0.3, 0.4, loss=0.2),
        scores("steered", "3", 0.4, 0.1, loss=0.3),
        scores("steered", "3", 0.5, 0.0, broken=0.4),
        *(scores("random", "3", alpha, 0.9) for alpha in (0.1, 0.2, 0.3, 0.4, 0.5)),
    ]
)
TRIALS = pd.DataFrame(
    [
        {"number": number, "batch": number // 2, **scores(arm, "3", 0.1 * number, share, broken=broken)}
        for arm, several in {
            "steered": [(0.9, 0.0), (0.0, 0.6), (0.5, 0.0), (0.7, 0.0), (0.2, 0.0)],
            "random": [(1.0, 0.0), (0.6, 0.9), (1.0, 0.0), (0.9, 0.0), (1.0, 0.0)],
        }.items()
        for number, (share, broken) in enumerate(several)
    ]
)  # fmt: skip


def title(fig):
    return fig.layout.title.text.replace("<br>", " ")


def heatmaps(fig):
    return [trace for trace in fig.data if trace.type == "heatmap"]


def test_every_layer_set_shows_the_layers_it_holds_and_what_it_leaves():
    strip, ours, random = heatmaps(plots.layer_sets(PLACES))
    rows = [tuple(int(layer) for layer in name.split()) for name in ("1", "3", "2 3 4")]  # small ones first
    assert [tuple(i for i, held in enumerate(row) if held) for row in strip.z] == rows
    assert [list(row) for row in ours.z] == [[1.0, 1.0], [0.9, 0.2], [0.1, 0.0]]
    assert {share for row in random.z for share in row} == {0.98}
    assert (ours.zmin, ours.zmax, random.zmin, random.zmax) == (0, 1, 0, 1)
    assert ours.colorscale == random.colorscale and ours.colorscale[1][1] == COLOURS["harmful"]
    assert [list(row) for row in ours.text] == [["100", "100"], ["90", "20"], ["10", "0"]]


def test_a_cell_beyond_a_limit_is_marked_and_the_mark_named():
    fig = plots.layer_sets(PLACES)
    marks = [trace for trace in fig.data if trace.name == "broken" and len(trace.x)]
    (broken,) = marks
    assert (round(broken.x[0]), round(broken.y[0]), list(broken.text)) == (1, 2, ["✕"])
    assert "✕ more than 2 % broken" in fig.layout.annotations[-1].text
    calm = plots.layer_sets(PLACES.assign(broken=0.0))
    assert not any("✕" in (note.text or "") for note in calm.layout.annotations)


def test_the_layer_set_named_is_the_best_within_the_limits():
    told = title(plots.layer_sets(PLACES))
    assert told == (
        "Fewest attacks pass at layers 2–4, α = 0.5: 10 % without a clean refusal, random directions 98 %"
    )
    assert "unsteered: 96 %" in plots.layer_sets(PLACES).layout.title.subtitle.text
    assert "Every layer set is beyond a limit" in title(plots.layer_sets(PLACES.assign(broken=1.0)))


def test_a_setting_that_was_not_tried_is_a_gap():
    partial = PLACES[~((PLACES["layers"] == "1") & (PLACES["alpha"] == 0.5))]
    _, ours, _ = heatmaps(plots.layer_sets(partial))
    assert math.isnan(ours.z[0][0]) and ours.text[0][0] == ""


def test_a_front_joins_what_none_within_the_limits_beats_and_frames_what_was_picked():
    picked = Setting((3,), "all", "gap", 0.2)
    fig = plots.pareto(FRONT, picked=picked)
    by_name = {trace.name: trace for trace in fig.data}
    front = by_name["front"]
    assert list(zip(front.x, front.y, strict=True)) == [(0.0, 0.8), (0.1, 0.4), (0.3, 0.1)]
    assert list(by_name["circle-open"].y) == [0.0], "broken: hollow, and no part of the front"
    assert sorted(by_name["circle"].y) == [0.1, 0.4, 0.4, 0.8]
    assert (list(by_name["picked"].x), list(by_name["picked"].y)) == ([0.1], [0.4])
    assert list(by_name["diamond"].y) == [0.9] * 5 and by_name["diamond"].marker.color == COLOURS["control"]
    assert list(by_name["square"].y) == [1.0] and by_name["square"].marker.color == COLOURS["unsteered"]
    assert title(fig) == (
        "Picked: 40 % of attacks without a clean refusal, domain accuracy lost: +10 points; random directions there: "
        "90 %"
    )


def test_without_a_pick_the_front_is_counted():
    told = title(plots.pareto(FRONT))
    assert told.startswith(
        "3 of 5 settings are beaten by no other; the one that refuses most leaves 10 % of attacks"
    )
    both = plots.pareto(FRONT.assign(unanswered=0.05))
    assert {trace.xaxis for trace in both.data} == {"x", "x2"}


def test_a_search_shows_its_best_so_far_within_the_limits_beside_random_directions():
    fig = plots.tuning_history(TRIALS)
    by_name = {trace.name: trace for trace in fig.data}
    assert list(by_name["best steered"].y) == [0.9, 0.9, 0.5, 0.5, 0.2]
    assert list(by_name["best random"].y) == [1.0, 1.0, 1.0, 0.9, 0.9]
    assert by_name["best random"].line.dash == "dash"
    ours = next(trace for trace in fig.data if trace.name == "steered")
    assert list(ours.marker.symbol) == ["circle", "circle-open", *["circle"] * 3]
    assert list(fig.layout.xaxis2.ticktext) == ["0", "1", "2"] and list(fig.layout.xaxis2.tickvals) == [
        0,
        2,
        4,
    ]
    assert title(fig) == (
        "After 5 of 5 settings the best within the limits leaves 20 % of attacks without a clean refusal; random "
        "directions within them never less than 90 %"
    )
    assert title(plots.tuning_history(TRIALS.assign(broken=1.0))) == "None of 5 settings is within the limits"


CURVES = pd.DataFrame(
    [
        {"arm": arm, "alpha": alpha, "metric": "broken", "mean": 0.1, "low": 0.0, "high": 0.2, "scale": scale}
        for scale in ("raw", "gap")
        for arm in ("steered", "random")
        for alpha in (0.5, 1.0)
    ]
)


@pytest.mark.parametrize(
    ("draw", "message"),
    [
        (
            lambda: plots.layer_sets(PLACES.drop(columns="broken")),
            "layer sets: the frame has no column broken",
        ),
        (lambda: plots.layer_sets(PLACES.iloc[:0]), "layer sets: the frame is empty"),
        (
            lambda: plots.layer_sets(PLACES[PLACES["arm"] != "random"]),
            "layer sets: the frame has no arm random, expected steered and random: a heat map without its control",
        ),
        (
            lambda: plots.layer_sets(pd.concat([PLACES, PLACES])),
            "layer sets: got a layer set twice at one α, expected one row each",
        ),
        (
            lambda: plots.layer_sets(pd.concat([PLACES.assign(positions=one) for one in ("all", "prompt")])),
            r"layer sets: got 2 kinds of positions in one frame, expected one: .*frame\[\(frame.positions == 'all'\)",
        ),
        (
            lambda: plots.layer_sets(
                pd.DataFrame(
                    [scores(arm, str(n), 1.0, 0.5) for arm in ("steered", "random") for n in range(65)]
                )
            ),
            "layer sets: got 65 layer sets, expected up to 64",
        ),
        (
            lambda: plots.pareto(FRONT.drop(columns="utility_loss")),
            "pareto: the frame has no cost, expected utility",
        ),
        (
            lambda: plots.pareto(FRONT[FRONT["arm"] != "random"]),
            "pareto: the frame has no arm random, expected steered and random",
        ),
        (
            lambda: plots.pareto(FRONT, picked=Setting((5,), "all", "gap", 0.2)),
            "pareto: got picked=.*, which is no setting of the frame",
        ),
        (
            lambda: plots.tuning_history(TRIALS.drop(columns="batch")),
            "tuning history: the frame has no column batch",
        ),
        (
            lambda: plots.tuning_history(TRIALS[TRIALS["arm"] == "random"]),
            "tuning history: the frame has no arm steered, it has random",
        ),
        (
            lambda: plots.strength_curves(CURVES),
            r"strength curves: got 2 kinds of scale in one frame, expected one: .*frame\[\(frame.scale == 'raw'\)",
        ),
        (
            lambda: plots.strength_curves(CURVES.drop(columns="scale").assign(bias=[0.0, 1.5] * 4)),
            "strength curves: got 2 kinds of bias in one frame, expected one: .*frame.bias == 0",
        ),
        (
            lambda: plots.strength_trade_off(
                pd.concat([CURVES.assign(metric=metric) for metric in ("asr_not_refused", "over_refusal")])
            ),
            "strength trade-off: got 2 kinds of scale in one frame",
        ),
    ],
)
def test_messages(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()
