"""Pictures of what steering does: rates against strength, gains and costs of conditions, rates by what a base knows."""

from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import panels, require_columns
from workbench.style import COLOURS, GRID, QUIET, SHADE, add_band, add_labels, dress, tint
from workbench.sweep import SweepResult

# What a mark of the trade-off counts, and the colour whose meaning it shares.
TRADE_OFF: Mapping[str, str] = MappingProxyType(
    {
        "attacks not refused": "harmful",
        "jailbreaks not refused": "jailbroken",
        "harmless refused": "harmless",
        "domain accuracy": "domain",
    }
)
CURVES = ("asr_not_refused", "jailbreak_not_refused", "over_refusal", "broken")
# The columns and rows of the dose-response, and its lines: their names and the colours whose meaning they share. The
# own vector is the one that the gate reads by.
DOSE_METRICS: Mapping[str, str] = MappingProxyType(
    {
        "asr_not_refused": "harmful, not refused",
        "jailbreak_not_refused": "jailbroken, not refused",
        "broken": "either, broken",
    }
)
DOSE_SETTINGS = ("equal alpha", "own best")
DOSE_LINES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "none": ("unsteered", "unsteered"),
        "inferaligner": ("ours", "steered"),
        "own_srv": ("own vector", "gate"),
        "own_srv_subtracted": ("own subtracted", "control"),
        "random": ("random", "control"),
    }
)
NOT_CHOSEN = "not chosen"
"""The condition of a row that says, for a share and seed, that no setting could be chosen."""


def strength_curves(
    sweep: SweepResult | pd.DataFrame,
    *,
    chosen: float | None = None,
    unit: str = "α",
    finding: str = "",
    method: str = "",
) -> go.Figure:
    """Rates against strength, a small multiple per metric, a line per arm, controls light grey and dashed.

    Of a sweep, the rates of `CURVES` are drawn. A frame has arm, alpha, metric, mean, low and high, as
    `SweepResult.summary()` has. Arms named `steered` and `unsteered` have colours of their own, others are controls.
    """
    frame = sweep.summary(metrics=CURVES) if isinstance(sweep, SweepResult) else sweep
    require_columns(frame, "strength curves", "arm", "alpha", "metric", "mean", "low", "high")
    metrics = list(frame["metric"].unique())
    cols = min(2, len(metrics))
    fig = panels(-(-len(metrics) // cols), cols, metrics)
    left, right = frame["alpha"].min(), frame["alpha"].max()
    span = max(right - left, 1e-9)
    for number, metric in enumerate(metrics):
        row, col = number // cols + 1, number % cols + 1
        ends = []
        for arm, part in frame[frame["metric"] == metric].groupby("arm", sort=False):
            line, colour = _line_of(str(arm))
            part, mode = part.sort_values("alpha"), "lines+markers"
            if str(arm) == "unsteered":  # one measurement, drawn across: it has no strength
                part, mode = pd.concat([part.iloc[:1].assign(alpha=end) for end in (left, right)]), "lines"
            if line["dash"] == "solid":  # bands of many controls would cover what they are compared with
                add_band(fig, part["alpha"], part["low"], part["high"], colour, row=row, col=col)
            fig.add_scatter(x=part["alpha"], y=part["mean"], mode=mode, line=line, row=row, col=col)
            ends.append(
                (str(arm), colour if line["dash"] == "solid" else QUIET, float(part["mean"].iloc[-1]))
            )
        add_labels(fig, ends, x=right, row=row, col=col, gap=0.085, low=0.0, high=1.0)
        if chosen is not None:
            fig.add_vline(
                x=chosen, line=dict(color=COLOURS["steered"], width=1, dash="dot"), row=row, col=col
            )
    ticks = sorted(frame["alpha"].dropna().unique())
    fig.update_xaxes(range=[left - 0.02 * span, right + 0.5 * span])
    fig.update_xaxes(tickvals=ticks[:: max(1, len(ticks) // 5)], tickformat="~g")
    fig.update_xaxes(title_text=unit, row=-(-len(metrics) // cols))
    fig.update_yaxes(range=[-0.02, 1.02])
    method = method or "every arm at the same α, hence shifts of equal length; bands: 95 % intervals"
    if chosen is not None:
        method += "; dotted: the chosen α"
    height = 290 * -(-len(metrics) // cols) + 40
    return dress(fig, finding or "Rates against strength", method, width=500 * cols, height=height)


def trade_off(
    frame: pd.DataFrame, *, ours: str = "inferaligner", names: Mapping[str, str] | None = None, finding: str = "",
    method: str = "",
) -> go.Figure:  # fmt: skip
    """What each condition costs and gains: a row per condition, a small multiple per `panel`, a mark per `kind`.

    `frame` has panel, condition, kind, mean, low and high; kinds are those of `TRADE_OFF`. Best is vermillion and blue
    at the left, black at the right.
    """
    require_columns(frame, "trade-off", "panel", "condition", "kind", "mean", "low", "high")
    unknown = sorted(set(frame["kind"]) - set(TRADE_OFF))
    if unknown:
        raise ValueError(
            f"trade-off: got kinds {', '.join(unknown)}, expected some of {', '.join(TRADE_OFF)}"
        )
    names_of_panels, conditions = list(frame["panel"].unique()), list(frame["condition"].unique())
    kinds = [kind for kind in TRADE_OFF if kind in set(frame["kind"])]
    fig = panels(1, len(names_of_panels), names_of_panels)
    height = {condition: len(conditions) - 1 - i for i, condition in enumerate(conditions)}
    for col, panel in enumerate(names_of_panels, start=1):
        for number, kind in enumerate(kinds):
            part = frame[(frame["panel"] == panel) & (frame["kind"] == kind)]
            rows = [
                height[condition] + 0.22 * ((len(kinds) - 1) / 2 - number) for condition in part["condition"]
            ]
            for y, low, high in zip(rows, part["low"], part["high"], strict=True):
                line = dict(color=tint(COLOURS[TRADE_OFF[kind]], 0.45), width=2.5)
                fig.add_scatter(
                    x=[low, high], y=[y, y], mode="lines", line=line, hoverinfo="skip", row=1, col=col
                )
            marker = dict(color=COLOURS[TRADE_OFF[kind]], size=7)
            fig.add_scatter(
                x=part["mean"], y=rows, mode="markers", marker=marker, hoverinfo="x", row=1, col=col
            )
    if ours in height:
        band = dict(fillcolor=SHADE, line_width=0, layer="below")
        fig.add_hrect(y0=height[ours] - 0.5, y1=height[ours] + 0.5, **band)
    ticks = [(names or {}).get(condition, condition) for condition in conditions]
    marked = [
        f"<b>{t}</b>" if condition == ours else t for t, condition in zip(ticks, conditions, strict=True)
    ]
    fig.update_yaxes(
        tickvals=[height[condition] for condition in conditions],
        ticktext=marked,
        showgrid=False,
        range=[-0.6, len(conditions) - 0.4],
    )
    fig.update_xaxes(range=[-0.03, 1.03], tickvals=[0, 0.25, 0.5, 0.75, 1], showgrid=True, gridcolor=GRID)
    method = method or "shares of prompts; bars: 95 % intervals"
    width = max(760, 220 + 260 * len(names_of_panels))
    dress(
        fig,
        finding or "Safety gained against utility kept",
        method,
        width=width,
        height=27 * len(conditions) + 96,
    )
    return _name_kinds(fig, {kind: COLOURS[TRADE_OFF[kind]] for kind in kinds})


def dose_response(frame: pd.DataFrame, *, finding: str = "", method: str = "") -> go.Figure:
    """Rates against the share of harmful requests that the base refused in training, which is an axis of categories.

    `frame` has share, seed, condition, setting, metric, mean, low and high; drawn are `DOSE_METRICS` in columns and
    `DOSE_SETTINGS` in rows: a mark per seed with its interval, a line through their means. `NOT_CHOSEN` rows are told
    under their share.
    """
    require_columns(
        frame, "dose-response", "share", "seed", "condition", "setting", "metric", "mean", "low", "high"
    )
    drawn = frame[frame["setting"].isin(DOSE_SETTINGS) & frame["metric"].isin(DOSE_METRICS)]
    shares, seeds = (sorted(frame[column].unique().tolist()) for column in ("share", "seed"))
    settings = [setting for setting in DOSE_SETTINGS if setting in set(drawn["setting"])]
    metrics = [metric for metric in DOSE_METRICS if metric in set(drawn["metric"])]
    held = drawn.drop_duplicates(["condition", "setting", "metric"])["condition"].value_counts()
    wanted = max(1, len(settings) * len(metrics))
    if missing := [name for name in DOSE_LINES if held.get(name, 0) < wanted]:
        raise ValueError(
            f"dose-response: the frame lacks {', '.join(missing)} in some panel: it needs {', '.join(DOSE_LINES)} at "
            f"{' and '.join(settings or DOSE_SETTINGS)}"
        )
    names = [DOSE_METRICS[metric] for metric in metrics] + [""] * len(metrics) * (len(settings) - 1)
    fig = panels(len(settings), len(metrics), names)
    place = {share: float(number) for number, share in enumerate(shares)}
    for (row, setting), (col, metric) in product(enumerate(settings, start=1), enumerate(metrics, start=1)):
        part = drawn[(drawn["setting"] == setting) & (drawn["metric"] == metric)]
        ends = [
            _dose_line(fig, part[part["condition"] == condition], condition, place, seeds, row, col)
            for condition in DOSE_LINES
        ]
        add_labels(fig, ends, x=len(shares) - 0.7, row=row, col=col, gap=0.085, low=0.0, high=1.0)
    ticks = [
        f"{100 * share:g} %"
        + _not_chosen(frame[(frame["share"] == share) & (frame["condition"] == NOT_CHOSEN)])
        for share in shares
    ]
    fig.update_xaxes(range=[-0.5, len(shares) + 0.85], tickvals=list(place.values()), ticktext=ticks)
    fig.update_xaxes(title_text="harmful requests that the base refused in training", row=len(settings))
    fig.update_xaxes(automargin=True)
    fig.update_yaxes(range=[-0.02, 1.02])
    for row, setting in enumerate(settings, start=1):
        fig.update_yaxes(title_text=setting.replace("alpha", "α"), row=row, col=1)
    method = method or (
        "shares of test prompts: a mark per seed with its 95 % interval, lines through the means; equal α: controls at "
        "the α, layers and positions of ours; own best: each where it did best on validation, after equal search"
    )
    finding = finding or "Whose vector steers, against what the base has learned to refuse"
    return dress(fig, finding, method, width=100 + 350 * len(metrics), height=250 * len(settings) + 60)


def _dose_line(
    fig: go.Figure,
    rows: pd.DataFrame,
    condition: str,
    place: Mapping[float, float],
    seeds: Sequence[int],
    row: int,
    col: int,
) -> tuple[str, str, float]:
    """Draw one condition, beside the others so that intervals do not hide each other; its label, colour and end."""
    name, meaning = DOSE_LINES[condition]
    colour, control = COLOURS[meaning], meaning == "control"
    rows = rows.sort_values(["share", "seed"])
    beside = 0.13 * (list(DOSE_LINES).index(condition) - (len(DOSE_LINES) - 1) / 2)
    means = rows.groupby("share")["mean"].mean()
    fig.add_scatter(
        x=[place[share] + beside for share in means.index],
        y=means,
        mode="lines",
        line=dict(color=colour, width=2, dash="dash" if control else "solid"),
        hoverinfo="skip",
        row=row,
        col=col,
    )
    apart = [0.05 * (seeds.index(seed) - (len(seeds) - 1) / 2) for seed in rows["seed"]]
    fig.add_scatter(
        x=[place[share] + beside + a for share, a in zip(rows["share"], apart, strict=True)],
        y=rows["mean"],
        mode="markers",
        marker=dict(color=colour, size=5),
        error_y=dict(
            symmetric=False,
            array=rows["high"] - rows["mean"],
            arrayminus=rows["mean"] - rows["low"],
            color=tint(colour, 0.45),
            thickness=1.5,
            width=0,
        ),
        hoverinfo="y",
        row=row,
        col=col,
    )
    return name, QUIET if control else colour, float(means.iloc[-1])


def _not_chosen(rows: pd.DataFrame) -> str:
    seeds = ", ".join(str(seed) for seed in sorted(rows["seed"].unique()))
    return f'<br><span style="font-size:10px">seed {seeds}<br>{NOT_CHOSEN}</span>' if seeds else ""


def _name_kinds(fig: go.Figure, kinds: Mapping[str, str]) -> go.Figure:
    """The marks' names in their own colours, on one line under the panels."""
    text = "     ".join(f'<span style="color:{colour}">● {kind}</span>' for kind, colour in kinds.items())
    fig.add_annotation(
        text=text,
        x=0,
        y=0,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor="top",
        yshift=-28,
        showarrow=False,
    )
    return fig


def _line_of(arm: str) -> tuple[dict[str, object], str]:
    if arm in ("steered", "unsteered"):
        return dict(color=COLOURS[arm], width=2.5, dash="solid"), COLOURS[arm]
    return dict(color=COLOURS["control"], width=2, dash="dash"), COLOURS["control"]
