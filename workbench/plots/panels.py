"""What all pictures share: small multiples with common axes, and the check of the frame they are given."""

from collections.abc import Mapping, Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.prompts import ATTACKS
from workbench.style import INK
from workbench.sweep.spec import SETTING

MOST_LAYERS = 8
LABELS = ("harmful", "jailbroken", "harmless", "contrast", "domain")


def panels(
    rows: int,
    cols: int,
    titles: Sequence[str],
    row_heights: Sequence[float] | None = None,
    *,
    vertical_spacing: float = 0.08,
) -> go.Figure:
    fig = make_subplots(
        rows,
        cols,
        shared_yaxes=True,
        shared_xaxes=True,
        subplot_titles=list(titles),
        horizontal_spacing=0.03,
        vertical_spacing=vertical_spacing,
        row_heights=list(row_heights) if row_heights else None,
    )
    fig.update_annotations(font=dict(size=13, color=INK), yshift=4)
    return fig


def name_marks(fig: go.Figure, names: Mapping[str, str], *, below: bool = False) -> go.Figure:
    """Name the marks, each name in the colour it maps to, on one line above the panels, or below them."""
    text = "     ".join(f'<span style="color:{colour}">{name}</span>' for name, colour in names.items())
    y, anchor, shift = (0, "top", -28) if below else (1, "bottom", 6)
    return fig.add_annotation(
        text=text,
        x=0,
        y=y,
        xref="paper",
        yref="paper",
        xanchor="left",
        yanchor=anchor,
        yshift=shift,
        showarrow=False,
    )


def require_columns(frame: pd.DataFrame, what: str, *columns: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(
            f"{what}: the frame has no column {', '.join(missing)}: it needs {', '.join(columns)}"
        )
    if frame.empty:
        raise ValueError(f"{what}: the frame is empty: expected at least one row")


def require_one_setting(frame: pd.DataFrame, what: str, *, but: Sequence[str] = ("alpha",)) -> None:
    """Refuse a sweep whose settings differ in more than the columns `but`: they would be drawn over each other."""
    several = [c for c in SETTING if c not in but and c in frame and frame[c].nunique() > 1]
    if several:
        column = several[0]
        found = frame[column].dropna().unique()
        one = repr(found[0]) if isinstance(found[0], str) else f"{found[0]:g}"
        raise ValueError(
            f"{what}: got {len(found)} kinds of {column} in one frame, expected one: choose those rows, "
            f"with frame[(frame.{column} == {one}) | (frame.arm == 'unsteered')]"
        )


def require_depth(frame: pd.DataFrame, what: str) -> None:
    """Refuse a frame of one layer where lines run along the layers: a point has no line, and its band no width."""
    layers = frame["layer"].unique()
    if len(layers) < 2:
        raise ValueError(
            f"{what}: got layer {layers[0]} alone, expected two layers or more, since it shows how layers differ: pass "
            "the whole frame, or read the one row"
        )


def require_sides(frame: pd.DataFrame, what: str) -> None:
    """Refuse a frame whose prompts all mean harm, or none, where the two are compared."""
    harm = frame["label"].isin(ATTACKS)
    if harm.all() or not harm.any():
        labels = ", ".join(sorted(frame["label"].unique()))
        raise ValueError(
            f"{what}: got one side only ({labels}), expected prompts with harm and without: read both, there is "
            "nothing to compare one with"
        )


def shown_layers(layers: "pd.Series[int]") -> tuple[list[int], str]:
    """The layers that have room as panels, evenly over the depth with both ends, and a word where some have none."""
    every = sorted(int(layer) for layer in layers.unique())
    if len(every) <= MOST_LAYERS:
        return every, ""
    picked = [every[round(k * (len(every) - 1) / (MOST_LAYERS - 1))] for k in range(MOST_LAYERS)]
    return picked, f"; {MOST_LAYERS} of {len(every)} layers"


def layer_axis(fig: go.Figure, layers: "pd.Series[int]", *, row: int) -> None:
    last = int(layers.max())
    fig.update_xaxes(tickvals=list(range(0, last + 1, max(1, last // 8))), range=[-0.6, last + 0.6])
    fig.update_xaxes(title_text="layer", row=row)


def short_name(model: str) -> str:
    return model.removeprefix("organism:")


def layers_name(layers: Sequence[int]) -> str:
    """Three neighbours or more by their ends, 3–5; others one by one."""
    if len(layers) > 2 and layers[-1] - layers[0] == len(layers) - 1:
        return f"{layers[0]}–{layers[-1]}"
    return ", ".join(map(str, layers))
