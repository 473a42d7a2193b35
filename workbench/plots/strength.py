"""Pictures of strength: rates against it, and what each strength gains against what it costs."""

from collections.abc import Iterable, Mapping
from itertools import cycle
from types import MappingProxyType

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import panels, require_columns, require_one_setting
from workbench.style import COLOURS, GRID, QUIET, add_band, add_labels, dress, spread, tint
from workbench.sweep import SweepResult
from workbench.sweep.results import MAX_BROKEN

# Metrics of a sweep, as a reader calls them.
METRIC_NAMES: Mapping[str, str] = MappingProxyType(
    {
        "asr_not_refused": "attacks not refused",
        "jailbreak_not_refused": "jailbreaks not refused",
        "over_refusal": "harmless refused",
        "contrast_refusal": "contrast refused",
        "broken": "broken",
        "utility": "domain accuracy",
    }
)
# A mark for each control, in order, and before its name: grey lines are told apart by nothing else.
MARKS: Mapping[str, str] = MappingProxyType(
    {"circle": "●", "square": "■", "diamond": "◆", "triangle-up": "▲", "triangle-down": "▼", "cross": "✚"}
)
TICKS = [0, 0.25, 0.5, 0.75, 1]
CURVES = ("asr_not_refused", "jailbreak_not_refused", "over_refusal", "broken")


def strength_curves(
    sweep: SweepResult | pd.DataFrame,
    *,
    chosen: float | None = None,
    unit: str = "α",
    finding: str = "",
    method: str = "",
) -> go.Figure:
    """Rates against strength, a small multiple per metric, a line per arm; controls are grey, dashed and marked.

    Of a sweep, the rates of `CURVES` are drawn. A frame has arm, alpha, metric, mean, low and high, as
    `SweepResult.summary()` has. Arms named `steered` and `unsteered` have colours of their own, others are controls.
    """
    frame = sweep.summary(metrics=CURVES) if isinstance(sweep, SweepResult) else sweep
    require_columns(frame, "strength curves", "arm", "alpha", "metric", "mean", "low", "high")
    require_one_setting(frame, "strength curves")
    if frame["alpha"].nunique() < 2:
        raise ValueError(
            f"strength curves: got {frame['alpha'].nunique()} strengths, expected two or more: a curve joins them"
        )
    metrics = list(frame["metric"].unique())
    cols = min(2, len(metrics))
    fig = panels(-(-len(metrics) // cols), cols, [METRIC_NAMES.get(metric, metric) for metric in metrics])
    left, right = frame["alpha"].min(), frame["alpha"].max()
    span = right - left
    marks = _marks(frame["arm"].unique())
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
            symbol = marks.get(str(arm), "circle")
            marker = dict(symbol=symbol, size=7)
            fig.add_scatter(
                x=part["alpha"], y=part["mean"], mode=mode, line=line, marker=marker, row=row, col=col
            )
            name = f"{MARKS[symbol]} {arm}" if arm in marks else str(arm)
            ends.append((name, colour if line["dash"] == "solid" else QUIET, float(part["mean"].iloc[-1])))
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
    return dress(fig, finding or _strongest_effect(frame, unit), method, width=500 * cols, height=height)


def strength_trade_off(
    sweep: SweepResult | pd.DataFrame,
    *,
    gain: str = "asr_not_refused",
    cost: str = "over_refusal",
    unit: str = "α",
    finding: str = "",
    method: str = "",
) -> go.Figure:
    """What each strength gains against what it costs: a mark per strength, joined in their order, a line per arm.

    Of a sweep, or of its summary: arm, alpha, metric, mean, low and high. `gain` and `cost` are two of its metrics,
    both better when smaller; intervals are drawn on the steered arm. Broken replies are neither not refused nor
    refused: strengths that break more than `MAX_BROKEN` of attacks are hollow marks, where the frame has `broken`, and
    no finding.
    """
    frame = sweep.summary(metrics=(gain, cost, "broken")) if isinstance(sweep, SweepResult) else sweep
    what = "strength trade-off"
    require_columns(frame, what, "arm", "alpha", "metric", "mean", "low", "high")
    if missing := [metric for metric in (gain, cost) if metric not in set(frame["metric"])]:
        there = ", ".join(map(str, frame["metric"].unique()))
        raise ValueError(
            f"{what}: the frame has no metric {' and '.join(missing)}, it has {there}: name two "
            "of these as gain and cost"
        )
    require_one_setting(frame, what)
    frame = frame.assign(alpha=frame["alpha"].fillna(0.0))  # the unsteered arm has none
    broken = _broken(frame)
    wide = frame[frame["metric"].isin([gain, cost])].pivot(
        index=["arm", "alpha"], columns="metric", values=["mean", "low", "high"]
    )
    fig, ends = panels(1, 1, [""]), []
    for arm in sorted(
        dict.fromkeys(frame["arm"]), key=lambda arm: str(arm) == "steered"
    ):  # ours last, hence on top
        part = wide.loc[arm].sort_index()
        line, colour = _line_of(str(arm))
        x, y = part["mean", cost], part["mean", gain]
        error = {
            f"error_{axis}": dict(
                symmetric=False, array=part["high", metric] - part["mean", metric],
                arrayminus=part["mean", metric] - part["low", metric], color=tint(colour, 0.45), thickness=1.5, width=0,
            )
            for axis, metric in (("x", cost), ("y", gain))
            if str(arm) == "steered"
        }  # fmt: skip
        fig.add_scatter(
            x=x, y=y, mode="lines+markers", line=line,
            marker=dict(color=colour, size=10 if len(part) == 1 else 7, symbol=[
                "circle-open" if alpha in broken.get(str(arm), ()) else "circle" for alpha in part.index
            ]),
            customdata=part.index, hovertemplate="%{customdata}: %{x:.2f}, %{y:.2f}<extra></extra>", **error,
        )  # fmt: skip
        if str(arm) == "steered":
            _name_strengths(fig, part.index, x, y, colour)
        name = str(arm), colour if line["dash"] == "solid" else QUIET
        ends.append((*name, float(x.iloc[-1]), float(y.iloc[-1])))
    # Names of neighbours must not cover each other: all that end within a name's width of an end are moved apart.
    heights = spread([y for *_, y in ends], 0.05, 0.0, 1.0)
    for (text, colour, x, _), height in zip(ends, heights, strict=True):
        fig.add_annotation(
            x=x,
            y=height,
            text=text,
            showarrow=False,
            xanchor="left",
            xshift=32,  # beside the strengths' names
            bgcolor="rgba(255, 255, 255, 0.85)",
            font=dict(color=colour, size=12),
        )
    names = [METRIC_NAMES.get(metric, metric) for metric in (gain, cost)]
    fig.update_xaxes(range=[-0.03, 1.13], tickvals=TICKS, title_text=names[1], showgrid=True, gridcolor=GRID)
    fig.update_yaxes(range=[-0.03, 1.03], tickvals=TICKS, title_text=names[0])
    if not finding and "steered" in set(frame["arm"]):
        means = wide.loc["steered"]["mean"]
        means = means[~means.index.isin(broken.get("steered", ()))]
        if means.empty:
            finding = f"Every strength breaks more than {100 * MAX_BROKEN:g} % of attacks"
        else:
            best = int((means[gain] + means[cost]).argmin())
            finding = (
                f"{names[0].capitalize()} and {names[1]} are fewest together at {unit.split(',')[0]} = "
                f"{means.index[best]:g}: {100 * means[gain].iloc[best]:.0f} % and {100 * means[cost].iloc[best]:.0f} %"
            )
    method = method or (
        f"a mark per strength (numbers: {unit}), every arm at the same ones; lines on the marks: 95 % intervals; "
        "best is the lower left" + (f"; hollow: more than {100 * MAX_BROKEN:g} % broken" if broken else "")
    )
    return dress(fig, finding or f"{names[0].capitalize()} against {names[1]}", method, width=680, height=460)


def _name_strengths(
    fig: go.Figure, alphas: "pd.Index[float]", x: "pd.Series[float]", y: "pd.Series[float]", colour: str
) -> None:
    """The strength above each mark; of marks that touch, the first."""
    named: list[tuple[float, float]] = []
    for alpha, across, up in zip(alphas, x, y, strict=True):
        if all(abs(across - other) > 0.05 or abs(up - height) > 0.05 for other, height in named):
            named.append((across, up))
            fig.add_annotation(
                x=across, y=up, text=f"{alpha:g}", showarrow=False, xanchor="left", yanchor="bottom", xshift=4,
                yshift=4, font=dict(color=colour, size=11),
            )  # fmt: skip


def _broken(frame: pd.DataFrame) -> dict[str, list[float]]:
    """The strengths of each arm that break more than `MAX_BROKEN` of attacks, where the frame says."""
    part = frame[(frame["metric"] == "broken") & (frame["mean"] > MAX_BROKEN)]
    return {str(arm): group["alpha"].tolist() for arm, group in part.groupby("arm", sort=False)}


def _strongest_effect(frame: pd.DataFrame, unit: str) -> str:
    """What the strength that moves the first metric most does to it, beside the unsteered model and the controls.

    Of the strengths that break little, if there are any: a broken reply counts as no effect.
    """
    metric = frame["metric"].iloc[0]
    part = frame[frame["metric"] == metric]
    breaks = _broken(frame).get("steered", [])
    kept = part[(part["arm"] != "steered") | ~part["alpha"].isin(breaks)]
    if "steered" in set(kept["arm"]):
        part = kept
    means = {str(arm): group.set_index("alpha")["mean"] for arm, group in part.groupby("arm", sort=False)}
    name, sign = METRIC_NAMES.get(metric, str(metric)), unit.split(",")[0]
    if "steered" not in means or "unsteered" not in means:
        top = part.loc[part["mean"].idxmax()]
        return f"The share of {name} is highest, {100 * top['mean']:.0f} %, in {top['arm']}"
    before = float(means["unsteered"].iloc[0])
    alpha = (means["steered"] - before).abs().idxmax()
    after = float(means["steered"][alpha])
    said = f"At {sign} = {alpha:g} {name}: {100 * before:.0f} % unsteered, {100 * after:.0f} % steered"
    others = [
        f"{100 * found[alpha]:.0f} % {arm}"
        for arm, found in means.items()
        if arm not in ("steered", "unsteered") and alpha in found
    ]
    note = ["of which some broke"] if alpha in breaks else []
    return ", ".join([said, *others, *note])


def _marks(arms: Iterable[object]) -> dict[str, str]:
    """The symbol of every control; more controls than symbols begin anew."""
    controls = [str(arm) for arm in arms if arm not in ("steered", "unsteered")]
    return dict(zip(controls, cycle(MARKS), strict=False))


def _line_of(arm: str) -> tuple[dict[str, object], str]:
    if arm in ("steered", "unsteered"):
        return dict(color=COLOURS[arm], width=2.5, dash="solid"), COLOURS[arm]
    return dict(color=COLOURS["control"], width=2, dash="dash"), COLOURS["control"]
