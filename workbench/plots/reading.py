"""Pictures of what a model can tell: how layers separate, where prompts fall, on which the gate opens."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import LABELS, panels, require_columns
from workbench.style import COLOURS, INK, QUIET, SEQUENTIAL, add_band, dress, shade_layers


def layer_profile(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """AUROC by layer, a small multiple per `model`, and below it ‖v'_l‖ as a share of the residual norm.

    `frame` has model, layer, auroc, auroc_low, auroc_high and share: `LayerProfile.frame`, several stacked.
    """
    require_columns(frame, "layer profile", "model", "layer", "auroc", "auroc_low", "auroc_high", "share")
    models = list(frame["model"].unique())
    fig = panels(2, len(models), [_short(model) for model in models], row_heights=[0.6, 0.4])
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

    `frame` has label, layer and projection (`profiles.projections`). The zero line is half-way between the class
    means of the extraction prompts.
    """
    require_columns(frame, "projections", "label", "layer", "projection")
    layers = sorted(frame["layer"].unique())
    labels = [label for label in reversed(LABELS) if label in set(frame["label"])]
    fig = panels(1, len(layers), [f"layer {layer}" + (" •" if layer in chosen else "") for layer in layers])
    rng = np.random.default_rng(0)
    low, high = frame["projection"].min(), frame["projection"].max()
    for col, layer in enumerate(layers, start=1):
        for height, label in enumerate(labels):
            values = frame.loc[(frame["layer"] == layer) & (frame["label"] == label), "projection"]
            jitter = height + rng.uniform(-0.28, 0.28, len(values))
            fig.add_scatter(
                x=values,
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
    fig.update_xaxes(range=[low - 0.2, high + 0.2], nticks=4)
    fig.update_yaxes(range=[-0.6, len(labels) - 0.4], showgrid=False, tickvals=[])
    fig.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[f'<span style="color:{COLOURS[label]}">{label}</span>' for label in labels],
        row=1,
        col=1,
    )
    method = (
        method
        or "a point is a prompt, a bar the median; unit: ‖v'‖, 0 half-way between train's harmful and harmless means"
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
    require_columns(frame, "gate map", "label", "layer", "open")
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


def _layer_axis(fig: go.Figure, layers: pd.Series, *, row: int) -> None:
    every = max(1, int(layers.max()) // 8)
    fig.update_xaxes(tickvals=list(range(0, int(layers.max()) + 1, every)), range=[-0.6, layers.max() + 0.6])
    fig.update_xaxes(title_text="layer", row=row)


def _shaded(chosen: Sequence[int]) -> str:
    return f"; shaded: steered layers {', '.join(map(str, chosen))}" if chosen else ""


def _short(model: str) -> str:
    return model.removeprefix("organism:")
