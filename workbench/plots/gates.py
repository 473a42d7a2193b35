"""Pictures of a gate: for every threshold that it might have had, and by the wrapper that a prompt came in."""

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import panels, require_columns, shown_layers
from workbench.style import COLOURS, GRID, INK, dress, tint


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
        ticktext=[wrapper.replace("_", " ").replace("none", "no wrapper") for wrapper in height],
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
            name = str(most["wrapper"]).replace("_", " ")
            said += f"; of harmless prompts, {100 * most['open']:.0f} % open it at most ({name})"
        finding = finding or said
    finding = finding or (
        f"Most slip through in the wrapper {str(worst['wrapper']).replace('_', ' ')}: the gate opens on "
        f"{100 * worst['open']:.0f} % of its attacks [{100 * worst['low']:.0f}, {100 * worst['high']:.0f}]"
    )
    sides = [f'<span style="color:{COLOURS["harmful"]}">● attacks: should be open</span>']
    if not others.empty:
        sides.append(f'<span style="color:{COLOURS["harmless"]}">● harmless: should be closed</span>')
    method = method or "share of prompts on which the gate is open; lines: 95 % intervals"
    fig = dress(fig, finding, method, width=720, height=34 * len(height) + 90)
    fig.add_annotation(
        text="     ".join(sides), x=0, y=1, xref="paper", yref="paper", xanchor="left", yanchor="bottom",
        yshift=6, showarrow=False,
    )  # fmt: skip
    return fig


def _error(at: "pd.Series[float]", name: str) -> dict[str, object]:
    return dict(
        symmetric=False,
        array=[at[f"{name}_high"] - at[name]],
        arrayminus=[at[name] - at[f"{name}_low"]],
        color=INK,
        thickness=1.5,
        width=0,
    )
