"""What all pictures share: small multiples with common axes, and the check of the frame they are given."""

from collections.abc import Sequence

import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from workbench.style import INK

LABELS = ("harmful", "jailbroken", "harmless", "contrast", "domain")


def panels(
    rows: int, cols: int, titles: Sequence[str], row_heights: Sequence[float] | None = None
) -> go.Figure:
    fig = make_subplots(
        rows,
        cols,
        shared_yaxes=True,
        shared_xaxes=True,
        subplot_titles=list(titles),
        horizontal_spacing=0.03,
        vertical_spacing=0.08,
        row_heights=list(row_heights) if row_heights else None,
    )
    fig.update_annotations(font=dict(size=13, color=INK), yshift=4)
    return fig


def require_columns(frame: pd.DataFrame, what: str, *columns: str) -> None:
    missing = [column for column in columns if column not in frame]
    if missing:
        raise ValueError(
            f"{what}: the frame has no column {', '.join(missing)}: it needs {', '.join(columns)}"
        )
    if frame.empty:
        raise ValueError(f"{what}: the frame is empty: expected at least one row")
