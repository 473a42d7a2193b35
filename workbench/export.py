"""Figures on disk: each as a picture with the csv it draws beside it, on machines with and without a browser.

Plotly draws in JavaScript, so an SVG needs a browser from somewhere. Three are tried, in this order: the one inside the
kaleido 0.2 wheel (pip installs it, nothing else is needed; it is given the plotly.js of the installed plotly, since its
own is too old for it); a Chrome or Chromium that kaleido 1 finds on the machine; none. Without any, the figure is
written as one HTML page that carries plotly.js and needs no network.

The trap: kaleido 0.2 and 1 share one import name and cannot both be installed. Either serves.
"""

import importlib.util
import os
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd
import plotly
import plotly.graph_objects as go

from workbench.provenance import write_safely

ADVICE = "pip install kaleido==0.2.1 (brings its own browser), or install Chromium beside kaleido 1"


def save_figure(fig: go.Figure, frame: pd.DataFrame, path: str | Path) -> Path:
    """Write `fig` to `path` (.svg or .png) and the `frame` it draws to the same name with .csv; the picture's path.

    Where the machine has no browser the picture becomes .html beside it, and that path is returned: compare suffixes to
    tell, and see `ADVICE` for what to install.
    """
    path = Path(path)
    if path.suffix not in (".svg", ".png"):
        raise ValueError(
            f"got {path.name!r}, expected a name that ends in .svg or .png: the csv goes beside it"
        )
    if frame.empty:
        raise ValueError(f"{path.name}: the frame it draws is empty: a figure is saved with its data")
    save_frame(frame, path)
    picture = _picture(fig, path.suffix[1:])
    if picture is None:
        path = path.with_suffix(".html")
        picture = page({path.stem: fig}).encode()
    write_safely(path, picture)
    return path


def save_frame(frame: pd.DataFrame, path: str | Path) -> None:
    """Write the `frame` that a figure draws, as `path` with .csv."""
    write_safely(Path(path).with_suffix(".csv"), frame.to_csv(index=False, float_format="%.6g").encode())


def page(figures: Mapping[str, go.Figure]) -> str:
    """One self-contained HTML page with all `figures`, each under its name as an anchor; plotly.js is in it once."""
    parts = [
        f'<section id="{name}">{fig.to_html(full_html=False, include_plotlyjs=number == 0)}</section>'
        for number, (name, fig) in enumerate(figures.items())
    ]
    return f'<!doctype html><html><head><meta charset="utf-8"></head><body>{"".join(parts)}</body></html>'


def _picture(fig: go.Figure, suffix: str) -> bytes | None:
    if importlib.util.find_spec("kaleido") is None:
        return None
    try:
        if importlib.util.find_spec("kaleido.scopes") is not None:
            return bytes(_carried_browser().transform(fig, format=suffix, scale=1 if suffix == "svg" else 2))
        return bytes(fig.to_image(format=suffix, scale=1 if suffix == "svg" else 2))
    # Both kaleidos wrap a foreign process and raise whatever went wrong in it; a picture that cannot be drawn must
    # not cost the measurement behind it.
    except Exception:
        return None


@cache
def _carried_browser() -> Any:
    from kaleido.scopes.plotly import PlotlyScope

    bundle = Path(plotly.__file__).parent / "package_data" / "plotly.min.js"
    return PlotlyScope(plotlyjs=_without_spaces(bundle))


def _without_spaces(bundle: Path) -> str:
    """A path to `bundle` that kaleido 0.2's shell script passes on whole: it splits its arguments at spaces."""
    if " " not in str(bundle):
        return str(bundle)
    link = Path(tempfile.mkdtemp()) / bundle.name
    os.symlink(bundle, link)
    return str(link)
