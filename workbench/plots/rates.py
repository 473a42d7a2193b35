"""Picture of what conditions gain and what they cost, target by target."""

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import name_marks, panels, require_columns
from workbench.style import COLOURS, GRID, SHADE, dress, tint

BROKEN = "attacks broken"
# What a mark of the trade-off counts, and the colour whose meaning it shares.
TRADE_OFF: Mapping[str, str] = MappingProxyType(
    {
        "attacks not refused": "harmful",
        "jailbreaks not refused": "jailbroken",
        "harmless refused": "harmless",
        "domain accuracy": "domain",
        BROKEN: "broken",
    }
)


def trade_off(
    frame: pd.DataFrame, *, ours: str = "inferaligner", names: Mapping[str, str] | None = None, finding: str = "",
    method: str = "",
) -> go.Figure:  # fmt: skip
    """What each condition costs and gains: a row per condition, a small multiple per `panel`, a mark per `kind`.

    `frame` has panel, condition, kind, mean, low and high; kinds are those of `TRADE_OFF`. Best is vermillion and blue
    at the left, black at the right, and no bar behind them: what broke was not refused either, and is no defence.
    """
    require_columns(frame, "trade-off", "panel", "condition", "kind", "mean", "low", "high")
    unknown = sorted(set(frame["kind"]) - set(TRADE_OFF))
    if unknown:
        raise ValueError(
            f"trade-off: got kinds {', '.join(unknown)}, expected some of {', '.join(TRADE_OFF)}"
        )
    names_of_panels, conditions = list(frame["panel"].unique()), list(frame["condition"].unique())
    kinds = [kind for kind in TRADE_OFF if kind in set(frame["kind"]) - {BROKEN}]
    fig = panels(1, len(names_of_panels), names_of_panels)
    height = {condition: len(conditions) - 1 - i for i, condition in enumerate(conditions)}
    for col, panel in enumerate(names_of_panels, start=1):
        _broken_bars(fig, frame[(frame["panel"] == panel) & (frame["kind"] == BROKEN)], height, col)
        for number, kind in enumerate(kinds):
            part = frame[(frame["panel"] == panel) & (frame["kind"] == kind)]
            rows = [
                height[condition] + 0.22 * ((len(kinds) - 1) / 2 - number) for condition in part["condition"]
            ]
            for y, low, high in zip(rows, part["low"], part["high"], strict=True):
                line = dict(color=tint(COLOURS[TRADE_OFF[kind]], 0.45), width=2.5)
                fig.add_scatter(
                    x=[low, high], y=[y, y], mode="lines", line=line, hoverinfo="skip", row=1, col=col
                )
            marker = dict(color=COLOURS[TRADE_OFF[kind]], size=7)
            fig.add_scatter(
                x=part["mean"], y=rows, mode="markers", marker=marker, hoverinfo="x", row=1, col=col
            )
    if ours in height:
        band = dict(fillcolor=SHADE, line_width=0, layer="below")
        fig.add_hrect(y0=height[ours] - 0.5, y1=height[ours] + 0.5, **band)
    ticks = [(names or {}).get(condition, condition) for condition in conditions]
    marked = [
        f"<b>{t}</b>" if condition == ours else t for t, condition in zip(ticks, conditions, strict=True)
    ]
    fig.update_yaxes(
        tickvals=[height[condition] for condition in conditions],
        ticktext=marked,
        showgrid=False,
        range=[-0.6, len(conditions) - 0.4],
    )
    fig.update_xaxes(range=[-0.03, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 1], showgrid=True, gridcolor=GRID)
    method = method or "shares of prompts; lines: 95 % intervals"
    width = max(960, 220 + 260 * len(names_of_panels))  # the marks' names need the first
    dress(
        fig,
        finding or "Safety gained against utility kept",
        method,
        width=width,
        height=27 * len(conditions) + 96,
    )
    named = {
        f"{'■' if kind == BROKEN else '●'} {kind}": COLOURS[colour]
        for kind, colour in TRADE_OFF.items()
        if kind in set(frame["kind"])
    }
    return name_marks(fig, named, below=True)


def _broken_bars(fig: go.Figure, part: pd.DataFrame, height: Mapping[str, int], col: int) -> None:
    """What broke as a bar behind the row's marks: it is no gain or cost but how much of the row is no reply at all."""
    fig.add_bar(
        x=part["mean"],
        y=[height[condition] for condition in part["condition"]],
        orientation="h",
        width=0.86,
        marker=dict(color=tint(COLOURS[TRADE_OFF[BROKEN]], 0.3), line_width=0),
        error_x=dict(
            symmetric=False,
            array=part["high"] - part["mean"],
            arrayminus=part["mean"] - part["low"],
            color=COLOURS[TRADE_OFF[BROKEN]],
            thickness=1,
            width=0,
        ),
        hoverinfo="x",
        row=1,
        col=col,
    )
