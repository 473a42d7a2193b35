"""Figures on disk: the csv is always there, and a machine without a browser still gets a picture."""

from pathlib import Path

import pandas as pd
import plotly.graph_objects as go
import pytest

from workbench import export
from workbench.export import page, save_figure

FRAME = pd.DataFrame({"x": [1, 2], "y": [0.123456789, 1]})


@pytest.fixture
def fig() -> go.Figure:
    return go.Figure(go.Scatter(x=FRAME["x"], y=FRAME["y"]))


def test_svg_and_csv(tmp_path, fig, monkeypatch):
    monkeypatch.setattr(export, "_picture", lambda fig, suffix: b"<svg>drawn</svg>")
    path = save_figure(fig, FRAME, tmp_path / "found.svg")
    assert path == tmp_path / "found.svg"
    assert path.read_bytes() == b"<svg>drawn</svg>"
    assert pd.read_csv(tmp_path / "found.csv")["y"].tolist() == [0.123457, 1]


def test_without_a_browser_a_page_that_needs_no_network(tmp_path, fig, monkeypatch):
    monkeypatch.setattr(export, "_picture", lambda fig, suffix: None)
    path = save_figure(fig, FRAME, tmp_path / "found.svg")
    assert path == tmp_path / "found.html"
    text = path.read_text()
    assert 'id="found"' in text
    assert "cdn.plot.ly" not in text.split("plotly.js v")[0]
    assert (tmp_path / "found.csv").is_file()
    assert not (tmp_path / "found.svg").exists()


def test_a_page_carries_plotly_once(fig):
    text = page({"one": fig, "two": fig})
    assert text.count("plotly.js v") == page({"one": fig}).count("plotly.js v")
    assert text.index('id="one"') < text.index('id="two"')


def test_no_kaleido_means_no_picture(fig, monkeypatch):
    monkeypatch.setattr(export.importlib.util, "find_spec", lambda name: None)
    assert export._picture(fig, "svg") is None


def test_the_installed_kaleido_draws(fig):
    """Whichever kaleido is installed: an SVG, or None where the machine has no browser for it."""
    picture = export._picture(fig, "svg")
    assert picture is None or picture.lstrip().startswith(b"<svg")


def test_a_path_with_spaces_gets_a_link_without(tmp_path):
    bundle = tmp_path / "with space" / "plotly.min.js"
    bundle.parent.mkdir()
    bundle.write_text("//")
    linked = export._without_spaces(bundle)
    assert " " not in linked.removeprefix(str(tmp_path))
    assert Path(linked).read_text() == "//"


@pytest.mark.parametrize(
    ("name", "frame", "message"),
    [
        ("found.pdf", FRAME, r"got 'found.pdf', expected a name that ends in .svg or .png"),
        ("found.svg", FRAME.iloc[:0], r"found.svg: the frame it draws is empty"),
    ],
)
def test_messages(tmp_path, fig, name, frame, message):
    with pytest.raises(ValueError, match=message):
        save_figure(fig, frame, tmp_path / name)
