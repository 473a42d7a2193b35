"""The picture of the dose-response: rates under each vector by how much of harm the base has learned to refuse."""

from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType

import pandas as pd
import plotly.graph_objects as go

from workbench.plots.panels import panels, require_columns
from workbench.style import COLOURS, QUIET, add_labels, dress, tint

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
