"""Pictures from inside the model: what is drawn is what the frame says, on axes one can read."""

import pandas as pd
import pytest

from workbench import plots
from workbench.export import save_frame
from workbench.style import COLOURS

LENS = pd.DataFrame(
    [
        {
            "vector": vector,
            "layer": layer,
            "side": side,
            "rank": rank,
            "token": f" word{rank}",
            "logit": 1.0 / rank,
        }
        for vector in ("SRV", "SSV")
        for layer in range(3)
        for side in ("promoted", "suppressed")
        for rank in (1, 2)
    ]
)
TOKENS = pd.DataFrame(
    [
        {"prompt": prompt, "label": label, "position": position, "token": token, "layer": layer}
        | {"reads": (-1) ** prompt * (layer + position)}
        for prompt, (label, text) in enumerate({"harmful": "a b", "jailbroken": "<s> b\n c"}.items())
        for position, token in enumerate(text.split(" "))
        for layer in range(3)
    ]
)
STEERED = pd.DataFrame(
    [
        row.drop("reads").to_dict()
        | {"arm": arm, "norm": 2.0 + moved, "projection": 1.0 + moved, "cosine": 0.5, "shift": float(moved)}
        for _, row in TOKENS.iterrows()
        for arm, moved in (("unsteered", 0), ("steered", int(row["layer"] == 1)))
    ]
)
LEAD = pd.DataFrame(
    [
        {"prompt": prompt, "label": "harmful", "layer": layer, "arm": arm, "lead": lead}
        | {"opens": "refusal" if lead > 0 else "other"}
        for prompt in range(2)
        for arm, leads in {"unsteered": (1, -1, -2), "steered": (-1, 1, 2)}.items()
        for layer, lead in enumerate(leads)
    ]
)
WRITERS = pd.DataFrame(
    [
        {"of": of, "at": 1, "kind": kind, "layer": layer, "head": head, "contribution": size}
        for of in ("direction", "refusal logit")
        for kind, layer, head, size in (
            ("embedding", -1, -1, 1.0), ("head", 0, 0, 2.0), ("head", 0, 1, -1.0), ("mlp", 0, -1, 0.5),
            ("head", 1, 0, 5.0), ("head", 1, 1, 1.0), ("mlp", 1, -1, 1.5),
        )
    ]
)  # fmt: skip
DRAW = {
    "vector lens": (plots.vector_lens, LENS),
    "token map": (plots.token_map, TOKENS),
    "steered residuals": (plots.steered_residuals, STEERED),
    "steered tokens": (plots.steered_tokens, STEERED),
    "refusal lead": (plots.refusal_lead, LEAD),
    "attribution": (plots.attribution, WRITERS),
}


@pytest.mark.parametrize("name", DRAW)
def test_every_figure_has_a_finding_a_method_and_no_legend(name):
    draw, frame = DRAW[name]
    assert draw(frame, finding="Found", method="So").layout.title.text == "Found"
    fig = draw(frame)
    assert len(fig.layout.title.text) > 20 and len(fig.layout.title.subtitle.text) > 40
    assert fig.layout.template.layout.showlegend is False


@pytest.mark.parametrize("name", DRAW)
def test_frames_that_cannot_be_drawn(name):
    draw, frame = DRAW[name]
    with pytest.raises(ValueError, match=f"{name}: the frame is empty"):
        draw(frame.iloc[:0])
    with pytest.raises(ValueError, match=f"{name}: the frame has no column layer"):
        draw(frame.drop(columns="layer"))


@pytest.mark.parametrize("name", DRAW)
def test_one_layer_is_a_column_and_no_line(name):
    draw, frame = DRAW[name]
    alone = frame[frame["layer"] == 1]
    if name in ("steered residuals", "refusal lead"):
        with pytest.raises(ValueError, match=f"{name}: got layer 1 alone, expected two layers or more"):
            draw(alone)
    else:
        assert draw(alone).data


@pytest.mark.parametrize("name", DRAW)
def test_the_csv_beside_a_picture_draws_it_again(name, tmp_path):
    draw, frame = DRAW[name]
    save_frame(frame, tmp_path / "frame")
    again, fig = draw(pd.read_csv(tmp_path / "frame.csv")), draw(frame)
    assert again.layout.title.text == fig.layout.title.text
    assert [trace.type for trace in again.data] == [trace.type for trace in fig.data]


def test_texts_end_on_one_line_and_are_readable():
    fig = plots.token_map(TOKENS)
    assert [list(trace.y) for trace in fig.data] == [[-2, -1], [-3, -2, -1]]
    assert list(fig.layout.yaxis2.ticktext) == ["&lt;s&gt;", "b⏎", "c"]
    assert fig.layout.yaxis.range == fig.layout.yaxis2.range
    assert all(trace.zmin == -trace.zmax and trace.zmid == 0 for trace in fig.data)
    assert "harmful +3.0, jailbroken -4.0" in fig.layout.title.text


def test_the_first_word_that_stays_ahead_is_told():
    said = plots.refusal_lead(LEAD).layout.title.text.replace("<br>", " ")
    assert "unsteered it ends 2.0 nats behind" in said and "steered it leads from layer 1 on" in said
    behind = LEAD.assign(label="jailbroken", lead=-1.0)
    said = plots.refusal_lead(pd.concat([LEAD, behind])).layout.title.text.replace("<br>", " ")
    assert "steered it leads from layer 1 on; jailbroken: unsteered it ends 1.0 nats behind" in said
    assert "steered, likeliest word: 2 refusal" in plots.refusal_lead(LEAD).layout.annotations[0].text
    colours = {trace.line.color for trace in plots.refusal_lead(LEAD).data if trace.line.width == 3}
    assert colours == {COLOURS["unsteered"], COLOURS["steered"]}


def test_steered_layers_are_shaded_and_marked():
    shapes = plots.steered_residuals(STEERED).layout.shapes
    assert {(shape.x0, shape.x1) for shape in shapes if shape.type == "rect"} == {(0.5, 1.5)}
    assert "1<br>•" in plots.steered_tokens(STEERED).layout.xaxis.ticktext
    said = plots.steered_tokens(STEERED, quantity="norm").layout.title
    assert "norm moves by" in said.text.replace("<br>", " ") and "‖x‖" in said.subtitle.text


def test_a_closed_gate_is_told():
    still = STEERED.assign(shift=0.0, norm=2.0)
    assert "The gate stays closed" in plots.steered_residuals(still).layout.title.text


def test_shares_are_of_the_whole():
    fig = plots.attribution(WRITERS)
    assert fig.data[0].z[0][2] == pytest.approx(50) and fig.data[0].text[0][2] == "50"
    assert "50 % of the direction at layer 1 by layer 1's head 0" in fig.layout.title.text
    against = plots.attribution(WRITERS.assign(contribution=-WRITERS["contribution"]))
    assert "50 % of the direction at layer 1, which is negative, by" in against.layout.title.text.replace(
        "<br>", " "
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: plots.vector_lens(LENS.assign(side="up")), "vector lens: got sides up, expected promoted"),
        (lambda: plots.steered_residuals(STEERED[STEERED["arm"] == "steered"]), "got arms steered, expected"),
        (lambda: plots.refusal_lead(LEAD.assign(arm="other")), "refusal lead: got arms other, expected"),
        (
            lambda: plots.token_map(pd.concat([TOKENS.assign(prompt=n) for n in range(5)])),
            "token map: got 5 prompts, expected up to 4",
        ),
        (
            lambda: plots.attribution(pd.concat([WRITERS.assign(at=n) for n in range(4)])),
            "attribution: got 8 things written, expected up to 6",
        ),
    ],
)
def test_messages(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_words_of_the_last_layer_are_told():
    said = plots.vector_lens(LENS).layout.title.text.replace("<br>", " ")
    assert said == "At layer 2, SRV promotes “word1”, “word2”; SSV promotes “word1”, “word2”"


def test_a_control_is_grey_dashed_and_not_needed():
    for draw, frame in ((plots.refusal_lead, LEAD), (plots.steered_residuals, STEERED)):
        control = frame[frame["arm"] == "steered"].assign(arm="control")
        fig = draw(pd.concat([frame, control]))
        dashed = {trace.line.color for trace in fig.data if trace.line.dash == "dash"}
        assert dashed == {COLOURS["control"]}
        assert "control" in {note.text for note in fig.layout.annotations}
    assert plots.steered_tokens(pd.concat([STEERED, control])).data
