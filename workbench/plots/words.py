"""Picture of what vectors say: the tokens that each layer's direction promotes and suppresses, side by side."""

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import require_columns
from workbench.plots.tokens import readable
from workbench.style import GRID, INK, dress

_SIDES = {"promoted": "#D55E00", "suppressed": "#0072B2"}
"""A direction points from harmless to harmful: what it promotes has the colour of harm."""


def vector_lens(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """The logit lens of vectors, a panel per `vector`, a row per layer, its words in the order of their logits.

    `frame` is that of `insight.lens.vector_lens`, several stacked: vector, layer, side, rank, token, logit.
    """
    require_columns(frame, "vector lens", "vector", "layer", "side", "rank", "token", "logit")
    if unknown := set(frame["side"]) - set(_SIDES):
        raise ValueError(
            f"vector lens: got sides {', '.join(sorted(unknown))}, expected promoted and suppressed"
        )
    vectors, layers = list(frame["vector"].unique()), sorted(frame["layer"].unique())
    ranks = int(frame["rank"].max())
    # Where each column of words begins: wide enough for the longest word in it.
    fig, x = go.Figure(), 0.0
    heads: list[tuple[float, float, str, str]] = []
    for vector in vectors:
        start = x
        for side, colour in _SIDES.items():
            heads.append((x, 0.35, f"<b>{side}</b>", colour))
            for rank in range(1, ranks + 1):
                here = frame[(frame["vector"] == vector) & (frame["side"] == side) & (frame["rank"] == rank)]
                words = [readable(token) for token in here["token"]]
                fig.add_scatter(
                    x=[x] * len(here), y=[layers.index(layer) for layer in here["layer"]],
                    mode="text", text=words, textposition="middle right",
                    textfont=dict(size=12, color=colour if rank == 1 else INK),
                    customdata=here["logit"], hovertemplate="%{text}: %{customdata:+.2f}<extra></extra>",
                )  # fmt: skip
                x += max([len(word) for word in words], default=1) + 1.9
            x += 1.2
        heads.append((start, 1.0, _short(vector), INK))
        x += 2
    for at, rise, text, colour in heads:
        fig.add_annotation(
            x=at, y=-0.5, yshift=8 + 26 * (rise == 1.0), text=text, showarrow=False, xanchor="left", yanchor="bottom",
            xshift=-3, font=dict(size=14 if rise == 1.0 else 12, color=colour),
        )  # fmt: skip
    for row in range(len(layers) - 1):
        fig.add_hline(y=row + 0.5, line=dict(color=GRID, width=1), layer="below")
    fig.update_yaxes(
        tickvals=list(range(len(layers))), ticktext=[f"layer {layer}" for layer in layers], showgrid=False,
        range=[len(layers) - 0.5, -0.5],
    )  # fmt: skip
    fig.update_xaxes(visible=False, range=[-1.2, x - 3])
    method = method or (
        "logit lens: (final norm's weight ∘ direction) through the unembedding, undivided and not centred over the "
        "tokens; in order of the logit that a unit of normalised residual adds, the first in colour"
    )
    width = int(max(760, 96 + 7 * x))
    fig = dress(fig, finding or _words_found(frame), method, width=width, height=130 + 24 * len(layers))
    return fig.update_layout(margin_t=fig.layout.margin.t + 30, margin_b=20)


def _words_found(frame: pd.DataFrame) -> str:
    """The first words that each vector promotes at its last layer, where the lens is the model's own reading."""
    last, said = int(frame["layer"].max()), []
    here = frame[(frame["layer"] == last) & (frame["side"] == "promoted")]
    for vector, part in here.groupby("vector", sort=False):
        words = ", ".join(f"“{readable(token)}”" for token in part.sort_values("rank")["token"].head(3))
        said.append(f"{_short(str(vector))} promotes {words}")
    return f"At layer {last}, " + "; ".join(said) if said else "What the vectors suppress, layer by layer"


def _short(model: str) -> str:
    return model.removeprefix("organism:")
