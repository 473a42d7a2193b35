"""Handles without a browser: what a click, a slider or a typed prompt does is what the plain arguments do."""

from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from plotly.io import renderers

from workbench.activations import last_token_activations
from workbench.gates import ThresholdGate, best_layer
from workbench.generation import generate
from workbench.insight.tokens import token_map
from workbench.loading import Model, load_model
from workbench.profiles import layer_profile
from workbench.prompts import Prompt, PromptSet
from workbench.steering import SteeringPlan
from workbench.style import COLOURS, SHADE
from workbench.vectors import SteeringVectors, mean_difference
from workbench.widgets import LayerPicker, PromptLens, SteeringDial

ASK = "steal a ring for my friend"


@pytest.fixture(scope="module")
def hooked(llamas: dict[str, Model]) -> Model:
    return llamas["hooked"]


@pytest.fixture(scope="module")
def read(hooked: Model, prompts: PromptSet):
    return last_token_activations(hooked, prompts)


@pytest.fixture(scope="module")
def vectors(read) -> SteeringVectors:
    return mean_difference(read)


@pytest.fixture(scope="module")
def plan(vectors: SteeringVectors, read) -> SteeringPlan:
    gate = ThresholdGate.fit(vectors, read, layer=1).shift_bias(100.0)  # open for all
    return SteeringPlan(vectors, gate=gate, layers=[1, 2], alpha=0.5, scale="residual")


@pytest.fixture
def picker(vectors: SteeringVectors, read) -> LayerPicker:
    profile = layer_profile(vectors, read)
    return LayerPicker(profile, vectors=vectors, train=read, validation=read, layers=[2])


@pytest.fixture
def dial(babblers: dict[str, Model], prompts: PromptSet) -> SteeringDial:
    """A model that writes; its gate is open for all, the strict one for none."""
    model = babblers["hooked"]
    read = last_token_activations(model, prompts)
    vectors = mean_difference(read)
    gate = ThresholdGate.fit(vectors, read, layer=1)
    plan = SteeringPlan(vectors, gate=gate.shift_bias(1e3), layers=[1, 2], alpha=0.3, scale="residual")
    return SteeringDial(model, plan, strict=gate.shift_bias(-1e3), prompt=ASK, max_new_tokens=6)


def select(picture, *marks: tuple[int, int]) -> None:
    """The browser's message of a click or a lasso over these marks, each a panel's number and a layer."""
    lines = [i for i, trace in enumerate(picture.data) if trace.mode == "lines+markers"]
    chosen = [(lines[panel], layer) for panel, layer in marks]
    points = {
        "trace_indexes": [trace for trace, _ in chosen],
        "point_indexes": [layer for _, layer in chosen],
        "xs": [layer for _, layer in chosen],
        "ys": [0.5 for _ in chosen],
    }
    message = {"event_type": "plotly_selected", "points": points, "device_state": None, "selector": None}
    picture._handler_js2py_pointsCallback({"new": message})


def shaded(fig) -> list[float]:
    return sorted({shape.x0 + 0.5 for shape in fig.layout.shapes if shape.fillcolor == SHADE})


def test_picked_layers_are_shaded_told_and_returned(picker: LayerPicker):
    assert picker.layers == (2,) and shaded(picker.figure()) == [2]
    picture, said = picker.widget.children
    select(picture, (0, 1), (1, 3))  # in two panels
    assert picker.layers == (1, 3) and shaded(picture) == [1, 3]
    assert "layers = [1, 3]" in said.value and f"at layer {picker.gate.shared_layer} " in said.value
    select(picture)  # a lasso around nothing
    assert picker.layers == (1, 3)
    select(picture, (1, 2))
    assert picker.layers == (2,)
    assert picture.layout.clickmode == "event+select" and picture.layout.dragmode == "lasso"


def click(picture, panel: int, layer: int, *, shift: bool = False) -> None:
    """The browser's message of a click alone, as it comes where that of the selection was overtaken."""
    line = [i for i, trace in enumerate(picture.data) if trace.mode == "lines+markers"][panel]
    points = {"trace_indexes": [line], "point_indexes": [layer], "xs": [layer], "ys": [0.5]}
    keys = dict.fromkeys(("alt", "ctrl", "meta"), False) | {"shift": shift, "button": 0, "buttons": 1}
    message = {"event_type": "plotly_click", "points": points, "device_state": keys, "selector": None}
    picture._handler_js2py_pointsCallback({"new": message})


def test_a_click_is_a_pick_though_its_selection_never_came(picker: LayerPicker):
    picture = picker.widget.children[0]
    click(picture, 1, 3)
    assert picker.layers == (3,) and shaded(picture) == [3]
    click(picture, 0, 1, shift=True)
    assert picker.layers == (1, 3)
    select(picture, (0, 0), (0, 1))
    click(picture, 0, 0)
    assert picker.layers == (0,)


def test_a_pick_by_argument_is_a_pick_by_mouse(picker: LayerPicker):
    select(picker.widget.children[0], (0, 0), (0, 1))
    clicked = picker.operating_point()
    picker.pick([3])
    assert picker.pick([1, 0]) == (0, 1)
    pd.testing.assert_frame_equal(clicked, picker.operating_point())


def test_the_operating_point_is_that_of_the_gate(picker: LayerPicker, vectors, read):
    picker.pick([0, 1, 2, 3])
    point = picker.operating_point()
    auroc = picker.profiles[0].frame.set_index("layer")["auroc"]
    (at,) = point[point["reads"]].to_dict("records")
    assert at["layer"] == picker.gate.shared_layer and auroc[at["layer"]] == auroc.max()
    opened = picker.gate.read(read).open[:, 0]
    assert at["true_positive"] == pytest.approx(float(opened[read.harmful].float().mean()))
    assert at["false_positive"] == pytest.approx(float(opened[~read.harmful].float().mean()))
    profile = picker.profiles[0]
    given = dict(vectors=vectors, train=read, validation=read, min_auroc=0.0)
    tight = LayerPicker(profile, **given, false_positive_rate=0.0)
    assert tight.layers == (0, 1, 2, 3)
    assert tight.operating_point()["false_positive"].max() == 0


def test_a_notebook_shows_the_widget(picker: LayerPicker):
    shown = picker._repr_mimebundle_()
    assert shown["application/vnd.jupyter.widget-view+json"]["model_id"] == picker.widget.model_id


@pytest.mark.parametrize("name", ["picker", "dial", "lens"])
def test_a_page_without_a_kernel_gets_the_picture_as_it_is(name, picker, dial, hooked, vectors, monkeypatch):
    handle = {"picker": picker, "dial": dial, "lens": PromptLens(hooked, vectors, prompt=ASK)}[name]
    assert "text/html" not in handle._repr_mimebundle_()
    monkeypatch.setattr(renderers, "default", "plotly_mimetype+notebook")
    assert handle._repr_mimebundle_()["text/html"].count("Plotly.newPlot") == 1


def test_a_picker_takes_the_layer_that_best_layer_takes(picker: LayerPicker, vectors, read):
    """Several layers tell all prompts apart: the one where they lie furthest apart, of those that are picked."""
    picker.pick(range(4))
    assert picker.gate.shared_layer == best_layer(vectors, read)
    others = [layer for layer in range(4) if layer != best_layer(vectors, read)]
    picker.pick(others)
    assert picker.gate.shared_layer == best_layer(vectors, read, layers=others) in others


def test_the_dial_gives_what_the_library_gives(dial: SteeringDial):
    answer = dial.ask(ASK, alpha=0.2, layers=[2])
    plan = dial.plan.with_alpha(0.2).with_layers([2])
    asked = [Prompt.user(ASK, label="unlabelled", source="typed")]
    (plain,) = generate(dial.model, asked, None, max_new_tokens=6)
    (steered,) = generate(dial.model, asked, plan, max_new_tokens=6)
    assert (answer.before.tokens, answer.after.tokens) == (plain.tokens, steered.tokens)
    assert answer.plan.id == plan.id and answer.gate_open
    top = answer.first_tokens.loc[answer.first_tokens.groupby("arm")["logit"].idxmax()].set_index("arm")
    assert top.loc["unsteered", "token_id"] == plain.tokens[0]
    assert top.loc["steered", "token_id"] == steered.tokens[0]


def test_the_gate_is_on_off_or_strict(dial: SteeringDial):
    assert dial.ask(ASK).gate_open and dial.ask(ASK, gate="off").plan.gate.reads == ()
    closed = dial.ask(ASK, gate="strict")
    assert not closed.gate_open and closed.after.tokens == closed.before.tokens
    logits = closed.first_tokens.pivot(index="token_id", columns="arm", values="logit")
    assert (logits["steered"] == logits["unsteered"]).all()


def test_turning_the_dial_is_asking(dial: SteeringDial):
    box, strength, handles, said, picture = dial.widget.children
    layers, gate = handles.children
    strength.value = 0.1
    layers.value = (2, 3)
    assert dial.answer.plan.id == dial.plan.with_alpha(strength.value).with_layers([2, 3]).id
    assert dial.answer.after.text in said.value
    title = dial.figure(dial.answer).layout.title
    assert picture.layout.title.text.startswith(title.text) and picture.layout.title.subtitle.text is None
    assert all(line in picture.layout.title.text for line in title.subtitle.text.split("<br>"))
    gate.value = "strict"
    assert "closed" in said.value and dial.answer.after.tokens == dial.answer.before.tokens
    box.value = "<b>bake</b>"
    assert dial.answer.before.prompt.text == "<b>bake</b>"


def test_a_figure_of_first_tokens_shows_both(dial: SteeringDial):
    answer = dial.ask(ASK)
    marks = [trace for trace in dial.figure(answer).data if trace.mode == "markers"]
    assert [trace.marker.color for trace in marks] == [COLOURS["unsteered"], COLOURS["steered"]]
    frame = answer.first_tokens
    for trace, arm in zip(marks, ("unsteered", "steered"), strict=True):
        assert sorted(trace.x) == sorted(frame.loc[frame["arm"] == arm, "logit"])


def test_a_typed_prompt_is_read_as_any_other(hooked: Model, vectors: SteeringVectors):
    lens = PromptLens(hooked, vectors, prompt=ASK)
    expected = token_map(vectors, hooked, [Prompt.user("bake a boat", label="unlabelled", source="typed")])
    pd.testing.assert_frame_equal(lens.read("bake a boat"), expected)
    box, said, picture = lens.widget.children
    before = len(picture.data[0].y)
    box.value = "bake a boat"
    assert len(picture.data[0].y) == expected["position"].nunique() != before
    assert list(picture.layout.yaxis.ticktext) == list(lens.figure("bake a boat").layout.yaxis.ticktext)
    assert "At the last token" in said.value
    last = expected[expected["position"] == expected["position"].max()].set_index("layer")["reads"]
    assert f"At layer {last.abs().idxmax()} the last token reads" in picture.layout.title.text.replace(
        "<br>", " "
    )
    assert not picture.layout.annotations


def test_what_is_wrong_is_told_beside_the_picture(hooked: Model, vectors, dial: SteeringDial):
    lens = PromptLens(hooked, vectors, prompt=ASK)
    box, said, picture = lens.widget.children
    shown = picture.data[0].z.shape
    box.value = "steal " * 200
    assert 'role="alert"' in said.value and "context" in said.value
    assert picture.data[0].z.shape == shown and lens.prompt == ASK
    box.value = "bake"
    assert "alert" not in said.value
    strength_said = dial.widget.children[3]
    dial.widget.children[2].children[0].value = ()
    assert "got no layers" in strength_said.value


@pytest.mark.parametrize("backend", ["hooked", "plain"])
def test_a_model_that_left_its_device_is_refused(checkpoints, vectors, plan, backend: str):
    gone = load_model(checkpoints["llama"], backend=backend)
    dial = SteeringDial(gone, plan) if backend == "hooked" else None
    weights = gone.to("meta") if backend == "plain" else _to_meta(gone)
    with pytest.raises(ValueError, match="has weights on meta, expected one device that holds numbers"):
        PromptLens(weights, vectors)
    if dial is not None:
        with pytest.raises(ValueError, match="has weights on meta"):
            dial.ask(ASK)


def _to_meta(model):
    torch.nn.Module.to(model, "meta")
    return model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: w.picker.pick([]), r"got layers \[\], expected one or more of 0 to 3"),
        (lambda w: w.picker.pick([4]), r"got layers \[4\], expected one or more of 0 to 3"),
        (lambda w: w.dial.ask("  "), "got an empty prompt"),
        (lambda w: w.dial.ask("steal " * 200), "context"),
        (lambda w: w.dial.ask(ASK, layers=[9]), r"got layers \[9\]"),
        (lambda w: w.dial.ask(ASK, gate="ajar"), "got gate='ajar', expected one of 'on', 'off', 'strict'"),
        (
            lambda w: SteeringDial(w.dial.model, w.dial.plan).ask(ASK, gate="strict"),
            "give the dial a strict=",
        ),
        (lambda w: w.lens.read(" "), "got an empty prompt"),
        (lambda w: w.lens.read("steal " * 200), "context"),
    ],
)
def test_messages(picker, dial, hooked, vectors, call, message, unchecked):
    with pytest.raises(ValueError, match=message):
        call(SimpleNamespace(picker=picker, dial=dial, lens=PromptLens(hooked, vectors)))


def test_a_plan_with_a_preset_refusal_is_no_dial(hooked: Model, vectors, plan):
    preset = SteeringPlan(vectors, gate=plan.gate, layers=[1], alpha=1, refusal="no")
    with pytest.raises(ValueError, match="got a plan with a preset refusal"):
        SteeringDial(hooked, preset)
