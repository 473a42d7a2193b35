"""Pictures along the tokens: a prompt's text down its axis, the layers across, and what is read at each crossing."""

from collections.abc import Sequence
from typing import TypeAlias

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.plots.panels import require_columns
from workbench.style import COLOURS, INK, dress

Colours: TypeAlias = Sequence[tuple[float, str]]
SIDES = [(0.0, COLOURS["harmless"]), (0.5, "#FFFFFF"), (1.0, COLOURS["harmful"])]
"""Of projections on harmful − harmless only: the harmless side, the threshold, the harmful side."""


def token_map(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """How every token reads at every layer, a panel per prompt, all ending at their last token.

    `frame` is that of `insight.tokens.token_map`: prompt, label, position, token, layer, reads, and image where prompts
    have some: an image is one row, the mean of its patches (`patch_map` shows them). `chosen` layers, those
    that are steered, are marked by a dot. Colours saturate at the 98th percentile of the size, of the layer that is
    median in it.
    """
    require_columns(frame, "token map", "prompt", "label", "position", "token", "layer", "reads")
    frame = _images_as_rows(frame)
    prompts = list(frame["prompt"].unique())
    if len(prompts) > 4:
        raise ValueError(
            f"token map: got {len(prompts)} prompts, expected up to 4: choose some by frame.prompt"
        )
    labels = frame.groupby("prompt")["label"].first()
    # A layer whose ‖v'‖ is next to nothing reads tens of it everywhere; the others would all be white beside it.
    limit = float(frame["reads"].abs().groupby(frame["layer"]).quantile(0.98).median()) or 1.0
    fig = text_panels([str(labels[prompt]) for prompt in prompts])
    longest = 0
    for col, prompt in enumerate(prompts, start=1):
        table, words = text_table(frame[frame["prompt"] == prompt], "reads")
        longest = max(longest, len(words))
        add_text_map(fig, table, words, limit=limit, title="reads as<br>‖v'‖", colours=SIDES, col=col)
    finish_text_panels(fig, longest, chosen)
    method = method or (
        "projection of each token's residual on the layer's harmful − harmless direction, from the threshold (white), "
        "in units of ‖v'‖; orange: the harmful side; last row: the token that the gate reads"
    )
    if chosen:
        method += "; • steered layer"
    width = 150 + 330 * len(prompts) if len(prompts) > 1 else 620
    return dress(fig, finding or _reads_found(frame), method, width=width, height=120 + 17 * longest)


def _images_as_rows(frame: pd.DataFrame) -> pd.DataFrame:
    """The same frame with a row per image and layer in place of one for each of its patches."""
    if "image" not in frame or not (patches := frame["image"] >= 0).any():
        return frame
    of_one = frame[patches].groupby(["prompt", "label", "image", "layer"], sort=False, as_index=False)
    means = of_one.agg(position=("position", "min"), reads=("reads", "mean"), n=("position", "size"))
    means["token"] = [f"image: {n} patches" for n in means["n"]]
    kept = pd.concat([frame[~patches], means], ignore_index=True)
    return kept.sort_values(["prompt", "position", "layer"], ignore_index=True)


def readable(token: str) -> str:
    """A token as one can read it on an axis: without the space before it, and never empty."""
    shown = token.strip(" ").replace("\n", "⏎").replace("\t", "⇥")
    return (shown or "␣").replace("<", "&lt;").replace(">", "&gt;")


def text_panels(titles: Sequence[str]) -> go.Figure:
    """A panel per text, each with a token axis of its own."""
    fig = make_subplots(
        1, len(titles), subplot_titles=list(titles), horizontal_spacing=0.3 / max(1, len(titles))
    )
    return fig.update_annotations(font=dict(size=13, color=INK), yshift=4)


def text_table(part: pd.DataFrame, column: str) -> tuple[pd.DataFrame, list[str]]:
    """One prompt's values, position by layer, and its words; rows count from the last token, −1."""
    table = part.pivot(index="position", columns="layer", values=column).sort_index()
    words = part.groupby("position")["token"].first().sort_index()
    table.index = pd.Index(range(-len(table), 0))
    return table, [readable(word) for word in words]


def add_text_map(
    fig: go.Figure,
    table: pd.DataFrame,
    words: Sequence[str],
    *,
    limit: float,
    title: str,
    colours: Colours,
    col: int,
) -> None:
    """One text's heat map, diverging about zero; the colour bar is drawn once, beside the first."""
    fig.add_heatmap(
        z=table.to_numpy(), x=list(table.columns), y=list(table.index), colorscale=colours,
        zmin=-limit, zmax=limit, zmid=0, xgap=1, ygap=1, showscale=col == 1,
        colorbar=dict(
            title=dict(text=title, font=dict(size=11)), thickness=10, len=0.6, tickfont=dict(size=11), nticks=5
        ),
        customdata=[[word] * table.shape[1] for word in words],
        hovertemplate="%{customdata}, layer %{x}: %{z:.2f}<extra></extra>", row=1, col=col,
    )  # fmt: skip
    fig.update_yaxes(tickvals=list(table.index), ticktext=list(words), row=1, col=col)


def finish_text_panels(fig: go.Figure, longest: int, chosen: Sequence[int]) -> None:
    """Axes alike in all panels: the same height per token, all texts ending on one line."""
    layers = sorted({int(layer) for trace in fig.data for layer in trace.x})
    every = max(1, len(layers) // 8)
    fig.update_yaxes(
        range=[-0.5, -longest - 0.5], showgrid=False, tickfont=dict(size=11), ticklabelstandoff=4
    )
    fig.update_xaxes(
        title_text="layer", ticks="", showline=False, tickvals=layers[::every],
        ticktext=[f"{layer}<br>•" if layer in chosen else str(layer) for layer in layers[::every]],
    )  # fmt: skip


def _reads_found(frame: pd.DataFrame) -> str:
    """What each prompt reads as at its last token, at the layer where the prompts differ most from zero there."""
    last = frame[frame["position"] == frame.groupby("prompt")["position"].transform("max")]
    table = last.pivot(index="prompt", columns="layer", values="reads")
    layer = table.abs().min().idxmax()
    labels = last.groupby("prompt")["label"].first().loc[table.index]
    said = [f"{label} {value:+.1f}" for label, value in zip(labels, table[layer], strict=True)]
    return f"At the last token, layer {layer}: " + ", ".join(said) + " ‖v'‖ from the threshold"
