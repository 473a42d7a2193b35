"""Pictures of a steered run: what the shift does to residuals, layer by layer and token by token, and to the reply."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import panels, require_columns, require_depth
from workbench.plots.tokens import add_text_map, finish_text_panels, text_panels, text_table
from workbench.prompts import ATTACKS
from workbench.style import COLOURS, DIVERGING, INK, QUIET, add_labels, dress, shade_layers, tint

_QUANTITIES = {"norm": "‖x‖", "projection": "x · θ", "cosine": "cos(x, θ)"}
_ARMS = ("unsteered", "control", "steered")
Quantity: TypeAlias = Literal["norm", "projection", "cosine"]


def steered_residuals(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """Norm, projection and cosine of the last token by layer, with and without the shift: a thin line per prompt.

    `frame` is that of `insight.steered.steered_residuals`: prompt, position, layer, arm, norm, projection, cosine and
    shift, whose layers are shaded. Thick: the mean.
    """
    require_columns(frame, "steered residuals", "prompt", "position", "layer", "arm", "shift", *_QUANTITIES)
    require_depth(frame, "steered residuals")
    _require_arms(frame, "steered residuals")
    last = frame[frame["position"] == frame.groupby("prompt")["position"].transform("max")]
    fig = panels_apart(list(_QUANTITIES.values()))
    for col, quantity in enumerate(_QUANTITIES, start=1):
        lines(fig, last, quantity, col=col)
    steered_layers = _steered(frame)
    shade_layers(fig, steered_layers)
    fig.update_xaxes(title_text="layer", tickvals=_ticks(frame["layer"]), range=_room(frame["layer"]))
    method = method or (
        f"residual after each block at the last token, θ: the safety direction; {last['prompt'].nunique()} prompts, "
        f"thick: their mean; shaded: layers {', '.join(map(str, steered_layers)) or 'none'}, where the shift is added"
    )
    return dress(fig, finding or _residual_found(last, steered_layers), method, width=980, height=330)


def steered_tokens(
    frame: pd.DataFrame, *, quantity: Quantity = "projection", finding: str = "", method: str = ""
) -> go.Figure:
    """What the shift changed in every token's residual at every layer, steered minus unsteered, up to 4 prompts.

    `frame` is that of `insight.steered.steered_residuals`; `quantity` is "projection" on the safety direction, "cosine"
    with it, or "norm" of the residual.
    """
    if quantity not in _QUANTITIES:
        raise ValueError(
            f"steered tokens: got quantity {quantity!r}, expected one of {', '.join(_QUANTITIES)}"
        )
    require_columns(
        frame, "steered tokens", "prompt", "label", "position", "token", "layer", "arm", quantity, "shift"
    )
    _require_arms(frame, "steered tokens")
    prompts = list(frame["prompt"].unique())
    if len(prompts) > 4:
        raise ValueError(
            f"steered tokens: got {len(prompts)} prompts, expected up to 4: choose some by frame.prompt"
        )
    labels = frame.groupby("prompt")["label"].first()
    fig = text_panels([str(labels[prompt]) for prompt in prompts])
    symbol = _QUANTITIES[quantity]
    changes: dict[Any, tuple[pd.DataFrame, list[str]]] = {}
    longest = 0
    for prompt in prompts:
        arms = {
            arm: text_table(frame[(frame["prompt"] == prompt) & (frame["arm"] == arm)], quantity)
            for arm in ("unsteered", "steered")
        }
        changes[prompt] = arms["steered"][0] - arms["unsteered"][0], arms["steered"][1]
    limit = float(
        np.quantile(np.concatenate([np.abs(t.to_numpy()).ravel() for t, _ in changes.values()]), 0.99)
    )
    for col, (table, words) in enumerate(changes.values(), start=1):
        longest = max(longest, len(words))
        add_text_map(
            fig, table, words, limit=limit or 1.0, title=f"change<br>of {symbol}", colours=DIVERGING, col=col
        )
    finish_text_panels(fig, longest, _steered(frame))
    method = method or (
        f"steered minus unsteered {symbol}, θ the safety direction of each layer (white: no change); "
        "• layer where the shift is added (as much at every shifted token); the rest is the model's own answer to it"
    )
    width = 150 + 330 * len(prompts) if len(prompts) > 1 else 620
    said = finding or _changed([table for table, _ in changes.values()], _steered(frame), quantity)
    return dress(fig, said, method, width=width, height=120 + 17 * longest)


def refusal_lead(
    frame: pd.DataFrame, *, chosen: Sequence[int] = (), finding: str = "", method: str = ""
) -> go.Figure:
    """Refusal's lead over compliance by layer, steered and unsteered, a panel per label: thin a prompt, thick the mean.

    `frame` is that of `insight.steered.refusal_lead`: prompt, label, layer, arm, lead, opens. `chosen` layers are
    shaded. Under each label stands what the likeliest word of all opens: a lead over compliance is no refusal yet.
    """
    require_columns(frame, "refusal lead", "prompt", "label", "layer", "arm", "lead", "opens")
    require_depth(frame, "refusal lead")
    _require_arms(frame, "refusal lead", both=False)
    labels = list(frame["label"].unique())
    fig = panels(1, len(labels), [f"{label}<br><sub>{_opened(frame, label)}</sub>" for label in labels])
    for col, label in enumerate(labels, start=1):
        lines(fig, frame[frame["label"] == label], "lead", col=col, room=frame["lead"])
        fig.add_hline(y=0, line=dict(color=QUIET, width=1, dash="dot"), row=1, col=col)
    shade_layers(fig, chosen)
    fig.update_xaxes(title_text="layer", tickvals=_ticks(frame["layer"]), range=_room(frame["layer"]))
    fig.update_yaxes(title_text="refusal leads by (nats)", row=1, col=1)
    method = method or (
        "logit lens at the token before the reply goes on: log of how much likelier a refusal's likeliest first word "
        "is than a compliant one's; last layer: the model's own logits; thin: a prompt, thick: their mean"
    )
    if chosen:
        method += f"; shaded: steered layers {', '.join(map(str, chosen))}"
    width = 640 if len(labels) == 1 else min(1080, 200 + 330 * len(labels))
    fig = dress(fig, finding or _lead_found(frame), method, width=width, height=356)
    return fig.update_layout(margin_t=fig.layout.margin.t + 16)  # the panels' titles have two lines


def panels_apart(titles: Sequence[str]) -> go.Figure:
    """Small multiples of different quantities, each with a scale of its own."""
    from plotly.subplots import make_subplots

    fig = make_subplots(1, len(titles), subplot_titles=list(titles), horizontal_spacing=0.07)
    return fig.update_annotations(font=dict(size=13, color=INK), yshift=4)


def lines(
    fig: go.Figure, part: pd.DataFrame, quantity: str, *, col: int, room: "pd.Series[float] | None" = None
) -> None:
    """A thin line per prompt and a thick one for the mean, per arm, named at its end; the axis spans `room`."""
    ends = []
    for arm in (arm for arm in _ARMS if arm in set(part["arm"])):
        table = part[part["arm"] == arm].pivot(index="layer", columns="prompt", values=quantity).sort_index()
        for prompt in table.columns if table.shape[1] > 1 and arm != "control" else ():
            fig.add_scatter(
                x=table.index, y=table[prompt], mode="lines", hoverinfo="skip",
                line=dict(color=tint(COLOURS[arm], 0.25), width=1), row=1, col=col,
            )  # fmt: skip
        mean = table.mean(axis=1)
        fig.add_scatter(
            x=mean.index, y=mean, mode="lines+markers", marker_size=5,
            hovertemplate="layer %{x}: %{y:.2f}<extra></extra>",
            line=dict(color=COLOURS[arm], width=3, dash="dash" if arm == "control" else "solid"), row=1, col=col,
        )  # fmt: skip
        ends.append((arm, COLOURS[arm], float(mean.iloc[-1])))
    room = part[quantity] if room is None else room
    low, high = float(room.min()), float(room.max())
    add_labels(
        fig,
        ends,
        x=float(part["layer"].max()),
        row=1,
        col=col,
        gap=0.09 * (high - low or 1.0),
        low=low,
        high=high,
    )


def _require_arms(frame: pd.DataFrame, what: str, *, both: bool = True) -> None:
    found = set(frame["arm"])
    if found - set(_ARMS) or (both and "steered" not in found) or "unsteered" not in found:
        raise ValueError(
            f"{what}: got arms {', '.join(sorted(found))}, expected unsteered and steered, and control if there is one"
        )


def _steered(frame: pd.DataFrame) -> list[int]:
    return sorted(int(layer) for layer in frame.loc[frame["shift"] > 0, "layer"].unique())


def _ticks(layers: "pd.Series[int]") -> list[int]:
    last = int(layers.max())
    return list(range(int(layers.min()), last + 1, max(1, last // 8)))


def _room(layers: "pd.Series[int]") -> list[float]:
    """From before the first layer to where the names after the last one end."""
    low, high = float(layers.min()), float(layers.max())
    return [low - 0.6, high + max(0.6, 0.34 * (high - low + 1))]


def _residual_found(last: pd.DataFrame, layers: Sequence[int]) -> str:
    if not layers:
        return "The gate stays closed: nothing is added, and both runs are one"
    means = last.groupby(["arm", "layer"])["cosine"].mean()
    before, after = means["unsteered"], means["steered"]
    layer = int((after - before).abs().idxmax())
    return (
        f"The shift turns the last token's residual most at layer {layer}: its cosine with the safety direction goes "
        f"from {before[layer]:+.2f} to {after[layer]:+.2f}"
    )


def _changed(changes: Sequence[pd.DataFrame], layers: Sequence[int], quantity: str) -> str:
    if not layers:
        return "The gate stays closed: no token's residual changes"
    mean = pd.concat(changes).mean()
    first, last = layers[0], int(mean.index[-1])
    return (
        f"The mean token's {quantity} moves by {mean[first]:+.3g} at layer {first}, the first that is steered, and is "
        f"{mean[last]:+.3g} away from the unsteered one at layer {last}"
    )


def _opened(frame: pd.DataFrame, label: str) -> str:
    """How many prompts' likeliest first word opens what, at the last layer, in the last arm that is there."""
    arm = [arm for arm in _ARMS if arm in set(frame["arm"])][-1]
    here = frame[(frame["label"] == label) & (frame["arm"] == arm) & (frame["layer"] == frame["layer"].max())]
    counts = here["opens"].value_counts()
    return f"{arm}, likeliest word: " + ", ".join(f"{n} {kind}" for kind, n in counts.items())


def _lead_found(frame: pd.DataFrame) -> str:
    """Of attacks, or of all where there are none: label by label, where the mean lead of each arm ends."""
    attacks = frame[frame["label"].isin(ATTACKS)]
    frame = frame if attacks.empty else attacks
    said = []
    for label, kind in frame.groupby("label", sort=False):
        arms = [
            f"{arm} it {_ends(part.groupby('layer')['lead'].mean().sort_index())}"
            for arm, part in kind.groupby("arm", sort=False)
            if arm != "control"
        ]
        said.append(f"{label}: {', '.join(arms)}")
    return f"A refusal's first word, {'; '.join(said)}"


def _ends(mean: "pd.Series[float]") -> str:
    behind = mean.index[mean <= 0]
    if mean.iloc[-1] <= 0:
        return f"ends {-mean.iloc[-1]:.1f} nats behind"
    if len(behind) == 0:
        return "leads from the first layer on"
    return f"leads from layer {mean.index[mean.index > behind[-1]][0]} on"
