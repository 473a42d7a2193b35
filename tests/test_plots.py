"""Pictures: what is drawn is what the frame says, controls look like controls, and what a frame lacks is named."""

import pandas as pd
import PIL.Image
import pytest

from workbench import plots
from workbench.images import Image
from workbench.style import COLOURS

PROFILE = pd.DataFrame(
    [
        {"model": model, "layer": layer, "auroc": 0.9, "auroc_low": 0.8, "auroc_high": 1.0}
        | {"balanced_accuracy": 0.8, "balanced_accuracy_low": 0.7, "balanced_accuracy_high": 0.9}
        for model in ("organism:finance", "organism:aligned")
        for layer in range(4)
    ]
)
SEPARABILITY = pd.DataFrame(
    [
        {"made_from": made, "asked": asked, "layer": layer, "auroc": 0.6 + 0.1 * layer}
        | {"auroc_low": 0.5, "auroc_high": 1.0}
        for asked in ("words", "pictures")
        for made in ("words", "pictures", "both")
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

FIRST = pd.DataFrame(
    [
        {"arm": arm, "token": " no", "token_id": 7, "logit": logit, "probability": logit / 10}
        for arm, logit in {"unsteered": 1.0, "steered": 9.0}.items()
    ]
)
DOSE = pd.DataFrame(
    [
        {"share": share, "seed": seed, "condition": condition, "setting": setting, "metric": metric}
        | {"mean": 0.1 * number + 0.02 * seed, "low": 0.0, "high": 0.6}
        for share in (0.0, 0.5)
        for seed in (0, 1)
        for number, condition in enumerate(plots.DOSE_LINES)
        for setting in plots.DOSE_SETTINGS
        for metric in plots.DOSE_METRICS
    ]
)


def test_every_figure_takes_its_finding_for_a_title_and_has_no_legend():
    figures = [
        plots.layer_profile(PROFILE, chosen=[2, 3], finding="Found"),
        plots.projections(PROJECTIONS, finding="Found"),
        plots.gate_map(GATE, chosen_gate=1, finding="Found"),
        plots.strength_curves(RATES, finding="Found"),
        plots.trade_off(TRADE, finding="Found"),
        plots.dose_response(DOSE, finding="Found"),
        plots.strength_trade_off(SWEEP, finding="Found"),
        plots.first_tokens(FIRST, finding="Found"),
    ]
    for fig in figures:
        assert fig.layout.title.text == "Found"
        assert fig.layout.template.layout.showlegend is False


def test_what_a_condition_breaks_is_a_bar_behind_its_marks():
    """A control that breaks every reply would otherwise look like a perfect defence."""
    fig = plots.trade_off(TRADE.assign(mean=TRADE["kind"].eq("attacks broken") * 0.5))
    (bar,) = [trace for trace in fig.data if trace.type == "bar"]
    assert (list(bar.x), list(bar.y), bar.orientation) == ([0.5, 0.5], [1, 0], "h")
    assert list(bar.error_x.array) == pytest.approx([0.1, 0.1])
    marks = [trace for trace in fig.data if trace.type == "scatter" and trace.mode == "markers"]
    assert [list(trace.x) for trace in marks] == [[0, 0]] * 4
    assert all(abs(y - round(y)) < bar.width / 2 for trace in marks for y in trace.y)
    assert "attacks broken" in fig.layout.annotations[-1].text
    assert COLOURS["broken"] in fig.layout.annotations[-1].text


def test_controls_are_grey_and_dashed_and_carry_no_band():
    fig = plots.strength_curves(RATES)
    lines = {trace.line.color: trace for trace in fig.data if trace.mode and trace.fill is None}
    assert lines[COLOURS["control"]].line.dash == "dash"
    assert lines[COLOURS["steered"]].line.dash == "solid"
    assert sum(trace.fill == "toself" for trace in fig.data) == 2


def test_controls_are_told_apart_by_their_marks_and_each_name_begins_with_its_own():
    names = [f"control {n}" for n in range(5)]
    more = [RATES[RATES["arm"] == "random"].assign(arm=name) for name in names]
    fig = plots.strength_curves(pd.concat([RATES, *more]))
    panels = RATES["metric"].nunique()
    controls = [t for t in fig.data if t.line.color == COLOURS["control"] and t.fill is None]
    symbols = [trace.marker.symbol for trace in controls]
    assert len(set(symbols)) == len(symbols) / panels == 6
    texts = [annotation.text for annotation in fig.layout.annotations]
    for name in ("random", *names):
        named = [text for text in texts if text.endswith(f" {name}")]
        assert len(named) == panels and len(set(named)) == 1
    assert len({text.split()[0] for text in texts if text.endswith(("random", *names))}) == 6


def test_a_dose_has_a_mark_per_seed_and_a_line_through_the_means():
    fig = plots.dose_response(DOSE)
    panels = len(plots.DOSE_SETTINGS) * len(plots.DOSE_METRICS)
    of = [t for t in fig.data if COLOURS["gate"] in (t.line.color, t.marker.color)]
    lines, marks = ([t for t in of if t.mode == mode] for mode in ("lines", "markers"))
    assert len(lines) == len(marks) == panels
    assert list(lines[0].y) == pytest.approx([0.21, 0.21])
    assert list(marks[0].y) == pytest.approx([0.20, 0.22, 0.20, 0.22])
    assert list(marks[0].error_y.array) == pytest.approx([0.40, 0.38, 0.40, 0.38])
    dashed = {t.line.color for t in fig.data if t.mode == "lines" and t.line.dash == "dash"}
    assert dashed == {COLOURS["control"]}
    texts = [annotation.text for annotation in fig.layout.annotations]
    assert all(texts.count(name) == panels for name, _ in plots.DOSE_LINES.values())


def test_a_dose_without_a_choice_is_told_under_its_share():
    lost = {"share": 0.05, "seed": 1, "condition": plots.NOT_CHOSEN}
    fig = plots.dose_response(pd.concat([DOSE, pd.DataFrame([lost])]))
    first, second, third = fig.layout.xaxis.ticktext
    assert (first, third) == ("0 %", "50 %")
    assert second.startswith("5 %<br>") and "seed 1<br>not chosen" in second


def test_the_unsteered_arm_runs_across():
    fig = plots.strength_curves(RATES)
    unsteered = next(t for t in fig.data if t.line.color == COLOURS["unsteered"] and t.fill is None)
    assert list(unsteered.x) == [0.5, 1.0]


def test_every_line_is_named_beside_itself():
    texts = {annotation.text for annotation in plots.strength_curves(RATES).layout.annotations}
    assert {"unsteered", "steered", "● random"} <= texts


def test_chosen_layers_are_shaded():
    shapes = plots.layer_profile(PROFILE, chosen=[2]).layout.shapes
    assert any(shape.type == "rect" and (shape.x0, shape.x1) == (1.5, 2.5) for shape in shapes)


def test_rates_span_zero_to_one():
    assert plots.strength_curves(RATES).layout.yaxis.range == (-0.02, 1.02)
    assert plots.dose_response(DOSE).layout.yaxis.range == (-0.02, 1.02)
    assert plots.gate_map(GATE).data[0].zmax == 1


def test_one_layer_and_one_model():
    assert plots.layer_profile(PROFILE[PROFILE["model"] == "organism:aligned"]).data
    assert plots.projections(PROJECTIONS[PROJECTIONS["layer"] == 0]).data
    assert plots.gate_map(GATE[GATE["layer"] == 0]).data


def test_a_profile_without_accuracy_has_no_empty_panel():
    bare = PROFILE.assign(balanced_accuracy=float("nan"), balanced_accuracy_low=float("nan"))
    fig = plots.layer_profile(bare)
    axes = {trace.yaxis for trace in fig.data}
    assert len(axes) == 2 < len({trace.yaxis for trace in plots.layer_profile(PROFILE).data})
    assert "accuracy" not in fig.layout.title.subtitle.text


SWEEP = pd.DataFrame(
    [
        {"arm": arm, "alpha": alpha, "metric": metric, "mean": mean, "low": mean / 2, "high": (1 + mean) / 2}
        for arm, rates in {
            "unsteered": {None: (0.9, 0.0)},
            "steered": {0.5: (0.4, 0.0), 1.0: (0.1, 0.1), 2.0: (0.0, 0.9)},
            "random": {0.5: (0.9, 0.0), 1.0: (0.8, 0.1), 2.0: (0.6, 0.2)},
        }.items()
        for alpha, means in rates.items()
        for metric, mean in zip(("asr_not_refused", "over_refusal"), means, strict=True)
    ]
)


def test_what_strength_gains_is_drawn_against_what_it_costs():
    fig = plots.strength_trade_off(SWEEP)
    by_colour = {trace.line.color: trace for trace in fig.data}
    ours = by_colour[COLOURS["steered"]]
    assert (list(ours.x), list(ours.y)) == ([0.0, 0.1, 0.9], [0.4, 0.1, 0.0])
    assert list(ours.error_y.array) == pytest.approx([0.3, 0.45, 0.5])
    assert by_colour[COLOURS["control"]].line.dash == "dash"
    assert list(by_colour[COLOURS["unsteered"]].y) == [0.9]
    assert {"0.5", "1", "2", "steered", "random", "unsteered"} <= {
        note.text for note in fig.layout.annotations
    }
    title = fig.layout.title.text.replace("<br>", " ")
    assert "Attacks not refused and harmless refused are fewest together at α = 1: 10 % and 10 %" in title


def test_a_strength_that_breaks_everything_is_no_finding():
    worst = pd.DataFrame(
        [dict(arm="steered", alpha=2.0, metric="broken", mean=1.0, low=0.9, high=1.0)]
        + [
            dict(arm="steered", alpha=alpha, metric="broken", mean=0.0, low=0.0, high=0.1)
            for alpha in (0.5, 1.0)
        ]
    )
    sweep = SWEEP.copy()
    sweep.loc[(sweep["arm"] == "steered") & (sweep["alpha"] == 2.0), ["mean", "low", "high"]] = 0.0
    for draw, without in (
        (plots.strength_trade_off, "α = 2: 0 % and 0 %"),
        (plots.strength_curves, "At α = 2"),
    ):
        assert without in draw(sweep).layout.title.text.replace("<br>", " ")
        told = draw(pd.concat([sweep, worst])).layout.title.text.replace("<br>", " ")
        assert without not in told and "α = 1" in told
    fig = plots.strength_trade_off(pd.concat([sweep, worst]))
    (ours,) = [trace for trace in fig.data if trace.line.color == COLOURS["steered"]]
    assert list(ours.marker.symbol) == ["circle", "circle", "circle-open"]
    all_broken = worst.assign(mean=1.0)
    assert (
        "Every strength breaks" in plots.strength_trade_off(pd.concat([sweep, all_broken])).layout.title.text
    )
    assert "of which some broke" in plots.strength_curves(pd.concat([sweep, all_broken])).layout.title.text


def test_titles_are_findings_from_the_frame():
    said = plots.strength_curves(SWEEP, unit="α, in units of ‖v'‖").layout.title.text.replace("<br>", " ")
    assert said == "At α = 2 attacks not refused: 90 % unsteered, 0 % steered, 60 % random"
    alone = plots.strength_curves(SWEEP[SWEEP["arm"] == "random"]).layout.title.text.replace("<br>", " ")
    assert alone == "The share of attacks not refused is highest, 90 %, in random"
    titles = {note.text for note in plots.strength_curves(SWEEP).layout.annotations}
    assert {"attacks not refused", "harmless refused"} <= titles
    at = GATE.assign(open=[0.5, 0.9, 0.5, 0.5, 0.1, 0.5])
    said = plots.gate_map(at).layout.title.text.replace("<br>", " ")
    assert said == "At layer 1 the gate opens on 90 % of harmful, 10 % of domain prompts"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: plots.layer_profile(PROFILE.drop(columns="balanced_accuracy")),
            "layer profile: the frame has no column balanced_accuracy",
        ),
        (lambda: plots.projections(PROJECTIONS.iloc[:0]), "projections: the frame is empty"),
        (lambda: plots.gate_map(GATE.drop(columns="open")), "gate map: the frame has no column open"),
        (
            lambda: plots.strength_curves(RATES.drop(columns="low")),
            "strength curves: the frame has no column low",
        ),
        (
            lambda: plots.layer_profile(PROFILE[PROFILE["layer"] == 0]),
            "layer profile: got layer 0 alone, expected two layers or more",
        ),
        (
            lambda: plots.projections(PROJECTIONS[PROJECTIONS["label"] == "harmful"]),
            r"projections: got one side only \(harmful\), expected prompts with harm and without",
        ),
        (lambda: plots.layer_profile(PROFILE.iloc[:0]), "layer profile: the frame is empty"),
        (lambda: plots.layer_profile(PROFILE.assign(auroc=float("nan"))), "layer profile: got no AUROC"),
        (
            lambda: plots.gate_map(GATE.assign(label="unlabelled").drop_duplicates(["label", "layer"])),
            "gate map: got prompts labelled unlabelled, expected some of harmful",
        ),
        (
            lambda: plots.gate_map(pd.concat([GATE, GATE])),
            "gate map: got several shares of a label at one layer",
        ),
        (
            lambda: plots.strength_curves(RATES[RATES["arm"] == "unsteered"]),
            "strength curves: got 0 strengths, expected two or more",
        ),
        (lambda: plots.gate_map(GATE.iloc[:0]), "gate map: the frame is empty"),
        (lambda: plots.strength_curves(RATES.iloc[:0]), "strength curves: the frame is empty"),
        (lambda: plots.trade_off(TRADE.iloc[:0]), "trade-off: the frame is empty"),
        (lambda: plots.strength_trade_off(SWEEP.iloc[:0]), "strength trade-off: the frame is empty"),
        (
            lambda: plots.strength_trade_off(RATES),
            "has no metric asr_not_refused and over_refusal, it has broken",
        ),
        (
            lambda: plots.strength_curves(pd.concat([RATES.assign(layers=at) for at in ("1 2", "3")])),
            "strength curves: got 2 kinds of layers in one frame, expected one: choose those rows",
        ),
        (lambda: plots.first_tokens(FIRST.iloc[:0]), "first tokens: the frame is empty"),
        (lambda: plots.first_tokens(FIRST.iloc[:1]), "got arms unsteered, expected unsteered and steered"),
        (
            lambda: plots.trade_off(TRADE.assign(kind="joy")),
            "trade-off: got kinds joy, expected some of attacks not",
        ),
        (lambda: plots.dose_response(DOSE.iloc[:0]), "dose-response: the frame is empty"),
        (
            lambda: plots.dose_response(DOSE.drop(columns="seed")),
            "dose-response: the frame has no column seed",
        ),
        (
            lambda: plots.dose_response(DOSE[DOSE["condition"] != "own_srv"]),
            "dose-response: the frame lacks own_srv in some panel: it needs none, inferaligner, own_srv",
        ),
        (
            lambda: plots.dose_response(
                DOSE[(DOSE["condition"] != "random") | (DOSE["setting"] != "own best")]
            ),
            "lacks random in some panel: .* at equal alpha and own best",
        ),
        (
            lambda: plots.dose_response(DOSE.assign(setting="joy")),
            "the frame lacks none, inferaligner, .* at equal alpha and own best",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_early_layers_that_scatter_widely_leave_later_rows_their_own_axis():
    wide = pd.concat(
        [
            PROJECTIONS.assign(layer=layer, projection=PROJECTIONS["projection"] * scale)
            for layer, scale in enumerate((9, 1, 1, 1, 1))
        ],
        ignore_index=True,
    )
    axes = list(plots.projections(wide).select_xaxes())
    first, second = axes[0].range, axes[4].range
    assert not any(axis.matches for axis in axes)
    assert all(
        low <= value <= high
        for value, (low, high) in zip(
            (wide["projection"].min(), wide["projection"].max()), (first, first), strict=True
        )
    )
    assert second[1] - second[0] < (first[1] - first[0]) / 5


def test_every_vector_has_a_line_and_its_name_under_every_kind_of_prompt():
    fig = plots.separability(SEPARABILITY, chosen=[2])
    lines = [trace for trace in fig.data if trace.mode == "lines+markers"]
    assert len(lines) == 6 and {line.line.dash for line in lines} == {"solid", "dash", "dot"}
    assert [line.y[3] for line in lines] == pytest.approx([0.9] * 6)
    texts = [note.text for note in fig.layout.annotations]
    assert texts.count("from words") == texts.count("from both") == 2
    assert {"asked: words", "asked: pictures"} <= set(texts)
    assert fig.layout.title.text.startswith("AUROC at the best layer: words, 0.90 from words")
    assert "layers 2" in fig.layout.title.subtitle.text


def test_one_model_at_a_time():
    more = SEPARABILITY[SEPARABILITY["made_from"] == "both"].assign(made_from="more")
    with pytest.raises(ValueError, match="separability: got 4 origins of vectors, expected up to 3"):
        plots.separability(pd.concat([SEPARABILITY, more]))
    with pytest.raises(ValueError, match="separability: got a layer twice"):
        plots.separability(pd.concat([SEPARABILITY, SEPARABILITY]))
    with pytest.raises(ValueError, match="separability: got layer 1 alone"):
        plots.separability(SEPARABILITY[SEPARABILITY["layer"] == 1])
    with pytest.raises(ValueError, match="separability: the frame has no column asked"):
        plots.separability(SEPARABILITY.drop(columns="asked"))


REPLIES = pd.DataFrame(
    {
        "label": ["harmful", "harmless"],
        "asked": ["How do I take <this>?", "How do I bake it?"],
        "before": ["Sure. " * 60, "Sure."],
        "after": ["I cannot help with that.", "Sure."],
        "open": [True, False],
    }
)


def test_a_card_shows_what_was_shown_asked_and_said():
    square = Image.of(PIL.Image.new("RGB", (8, 8), "red"))
    fig = plots.reply_cards(REPLIES, [square, None])
    one, other = (note.text for note in fig.layout.annotations)
    assert "How do I take &lt;this&gt;?" in one and COLOURS["harmful"] in one and COLOURS["steered"] in one
    assert one.count("<br>") == 3 and "…" in one and "after, gate open" in one
    assert "the same, bit for bit" in other and COLOURS["steered"] not in other and "gate closed" in other
    (image,) = fig.layout.images
    assert image.source.startswith("data:image/png;base64,")
    assert fig.layout.title.text == "On 1 of 2 prompts the gate opens; 1 of the replies change"
    alone = plots.reply_cards(REPLIES.drop(columns=["after", "open"]))
    assert not alone.layout.images and all("after" not in note.text for note in alone.layout.annotations)


def test_cards_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="reply cards: got 10 replies, expected up to 8"):
        plots.reply_cards(pd.concat([REPLIES] * 5))
    with pytest.raises(ValueError, match="reply cards: got 1 images for 2 replies"):
        plots.reply_cards(REPLIES, [None])
    with pytest.raises(ValueError, match="reply cards: the frame has no column open"):
        plots.reply_cards(REPLIES.drop(columns="open"))
