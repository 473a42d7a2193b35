"""Picture of what writes a direction: the share of every head and MLP, layer by layer."""

from typing import Any, TypeAlias

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import panels, require_columns
from workbench.style import DIVERGING, dress

Table: TypeAlias = np.ndarray[Any, np.dtype[np.float64]]


def attribution(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """Who writes it: heads and MLP down, layers across, a panel per thing that is written (`of`, `at`).

    `frame` is that of `insight.attribution`: of, at, kind, layer, head, contribution; means are drawn where it has
    several prompts. Each panel has its own scale, in shares of its whole; the embedding stands at its left.
    """
    require_columns(frame, "attribution", "of", "at", "kind", "layer", "head", "contribution")
    means = frame.groupby(["of", "at", "kind", "layer", "head"], as_index=False)["contribution"].mean()
    wholes = [(str(of), int(at)) for of, at in means[["of", "at"]].drop_duplicates().to_numpy()]
    if len(wholes) > 6:
        raise ValueError(
            f"attribution: got {len(wholes)} things written, expected up to 6: choose layers=[...]"
        )
    n_heads, depth = int(means["head"].max()) + 1, int(means["layer"].max()) + 1
    tables: list[Table] = []
    totals: list[float] = []
    for whole in wholes:
        part = means[(means["of"] == whole[0]) & (means["at"] == whole[1])]
        total = float(part["contribution"].sum())
        table = np.full((n_heads + 1, depth + 1), np.nan)
        for kind, layer, head, size in part[["kind", "layer", "head", "contribution"]].to_numpy():
            if kind in ("head", "mlp"):
                table[head if kind == "head" else n_heads, layer + 1] = size
            elif kind == "embedding":
                table[n_heads, 0] = size
        tables.append(table)
        totals.append(total)
    titles = [
        f"{of} of layer {at}: {total:+.2f}" if of == "direction" else f"{of}: {total:+.2f}"
        for (of, at), total in zip(wholes, totals, strict=True)
    ]
    fig = panels(1, len(wholes), titles)
    for col, (table, total) in enumerate(zip(tables, totals, strict=True), start=1):
        shares = 100 * table / (abs(total) or 1.0)
        limit = float(np.nanmax(np.abs(shares))) or 1.0
        fig.add_heatmap(
            z=shares, x=list(range(-1, depth)), y=list(range(n_heads + 1)), colorscale=DIVERGING, zmin=-limit,
            zmax=limit, showscale=False, xgap=2, ygap=2, hoverongaps=False,
            text=[["" if np.isnan(v) or abs(v) < 1 else f"{v:.0f}" for v in row] for row in shares],
            texttemplate="%{text}", textfont=dict(size=10),
            hovertemplate="layer %{x}, %{y}: %{z:.1f} %<extra></extra>", row=1, col=col,
        )  # fmt: skip
    every = max(1, depth // 8)
    ticks = list(range(0, depth, every))
    fig.update_xaxes(
        title_text="written by layer", tickvals=[-1, *ticks], ticktext=["emb.", *map(str, ticks)], ticks="",
        showline=False, tickfont=dict(size=11), tickangle=0,
    )  # fmt: skip
    fig.update_yaxes(
        autorange="reversed", showgrid=False, tickvals=list(range(n_heads + 1)),
        ticktext=[*(f"head {head}" for head in range(n_heads)), "MLP"],
    )  # fmt: skip
    method = method or (
        "direct attribution at the last token: each part's own addition, projected; numbers: % of the panel's whole, "
        "which is the sum of all parts (biases included); purple: towards, brown: away"
    )
    width = 560 if len(wholes) == 1 else min(1500, 120 + 330 * len(wholes))
    return dress(
        fig,
        finding or _writer_found(wholes, tables, totals),
        method,
        width=width,
        height=130 + 34 * (n_heads + 1),
    )


def _writer_found(wholes: list[tuple[str, int]], tables: list[Table], totals: list[float]) -> str:
    said = []
    for (of, at), table, total in zip(wholes, tables, totals, strict=True):
        part, column = np.unravel_index(np.nanargmax(np.sign(total or 1.0) * table), table.shape)
        block = "MLP" if part == table.shape[0] - 1 else f"head {part}"
        where = "the embedding" if column == 0 else f"layer {column - 1}'s {block}"
        share = f"{100 * table[part, column] / total:.0f} %" if total else "nothing"
        what = f"the direction at layer {at}" if of == "direction" else f"the {of}"
        said.append(f"{share} of {what}{', which is negative,' if total < 0 else ''} by {where}")
    return "Who writes most: " + "; ".join(said)
