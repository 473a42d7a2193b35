"""The picture of which vectors read which prompts: words, pictures, or whatever else two sets differ in."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import layer_axis, panels, require_columns, require_depth
from workbench.style import COLOURS, INK, QUIET, add_band, add_labels, dress, shade_layers

LINES = ((COLOURS["gate"], "solid"), (INK, "dash"), (QUIET, "dot"))


def separability(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """AUROC by layer, a small multiple per kind of prompts asked, a line per vectors.

    `frame` is that of `profiles.separability`: made_from, asked, layer, auroc, auroc_low, auroc_high. `chosen` layers
    are shaded.
    """
    what = "separability"
    require_columns(frame, what, "made_from", "asked", "layer", "auroc", "auroc_low", "auroc_high")
    require_depth(frame, what)
    if frame.duplicated(["made_from", "asked", "layer"]).any():
        raise ValueError(
            f"{what}: got a layer twice for the same vectors and prompts, expected one model's rows: choose them"
        )
    asked, made = list(frame["asked"].unique()), list(frame["made_from"].unique())
    if len(made) > len(LINES):
        raise ValueError(
            f"{what}: got {len(made)} origins of vectors, expected up to {len(LINES)}: choose some"
        )
    fig = panels(1, len(asked), [f"asked: {kind}" for kind in asked])
    last = int(frame["layer"].max())
    for col, kind in enumerate(asked, start=1):
        ends = []
        for name, (colour, dash) in zip(made, LINES, strict=False):
            part = frame[(frame["asked"] == kind) & (frame["made_from"] == name)].sort_values("layer")
            add_band(fig, part["layer"], part["auroc_low"], part["auroc_high"], colour, row=1, col=col)
            fig.add_scatter(
                x=part["layer"], y=part["auroc"], mode="lines+markers", line=dict(color=colour, width=2, dash=dash),
                hovertemplate=f"{name}, layer %{{x}}: %{{y:.3f}}<extra></extra>", row=1, col=col,
            )  # fmt: skip
            ends.append((f"from {name}", colour, float(part["auroc"].iloc[-1])))
        low = min(0.4, float(frame["auroc_low"].min()) - 0.02)
        add_labels(fig, ends, x=float(last), row=1, col=col, gap=0.06 * (1 - low), low=low, high=1.0)
        fig.add_hline(y=0.5, line=dict(color=COLOURS["control"], dash="dash", width=1), row=1, col=col)
        fig.update_yaxes(range=[low, 1.03])
    fig.update_yaxes(title_text="AUROC", row=1, col=1)
    layer_axis(fig, frame["layer"], row=1)
    fig.update_xaxes(range=[-0.6, last * 1.5])
    shade_layers(fig, chosen)
    method = method or (
        "AUROC of the projection of prompts that made no vector on harmful − harmless directions of other prompts; "
        "bands: 95 % intervals; dashed grey: chance"
    )
    if chosen:
        method += f"; shaded: steered layers {', '.join(map(str, chosen))}"
    return dress(fig, finding or _best(frame), method, width=140 + 380 * len(asked), height=330)


def _best(frame: pd.DataFrame) -> str:
    """For each kind of prompts, how well the vectors of each origin read it at their best layer."""
    told = []
    for kind, part in frame.groupby("asked", sort=False):
        best = part.groupby("made_from", sort=False)["auroc"].max()
        told.append(f"{kind}, " + ", ".join(f"{value:.2f} from {name}" for name, value in best.items()))
    return f"AUROC at the best layer: {'; '.join(told)}"
