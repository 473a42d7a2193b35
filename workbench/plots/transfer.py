"""Pictures of vectors carried between models: what each does in each target, and what told so beforehand."""

from collections.abc import Mapping
from types import MappingProxyType

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.plots.panels import name_marks, panels, require_columns
from workbench.plots.strength import METRIC_NAMES
from workbench.style import COLOURS, GRID, INK, QUIET, dress, tint
from workbench.sweep.results import MAX_BROKEN
from workbench.transfer import CARRIED, CONTROLS, PREDICTORS, WITHOUT_SOURCE, rank_predictors

# What a panel of the matrix shows, from the arms that fill it; each arm stands in one panel.
PANELS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "as they are, or by ridge": ("native", "direct", "ridge"),
        "by Procrustes": ("procrustes",),
        "ridge, calm texts only": ("calm texts",),
        "as they are, no shared base": ("unmapped",),
        "ridge from the aligned model": ("from aligned",),
        "ridge, shuffled texts": ("shuffled texts",),
        "random ones, by ridge": ("mapped random",),
        "no aligned model": WITHOUT_SOURCE,
    }
)
AXES: Mapping[str, str] = MappingProxyType(
    {
        "cosine_native": "cosine to the native vector",
        "beyond_own": "… to its part beyond the own",
        "cosine_own": "cosine to the target's own vector",
        "r2": "the map's held-out R²",
    }
)
_SAID: Mapping[str, str] = MappingProxyType(
    dict(AXES) | {"beyond_own": "what they share with the native vector beyond the own"}
)
_FEW = ("here none did", "here of one (source, target) pair, which has no interval")
# A mark for each arm, and before its name.
SYMBOLS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "native": ("circle", "●"),
        "direct": ("circle", "●"),
        "ridge": ("square", "■"),
        "procrustes": ("diamond", "◆"),
        "calm texts": ("cross", "✚"),
        "unmapped": ("x", "✖"),
        "from aligned": ("star", "★"),
        "shuffled texts": ("triangle-up", "▲"),
        "mapped random": ("triangle-down", "▼"),
    }
)


def transfer_matrix(
    frame: pd.DataFrame, *, metric: str = "asr_not_refused", finding: str = "", method: str = ""
) -> go.Figure:
    """A heat map per way of carrying: rows are aligned models, columns targets, a number in every cell.

    `frame` is that of `TransferResult`; draws of one arm are averaged. Native cells are framed. What broke was not
    refused either: its share fills a cell from below.
    """
    require_columns(frame, "transfer matrix", "source", "target", "arm", "metric", "mean")
    frame = frame.assign(source=frame["source"].fillna(""))  # as a csv gives it back
    keys = ["source", "target", "arm"]
    part = frame[frame["metric"] == metric].groupby(keys, sort=False)["mean"].mean().reset_index()
    if part.empty:
        raise ValueError(
            f"transfer matrix: the frame has no metric {metric!r}, it has {', '.join(frame['metric'].unique())}"
        )
    broke = frame[frame["metric"] == "broken"].groupby(keys)["mean"].mean().reset_index()
    broken = {tuple(row[key] for key in keys): float(row["mean"]) for row in broke.to_dict("records")}
    shown = {title: arms for title, arms in PANELS.items() if part["arm"].isin(arms).any()}
    targets, sources = list(part["target"].unique()), [s for s in part["source"].unique() if s]
    cols = min(4, len(shown))
    rows = -(-len(shown) // cols)
    fig = make_subplots(
        rows, cols, subplot_titles=list(shown), horizontal_spacing=0.035, vertical_spacing=0.24 / rows
    )
    fig.update_annotations(font=dict(size=13, color=INK), yshift=2)
    for number, (title, arms) in enumerate(shown.items()):
        row, col = number // cols + 1, number % cols + 1
        alone = title == "no aligned model"
        names = [arm for arm in WITHOUT_SOURCE if arm in set(part["arm"])] if alone else sources
        cells = part[part["arm"].isin(arms)].assign(row=part["arm"] if alone else part["source"])
        _cells(fig, cells, broken, names, targets, row=row, col=col)
        fig.update_yaxes(
            tickvals=list(range(len(names))),
            ticktext=names,
            showticklabels=alone or col == 1,
            side="right" if alone and col > 1 else "left",
            row=row,
            col=col,
        )
        last = row == rows or number + cols >= len(shown)
        fig.update_xaxes(
            tickvals=list(range(len(targets))), ticktext=targets, showticklabels=last, row=row, col=col
        )
    fig.update_xaxes(tickangle=-40, ticks="", showline=False, range=[-0.5, len(targets) - 0.5])
    fig.update_yaxes(showgrid=False, ticklabelstandoff=4, showline=False)
    name = METRIC_NAMES.get(metric, metric)
    method = method or (
        f"{name}, rows: whose safety vector, columns: in which model; every arm at its own best setting of the same "
        f"search on validation; framed: of the target's own base; filled from below: share of attacks that broke"
    )
    width = 190 + cols * max(170, 44 * len(targets))
    height = rows * (70 + 38 * max(len(sources), 3)) + 60
    dress(fig, finding or _finding(part, name), method, width=width, height=height)
    return fig.update_layout(margin=dict(b=40 + 6 * max(len(target) for target in targets), r=96))


def transfer_predictors(
    frame: pd.DataFrame, *, metric: str = "refused", finding: str = "", method: str = ""
) -> go.Figure:
    """What a carried vector did against what was known before: a small multiple per predictor, a mark per vector.

    `frame` is that of `TransferResult`. ρ and its interval are those of the vectors that went through a map. Predictors
    that are known of no vector are left out, and the subtitle says so.
    """
    require_columns(frame, "transfer predictors", "source", "target", "arm", "metric", "mean", *PREDICTORS)
    part = frame[(frame["metric"] == metric) & frame["arm"].isin([*CARRIED, *CONTROLS])]
    if part.empty:
        raise ValueError(
            f"transfer predictors: the frame has no carried vectors with metric {metric!r}: expected rows of arms "
            f"{', '.join(CARRIED)}"
        )
    ranks = rank_predictors(frame, metric=metric)
    known = [predictor for predictor in PREDICTORS if part[predictor].notna().any()]
    if not known:
        raise ValueError(
            f"transfer predictors: got {len(part)} carried vectors without a number in {', '.join(PREDICTORS)}, "
            "expected one in some of them: there is nothing to draw them against"
        )
    ranks = ranks[ranks["among"] == "maps"].set_index("predictor").loc[known]
    fig = panels(1, len(known), [_ranked(*row) for row in ranks[["rho", "low", "high"]].to_numpy()])
    for col, predictor in enumerate(known, start=1):
        for arm, marks in part.dropna(subset=[predictor]).groupby("arm", sort=False):
            colour = _colour(str(arm))
            line, symbol = dict(color=colour, width=1), SYMBOLS[str(arm)][0]
            fig.add_scatter(
                x=marks[predictor], y=marks["mean"], mode="markers",
                customdata=marks["source"] + " → " + marks["target"],
                marker=dict(color=tint(colour, 0.75), size=9, symbol=symbol, line=line),
                hovertemplate=f"%{{customdata}}, {arm}: %{{x:.2f}}, %{{y:.2f}}<extra></extra>", row=1, col=col,
            )  # fmt: skip
        fig.update_xaxes(title_text=AXES[predictor], showgrid=True, gridcolor=GRID, row=1, col=col)
        fig.update_xaxes(matches=None, row=1, col=col)
    fig.update_yaxes(range=[-0.04, 1.04], tickvals=[0, 0.25, 0.5, 0.75, 1])
    fig.update_yaxes(title_text="attacks refused", row=1, col=1)
    pairs = int(ranks["pairs"].max())
    unknown = [_SAID[predictor] for predictor in PREDICTORS if predictor not in known]
    best = str(ranks["rho"].abs().idxmax()) if ranks["rho"].notna().any() else None
    if best is not None:
        found = ranks.loc[best]
        finding = finding or (
            f"What carried vectors refuse goes best with {_SAID[best]}: "
            f"ρ = {found['rho']:.2f}, {found['n']:.0f} vectors of {found['pairs']:.0f} "
            + ("pairs" if found["pairs"] > 1 else "pair")
        )
    method = method or (
        "a mark per carried vector; ρ: Spearman over those that went through a map, controls included, "
        + (
            f"with a 95 % bootstrap interval over {pairs} (source, target) pairs"
            if pairs > 1
            else _FEW[pairs]
        )
        + (f"; left out, as it is known of none: {', '.join(unknown)}" if unknown else "")
    )
    dress(fig, finding or "What carried vectors refuse, and what told so", method, width=1080, height=360)
    fig.update_layout(margin_b=96)
    seen = [arm for arm in SYMBOLS if arm in set(part["arm"]) and arm != "direct"]
    names = {f"{SYMBOLS[arm][1]} {arm}": _colour(arm) if arm in CARRIED else QUIET for arm in seen}
    fig = name_marks(fig, names, below=True)
    fig.layout.annotations[-1].yshift = -58
    return fig


def _cells(
    fig: go.Figure,
    cells: pd.DataFrame,
    shares: Mapping[tuple[str, ...], float],
    names: list[str],
    targets: list[str],
    *,
    row: int,
    col: int,
) -> None:
    table = cells.pivot(index="row", columns="target", values="mean").reindex(index=names, columns=targets)
    fig.add_heatmap(
        z=table.to_numpy(), x=list(range(len(targets))), y=list(range(len(names))), zmin=0, zmax=1, xgap=2, ygap=2,
        colorscale=[(0.0, "#FFFFFF"), (1.0, COLOURS["harmful"])], showscale=False, hoverongaps=False, row=row, col=col,
        hovertemplate="%{z:.2f}<extra></extra>",
    )  # fmt: skip
    for cell in cells.to_dict("records"):
        x, y, mean = targets.index(cell["target"]), names.index(cell["row"]), float(cell["mean"])
        share = float(shares.get((cell["source"], cell["target"], cell["arm"]), 0.0))
        box = dict(x0=x - 0.48, x1=x + 0.48, row=row, col=col)
        if share > MAX_BROKEN:
            fig.add_shape(
                y0=y - 0.47, y1=y - 0.47 + 0.94 * share, fillcolor=tint(COLOURS["broken"], 0.75), line_width=0, **box
            )  # fmt: skip
        line = (
            dict(color=COLOURS["steered"], width=2.5)
            if cell["arm"] == "native"
            else dict(color=GRID, width=1)
        )
        fig.add_shape(y0=y - 0.47, y1=y + 0.47, line=line, **box)
        colour = "#FFFFFF" if max(mean, share) > 0.6 else INK
        fig.add_annotation(
            x=x, y=y, text=f"{mean:.2f}".removeprefix("0"), showarrow=False,
            font=dict(size=11, color=colour), row=row, col=col,
        )  # fmt: skip
    fig.update_yaxes(range=[len(names) - 0.5, -0.5], row=row, col=col)


def _ranked(rho: float, low: float, high: float) -> str:
    """ρ and its interval, as far as they are known."""
    if rho != rho:
        return "ρ unknown"
    return f"ρ = {rho:.2f}" + (f" [{low:.2f}, {high:.2f}]" if low == low else "")


def _colour(arm: str) -> str:
    if arm in ("native", "direct"):
        return COLOURS["domain"]
    return COLOURS["steered"] if arm in CARRIED else COLOURS["control"]


def _finding(part: pd.DataFrame, name: str) -> str:
    """The mean over cells of what works and what does not."""
    means = part.groupby("arm")["mean"].mean()
    said = {
        "native": "with native vectors",
        "ridge": "mapped between bases",
        "from aligned": "mapped from the aligned model itself",
        "shuffled texts": "by maps of shuffled texts",
        "unsteered": "unsteered",
    }
    told = [f"{100 * means[arm]:.0f} % {words}" for arm, words in said.items() if arm in means]
    return f"{name.capitalize()}: {', '.join(told)}"
