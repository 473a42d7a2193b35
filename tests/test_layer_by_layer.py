"""The committed pictures of reading and steering are those that the embedded models give today."""

import html
import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

FIGURES = Path(__file__).parents[1] / "figures"
FEW = 0.02
"""Share of a column's values that may differ: elsewhere a near tie goes the other way, or two ranks swap."""

SMALL = 0.01
"""A column without larger values is zero up to rounding, which every processor does in its own way."""


@pytest.fixture(scope="module")
def pictures() -> ModuleType:
    spec = importlib.util.spec_from_file_location("layer_by_layer", FIGURES / "layer_by_layer.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def subject(pictures: ModuleType) -> Any:
    return pictures.Subject()


def differing(now: pd.DataFrame, committed: pd.DataFrame) -> dict[str, float]:
    """The columns of which more than a few values differ, beyond what arithmetic in another order makes."""
    shares = {}
    for column in committed:
        ours, theirs = now[column], committed[column]
        if pd.api.types.is_numeric_dtype(theirs) and not pd.api.types.is_bool_dtype(theirs):
            size = max(float(theirs[np.isfinite(theirs)].abs().max()), SMALL)
            same = np.isclose(
                ours.astype(float), theirs.astype(float), rtol=1e-3, atol=1e-3 * size, equal_nan=True
            )
        else:
            same = ((ours == theirs) | (ours.isna() & theirs.isna())).to_numpy()
        shares[str(column)] = float(1 - same.mean())
    return {column: share for column, share in shares.items() if share > FEW}


NAMES = [
    "01-vector-strength", "02-projections", "03-separability", "03-separability-growth", "04-layer-cosines",
    "04-srv-ssv-cosine", "04-principal-components", "05-words", "06-tokens", "07-gate-scores", "07-gate-roc",
    "07-gate-wrappers", "08-steered-residuals", "08-steered-tokens", "08-refusal-lead", "09-attribution",
    "10-strength", "10-trade-off", "11-layer-sets", "11-pareto", "11-tuning",
]  # fmt: skip


def test_all_pictures_are_named_here(pictures: ModuleType) -> None:
    assert list(pictures.PICTURES) == NAMES


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_what_is_committed_is_what_is_drawn(
    name: str, pictures: ModuleType, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    committed = FIGURES / f"{name}.csv"
    frame, fig = pictures.PICTURES[name](request.getfixturevalue("subject"))
    assert isinstance(fig, go.Figure)
    pictures.save_frame(frame, tmp_path / name)
    now, then = pd.read_csv(tmp_path / f"{name}.csv"), pd.read_csv(committed)
    assert (list(now.columns), len(now)) == (list(then.columns), len(then))
    assert differing(now, then) == {}, f"draw it again: make pictures ARGS={name}"
    drawn, said = written(FIGURES / f"{name}.svg"), fig.layout.title
    for line in [*said.text.split("<br>"), *(said.subtitle.text or "").split("<br>")]:
        assert masked(line) in drawn, f"draw it again: make pictures ARGS={name}"


def written(svg: Path) -> str:
    """The text of a picture, with numbers masked: they may differ in the last digit that is shown."""
    return masked(re.sub("<[^>]+>", " ", svg.read_text(encoding="utf-8")))


def masked(text: str) -> str:
    return " ".join(re.sub(r"[-+−]?\d[\d.]*", "#", html.unescape(text)).split())


def test_a_title_is_found_in_its_picture_and_another_is_not(tmp_path: Path) -> None:
    picture = tmp_path / "one.svg"
    picture.write_text("<svg><style>a{}</style><text>At layer 3 it\nreads &lt;harm&gt;</text></svg>")
    assert masked("At layer 5 it reads <harm>") in written(picture)
    assert masked("At layer 5 it writes") not in written(picture)


def test_a_difference_is_seen_and_rounding_is_not() -> None:
    frame = pd.DataFrame({"x": np.linspace(-1, 1, 100), "word": ["a"] * 100, "open": [True, False] * 50})
    assert differing(frame.assign(x=frame["x"] + 1e-5), frame) == {}
    moved = frame.assign(x=frame["x"] + 0.1, word=["b"] * 3 + ["a"] * 97, open=[True] * 100)
    assert differing(moved, frame) == pytest.approx({"x": 1.0, "word": 0.03, "open": 0.5})
    assert differing(frame.assign(word=["b"] + ["a"] * 99), frame) == {}
    nothing = frame.assign(x=0.0)
    assert differing(nothing.assign(x=1e-6), nothing) == {}
    assert differing(nothing.assign(x=1e-3), nothing) == {"x": 1.0}


def test_a_picture_that_there_is_not(pictures: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        pictures.main(["12"])
    assert "got 12, expected beginnings of 01-vector-strength, " in capsys.readouterr().err


def test_what_is_asked_for_is_drawn(
    pictures: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    frame, fig = pd.DataFrame({"x": [1]}), go.Figure(go.Scatter(x=[1], y=[1]))
    monkeypatch.setattr(pictures, "Subject", lambda: None)
    monkeypatch.setattr(pictures, "PICTURES", dict.fromkeys(NAMES, lambda subject: (frame, fig)))
    monkeypatch.setattr("workbench.export._picture", lambda fig, suffix: b"<svg/>")
    pictures.main(["04", "10-t", "--out", str(tmp_path)])
    drawn = sorted(path.stem for path in tmp_path.glob("*.svg"))
    assert drawn == ["04-layer-cosines", "04-principal-components", "04-srv-ssv-cosine", "10-trade-off"]
    assert sorted(path.stem for path in tmp_path.glob("*.csv")) == drawn
