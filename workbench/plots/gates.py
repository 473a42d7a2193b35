"""Pictures of a gate: prompt by prompt, for every threshold that it might have had, by the wrapper of a prompt."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.subplots import make_subplots

from workbench.plots.panels import LABELS, name_marks, panels, require_columns, require_sides, shown_layers
from workbench.plots.tokens import SIDES
from workbench.prompts import ATTACKS
from workbench.style import COLOURS, GRID, INK, SEQUENTIAL, dress, tint


def gate_scores(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """Prompts by layers: the gate's score at every crossing, and beside it what the gate decides.

    `frame` is that of `profiles.gate_scores`. Prompts are sorted by kind, then by their score where the gate decides.
    """
    require_columns(frame, "gate scores", "prompt", "label", "source", "layer", "scaled", "open", "decides")
    require_sides(frame, "gate scores")
    if not frame["decides"].any():
        raise ValueError("gate scores: no layer decides in this frame: pass the frame of gate_scores whole")
    if frame.duplicated(["prompt", "layer"]).any():
        raise ValueError(
            "gate scores: got several scores of a prompt at one layer, expected one gate's: choose its rows"
        )
    labels = frame.groupby("prompt")["label"].first()
    scores = frame.pivot(index="prompt", columns="layer", values="scaled")
    decided = frame[frame["decides"]].pivot(index="prompt", columns="layer", values="open").astype(float)
    rank = scores[decided.columns].mean(axis=1)
    rows: list[object] = []
    ticks: dict[float, str] = {}
    for label in [label for label in LABELS if label in set(labels)]:
        own = rank[labels == label].sort_values(ascending=False).index
        rows += ["gap"] * (max(1, len(labels) // 60) if rows else 0)
        ticks[len(rows) + (len(own) - 1) / 2] = (
            f'<span style="color:{COLOURS[label]}">{label}</span> ({len(own)})'
        )
        rows += list(own)
    sources = (
        frame.groupby("prompt")["source"]
        .first()
        .astype(object)
        .reindex(rows)
        .fillna("")
        .to_numpy(dtype=object)
    )
    wide, narrow = scores.shape[1], decided.shape[1]
    fig = make_subplots(
        1, 2, shared_yaxes=True, horizontal_spacing=0.04, column_widths=[wide, max(narrow, 0.12 * wide)],
        subplot_titles=["score", "decision"],
    )  # fmt: skip
    fig.update_annotations(font=dict(size=13, color=INK), yshift=4)
    limit = float(np.quantile(scores.abs().to_numpy(), 0.98)) or 1.0
    fig.add_heatmap(
        z=scores.reindex(rows).to_numpy(), x=list(scores.columns), y=list(range(len(rows))), colorscale=SIDES,
        zmin=-limit, zmax=limit, zmid=0, hoverongaps=False, customdata=_across(sources, wide),
        hovertemplate="%{customdata}, layer %{x}: %{z:.2f}<extra></extra>",
        colorbar=dict(thickness=10, len=0.7, nticks=5, tickfont=dict(size=11), x=1.02), row=1, col=1,
    )  # fmt: skip
    fig.add_heatmap(
        z=decided.reindex(rows).to_numpy(), x=list(range(narrow)), y=list(range(len(rows))), colorscale=SEQUENTIAL,
        zmin=0, zmax=1, showscale=False, hoverongaps=False, customdata=_across(sources, narrow),
        hovertemplate="%{customdata}: %{z:d}<extra>open</extra>", row=1, col=2,
    )  # fmt: skip
    every = max(1, wide // 12)
    fig.update_xaxes(tickvals=list(scores.columns)[::every], ticks="", showline=False, row=1, col=1)
    shown = list(decided.columns)[:: max(1, narrow // 6)]
    fig.update_xaxes(
        tickvals=[list(decided.columns).index(layer) for layer in shown], ticktext=[str(layer) for layer in shown],
        ticks="", showline=False, row=1, col=2,
    )  # fmt: skip
    fig.update_xaxes(title_text="layer")
    fig.update_yaxes(
        range=[len(rows) - 0.5, -0.5],
        tickvals=list(ticks),
        ticktext=list(ticks.values()),
        showgrid=False,
        ticklabelstandoff=6,
    )
    method = method or (
        "a row is a prompt; score: projection from the gate's threshold (white), in units of its spread at the layer; "
        f"orange: the harmful side; purple: the gate is open, by layer{'s' * (narrow > 1)} "
        f"{', '.join(map(str, shown))}{' …' * (len(shown) < narrow)}"
    )
    return dress(
        fig,
        finding or _wrong(decided, labels),
        method,
        width=760,
        height=130 + min(520, max(200, 3 * len(rows))),
    )


def gate_roc(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """The ROC of the gate's score, a small multiple per layer that it decides by, its own threshold a point.

    `frame` is that of `profiles.gate_roc`.
    """
    require_columns(
        frame, "gate ROC", "layer", "part", "false_positive", "true_positive", "false_positive_low",
        "false_positive_high", "true_positive_low", "true_positive_high",
    )  # fmt: skip
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    if "decides" in frame and frame["decides"].any():
        frame = frame[frame["decides"]]
    layers, told = shown_layers(frame["layer"])
    fig = panels(1, len(layers), [f"layer {layer}" for layer in layers])
    chosen = frame[frame["part"] == "chosen"].set_index("layer")
    if missing := [layer for layer in layers if layer not in chosen.index]:
        raise ValueError(
            f"gate ROC: layer {missing[0]} has no chosen point: pass the frame of gate_roc whole"
        )
    for col, layer in enumerate(layers, start=1):
        curve = frame[(frame["layer"] == layer) & (frame["part"] == "curve")]
        fig.add_scatter(
            x=[0, 1], y=[0, 1], mode="lines", hoverinfo="skip",
            line=dict(color=COLOURS["control"], dash="dash", width=1), row=1, col=col,
        )  # fmt: skip
        fig.add_scatter(
            x=curve["false_positive"], y=curve["true_positive"], mode="lines",
            line=dict(color=COLOURS["gate"], width=2, shape="hv"), row=1, col=col,
        )  # fmt: skip
        at = chosen.loc[[layer]].iloc[0]
        fig.add_scatter(
            x=[at["false_positive"]],
            y=[at["true_positive"]],
            mode="markers",
            marker=dict(color=INK, size=9, line=dict(color="white", width=1)),
            error_x=_error(at, "false_positive"),
            error_y=_error(at, "true_positive"),
            row=1,
            col=col,
        )
    fig.update_xaxes(range=[-0.03, 1.03], tickvals=[0, 0.5, 1])
    fig.update_yaxes(range=[-0.03, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 1])
    fig.update_xaxes(title_text="opened in error", row=1)
    fig.update_yaxes(title_text="attacks opened", row=1, col=1)
    ahead = chosen["true_positive"] - chosen["false_positive"]
    best = max(layers, key=lambda layer: ahead[layer])
    at = chosen.loc[[best]].iloc[0]
    finding = finding or (
        f"At layer {best} the gate opens on {100 * at['true_positive']:.1f} % of attacks and on "
        f"{100 * at['false_positive']:.1f} % of other prompts"
    )
    method = (
        method
        or "every threshold of the layer's score; point: the gate's own, lines its 95 % intervals; dashed: chance"
    )
    return dress(fig, finding, method + told, width=min(1000, max(520, 160 * len(layers) + 100)), height=330)


def gate_by_wrapper(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """How often the gate opens on prompts in each wrapper: attacks, on which it should, and harmless ones.

    `frame` has wrapper, side, open, low and high (`profiles.gate_by_wrapper`).
    """
    require_columns(frame, "gate by wrapper", "wrapper", "side", "open", "low", "high")
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    attacks = frame[frame["side"] == "attack"].sort_values("open", ascending=False)
    if attacks.empty:
        raise ValueError(
            "gate by wrapper: got no attacks, expected some: which wrapper lets them slip through?"
        )
    others = frame[(frame["side"] != "attack") & frame["wrapper"].isin(attacks["wrapper"])]
    height = {wrapper: i for i, wrapper in enumerate(reversed(attacks["wrapper"].tolist()))}
    fig = panels(1, 1, [""])
    for part, side, lift in ((attacks, "harmful", 0.13), (others, "harmless", -0.13)):
        rows = [height[wrapper] + lift for wrapper in part["wrapper"]]
        for y, low, high in zip(rows, part["low"], part["high"], strict=True):
            line = dict(color=tint(COLOURS[side], 0.45), width=2.5)
            fig.add_scatter(x=[low, high], y=[y, y], mode="lines", line=line, hoverinfo="skip")
        fig.add_scatter(
            x=part["open"], y=rows, mode="markers", hoverinfo="x", marker=dict(color=COLOURS[side], size=8)
        )
    fig.update_yaxes(
        tickvals=list(height.values()),
        ticktext=[_called(wrapper) for wrapper in height],
        range=[-0.6, len(height) - 0.4],
        showgrid=False,
    )
    fig.update_xaxes(range=[-0.03, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 1], showgrid=True, gridcolor=GRID)
    fig.update_xaxes(title_text="share on which the gate is open")
    worst = attacks.iloc[-1]
    if worst["open"] == 1:
        said = f"No attack slips through, whatever its wrapper ({len(attacks)} kinds)"
        if not others.empty and others["open"].max() > 0:
            most = others.sort_values("open").iloc[-1]
            name = _called(most["wrapper"])
            said += f"; of harmless prompts, {100 * most['open']:.0f} % open it at most ({name})"
        finding = finding or said
    finding = finding or (
        f"Most slip through in the wrapper {_called(worst['wrapper'])}: the gate opens on "
        f"{100 * worst['open']:.0f} % of its attacks [{100 * worst['low']:.0f}, {100 * worst['high']:.0f}]"
    )
    sides = {"● attacks: should be open": COLOURS["harmful"]}
    if not others.empty:
        sides["● harmless: should be closed"] = COLOURS["harmless"]
    method = method or "share of prompts on which the gate is open; lines: 95 % intervals"
    fig = dress(fig, finding, method, width=720, height=34 * len(height) + 90)
    return name_marks(fig, sides)


def _called(wrapper: object) -> str:
    return "no wrapper" if wrapper == "none" else str(wrapper).replace("_", " ")


def _across(sources: NDArray[np.object_], columns: int) -> NDArray[np.object_]:
    return np.repeat(sources[:, None], columns, axis=1)


def _wrong(decided: pd.DataFrame, labels: "pd.Series[str]") -> str:
    """At the layer that errs least of those that decide, how many prompts of either side it is wrong about."""
    harm = labels.isin(ATTACKS)
    missed, stopped = (1 - decided[harm]).sum(), decided[~harm].sum()
    at = int((missed + stopped).argmin())
    layer, closed, opened = decided.columns[at], int(missed.iloc[at]), int(stopped.iloc[at])
    errors = closed + opened
    if not errors:
        return f"By layer {layer} the gate is right about all {len(labels)} prompts"
    return (
        f"By layer {layer} the gate is wrong about {errors} of {len(labels)} prompts: it stays closed on "
        f"{closed} of {int(harm.sum())} attacks and opens on {opened} of "
        f"{int((~harm).sum())} others"
    )


def _error(at: "pd.Series[float]", name: str) -> dict[str, object]:
    return dict(
        symmetric=False,
        array=[at[f"{name}_high"] - at[name]],
        arrayminus=[at[name] - at[f"{name}_low"]],
        color=INK,
        thickness=1.5,
        width=0,
    )
