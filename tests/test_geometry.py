"""Strength, growth, cosines, components and openings: what was planted is found, shuffled labels find nothing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from workbench import plots
from workbench.activations import Activations
from workbench.export import save_frame
from workbench.gates import AlwaysOpen, ThresholdGate
from workbench.profiles import (
    extraction_growth,
    gate_by_wrapper,
    gate_roc,
    gate_scores,
    layer_cosines,
    layer_profile,
    principal_components,
    projections,
    vector_cosines,
    vector_strength,
)
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Provenance, Space
from workbench.stats import balanced_accuracy, gap_between
from workbench.style import COLOURS
from workbench.vectors import mean_difference, random_directions, shuffled_labels

SPACE = Space(3, 8, "resid_post", "raw", "t", "k")
WRAPPERS = {"harmful": "none", "harmless": "none", "jailbroken": "story"}


def activations(
    seed: int, *, n: int = 40, planted: int = 1, labels: tuple[str, ...] = ("harmful", "harmless")
) -> Activations:
    """Noise, with the first axis of layer `planted` at ±3 for harmful and harmless, at -3 for jailbroken prompts."""
    named = tuple(label for label in labels for _ in range(n))
    values = torch.randn(len(named), 3, 8, generator=torch.Generator().manual_seed(seed))
    for i, label in enumerate(named):
        values[i, planted, 0] += 3 if label == "harmful" else -3
    prompts = PromptSet(
        "planted",
        tuple(
            replace(
                Prompt.user(f"prompt {i}", label=label, source=f"{i}"),
                cluster=(("verb", f"{i % 13}"), ("wrapper", WRAPPERS[label])),
            )
            for i, label in enumerate(named)
        ),
    )
    return Activations(values, named, prompts, SPACE, Provenance("activations", f"model-{planted}"))


TRAIN, VAL = activations(0), activations(1)
VECTORS = mean_difference(TRAIN)
GATE = ThresholdGate.fit(VECTORS, TRAIN)
TWIN = ThresholdGate.fit(VECTORS, TRAIN, layer=1)


def test_a_planted_difference_is_long_and_its_band_holds_the_truth():
    frame = vector_strength(TRAIN).set_index("layer")
    assert frame.loc[1, "gap_norm_low"] < 6.1 and frame.loc[1, "gap_norm_high"] > 5.9
    assert (frame["gap_norm"].between(frame["gap_norm_low"], frame["gap_norm_high"])).all()
    # The spread of a difference of two means of 40, each of variance 1, twice the standard error to either side.
    width = frame["gap_norm_high"] - frame["gap_norm_low"]
    assert width.between(0.5 * 4 * (2 / 40) ** 0.5, 1.5 * 4 * (2 / 40) ** 0.5).all()
    assert frame.loc[1, "gap_norm_low"] > 3 * frame.loc[1, "shuffled"]
    # Noise has a length, and no more of it than shuffled labels have.
    assert (frame.loc[[0, 2], "gap_norm"] < 2 * frame.loc[[0, 2], "shuffled"]).all()
    assert frame["share"].tolist() == pytest.approx((frame["gap_norm"] / frame["residual_norm"]).tolist())


def test_more_prompts_find_more_and_all_of_them_are_drawn_once():
    frame = extraction_growth(TRAIN, VAL, sizes=[1, 4, 40], draws=6).set_index(["layer", "size"])
    assert frame.loc[(1, 40), "auroc"] > 0.99 >= frame.loc[(1, 40), "low"]
    assert frame.loc[(1, 1), "auroc"] < frame.loc[(1, 40), "auroc"]
    assert frame.loc[[0, 2]]["auroc"].between(0.3, 0.7).all()
    assert frame.loc[(1, 40), "draws"] == 1 and frame.loc[(1, 4), "draws"] == 6
    whole = layer_profile(VECTORS, VAL).frame.set_index("layer")
    assert frame.loc[(1, 40), "auroc"] == pytest.approx(whole.loc[1, "auroc"], abs=1e-6)
    assert sorted(set(extraction_growth(TRAIN, VAL, draws=1)["size"])) == [1, 2, 4, 8, 16, 32, 40]


def test_the_band_of_growth_is_as_wide_as_its_draws():
    """A weak difference read from one prompt a side: by the luck of the draw it points either way."""
    weak, held_out = (
        replace(read, values=read.values.clone(), prompts=None) for read in (TRAIN, activations(3, n=300))
    )
    for read in (weak, held_out):
        read.values[:, 1, 0] -= torch.where(read.harmful, 2.6, -2.6)
    frame = extraction_growth(weak, held_out, sizes=[1, 40], draws=12).set_index(["layer", "size"])
    width = frame["high"] - frame["low"]
    assert width[1, 1] > 1.5 * width[1, 40]


def test_shuffled_labels_grow_into_nothing():
    """One shuffle's direction may tell intent by luck, either way round; over many the sides are even."""
    found = []
    for seed in range(40):
        order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(seed))
        found.append(extraction_growth(replace(TRAIN, values=TRAIN.values[order]), VAL, sizes=[40]))
    areas = pd.concat(found).groupby("layer")["auroc"].agg(["mean", "min", "max"])
    assert areas["mean"].between(0.35, 0.65).all()
    assert (
        areas.loc[1, "min"] < 0.1 and areas.loc[1, "max"] > 0.9
    )  # held-out labels do not turn it the right way round


def test_cosines_are_one_with_themselves_and_follow_the_planted_axis():
    frame = layer_cosines(VECTORS).set_index(["layer", "other"])["cosine"]
    assert [frame[i, i] for i in range(3)] == pytest.approx([1, 1, 1], abs=1e-5)
    assert frame[0, 1] == pytest.approx(frame[1, 0])
    across = vector_cosines(VECTORS, mean_difference(VAL)).set_index("layer")["cosine"]
    assert across[1] > 0.95 > across[[0, 2]].abs().max()


def test_random_directions_fill_the_band_and_shuffled_labels_lean_neither_way():
    random = pd.concat(
        vector_cosines(VECTORS, random_directions(VECTORS, seed=seed)).assign(seed=seed) for seed in range(60)
    )
    assert (random["cosine"].abs() < random["band"]).mean() == pytest.approx(0.95, abs=0.035)
    assert abs(random["cosine"].mean()) < 0.08
    shuffled = pd.concat(vector_cosines(VECTORS, shuffled_labels(VAL, seed=seed)) for seed in range(60))
    leaning = shuffled.groupby("layer")["cosine"].mean()
    assert leaning.abs().max() < 0.2


def test_the_first_component_is_the_planted_axis_turned_to_the_right():
    frame = principal_components(TRAIN)
    at = frame[frame["layer"] == 1]
    place = at.groupby("label")["first"].mean()
    assert place["harmful"] > 2 and place["harmless"] < -2
    second = frame.pivot(index="prompt", columns="layer", values="second")
    assert all(second[layer] @ second[layer + 1] > 0 for layer in range(2)), (
        "from layer to layer it keeps its turn"
    )
    assert at["first_share"].iloc[0] > 0.5 > frame[frame["layer"] == 0]["first_share"].iloc[0]
    spread = np.linalg.svd(TRAIN.values[:, 1] - TRAIN.values[:, 1].mean(0), compute_uv=False) ** 2
    assert at["first_share"].iloc[0] == pytest.approx(spread[0] / spread.sum(), rel=1e-4)


def test_a_threshold_lies_half_way_and_moves_with_the_bias():
    frame = projections(VECTORS, VAL, train=TRAIN, gate=TWIN)
    assert frame["threshold"].abs().max() < 1e-4
    assert frame.groupby("layer")["decides"].first().tolist() == [False, True, False]
    stricter = projections(VECTORS, VAL, train=TRAIN, gate=TWIN.shift_bias(-1.0)).groupby("layer").first()
    assert stricter["threshold"].tolist() == pytest.approx((1 / VECTORS.norms).tolist(), abs=1e-4)
    moved = projections(VECTORS, VAL, train=TRAIN, gate=GATE.shift_bias(-1.0))
    beyond = (moved["projection"] > moved["threshold"]).to_numpy().reshape(-1, 3)
    assert (beyond == GATE.shift_bias(-1.0).read(VAL).open.numpy()).all()


def test_an_roc_passes_through_its_chosen_point():
    frame = gate_roc(TWIN, VAL)
    chosen = frame[frame["part"] == "chosen"].set_index("layer")
    opened = GATE.read(VAL).open
    for layer in range(3):
        assert chosen.loc[layer, "true_positive"] == pytest.approx(float(opened[:40, layer].float().mean()))
        assert chosen.loc[layer, "false_positive"] == pytest.approx(float(opened[40:, layer].float().mean()))
        curve = frame[(frame["layer"] == layer) & (frame["part"] == "curve")]
        under = curve[curve["false_positive"] <= chosen.loc[layer, "false_positive"] + 1e-9]
        assert under["true_positive"].max() >= chosen.loc[layer, "true_positive"] - 1e-9
    assert chosen["decides"].tolist() == [False, True, False]


def test_scores_and_decisions_are_the_gates_own():
    frame = gate_scores(TWIN, VAL)
    reading = TWIN.read(VAL)
    table = frame.pivot(index="prompt", columns="layer", values=["score", "scaled", "open"])
    assert np.allclose(table["score"].to_numpy(), reading.scores.double().numpy())
    assert (table["open"].to_numpy(dtype=bool) == reading.open.numpy()).all()
    assert table["scaled"].to_numpy(float).std(axis=0) == pytest.approx([1, 1, 1])
    assert (np.sign(frame["scaled"]) == np.sign(frame["score"])).all()
    assert frame.groupby("layer")["decides"].first().tolist() == [False, True, False]
    assert frame.groupby("prompt")["source"].first().tolist() == [p.source for p in VAL.prompts]
    assert set(gate_scores(TWIN, replace(VAL, prompts=None))["source"]) == {""}


def test_a_wrapper_that_hides_the_harm_slips_through():
    frame = gate_by_wrapper(TWIN, activations(1, labels=("harmful", "harmless", "jailbroken")))
    rate = frame.set_index(["wrapper", "side"])
    assert rate.loc[("none", "attack"), "open"] > 0.95
    assert rate.loc[("story", "attack"), "open"] < 0.05 < rate.loc[("story", "attack"), "high"]
    assert rate.loc[("none", "harmless"), "open"] < 0.05
    asked = activations(1, labels=("harmful", "harmless", "jailbroken"))
    at_any = gate_by_wrapper(GATE, asked).set_index(["wrapper", "side"]).loc[("none", "harmless"), "open"]
    assert at_any == pytest.approx(GATE.read(asked).open.any(1)[40:80].double().mean().item())
    # Forty prompts of thirteen verbs are thirteen for the interval: were all open, Wilson's lower end would be .77.
    assert rate.loc[("none", "attack"), "low"] < 0.78
    title = plots.gate_by_wrapper(frame).layout.title.text.replace("<br>", " ")
    assert "in the wrapper story: the gate opens on 0 %" in title


def test_sides_are_resampled_apart():
    values = [1.0] * 10 + [0.0] * 10
    found = gap_between(values, [True] * 10 + [False] * 10)
    assert (found.mean, found.low, found.high) == (1, 1, 1)
    right = balanced_accuracy(values, [True] * 10 + [False] * 10)
    assert right.mean == 1 and right.low < 0.8


FRAMES = {
    "vector_strength": vector_strength(TRAIN, activations(2, planted=2)),
    "extraction_growth": extraction_growth(TRAIN, VAL, sizes=[1, 4], draws=2),
    "layer_cosines": layer_cosines(VECTORS),
    "vector_cosines": vector_cosines(VECTORS, mean_difference(VAL)),
    "principal_components": principal_components(TRAIN),
    "gate_roc": gate_roc(GATE, VAL),
    "gate_scores": gate_scores(TWIN, VAL),
    "gate_by_wrapper": gate_by_wrapper(TWIN, activations(1, labels=("harmful", "harmless", "jailbroken"))),
}


@pytest.mark.parametrize("name", FRAMES)
def test_titles_are_findings_and_empty_frames_are_named(name: str):
    frame, draw = FRAMES[name], getattr(plots, name)
    assert draw(frame, finding="Found").layout.title.text == "Found"
    assert any(letter.isdigit() for letter in draw(frame).layout.title.text)
    with pytest.raises(ValueError, match="the frame is empty"):
        draw(frame.iloc[:0])
    with pytest.raises(ValueError, match=f"the frame has no column {frame.columns[1]}|has no column"):
        draw(frame.drop(columns=[column for column in frame if column not in ("model", "n")]))


@pytest.mark.parametrize("name", ["vector_strength", "extraction_growth", "layer_cosines", "vector_cosines"])
def test_stacked_frames_are_drawn_as_one(name: str):
    frame, draw = FRAMES[name], getattr(plots, name)
    other = frame.assign(model="other")
    stacked, clean = draw(pd.concat([frame, other])), draw(pd.concat([frame, other], ignore_index=True))
    assert stacked.to_json() == clean.to_json()


ALONG_LAYERS = ("vector_strength", "layer_cosines", "vector_cosines")


@pytest.mark.parametrize("name", [name for name in FRAMES if name != "gate_by_wrapper"])
def test_one_layer_is_a_panel_and_no_line(name: str):
    frame, draw = FRAMES[name], getattr(plots, name)
    alone = frame[frame["layer"] == 1]
    if name in ALONG_LAYERS:
        with pytest.raises(ValueError, match="got layer 1 alone, expected two layers or more"):
            draw(alone)
    else:
        assert draw(alone).data


@pytest.mark.parametrize("name", FRAMES)
def test_the_csv_beside_a_picture_draws_it_again(name: str, tmp_path: Path):
    frame, draw = FRAMES[name], getattr(plots, name)
    save_frame(frame, tmp_path / name)
    again = draw(pd.read_csv(tmp_path / f"{name}.csv", keep_default_na=False, na_values=[""]))
    fig = draw(frame)
    assert again.layout.title.text == fig.layout.title.text
    assert [trace.type for trace in again.data] == [trace.type for trace in fig.data]


def test_a_gate_map_has_a_row_per_prompt_by_kind_and_score():
    fig = plots.gate_scores(FRAMES["gate_scores"])
    scores, decided = fig.data
    rows = ~np.isnan(np.array(decided.z, dtype=float)[:, 0])
    assert rows.sum() == 80 and not rows[40:41].any()  # a gap between harmful and harmless
    first = np.array(scores.z, dtype=float)[:40, 1]
    assert (np.diff(first) <= 0).all() and first[0] > 0
    opened = TWIN.read(VAL).open[:, 1]
    assert np.nansum(np.array(decided.z, dtype=float)) == int(opened.sum())
    assert ["harmful" in text for text in fig.layout.yaxis.ticktext] == [True, False]
    missed, stopped = int((~opened[:40]).sum()), int(opened[40:].sum())
    title = fig.layout.title.text.replace("<br>", " ")
    assert f"closed on {missed} of 40 attacks and opens on {stopped} of 40 others" in title or (
        missed + stopped == 0 and "right about all 80" in title
    )
    blind = TWIN.shift_bias(-100.0)
    title = plots.gate_scores(gate_scores(blind, VAL)).layout.title.text.replace("<br>", " ")
    assert "wrong about 40 of 80 prompts: it stays closed on 40 of 40 attacks" in title


def test_a_gate_per_layer_has_a_decision_per_layer():
    fig = plots.gate_scores(gate_scores(GATE, VAL))
    assert [np.array(trace.z).shape[1] for trace in fig.data] == [3, 3]
    assert list(fig.layout.xaxis2.ticktext) == ["0", "1", "2"]


def test_what_is_drawn_is_what_the_frame_says():
    frame = FRAMES["vector_strength"]
    lines = [trace for trace in plots.vector_strength(frame).data if trace.fill is None]
    of = [trace for trace in lines if trace.line.color == COLOURS["gate"]]
    assert list(of[0].y) == frame[frame["model"] == "model-1"]["gap_norm"].tolist()
    assert {t.line.dash for t in lines if t.line.color == COLOURS["control"]} == {"dash"}
    heat = plots.layer_cosines(FRAMES["layer_cosines"]).data[0]
    assert (heat.zmin, heat.zmid, heat.zmax) == (-1, 0, 1) and heat.z.shape == (3, 3)
    points = [t for t in plots.gate_roc(FRAMES["gate_roc"]).data if t.mode == "markers"]
    chosen = FRAMES["gate_roc"].query("part == 'chosen'")
    assert [t.y[0] for t in points] == chosen["true_positive"].tolist()


def test_random_directions_have_a_band_behind_every_line():
    (band,) = plots.vector_cosines(FRAMES["vector_cosines"]).layout.shapes
    assert (band.y0, band.y1) == (-FRAMES["vector_cosines"]["band"][0], FRAMES["vector_cosines"]["band"][0])


def test_a_gate_that_nothing_passes_says_whom_else_it_stops():
    frame = FRAMES["gate_by_wrapper"]
    tight = frame.assign(open=(frame["side"] == "attack") * 0.75 + 0.25)
    title = plots.gate_by_wrapper(tight).layout.title.text.replace("<br>", " ")
    assert title.startswith("No attack slips through") and "25 % open it at most (no wrapper)" in title


def test_a_slider_has_a_step_per_layer_that_shows_that_layer_alone():
    frame = FRAMES["principal_components"]
    fig = plots.principal_components(frame, layer=0)
    steps = fig.layout.sliders[0].steps
    assert [step.label for step in steps] == ["0", "1", "2"] and fig.layout.sliders[0].active == 0
    assert [trace.visible for trace in fig.data] == [True, True, *[False] * 4]
    assert list(steps[2].args[0]["visible"]) == [False] * 4 + [True, True]
    assert list(fig.data[0].x) == frame.query("layer == 0 and label == 'harmful'")["first"].tolist()
    assert (fig.data[0].marker.color, fig.data[1].marker.color) == (COLOURS["harmful"], COLOURS["harmless"])
    assert plots.principal_components(frame).layout.sliders[0].active == 1  # where intent is told best


def test_the_threshold_is_a_line_per_layer_solid_where_it_decides():
    fig = plots.projections(projections(VECTORS, VAL, train=TRAIN, gate=TWIN.shift_bias(-1.0)))
    lines = [shape for shape in fig.layout.shapes if shape.line.color == COLOURS["gate"]]
    assert [line.line.dash for line in lines] == ["dash", "solid", "dash"]
    assert lines[1].x0 == pytest.approx(1 / float(VECTORS.norms[1]), abs=1e-4)


def test_a_deep_model_shows_eight_layers_and_says_so():
    frame = FRAMES["gate_roc"]
    deep = [frame[frame["layer"] == 0].assign(layer=layer) for layer in range(32)]
    fig = plots.gate_roc(pd.concat(deep))
    assert "8 of 32 layers" in fig.layout.title.subtitle.text.replace("<br>", " ")
    assert sum(text.text.startswith("layer") for text in fig.layout.annotations) == 8


HARMFUL = VAL.labelled("harmful")


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (vector_strength, "got no activations"),
        (lambda: vector_strength(HARMFUL), "none harmless: a vector compares"),
        (lambda: extraction_growth(HARMFUL, VAL), "none harmless: a vector compares"),
        (lambda: extraction_growth(TRAIN, HARMFUL), "got prompts that mean harm only, expected both"),
        (
            lambda: extraction_growth(TRAIN, VAL, sizes=[41]),
            r"got sizes \[41\], expected numbers from 1 to 40",
        ),
        (lambda: extraction_growth(TRAIN, VAL, draws=0), "got draws=0, expected 1 or more"),
        (layer_cosines, "got no vectors"),
        (lambda: principal_components(HARMFUL), "got prompts that mean harm only"),
        (lambda: principal_components(VAL.where(torch.arange(80) % 40 == 0)), "got 2 prompts, expected 3"),
        (lambda: projections(VECTORS, VAL, train=HARMFUL), "none harmless: the midpoint of train compares"),
        (
            lambda: projections(VECTORS, VAL, train=TRAIN, gate=ThresholdGate.fit(-VECTORS, TRAIN)),
            "reads along other directions than these vectors",
        ),
        (lambda: gate_roc(GATE, HARMFUL), "expected both: an ROC compares"),
        (lambda: gate_roc(AlwaysOpen(), VAL), "no finite scores, hence no threshold"),
        (lambda: gate_by_wrapper(GATE, replace(VAL, prompts=None)), "know no prompts, hence no wrappers"),
        (lambda: gate_by_wrapper(GATE, VAL), "no prompt has a wrapper"),
        (lambda: gate_by_wrapper(GATE, VAL, layers=[3]), r"got layers \[3\], expected some of 0 to 2"),
        (
            lambda: plots.principal_components(FRAMES["principal_components"].query("label == 'harmful'")),
            "got one side only",
        ),
        (lambda: gate_scores(AlwaysOpen(), VAL), "a map of scores is of a ThresholdGate"),
        (
            lambda: plots.gate_scores(FRAMES["gate_scores"].query("label == 'harmless'")),
            r"gate scores: got one side only \(harmless\), expected prompts with harm and without",
        ),
        (
            lambda: plots.gate_scores(FRAMES["gate_scores"].assign(decides=False)),
            "gate scores: no layer decides in this frame",
        ),
        (
            lambda: plots.principal_components(FRAMES["principal_components"], layer=7),
            "got layer 7, the frame has",
        ),
        (
            lambda: plots.gate_by_wrapper(FRAMES["gate_by_wrapper"].query("side == 'harmless'")),
            "got no attacks",
        ),
        (
            lambda: plots.projections(projections(VECTORS, HARMFUL, train=TRAIN)),
            r"projections: got one side only \(harmful\)",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()
