"""Picture of what vectors say: the tokens that each layer's direction promotes and suppresses, side by side."""

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import name_marks, require_columns
from workbench.plots.tokens import readable
from workbench.style import COLOURS, GRID, INK, dress

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


def first_tokens(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """The logits of a reply's likeliest first tokens, unsteered and steered: a row per token, a line from one to other.

    `frame` has arm, token, token_id, logit and probability: `SteeredAnswer.first_tokens`.
    """
    require_columns(frame, "first tokens", "arm", "token", "token_id", "logit", "probability")
    if set(frame["arm"]) != {"unsteered", "steered"}:
        arms = ", ".join(sorted(frame["arm"].unique()))
        raise ValueError(f"first tokens: got arms {arms}, expected unsteered and steered: pass both")
    table = frame.pivot(index="token_id", columns="arm", values="logit").sort_values("steered")
    words = frame.groupby("token_id")["token"].first().loc[table.index]
    rows = list(range(len(table)))
    fig = go.Figure()
    for row, (before, after) in enumerate(zip(table["unsteered"], table["steered"], strict=True)):
        fig.add_scatter(
            x=[before, after], y=[row, row], mode="lines", line=dict(color=GRID, width=3), hoverinfo="skip"
        )
    for arm in ("unsteered", "steered"):
        fig.add_scatter(
            x=table[arm], y=rows, mode="markers", marker=dict(color=COLOURS[arm], size=10),
            hovertemplate=f"{arm}: %{{x:.2f}}<extra></extra>",
        )  # fmt: skip
    fig.update_yaxes(
        tickvals=rows,
        ticktext=[readable(word) for word in words],
        range=[-0.6, len(rows) - 0.4],
        showgrid=False,
    )
    fig.update_xaxes(title_text="logit")
    method = (
        method
        or "logits of the reply's first token: those likeliest in either run, in the steered one's order"
    )
    fig = dress(fig, finding or _first_found(frame), method, width=620, height=120 + 26 * len(rows))
    return name_marks(fig, {f"● {arm}": COLOURS[arm] for arm in ("unsteered", "steered")})


def _first_found(frame: pd.DataFrame) -> str:
    """The likeliest first token of either arm, with its probability."""
    top = frame.loc[frame.groupby("arm")["probability"].idxmax()].set_index("arm")
    words, chances = top["token"].astype(str), top["probability"].astype(float)
    said = [
        f"{arm} it is “{readable(words[arm])}” ({100 * chances[arm]:.0f} %)"
        for arm in ("unsteered", "steered")
    ]
    return f"The likeliest first token: {', '.join(said)}"
