"""Picture of where to steer: every layer set of a sweep against every strength, with the layers it holds beside it."""

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.plots.panels import layers_name, name_marks, require_columns, require_one_setting
from workbench.style import COLOURS, GRID, INK, QUIET, dress
from workbench.sweep import SweepResult
from workbench.sweep.objectives import LIMITS, score_settings, within_limits

MOST_SETS = 64
ARMS = ("steered", "random")
# What is beyond a limit gets its mark, in the cell's corner.
MARKS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "broken": ("✕", f"more than {100 * LIMITS['broken']:g} % broken"),
        "refusal_rise": (
            "+",
            f"over {100 * LIMITS['refusal_rise']:g} points more harmless or contrast refused",
        ),
    }
)
UNREFUSED = [(0.0, "#FFFFFF"), (1.0, COLOURS["harmful"])]


def layer_sets(
    sweep: SweepResult | pd.DataFrame, *, unit: str = "α", finding: str = "", method: str = ""
) -> go.Figure:
    """Attacks without a clean refusal by layer set and strength: a row per set, its layers filled in at the left.

    Of a sweep, or of its `score_settings`: arm, layers, alpha, unrefused, and what the rule limits. Cells with more
    broken or refused than that are marked. Random directions of equal length stand beside ours.
    """
    what = "layer sets"
    frame = score_settings(sweep) if isinstance(sweep, SweepResult) else sweep
    require_columns(frame, what, "arm", "layers", "alpha", "unrefused", *LIMITS)
    require_one_setting(frame, what, but=("layers", "alpha"))
    settings = frame[frame["arm"].isin(ARMS)]
    if lacking := [arm for arm in ARMS if arm not in set(settings["arm"])]:
        raise ValueError(
            f"{what}: the frame has no arm {' and no arm '.join(lacking)}, expected {' and '.join(ARMS)}: a heat map "
            "without its control shows nothing"
        )
    if settings.duplicated(["arm", "layers", "alpha"]).any():
        raise ValueError(f"{what}: got a layer set twice at one α, expected one row each: choose one sweep's")
    sets = sorted({_numbers(text) for text in settings["layers"]}, key=lambda one: (len(one), one))
    if len(sets) > MOST_SETS:
        raise ValueError(
            f"{what}: got {len(sets)} layer sets, expected up to {MOST_SETS}: choose their rows, "
            "with frame[frame.layers.isin([...])]"
        )
    alphas = sorted(settings["alpha"].unique())
    depth = max(layer for one in sets for layer in one) + 1
    cell = 46 if len(alphas) <= 8 else 34
    widths = [max(16 * depth, 60), *(cell * len(alphas) for _ in ARMS)]
    fig = make_subplots(
        1, 3, shared_yaxes=True, column_widths=widths, horizontal_spacing=24 / sum(widths),
        subplot_titles=["layers", "steered", "random directions"],
    )  # fmt: skip
    fig.update_annotations(font=dict(size=13, color=INK), yshift=2)
    _strip(fig, sets, depth)
    for col, arm in enumerate(ARMS, start=2):
        _cells(fig, settings[settings["arm"] == arm], sets, alphas, col, fine=cell < 40)
    fig.update_yaxes(
        autorange="reversed", showgrid=False, ticklabelstandoff=4, tickvals=list(range(len(sets))),
        ticktext=[layers_name(one) for one in sets],
    )  # fmt: skip
    fig.update_xaxes(ticks="", showline=False, tickangle=0)
    before = frame.loc[frame["arm"] == "unsteered", "unrefused"]
    method = method or (
        "share of attacks whose reply is no clean refusal, in % (a broken one is none)"
        + (f"; unsteered: {100 * before.iloc[0]:.0f} %" if len(before) else "")
        + f"; columns: {unit}; right: random directions of equal length"
    )
    width = max(560, 150 + sum(widths))
    fig.update_xaxes(title_text=unit.split(",")[0], row=1, col=2)
    fig.update_xaxes(title_text=unit.split(",")[0], row=1, col=3)
    dress(fig, finding or _best_place(settings), method, width=width, height=24 * len(sets) + 116)
    named = {
        f"{mark} {said}": INK for name, (mark, said) in MARKS.items() if (settings[name] > LIMITS[name]).any()
    }
    if named:
        # Below the axis' own title.
        name_marks(fig, named, below=True)
        fig.layout.annotations[-1].yshift = -46
        fig.update_layout(margin_b=88, height=fig.layout.height + 32)
    return fig


def _strip(fig: go.Figure, sets: list[tuple[int, ...]], depth: int) -> None:
    """A cell per layer, filled where the set holds it."""
    held = np.array([[float(layer in one) for layer in range(depth)] for one in sets])
    fig.add_heatmap(
        z=held, x=list(range(depth)), y=list(range(len(sets))), colorscale=[(0.0, GRID), (1.0, COLOURS["steered"])],
        zmin=0, zmax=1, showscale=False, xgap=3, ygap=9, hoverinfo="none", row=1, col=1,
    )  # fmt: skip
    fig.update_xaxes(tickvals=list(range(0, depth, max(1, depth // 8))), title_text="layer", row=1, col=1)


def _cells(
    fig: go.Figure, part: pd.DataFrame, sets: list[tuple[int, ...]], alphas: list[float], col: int, *, fine: bool
) -> None:  # fmt: skip
    """The arm's shares in per cent, with the marks of `MARKS` in the corner of cells beyond a limit."""
    part = part.assign(row=[sets.index(_numbers(text)) for text in part["layers"]])
    part = part.assign(column=[alphas.index(alpha) for alpha in part["alpha"]])
    table = part.pivot(index="row", columns="column", values="unrefused")
    table = table.reindex(index=range(len(sets)), columns=range(len(alphas)))
    shares = table.to_numpy(dtype=float)
    fig.add_heatmap(
        z=shares, x=list(range(len(alphas))), y=list(range(len(sets))), colorscale=UNREFUSED, zmin=0, zmax=1,
        showscale=False, xgap=2, ygap=2, hoverongaps=False,
        text=[["" if np.isnan(share) else f"{100 * share:.0f}" for share in row] for row in shares],
        texttemplate="%{text}", textfont=dict(size=10 if fine else 11),
        hovertemplate="%{z:.2f}<extra></extra>", row=1, col=col,
    )  # fmt: skip
    for name, (mark, _) in MARKS.items():
        beyond = part[part[name] > LIMITS[name]]
        side = 0.36 if name == "broken" else -0.36
        fig.add_scatter(
            x=beyond["column"] + side, y=beyond["row"] - 0.22, mode="text", text=[mark] * len(beyond),
            textfont=dict(size=9, color=INK), hoverinfo="skip", name=name, row=1, col=col,
        )  # fmt: skip
    shown = list(range(0, len(alphas), max(1, -(-len(alphas) // 12))))
    fig.update_xaxes(
        tickvals=shown, ticktext=[f"{alphas[i]:.3g}" for i in shown], range=[-0.5, len(alphas) - 0.5], row=1, col=col,
        tickfont=dict(color=QUIET),
    )  # fmt: skip


def _best_place(settings: pd.DataFrame) -> str:
    """The set that leaves fewest attacks unrefused within the limits, mildest first, and random directions there."""
    steered = settings[settings["arm"] == "steered"]
    within = steered[within_limits(steered)]
    if within.empty:
        return "Every layer set is beyond a limit of the rule, at every α"
    size = within["layers"].map(lambda text: len(_numbers(text)))
    best = within.assign(size=size).sort_values(["unrefused", "alpha", "size"], kind="stable").iloc[0]
    there = settings[
        (settings["arm"] == "random")
        & (settings["layers"] == best["layers"])
        & (settings["alpha"] == best["alpha"])
    ]
    beside = f", random directions {100 * there['unrefused'].iloc[0]:.0f} %" if len(there) else ""
    return (
        f"Fewest attacks pass at layers {layers_name(_numbers(best['layers']))}, α = {best['alpha']:.3g}: "
        f"{100 * best['unrefused']:.0f} % without a clean refusal{beside}"
    )


def _numbers(text: object) -> tuple[int, ...]:
    return tuple(int(layer) for layer in str(text).split())
