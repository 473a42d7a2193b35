"""The pictures of the main job, one function each: a tidy frame in, a plotly figure out; nothing is computed or saved.

Every function takes the finding for its title, since only the caller knows what was found; without one the title
says what is shown. Controls are drawn wherever something is steered.

The trap: a figure drawn from averages alone hides its own uncertainty. Frames carry `low` and `high`; they are drawn.
"""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.style import (
    COLOURS,
    GRID,
    INK,
    QUIET,
    SEQUENTIAL,
    SHADE,
    add_band,
    add_labels,
    dress,
    shade_layers,
    tint,
)

# What a mark of the trade-off counts, and the colour whose meaning it shares.
TRADE_OFF: Mapping[str, str] = MappingProxyType(
    {
        "attacks not refused": "harmful",
        "jailbreaks not refused": "jailbroken",
        "harmless refused": "harmless",
        "domain accuracy": "domain",
    }
)
LABELS = ("harmful", "jailbroken", "harmless", "contrast", "domain")


def layer_profile(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """AUROC by layer, a small multiple per `model`, and below it ‖v'_l‖ as a share of the residual norm.

    `frame` has model, layer, auroc, auroc_low, auroc_high and share: `LayerProfile.frame`, several stacked.
    """
    _require(frame, "layer profile", "model", "layer", "auroc", "auroc_low", "auroc_high", "share")
    models = list(frame["model"].unique())
    fig = _panels(2, len(models), [_short(model) for model in models], row_heights=[0.6, 0.4])
    top = max(0.4, 1.15 * frame["share"].max())
    for col, model in enumerate(models, start=1):
        part = frame[frame["model"] == model].sort_values("layer")
        add_band(fig, part["layer"], part["auroc_low"], part["auroc_high"], COLOURS["gate"], row=1, col=col)
        for row, column, colour in ((1, "auroc", COLOURS["gate"]), (2, "share", INK)):
            fig.add_scatter(
                x=part["layer"],
                y=part[column],
                mode="lines+markers",
                line=dict(color=colour, width=2),
                row=row,
                col=col,
            )
        fig.add_hline(y=0.5, line=dict(color=COLOURS["control"], dash="dash", width=1), row=1, col=col)
    fig.update_yaxes(range=[min(0.4, frame["auroc_low"].min() - 0.02), 1.02], row=1)
    fig.update_yaxes(range=[0, top], row=2)
    fig.update_yaxes(title_text="AUROC", row=1, col=1)
    fig.update_yaxes(title_text="gap ÷ norm", row=2, col=1)
    _layer_axis(fig, frame["layer"], row=2)
    shade_layers(fig, chosen)
    method = method or (
        "projection on each model's own harmful − harmless direction; band: 95 % interval; dashed: chance; "
        "gap ÷ norm: ‖v'‖ over the mean residual norm"
    )
    return dress(
        fig,
        finding or "How well each layer tells harmful from harmless",
        method + _shaded(chosen),
        height=420,
    )


def projections(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """Projections by layer: a small multiple per layer, a row of points per label, in units of ‖v'_l‖.

    `frame` has label, layer and projection (`profiles.projections`). The zero line is half-way between the class means.
    """
    _require(frame, "projections", "label", "layer", "projection")
    layers = sorted(frame["layer"].unique())
    labels = [label for label in reversed(LABELS) if label in set(frame["label"])]
    fig = _panels(1, len(layers), [f"layer {layer}" + (" •" if layer in chosen else "") for layer in layers])
    rng = np.random.default_rng(0)
    low, high = frame["projection"].quantile([0.005, 0.995])
    for col, layer in enumerate(layers, start=1):
        for height, label in enumerate(labels):
            values = frame.loc[(frame["layer"] == layer) & (frame["label"] == label), "projection"]
            jitter = height + rng.uniform(-0.28, 0.28, len(values))
            fig.add_scatter(
                x=values.clip(low, high),
                y=jitter,
                mode="markers",
                hoverinfo="x",
                marker=dict(color=COLOURS[label], size=4, opacity=0.45),
                row=1,
                col=col,
            )
            fig.add_scatter(
                x=[values.median()] * 2,
                y=[height - 0.36, height + 0.36],
                mode="lines",
                line=dict(color=COLOURS[label], width=3),
                row=1,
                col=col,
            )
        fig.add_vline(x=0, line=dict(color=QUIET, width=1, dash="dot"), row=1, col=col)
    fig.update_xaxes(range=[low - 0.1, high + 0.1], nticks=4)
    fig.update_yaxes(range=[-0.6, len(labels) - 0.4], showgrid=False, tickvals=[])
    fig.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[f'<span style="color:{COLOURS[label]}">{label}</span>' for label in labels],
        row=1,
        col=1,
    )
    method = (
        method or "a point is a prompt, a bar the median; unit: ‖v'‖, 0 half-way between harmful and harmless"
    )
    if chosen:
        method += "; • steered layer"
    return dress(
        fig, finding or "Where prompts of each kind fall, layer by layer", method, width=980, height=330
    )


def gate_map(
    frame: pd.DataFrame, *, chosen_gate: int | None = None, finding: str = "", method: str = ""
) -> go.Figure:
    """Share of prompts on which the gate is open, label by layer, the numbers written in the cells.

    `frame` has label, layer and open (`profiles.gate_map`). `chosen_gate` frames the shared layer, where there is one.
    """
    _require(frame, "gate map", "label", "layer", "open")
    labels = [label for label in LABELS if label in set(frame["label"])]
    table = frame.pivot(index="label", columns="layer", values="open").loc[labels]
    fig = go.Figure(
        go.Heatmap(
            z=table.to_numpy(),
            x=table.columns,
            y=labels,
            colorscale=SEQUENTIAL,
            zmin=0,
            zmax=1,
            showscale=False,
            text=[[f"{value:.2f}" for value in row] for row in table.to_numpy()],
            texttemplate="%{text}",
            xgap=2,
            ygap=2,
        )
    )
    if chosen_gate is not None:
        fig.add_vrect(x0=chosen_gate - 0.5, x1=chosen_gate + 0.5, line=dict(color=INK, width=2))
    counts = frame.groupby("label")["n"].first() if "n" in frame else None
    names = [f"{label} ({int(counts[label])})" if counts is not None else label for label in labels]
    fig.update_yaxes(autorange="reversed", tickvals=labels, ticktext=names, showgrid=False)
    fig.update_xaxes(title_text="layer", tickvals=list(table.columns), ticks="", showline=False)
    method = method or "share of prompts on which the gate is open, if that layer decided"
    if chosen_gate is not None:
        method += f"; framed: layer {chosen_gate}, which decides for all"
    return dress(fig, finding or "On which prompts the gate opens", method, width=720, height=250)


def strength_curves(
    frame: pd.DataFrame, *, chosen: float | None = None, unit: str = "α", finding: str = "", method: str = ""
) -> go.Figure:
    """Rates against strength, a small multiple per metric, a line per arm, controls light grey and dashed.

    `frame` has arm, alpha, metric, mean, low and high (`SweepResult.summary()`); arms named `steered` and `unsteered`
    have colours of their own, every other is a control.
    """
    _require(frame, "strength curves", "arm", "alpha", "metric", "mean", "low", "high")
    metrics = list(frame["metric"].unique())
    fig = _panels(1, len(metrics), metrics)
    right = frame["alpha"].max()
    span = max(right - frame["alpha"].min(), 1e-9)
    for col, metric in enumerate(metrics, start=1):
        ends = []
        for arm, part in frame[frame["metric"] == metric].groupby("arm", sort=False):
            line, colour = _line_of(str(arm))
            part = part.sort_values("alpha")
            if str(arm) == "unsteered":  # one measurement, drawn across: it has no strength
                part = pd.concat(
                    [part.iloc[:1].assign(alpha=frame["alpha"].min()), part.iloc[:1].assign(alpha=right)]
                )
            add_band(fig, part["alpha"], part["low"], part["high"], colour, row=1, col=col)
            mode = "lines" if str(arm) == "unsteered" else "lines+markers"
            fig.add_scatter(x=part["alpha"], y=part["mean"], mode=mode, line=line, row=1, col=col)
            ends.append(
                (str(arm), colour if line["dash"] == "solid" else QUIET, float(part["mean"].iloc[-1]))
            )
        add_labels(fig, ends, x=right, row=1, col=col, gap=0.075, low=0, high=1)
        if chosen is not None:
            fig.add_vline(x=chosen, line=dict(color=COLOURS["steered"], width=1, dash="dot"), row=1, col=col)
    ticks = sorted(frame["alpha"].unique())
    fig.update_xaxes(title_text=unit, range=[frame["alpha"].min() - 0.02 * span, right + 0.42 * span])
    fig.update_xaxes(tickvals=ticks[:: max(1, len(ticks) // 5)], tickformat="~g")
    fig.update_yaxes(range=[-0.02, 1.02])
    method = method or "every arm at the same α, hence shifts of equal length; band: 95 % interval"
    if chosen is not None:
        method += "; dotted: the chosen α"
    return dress(
        fig, finding or "Rates against strength", method, width=max(860, 330 * len(metrics)), height=320
    )


def trade_off(
    frame: pd.DataFrame, *, ours: str = "inferaligner", names: Mapping[str, str] | None = None, finding: str = "",
    method: str = "",
) -> go.Figure:  # fmt: skip
    """What each condition costs and gains: a row per condition, a small multiple per `panel`, a mark per `kind`.

    `frame` has panel, condition, kind, mean, low and high; kinds are those of `TRADE_OFF`. Best is vermillion and blue
    at the left, black at the right.
    """
    _require(frame, "trade-off", "panel", "condition", "kind", "mean", "low", "high")
    unknown = sorted(set(frame["kind"]) - set(TRADE_OFF))
    if unknown:
        raise ValueError(
            f"trade-off: got kinds {', '.join(unknown)}, expected some of {', '.join(TRADE_OFF)}"
        )
    panels, conditions = list(frame["panel"].unique()), list(frame["condition"].unique())
    kinds = [kind for kind in TRADE_OFF if kind in set(frame["kind"])]
    fig = _panels(1, len(panels), panels)
    height = {condition: len(conditions) - 1 - i for i, condition in enumerate(conditions)}
    for col, panel in enumerate(panels, start=1):
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
    method = method or "shares of prompts; bars: 95 % intervals"
    width = max(760, 220 + 260 * len(panels))
    dress(
        fig,
        finding or "Safety gained against utility kept",
        method,
        width=width,
        height=27 * len(conditions) + 96,
    )
    return _name_kinds(fig, {kind: COLOURS[TRADE_OFF[kind]] for kind in kinds})


def _name_kinds(fig: go.Figure, kinds: Mapping[str, str]) -> go.Figure:
    """The marks' names in their own colours, on one line under the panels."""
    text = "     ".join(f'<span style="color:{colour}">● {kind}</span>' for kind, colour in kinds.items())
    fig.add_annotation(
        text=text,
        x=0,
        y=0,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="top",
        yshift=-28,
        showarrow=False,
    )
    return fig


def _panels(
    rows: int, cols: int, titles: Sequence[str], row_heights: Sequence[float] | None = None
) -> go.Figure:
    fig = make_subplots(
        rows,
        cols,
        shared_yaxes=True,
        shared_xaxes=True,
        subplot_titles=list(titles),
        horizontal_spacing=0.03,
        vertical_spacing=0.08,
        row_heights=list(row_heights) if row_heights else None,
    )
    fig.update_annotations(font=dict(size=13, color=INK), yshift=4)
    return fig


def _layer_axis(fig: go.Figure, layers: pd.Series, *, row: int) -> None:
    every = max(1, int(layers.max()) // 8)
    fig.update_xaxes(tickvals=list(range(0, int(layers.max()) + 1, every)), range=[-0.6, layers.max() + 0.6])
    fig.update_xaxes(title_text="layer", row=row)


def _line_of(arm: str) -> tuple[dict[str, object], str]:
    if arm in ("steered", "unsteered"):
        return dict(color=COLOURS[arm], width=2.5, dash="solid"), COLOURS[arm]
    return dict(color=COLOURS["control"], width=2, dash="dash"), COLOURS["control"]


def _shaded(chosen: Sequence[int]) -> str:
    return f"; shaded: steered layers {', '.join(map(str, chosen))}" if chosen else ""


def _short(model: str) -> str:
    return model.removeprefix("organism:")


def _require(frame: pd.DataFrame, what: str, *columns: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(
            f"{what}: the frame has no column {', '.join(missing)}: it needs {', '.join(columns)}"
        )
    if frame.empty:
        raise ValueError(f"{what}: the frame is empty: expected at least one row")
