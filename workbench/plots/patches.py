"""Pictures on an image: what a model reads at each patch, laid over what it saw."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.plots.panels import require_columns
from workbench.plots.tokens import SIDES
from workbench.style import INK, dress

MOST = 5
"""Panels beside the image."""
OPACITY = 0.62
PANEL = 148


def patch_map(
    frame: pd.DataFrame,
    seen: np.ndarray,
    *,
    layers: Sequence[int] | None = None,
    image: int = 0,
    chosen: Sequence[int] = (),
    finding: str = "",
    method: str = "",
) -> go.Figure:
    """An image as the model saw it, and beside it how every patch reads at several layers.

    `frame` is that of `insight.patches.patch_map`, `seen` the pixels of `insight.patches.as_seen`. `layers` are up to
    `MOST`, spread over all unless given; `chosen` ones, those that are steered, are marked by a dot.
    """
    require_columns(frame, "patch map", "image", "row", "column", "layer", "reads")
    part = frame[frame["image"] == image]
    there = sorted(part["layer"].unique().tolist())
    if part.empty:
        raise ValueError(f"patch map: the frame has no image {image}, it has {frame['image'].nunique()}")
    if layers is None:
        layers = [there[round(i)] for i in np.linspace(0, len(there) - 1, min(MOST, len(there)))]
    if missing := [layer for layer in layers if layer not in there]:
        raise ValueError(f"patch map: got layer {missing[0]}, the frame has {there[0]} to {there[-1]}")
    if not 0 < len(layers) <= MOST:
        raise ValueError(f"patch map: got {len(layers)} layers, expected 1 to {MOST}")
    side = int(part["row"].max()) + 1
    shown = part[part["layer"].isin(layers)]
    limit = float(shown["reads"].abs().groupby(shown["layer"]).quantile(0.98).median()) or 1.0
    titles = ["as the model saw it", *(f"layer {layer}{' •' * (layer in chosen)}" for layer in layers)]
    fig = make_subplots(1, len(titles), subplot_titles=titles, horizontal_spacing=0.012)
    fig.update_annotations(font=dict(size=13, color=INK), yshift=2)
    height, width = seen.shape[:2]
    for col, layer in enumerate([None, *layers], start=1):
        # Pixel i has its middle at i: the image covers -0.5 to width - 0.5, and so do its patches.
        # Grey under the colours, which have a meaning of their own.
        fig.add_image(z=seen if layer is None else _grey(seen), hoverinfo="skip", row=1, col=col)
        if layer is not None:
            table = part[part["layer"] == layer].pivot(index="row", columns="column", values="reads")
            fig.add_heatmap(
                z=table.to_numpy(),
                x0=width / side / 2 - 0.5, dx=width / side, y0=height / side / 2 - 0.5, dy=height / side,
                colorscale=SIDES, zmin=-limit, zmax=limit, zmid=0, opacity=OPACITY, showscale=col == len(titles),
                colorbar=dict(
                    title=dict(text="reads as<br>‖v'‖", font=dict(size=11)), thickness=10, len=1.2,
                    tickfont=dict(size=11), nticks=5,
                ),
                hovertemplate=f"layer {layer}: %{{z:.2f}}<extra></extra>", row=1, col=col,
            )  # fmt: skip
    fig.update_xaxes(visible=False, range=[-0.5, width - 0.5], constrain="domain")
    fig.update_yaxes(visible=False, range=[height - 0.5, -0.5])
    for col in range(1, len(titles) + 1):
        fig.update_yaxes(scaleanchor=f"x{col if col > 1 else ''}", row=1, col=col)
    method = method or (
        "projection of each patch's residual on the layer's harmful − harmless direction, from the gate's threshold "
        "(white), in units of ‖v'‖; orange: the harmful side" + ("; • steered layer" if chosen else "")
    )
    # Where the steered layers are known, these: how far apart patches lie in units of a short vector says little.
    found = finding or _found(part, [layer for layer in layers if layer in chosen] or layers, side)
    return dress(fig, found, method, width=90 + PANEL * len(titles), height=110 + PANEL)


def _grey(seen: np.ndarray) -> np.ndarray:
    return np.repeat(seen.mean(-1, keepdims=True).astype(np.uint8), 3, axis=-1)


def _found(part: pd.DataFrame, layers: Sequence[int], side: int) -> str:
    """Where the patch lies that reads most harmful at the layer at which patches differ most."""
    shown = part[part["layer"].isin(layers)]
    layer = shown.groupby("layer")["reads"].std().fillna(0).idxmax()
    top = shown[shown["layer"] == layer].nlargest(1, "reads").iloc[0]
    row, column = (int(3 * (top[axis] + 0.5) / side) for axis in ("row", "column"))
    across = ("left", "", "right")[column]
    where = f"{('upper ', '', 'lower ')[row]}{across}" if across else ("top", "", "bottom")[row]
    where = f"at the {where}" if where else "in the middle"
    on = "the harmful side" if top["reads"] > 0 else "the harmless side, as all of them do"
    return f"At layer {layer} the patch that reads most harmful is {where}, {top['reads']:+.1f} ‖v'‖: {on}"
