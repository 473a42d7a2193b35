"""Pictures of a search: what settings leave undone against what they cost, and how a search went."""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import layers_name, name_marks, panels, require_columns
from workbench.style import COLOURS, GRID, INK, QUIET, dress
from workbench.sweep import SweepResult
from workbench.sweep.objectives import (
    LIMITS,
    OBJECTIVES,
    objective_names,
    on_front,
    score_settings,
    within_limits,
)
from workbench.sweep.spec import Setting
from workbench.sweep.tuned import Tuned

BEYOND = (
    f"beyond a limit ({100 * LIMITS['broken']:g} % broken, {100 * LIMITS['refusal_rise']:g} points more refusals of "
    f"harmless or contrast prompts, {100 * LIMITS['placebo_effect']:g} % of attacks that random directions refuse or "
    "break)"
)
GAIN, *COSTS = OBJECTIVES


def pareto(
    found: Tuned | SweepResult | pd.DataFrame,
    *,
    picked: Setting | None = None,
    finding: str = "",
    method: str = "",
) -> go.Figure:
    """Attacks without a clean refusal against each cost: a mark per setting, a line through those that none beats.

    Of a search (`tune`), of a sweep, or of a frame of `score_settings`, which has arm, the setting's columns, the
    objectives and what the rule limits. `picked` is framed, by default the one that a search picked. Random
    directions and the unsteered model are shown beside ours.
    """
    what = "pareto"
    frame, picked = _scored(found, picked)
    require_columns(frame, what, "arm", "layers", "alpha", GAIN, *LIMITS)
    costs = [name for name in COSTS if name in frame]
    if not costs:
        raise ValueError(f"{what}: the frame has no cost, expected {' or '.join(COSTS)}: one to draw against")
    steered, others = frame[frame["arm"] == "steered"], frame[~frame["arm"].isin(["steered", "unsteered"])]
    for arm, part in (("steered", steered), ("random", others)):
        if part.empty:
            raise ValueError(
                f"{what}: the frame has no arm {arm}, expected steered and random: a front without its control shows "
                "nothing"
            )
    fig = panels(1, len(costs), [""] * len(costs))
    before = frame[frame["arm"] == "unsteered"]
    within = within_limits(steered)
    for col, cost in enumerate(costs, start=1):
        _marks(fig, others, cost, col, COLOURS["control"], "diamond", size=7)
        _marks(fig, before, cost, col, COLOURS["unsteered"], "square", size=10)
        front = _front(steered, [GAIN, cost]).sort_values([cost, GAIN])
        fig.add_scatter(
            x=front[cost], y=front[GAIN], mode="lines", line=dict(color=COLOURS["steered"], width=2, shape="hv"),
            hoverinfo="skip", name="front", row=1, col=col,
        )  # fmt: skip
        _marks(fig, steered[~within], cost, col, COLOURS["steered"], "circle-open", size=7)
        _marks(fig, steered[within], cost, col, COLOURS["steered"], "circle", size=7)
        if picked is not None:
            _frame_picked(fig, steered, picked, cost, col, named=col == 1)
        low, high = min(0.0, frame[cost].min()), max(0.1, frame[cost].max())
        room = 0.08 * (high - low)
        fig.update_xaxes(
            title_text=OBJECTIVES[cost], range=[low - room, high + room], showgrid=True, gridcolor=GRID,
            tickformat="~g", row=1, col=col,
        )  # fmt: skip
    fig.update_yaxes(range=[-0.04, 1.04], tickvals=[0, 0.25, 0.5, 0.75, 1])
    fig.update_yaxes(title_text=OBJECTIVES[GAIN], row=1, col=1)
    method = method or (
        "shares of prompts, and changes from the unsteered model; a broken reply counts against its setting on both "
        "axes; line: settings within the limits that no other beats in these two; best is the lower left"
        + ("" if within.all() else f"; hollow: {BEYOND}")
    )
    dress(
        fig,
        finding or _front_found(frame, costs, picked),
        method,
        width=max(620, 90 + 400 * len(costs)),
        height=420,
    )
    _name_below(fig, unsteered=bool(len(before)))
    return fig


def tuning_history(found: Tuned | pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """What a search tried, in its order: each objective by trial, the best so far, and random directions' beside it.

    `found` is what `tune` found, or its `trials`: arm, number, batch, the objectives and what the rule limits. Best
    so far is the lowest share of attacks without a clean refusal among the trials within the rule's limits.
    """
    what = "tuning history"
    frame = found.trials if isinstance(found, Tuned) else found
    require_columns(frame, what, "arm", "number", "batch", GAIN, *LIMITS)
    steered = frame[frame["arm"] == "steered"].sort_values("number")
    if steered.empty:
        raise ValueError(f"{what}: the frame has no arm steered, it has {', '.join(frame['arm'].unique())}")
    names = objective_names(frame)
    heights = [2.0, *(1.0 for _ in names[1:])]
    fig = panels(len(names), 1, [OBJECTIVES[name] for name in names], heights, vertical_spacing=0.11)
    ends = {}
    for arm, part in (
        ("random", frame[frame["arm"] == "random"].sort_values("number")),
        ("steered", steered),
    ):
        if part.empty:
            continue
        colour, symbol = (
            (COLOURS["steered"], "circle") if arm == "steered" else (COLOURS["control"], "diamond")
        )
        within = within_limits(part)
        for row, name in enumerate(names, start=1):
            shapes = [symbol if ok else f"{symbol}-open" for ok in within]
            fig.add_scatter(
                x=part["number"], y=part[name], mode="markers", marker=dict(color=colour, size=7, symbol=shapes),
                hovertemplate="%{x}: %{y:.2f}<extra></extra>", name=arm, row=row, col=1,
            )  # fmt: skip
        best = part[GAIN].where(within).cummin().ffill()
        fig.add_scatter(
            x=part["number"], y=best, mode="lines", name=f"best {arm}", hoverinfo="skip",
            line=dict(color=colour, width=2, shape="hv", dash="solid" if arm == "steered" else "dash"), row=1, col=1,
        )  # fmt: skip
        ends[arm] = float(best.iloc[-1])
    starts = steered.groupby("batch")["number"].min()
    for start in starts.iloc[1:]:
        fig.add_vline(x=start - 0.5, line=dict(color=GRID, width=1), layer="below")
    every = max(1, -(-len(starts) // 16))
    fig.update_xaxes(tickvals=starts.iloc[::every], ticktext=[str(batch) for batch in starts.index[::every]])
    fig.update_xaxes(range=[steered["number"].min() - 0.8, frame["number"].max() + 0.8])
    fig.update_xaxes(title_text="batch: settings asked, answered and told together", row=len(names), col=1)
    fig.update_yaxes(range=[-0.04, 1.04], tickvals=[0, 0.5, 1], row=1, col=1)
    for row, name in enumerate(names[1:], start=2):
        low, high = min(0.0, frame[name].min()), max(0.1, frame[name].max())
        room = 0.12 * (high - low)
        fig.update_yaxes(range=[low - room, high + room], tickformat="~g", nticks=4, row=row, col=1)
    method = method or (
        "each mark is a setting, in the order tried; line: the best so far within the limits"
        + ("; grey: random directions of equal length at the same settings" if "random" in ends else "")
        + ("" if within_limits(frame).all() else f"; hollow: {BEYOND}")
    )
    height = 190 + 130 * (len(names) - 1) + 60
    dress(fig, finding or _search_found(steered, ends), method, width=760, height=height)
    _name_below(fig, random="random" in ends)
    return fig


def _name_below(fig: go.Figure, *, random: bool = True, unsteered: bool = False) -> None:
    """The marks' names, below the axis' own."""
    named = {"● steered": COLOURS["steered"]}
    named |= {"◆ random directions": QUIET} if random else {}
    named |= {"■ unsteered": COLOURS["unsteered"]} if unsteered else {}
    name_marks(fig, named, below=True)
    fig.layout.annotations[-1].yshift = -50
    fig.update_layout(margin_b=92, height=fig.layout.height + 36)


def _scored(
    found: Tuned | SweepResult | pd.DataFrame, picked: Setting | None
) -> tuple[pd.DataFrame, Setting | None]:
    if isinstance(found, Tuned):
        return found.scored, picked or found.picked
    return (score_settings(found) if isinstance(found, SweepResult) else found), picked


def _marks(
    fig: go.Figure, part: pd.DataFrame, cost: str, col: int, colour: str, symbol: str, *, size: int
) -> None:
    fig.add_scatter(
        x=part[cost], y=part[GAIN], mode="markers", name=symbol,
        marker=dict(color=colour, symbol=symbol, size=size, opacity=0.75, line_width=1.5 if "open" in symbol else 0),
        customdata=[_told(row) for row in part.to_dict("records")],
        hovertemplate="%{customdata}: %{x:.2f}, %{y:.2f}<extra></extra>", row=1, col=col,
    )  # fmt: skip


def _frame_picked(
    fig: go.Figure, steered: pd.DataFrame, picked: Setting, cost: str, col: int, *, named: bool
) -> None:
    here = _at(steered, picked)
    if here.empty:
        raise ValueError(
            f"pareto: got picked={picked}, which is no setting of the frame: name one of its own"
        )
    x, y = float(here[cost].iloc[0]), float(here[GAIN].iloc[0])
    fig.add_scatter(
        x=[x], y=[y], mode="markers", name="picked", hoverinfo="skip", row=1, col=col,
        marker=dict(symbol="circle-open", size=17, color=INK, line_width=2),
    )  # fmt: skip
    if named:
        fig.add_annotation(
            x=x, y=y, text="picked: " + _told(here.iloc[0].to_dict()).replace(", α", "<br>α"), showarrow=False,
            align="left", xanchor="left", xshift=14, yshift=24 if y < 0.85 else -24, font=dict(size=12),
            bgcolor="rgba(255, 255, 255, 0.85)", row=1, col=col,
        )  # fmt: skip


def _at(steered: pd.DataFrame, setting: Setting) -> pd.DataFrame:
    """The rows at one setting, by the columns that the frame has."""
    for column, value in setting.tags:
        if column in steered:
            steered = steered[steered[column] == value]
    return steered


def _told(row: Mapping[Hashable, Any]) -> str:
    """A setting in a few words."""
    if "alpha" not in row or pd.isna(row["alpha"]):
        return "unsteered"
    layers = layers_name([int(layer) for layer in str(row["layers"]).split()])
    bias = f", bias {row['bias']:+.2g}" if row.get("bias") else ""
    return f"layers {layers}, α = {row['alpha']:.3g}{bias}"


def _front_found(frame: pd.DataFrame, costs: Sequence[str], picked: Setting | None) -> str:
    steered = frame[frame["arm"] == "steered"]
    if picked is not None:
        row = _at(steered, picked).iloc[0]
        there = _at(frame[frame["arm"] == "random"], picked)
        beside = f"; random directions there: {100 * there[GAIN].iloc[0]:.0f} %" if len(there) else ""
        paid = "".join(f", {OBJECTIVES[cost]}: {100 * row[cost]:+.0f} points" for cost in costs)
        return f"Picked: {100 * row[GAIN]:.0f} % of attacks without a clean refusal{paid}{beside}"
    front = _front(steered, [GAIN, *costs]).sort_values([GAIN, *costs, "alpha"])
    least = front.iloc[0]
    return (
        f"{len(front)} of {len(steered)} settings are beaten by no other; the one that refuses most leaves "
        f"{100 * least[GAIN]:.0f} % of attacks ({_told(least.to_dict())})"
    )


def _front(steered: pd.DataFrame, names: Sequence[str]) -> pd.DataFrame:
    """The settings that no other beats, of those within the limits where there are any."""
    within = within_limits(steered)
    kept = steered[within] if within.any() else steered
    return kept[on_front(kept, names)]


def _search_found(steered: pd.DataFrame, ends: dict[str, float]) -> str:
    within = steered[within_limits(steered)]
    if within.empty:
        return f"None of {len(steered)} settings is within the limits"
    best = within.sort_values([GAIN, "number"]).iloc[0]
    beside = ""
    if "random" in ends:
        level = ends["random"]
        beside = (
            "; random directions are never within the limits"
            if pd.isna(level)
            else f"; random directions within them never less than {100 * level:.0f} %"
        )
    tried = int((steered["number"] <= best["number"]).sum())
    return (
        f"After {tried} of {len(steered)} settings the best within the limits leaves "
        f"{100 * best[GAIN]:.0f} % of attacks without a clean refusal{beside}"
    )
