"""Pictures of what a model can tell: how layers separate, where prompts fall, on which the gate opens."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import (
    LABELS,
    layer_axis,
    panels,
    require_columns,
    require_depth,
    require_sides,
    short_name,
    shown_layers,
)
from workbench.prompts import ATTACKS
from workbench.style import COLOURS, INK, QUIET, SEQUENTIAL, add_band, dress, shade_layers


def layer_profile(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """AUROC by layer, a small multiple per `model`, and below it the balanced accuracy at the paper's threshold.

    `frame` has model, layer, auroc and balanced_accuracy, both with _low and _high: `LayerProfile.frame`, several
    stacked. `chosen` layers are shaded, as L_G.
    """
    measures = ["auroc", "balanced_accuracy"]
    columns = [f"{measure}{end}" for measure in measures for end in ("", "_low", "_high")]
    require_columns(frame, "layer profile", "model", "layer", *columns)
    require_depth(frame, "layer profile")
    if frame["auroc"].isna().any():
        raise ValueError(
            "layer profile: got no AUROC at some layers (NaN), expected numbers: drop those rows"
        )
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    models = list(frame["model"].unique())
    if frame["balanced_accuracy"].isna().all():  # vectors without midpoints: no threshold, and no empty panel
        measures = measures[:1]
    fig = panels(len(measures), len(models), [short_name(model) for model in models])
    for col, model in enumerate(models, start=1):
        part = frame[frame["model"] == model].sort_values("layer")
        for row, measure in enumerate(measures, start=1):
            low, high = part[f"{measure}_low"], part[f"{measure}_high"]
            add_band(fig, part["layer"], low, high, COLOURS["gate"], row=row, col=col)
            fig.add_scatter(
                x=part["layer"],
                y=part[measure],
                mode="lines+markers",
                line=dict(color=COLOURS["gate"], width=2),
                hovertemplate="layer %{x}: %{y:.3f}<extra></extra>",
                row=row,
                col=col,
            )
            fig.add_hline(y=0.5, line=dict(color=COLOURS["control"], dash="dash", width=1), row=row, col=col)
    fig.update_yaxes(range=[min(0.4, frame[["auroc_low", "balanced_accuracy_low"]].min().min() - 0.02), 1.02])
    for row, name in enumerate(("AUROC", "balanced accuracy")[: len(measures)], start=1):
        fig.update_yaxes(title_text=name, row=row, col=1)
    layer_axis(fig, frame["layer"], row=len(measures))
    shade_layers(fig, chosen)
    told = []
    for model in models:
        part = frame[frame["model"] == model]
        told.append(
            f"{short_name(model)} reads intent above chance at {(part['auroc_low'] > 0.5).sum()} of {len(part)} "
            f"layers, with AUROC up to {part['auroc'].max():.3f}"
        )
    found = "; ".join(told)
    method = method or (
        "projection on each model's own harmful − harmless direction, held out; bands: 95 % intervals; dashed: chance"
        + ("; accuracy at the paper's threshold" if len(measures) > 1 else "")
    )
    return dress(
        fig,
        finding or f"{found[:1].upper()}{found[1:]}",
        method + _shaded(chosen),
        height=60 + 180 * len(measures),
    )


PER_ROW = 4


def projections(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """Projections by layer: a small multiple per layer, a row of points per label, in units of ‖v'_l‖.

    Four layers share a row and its axis: early layers scatter widely, and late ones would be a line on theirs. `frame`
    has label, layer and projection (`profiles.projections`). The zero line is half-way between the class means of the
    extraction prompts.
    """
    require_columns(frame, "projections", "label", "layer", "projection")
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    require_sides(frame, "projections")
    layers, told = shown_layers(frame["layer"])
    labels = [label for label in reversed(LABELS) if label in set(frame["label"])]
    titles = [f"layer {layer}" + (" •" if layer in chosen else "") for layer in layers]
    rows, cols = -(-len(layers) // PER_ROW), min(len(layers), PER_ROW)
    fig = panels(rows, cols, titles, vertical_spacing=0.16 if rows > 1 else 0.08).update_xaxes(
        showticklabels=True, matches=None
    )
    rng = np.random.default_rng(0)
    gated = "threshold" in frame
    for number, layer in enumerate(layers):
        row, col = number // PER_ROW + 1, number % PER_ROW + 1
        for height, label in enumerate(labels):
            values = frame.loc[(frame["layer"] == layer) & (frame["label"] == label), "projection"]
            jitter = height + rng.uniform(-0.28, 0.28, len(values))
            fig.add_scatter(
                x=values,
                y=jitter,
                mode="markers",
                hoverinfo="x",
                marker=dict(color=COLOURS[label], size=4, opacity=0.45),
                row=row,
                col=col,
            )
            fig.add_scatter(
                x=[values.median()] * 2,
                y=[height - 0.36, height + 0.36],
                mode="lines",
                line=dict(color=COLOURS[label], width=3),
                row=row,
                col=col,
            )
        fig.add_vline(x=0, line=dict(color=QUIET, width=1, dash="dot"), row=row, col=col)
        if gated:
            at = frame[frame["layer"] == layer].iloc[0]
            dash = "solid" if bool(at.get("decides", True)) else "dash"
            line = dict(color=COLOURS["gate"], width=2, dash=dash)
            fig.add_vline(x=float(at["threshold"]), line=line, row=row, col=col)
    for row in range(rows):
        part = frame[frame["layer"].isin(layers[row * PER_ROW : (row + 1) * PER_ROW])]
        ends = part[["projection", "threshold"]] if gated else part[["projection"]]
        low, high = ends.min().min(), ends.max().max()
        room = 0.05 * (high - low)
        fig.update_xaxes(range=[low - room, high + room], nticks=5, row=row + 1)
    fig.update_yaxes(range=[-0.6, len(labels) - 0.4], showgrid=False, tickvals=[])
    fig.update_yaxes(
        tickvals=list(range(len(labels))),
        ticktext=[f'<span style="color:{COLOURS[label]}">{label}</span>' for label in labels],
        col=1,
    )
    method = (
        method
        or "a point is a prompt, a bar the median; unit: ‖v'‖, 0 half-way between train's harmful and harmless means"
    )
    if gated:
        method += "; purple: the gate's threshold" + (
            ", dashed where it does not decide" if "decides" in frame and not frame["decides"].all() else ""
        )
    if chosen:
        method += "; • steered layer"
    return dress(fig, finding or _falls(frame), method + told, width=980, height=120 + 210 * rows)


def _falls(frame: pd.DataFrame) -> str:
    """Which kinds lie beyond the gate's threshold, or 0, at the layer where most prompts fall on their side."""
    part = frame
    if "decides" in part and part["decides"].any():
        part = part[part["decides"]]
    beyond = part["projection"] > part.get("threshold", 0)
    right = (beyond == part["label"].isin(ATTACKS)).groupby(part["layer"]).mean()
    layer = right.idxmax()
    shares = beyond[part["layer"] == layer].groupby(part["label"]).mean()
    said = ", ".join(f"{100 * shares[label]:.0f} % of {label}" for label in LABELS if label in shares)
    return f"At layer {layer} the line leaves on the side of harm: {said} prompts"


def gate_map(
    frame: pd.DataFrame, *, chosen_gate: int | None = None, finding: str = "", method: str = ""
) -> go.Figure:
    """Share of prompts on which the gate is open, label by layer, the numbers written in the cells.

    `frame` has label, layer and open (`profiles.gate_map`). `chosen_gate` frames the shared layer, where there is one.
    """
    require_columns(frame, "gate map", "label", "layer", "open")
    labels = [label for label in LABELS if label in set(frame["label"])]
    if not labels:
        found = ", ".join(sorted(map(str, frame["label"].unique())))
        raise ValueError(f"gate map: got prompts labelled {found}, expected some of {', '.join(LABELS)}")
    if frame.duplicated(["label", "layer"]).any():
        raise ValueError(
            "gate map: got several shares of a label at one layer, expected one gate's: choose its rows"
        )
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
    return dress(fig, finding or _opens(table, chosen_gate), method, width=720, height=250)


def _opens(table: pd.DataFrame, chosen_gate: int | None) -> str:
    """How often the gate opens on each kind: at its layer, or at the one where that parts the two sides best."""
    harm = table.index.isin(ATTACKS)
    if chosen_gate is None:
        apart = table[harm].mean().fillna(1.0) - table[~harm].mean().fillna(0.0)
        layers = [int(layer) for layer in table.columns]
        chosen_gate = layers[int(apart.argmax())]
    said = ", ".join(f"{100 * share:.0f} % of {label}" for label, share in table[chosen_gate].items())
    return f"At layer {chosen_gate} the gate opens on {said} prompts"


def _shaded(chosen: Sequence[int]) -> str:
    return f"; shaded: chosen layers {', '.join(map(str, chosen))}" if chosen else ""
