"""One look for every picture: the colours, each with one meaning, the template, titles, and labels beside the data.

Colours are those of Okabe & Ito (2008), which people with any common colour blindness tell apart. A figure's title is
what it shows, its subtitle how that was measured; lines carry their names at their ends, so there is no legend box.

The trap: plotly places annotations where it is told, even on top of each other. `spread` moves crowded labels apart.
"""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from types import MappingProxyType
from typing import Any

import pandas as pd
import plotly.graph_objects as go

COLOURS: Mapping[str, str] = MappingProxyType(
    {
        "harmful": "#D55E00",
        "harmless": "#0072B2",
        "jailbroken": "#E69F00",
        "contrast": "#56B4E9",
        "domain": "#000000",
        "unlabelled": "#8C8C8C",
        "steered": "#009E73",
        "unsteered": "#6E6E6E",
        "control": "#B8B8B8",
        "gate": "#CC79A7",
        "broken": "#8A7A5C",
    }
)
INK, QUIET, GRID, SHADE = "#222222", "#6E6E6E", "#ECECEC", "#F1F5F3"
BAND_OPACITY = 0.16
FONT = "Open Sans, DejaVu Sans, Arial, sans-serif"

TEMPLATE = go.layout.Template(
    layout=go.Layout(
        font=dict(family=FONT, size=13, color=INK),
        title=dict(
            x=0, xref="container", xanchor="left", y=1, yref="container", yanchor="top", font=dict(size=18)
        ),
        showlegend=False,
        paper_bgcolor="white",
        plot_bgcolor="white",
        margin=dict(l=64, r=28, t=104, b=56),
        hovermode="closest",
        xaxis=dict(
            title=dict(font=dict(size=12), standoff=8),
            showgrid=False,
            zeroline=False,
            linecolor=QUIET,
            ticks="outside",
            ticklen=4,
            tickcolor=QUIET,
        ),
        yaxis=dict(
            title=dict(font=dict(size=12), standoff=6),
            gridcolor=GRID,
            zeroline=False,
            ticks="",
            automargin=True,
        ),
    )
)

# Signed values, centred at zero; neither end is a colour with a meaning.
DIVERGING = [(0.0, "#7A5C1E"), (0.5, "#FFFFFF"), (1.0, "#4B3F8F")]
# Shares, from nothing to all.
SEQUENTIAL = [(0.0, "#FFFFFF"), (1.0, COLOURS["gate"])]


def dress(fig: go.Figure, finding: str, method: str, *, width: int = 860, height: int = 460) -> go.Figure:
    """The same figure in the house's template, under a title (the finding) and a subtitle (the method)."""
    # Widths of an average character at 18 and at 12 pixels, on the safe side.
    title, subtitle = _lines(finding, (width - 48) // 10), _lines(method, (width - 48) // 7)
    lines = 24 * len(title) + 17 * len(subtitle)
    fig.update_layout(
        template=TEMPLATE,
        width=width,
        height=height + lines,
        margin_t=lines + 52 + 12 * (len(title) - 1),
        # Plotly anchors a title by its first line's top only where there is one line: push the others down by hand.
        title=dict(
            text="<br>".join(title),
            pad=dict(l=16, t=14 + 24 * (len(title) - 1)),
            subtitle=dict(text="<br>".join(subtitle), font=dict(size=12, color=QUIET)),
        ),
    )
    return fig


def _lines(text: str, width: int) -> list[str]:
    """The text in lines of at most `width` characters; a number stays with its per cent."""
    return [line.replace("\u00a0", " ") for line in wrap(text.replace(" %", "\u00a0%"), width)]


def tint(colour: str, opacity: float = BAND_OPACITY) -> str:
    """`colour`, a `#RRGGBB`, as a see-through `rgba(…)`."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red}, {green}, {blue}, {opacity})"


def spread(positions: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The positions moved as little as needed to lie `gap` apart, in their order, within `low` to `high`.

    Where they cannot all fit, they share the room evenly.
    """
    n = len(positions)
    if n > 1:
        gap = min(gap, (high - low) / (n - 1))
    order = sorted(range(n), key=lambda i: positions[i])
    # Blocks of touching labels: each is centred on what its members wanted (pool adjacent violators).
    blocks: list[tuple[float, int]] = []
    for rank, i in enumerate(order):
        start, size = min(max(positions[i], low), high) - rank * gap, 1
        while blocks and blocks[-1][0] > start:
            before, count = blocks.pop()
            start, size = (before * count + start * size) / (count + size), count + size
        blocks.append((start, size))
    moved = [start for start, size in blocks for _ in range(size)]
    placed = [0.0] * n
    for rank, i in enumerate(order):
        placed[i] = min(max(moved[rank], low), high - (n - 1) * gap) + rank * gap
    return placed


def add_band(
    fig: go.Figure,
    x: "pd.Series[Any]",
    low: "pd.Series[Any]",
    high: "pd.Series[Any]",
    colour: str,
    *,
    row: int,
    col: int,
) -> None:
    """A quiet interval band, drawn without outline."""
    fig.add_scatter(
        x=[*x, *x[::-1]],
        y=[*high, *low[::-1]],
        fill="toself",
        mode="lines",
        fillcolor=tint(colour),
        line=dict(width=0),
        hoverinfo="skip",
        row=row,
        col=col,
    )


def add_labels(
    fig: go.Figure,
    labels: Sequence[tuple[str, str, float]],
    *,
    x: float,
    row: int,
    col: int,
    gap: float,
    low: float,
    high: float,
) -> None:
    """Names (text, colour, wanted height) to the right of `x`, moved apart where they would touch."""
    heights = spread([height for _, _, height in labels], gap, low, high)
    for (text, colour, _), height in zip(labels, heights, strict=True):
        fig.add_annotation(
            x=x, y=height, text=text, showarrow=False, xanchor="left", xshift=6, font=dict(color=colour, size=12),
            row=row, col=col,
        )  # fmt: skip


def shade_layers(
    fig: go.Figure, layers: Sequence[int], *, row: int | str = "all", col: int | str = "all"
) -> None:
    """Steered layers shaded behind the data, one column each."""
    for layer in layers:
        fig.add_vrect(
            x0=layer - 0.5, x1=layer + 0.5, fillcolor=SHADE, line_width=0, layer="below", row=row, col=col
        )
