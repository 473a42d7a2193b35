"""Pictures of directions and residuals: how long, how alike, from how many prompts, and how prompts lie."""

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import (
    LABELS,
    layer_axis,
    name_marks,
    panels,
    require_columns,
    require_depth,
    require_sides,
    short_name,
    shown_layers,
)
from workbench.prompts import ATTACKS
from workbench.stats import roc_area
from workbench.style import COLOURS, DIVERGING, INK, add_band, dress, tint


def vector_strength(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """‖v'_l‖ by layer, and below it as a share of the residual's norm; a small multiple per model, controls dashed.

    `frame` is that of `profiles.vector_strength`.
    """
    require_columns(
        frame, "vector strength", "model", "layer", "gap_norm", "gap_norm_low", "gap_norm_high", "share", "share_low",
        "share_high", "shuffled", "shuffled_share",
    )  # fmt: skip
    require_depth(frame, "vector strength")
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    models = list(frame["model"].unique())
    fig = panels(2, len(models), [short_name(model) for model in models])
    for col, model in enumerate(models, start=1):
        part = frame[frame["model"] == model].sort_values("layer")
        for row, column, control in ((1, "gap_norm", "shuffled"), (2, "share", "shuffled_share")):
            add_band(
                fig,
                part["layer"],
                part[f"{column}_low"],
                part[f"{column}_high"],
                COLOURS["gate"],
                row=row,
                col=col,
            )
            for y, colour, dash in (
                (control, COLOURS["control"], "dash"),
                (column, COLOURS["gate"], "solid"),
            ):
                fig.add_scatter(
                    x=part["layer"], y=part[y], mode="lines+markers", line=dict(color=colour, width=2, dash=dash),
                    marker=dict(size=5), row=row, col=col,
                )  # fmt: skip
    for row, column, control in ((1, "gap_norm_high", "shuffled"), (2, "share_high", "shuffled_share")):
        fig.update_yaxes(range=[0, 1.06 * float(frame[[column, control]].max().max()) or 1.0], row=row)
    fig.update_yaxes(title_text="‖v'‖", row=1, col=1)
    fig.update_yaxes(title_text="‖v'‖ ÷ residual norm", row=2, col=1)
    layer_axis(fig, frame["layer"], row=2)
    tops = frame.loc[frame.groupby("model", sort=False)["share"].idxmax()]
    said = ", ".join(
        f"{short_name(model)} {100 * share:.0f} % of the residual at layer {layer}"
        for model, share, layer in zip(tops["model"], tops["share"], tops["layer"], strict=True)
    )
    method = (
        method
        or "‖v'‖: length of the mean difference, the noise of so few prompts included (dashed: all there is with "
        "shuffled labels); band: 95 % bootstrap over extraction prompts"
    )
    width = max(560, 120 + 280 * len(models))
    return dress(fig, finding or f"The difference is longest at: {said}", method, width=width, height=440)


def extraction_growth(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """Held-out AUROC by the number of extraction prompts of each kind, a column per layer and a row per model.

    `frame` has model, size, layer, auroc, low and high (`profiles.extraction_growth`).
    """
    require_columns(frame, "extraction growth", "model", "size", "layer", "auroc", "low", "high")
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    models = list(frame["model"].unique())
    layers, told = shown_layers(frame["layer"])
    titles = [f"layer {layer}" for layer in layers] + [""] * len(layers) * (len(models) - 1)
    fig = panels(len(models), len(layers), titles)
    for row, model in enumerate(models, start=1):
        for col, layer in enumerate(layers, start=1):
            part = frame[(frame["model"] == model) & (frame["layer"] == layer)].sort_values("size")
            add_band(fig, part["size"], part["low"], part["high"], COLOURS["gate"], row=row, col=col)
            fig.add_scatter(
                x=part["size"], y=part["auroc"], mode="lines+markers", line=dict(color=COLOURS["gate"], width=2),
                marker=dict(size=5), row=row, col=col,
            )  # fmt: skip
            fig.add_hline(y=0.5, line=dict(color=COLOURS["control"], dash="dash", width=1), row=row, col=col)
        fig.update_yaxes(title_text=f"{short_name(model)}: AUROC", row=row, col=1)
    sizes = sorted(frame["size"].unique())
    ticks = sorted({sizes[0], sizes[len(sizes) // 2], sizes[-1]})
    fig.update_xaxes(type="log", tickvals=ticks, ticktext=[str(tick) for tick in ticks], minor=dict(ticks=""))
    fig.update_yaxes(range=[min(0.0, frame["low"].min()) if frame["low"].min() < 0.3 else 0.3, 1.02])
    fig.update_xaxes(title_text="prompts a side", row=len(models))
    last = frame[frame["size"] == sizes[-1]]
    best = last.loc[last["auroc"].idxmax()]
    same = frame[(frame["layer"] == best["layer"]) & (frame["model"] == best["model"])].set_index("size")[
        "auroc"
    ]
    enough = min(size for size in sizes if (same[same.index >= size] >= same[sizes[-1]] - 0.01).all())
    finding = finding or (
        f"At layer {best['layer']} of {short_name(best['model'])}, AUROC comes within 0.01 of that of all {sizes[-1]} "
        f"prompts of each kind, {same[sizes[-1]]:.2f}, from {enough} on"
    )
    method = (
        method
        or "held-out AUROC, mean over draws of so many harmful and harmless extraction prompts; band: 95 %, the wider "
        "of draws and held-out prompts; dashed: chance"
    )
    return dress(
        fig, finding, method + told, width=max(520, 120 + 112 * len(layers)), height=190 * len(models) + 60
    )


def layer_cosines(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """The cosine between the directions of every two layers, a heat map per model, white at 0.

    `frame` has model, layer, other and cosine (`profiles.layer_cosines`).
    """
    require_columns(frame, "layer cosines", "model", "layer", "other", "cosine")
    require_depth(frame, "layer cosines")
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    models = list(frame["model"].unique())
    fig = panels(1, len(models), [short_name(model) for model in models])
    depth = int(frame["layer"].max()) + 1
    for col, model in enumerate(models, start=1):
        table = frame[frame["model"] == model].pivot(index="layer", columns="other", values="cosine")
        fig.add_heatmap(
            z=table.to_numpy(), x=table.columns, y=table.index, colorscale=DIVERGING, zmid=0, zmin=-1, zmax=1, xgap=1,
            ygap=1, showscale=depth > 12 and col == len(models), row=1, col=col,
            **(dict(text=table.round(1).to_numpy(), texttemplate="%{text:.1f}") if depth <= 12 else {}),
        )  # fmt: skip
    fig.update_yaxes(autorange="reversed", showgrid=False, dtick=max(1, depth // 8), ticklabelstandoff=4)
    fig.update_xaxes(title_text="layer", dtick=max(1, depth // 8), ticks="", showline=False)
    fig.update_yaxes(title_text="layer", row=1, col=1)
    nearby = frame[frame["other"] == frame["layer"] + 1]
    ends = frame[(frame["layer"] == frame["layer"].min()) & (frame["other"] == frame["other"].max())]
    finding = finding or (
        f"Neighbouring layers have directions of cosine {nearby['cosine'].median():.2f} in the median, the first "
        f"and the last of {_range(ends['cosine'])}"
    )
    method = method or "cosine between the harmful − harmless directions of two layers; white: 0"
    return dress(fig, finding, method, width=max(460, 110 + 330 * len(models)), height=370)


def vector_cosines(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """The cosine of two models' directions by layer, a small multiple per pair, beside the band of random directions.

    `frame` has model, other, layer, cosine and band (`profiles.vector_cosines`, several stacked).
    """
    require_columns(frame, "vector cosines", "model", "other", "layer", "cosine", "band")
    require_depth(frame, "vector cosines")
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    pairs = list(frame[["model", "other"]].drop_duplicates().itertuples(index=False, name=None))
    fig = panels(1, len(pairs), [f"{short_name(one)} · {short_name(other)}" for one, other in pairs])
    for col, (one, other) in enumerate(pairs, start=1):
        part = frame[(frame["model"] == one) & (frame["other"] == other)].sort_values("layer")
        band = float(part["band"].iloc[0])
        fig.add_scatter(
            x=part["layer"],
            y=part["cosine"],
            mode="lines+markers",
            line=dict(color=INK, width=2),
            row=1,
            col=col,
        )
        # After the line: plotly skips a shape in a panel that is still empty.
        fig.add_hrect(
            y0=-band,
            y1=band,
            fillcolor=tint(COLOURS["control"], 0.4),
            line_width=0,
            layer="below",
            row=1,
            col=col,
        )
    fig.update_yaxes(
        range=[min(-0.25, frame["cosine"].min() - 0.05), 1.02], zeroline=True, zerolinecolor="#B8B8B8"
    )
    fig.update_yaxes(title_text="cosine", row=1, col=1)
    layer_axis(fig, frame["layer"], row=1)
    over = frame[frame["cosine"] > frame["band"]]
    finding = finding or (
        f"Two models' directions are alike beyond chance at {len(over)} of {len(frame)} layers, with cosine "
        f"{_range(frame['cosine'])}"
    )
    method = (
        method or "cosine of the two models' harmful − harmless directions; grey: 95 % of random directions"
    )
    return dress(fig, finding, method, width=max(560, 120 + 280 * len(pairs)), height=330)


def principal_components(
    frame: pd.DataFrame, *, layer: int | None = None, finding: str = "", method: str = ""
) -> go.Figure:
    """A mark per prompt on the first two principal components of a layer's residuals, with a slider for the layer.

    `frame` is that of `profiles.principal_components`, of one model. `layer` is shown first; without it the one whose
    first component tells intent best.
    """
    require_columns(
        frame, "principal components", "label", "layer", "first", "second", "first_share", "second_share"
    )
    frame = frame.reset_index(drop=True)  # stacked frames repeat their index
    if "model" in frame and frame["model"].nunique() > 1:
        raise ValueError(
            f"principal components: got {frame['model'].nunique()} models, expected one: choose one with "
            "frame[frame['model'] == ...]"
        )
    layers = sorted(int(one) for one in frame["layer"].unique())
    require_sides(frame, "principal components")
    told = {one: roc_area(part["first"], part["label"].isin(ATTACKS)) for one, part in frame.groupby("layer")}
    best = max(layers, key=lambda one: told[one])
    shown = best if layer is None else layer
    if shown not in layers:
        raise ValueError(f"principal components: got layer {shown}, the frame has {layers}")
    labels = [label for label in LABELS if label in set(frame["label"])]
    fig, steps = go.Figure(), []
    for number, one in enumerate(layers):
        part = frame[frame["layer"] == one]
        for label in labels:
            of = part[part["label"] == label]
            fig.add_scatter(
                x=of["first"], y=of["second"], mode="markers", visible=one == shown, hoverinfo="none", name=label,
                marker=dict(color=COLOURS[label], size=5, opacity=0.55),
            )  # fmt: skip
        visible = [k // len(labels) == number for k in range(len(layers) * len(labels))]
        steps.append(
            dict(
                method="update", label=str(one), args=[{"visible": visible}, _component_axes(part, told[one])]
            )
        )
    finding = finding or (
        f"The first component tells intent best at layer {best}: AUROC {told[best]:.2f}, "
        f"{100 * frame.loc[frame['layer'] == best, 'first_share'].iloc[0]:.0f} % of variance"
    )
    dress(
        fig,
        finding,
        method
        or "a point is a prompt's last-token residual; PCA of each layer's own; harm turned to the right",
        width=720,
        height=560,
    )
    fig.update_layout(
        _component_axes(frame[frame["layer"] == shown], told[shown]),
        margin_b=140,
        sliders=[
            dict(
                active=layers.index(shown), steps=steps, pad=dict(t=64, b=8), currentvalue=dict(prefix="layer "),
                x=0, len=1,
            )
        ],
    )  # fmt: skip
    return name_marks(fig, {f"● {label}": COLOURS[label] for label in labels})


def _component_axes(part: pd.DataFrame, auroc: float) -> dict[str, object]:
    """The axes' names and ranges at one layer: scales grow a hundredfold from the first layer to the last."""
    first, second = part[["first_share", "second_share"]].iloc[0]
    axes: dict[str, object] = {
        "xaxis.title.text": f"first component, {100 * first:.0f} % of variance; AUROC {auroc:.2f}",
        "yaxis.title.text": f"second, {100 * second:.0f} %",
    }
    for axis, column in (("xaxis", "first"), ("yaxis", "second")):
        low, high = float(part[column].min()), float(part[column].max())
        room = 0.05 * (high - low) or 1.0
        axes[f"{axis}.range"] = [low - room, high + room]
    return axes


def _range(values: "pd.Series[float]") -> str:
    low, high = f"{values.min():.2f}", f"{values.max():.2f}"
    return low if low == high else f"{low} to {high}"
