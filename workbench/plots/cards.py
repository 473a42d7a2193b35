"""Cards of replies before and after: what was shown, what was asked, what the model said without and with steering."""

import base64
import io
from collections.abc import Sequence
from html import escape
from textwrap import wrap

import pandas as pd
import plotly.graph_objects as go
from PIL import Image as PILImage

from workbench.images import Image
from workbench.plots.panels import require_columns
from workbench.style import COLOURS, GRID, INK, dress

MOST = 8
CARD, WIDTH, SIDE = 132, 940, 104
"""Pixels: a card's height, the figure's width, an image's side."""
LINE = 112
"""Characters a line."""


def reply_cards(
    frame: pd.DataFrame, images: Sequence[Image | None] = (), *, finding: str = "", method: str = ""
) -> go.Figure:
    """A card per row: its image, where there is one, the request in its label's colour, the replies before and after.

    `frame` has label, asked, before, after and open (whether the gate opened), or no `after`: then it shows the replies
    of one model as it is. `images` are one for each row, in order, or None, or nothing at all. At most `MOST` cards.
    """
    what, steered = "reply cards", "after" in frame
    require_columns(frame, what, "label", "asked", "before", *(["after", "open"] if steered else []))
    if len(frame) > MOST:
        raise ValueError(
            f"{what}: got {len(frame)} replies, expected up to {MOST}: choose some, frame.head({MOST})"
        )
    shown = list(images) or [None] * len(frame)
    if len(shown) != len(frame):
        raise ValueError(
            f"{what}: got {len(shown)} images for {len(frame)} replies, expected one each, None for a prompt without"
        )
    height = CARD * len(frame)
    fig = go.Figure()
    left = SIDE + 28 if any(shown) else 8
    fig.update_xaxes(visible=False, range=[0, WIDTH - 44], constrain="domain")
    fig.update_yaxes(visible=False, range=[height, 0])
    for number, (row, image) in enumerate(zip(frame.to_dict("records"), shown, strict=True)):
        top = CARD * number
        if number:
            fig.add_shape(type="line", x0=0, x1=WIDTH - 44, y0=top, y1=top, line=dict(color=GRID, width=1))
        if image is not None:
            fig.add_layout_image(
                source=_as_uri(image), x=8, y=top + 14, sizex=SIDE, sizey=SIDE, xref="x", yref="y", xanchor="left",
                yanchor="top", sizing="contain",
            )  # fmt: skip
        lines = [
            *_told(str(row["label"]), str(row["asked"]), COLOURS.get(str(row["label"]), INK)),
            *_told("before" if steered else "reply", str(row["before"]), COLOURS["unsteered"]),
        ]
        if steered:
            same = row["before"] == row["after"]
            lines += _told(
                f"after, gate {'open' if row['open'] else 'closed'}",
                "the same, bit for bit" if same else str(row["after"]),
                COLOURS["unsteered" if same else "steered"],
            )
        fig.add_annotation(
            x=left, y=top + 10, xref="x", yref="y", xanchor="left", yanchor="top", text="<br>".join(lines),
            align="left", showarrow=False, font=dict(size=12, color=INK),
        )  # fmt: skip
    method = method or f"greedy replies of one model{' without steering and with it' * steered}"
    fig = dress(fig, finding or _found(frame), method, width=WIDTH, height=height + 20)
    return fig.update_layout(margin=dict(l=22, r=22, b=12), plot_bgcolor="white")


def _told(name: str, text: str, colour: str) -> list[str]:
    """`name` in its colour and bold, then the text, in at most two lines."""
    lines = wrap(f"{name}  {text}", LINE)
    if len(lines) > 2:
        lines = [lines[0], lines[1][: LINE - 2] + " …"]
    escaped = [escape(line) for line in lines]
    first = escaped[0].replace(escape(name), f'<b style="color:{colour}">{escape(name)}</b>', 1)
    return [first, *escaped[1:]]


def _as_uri(image: Image) -> str:
    """A small PNG; the pixels of small images stay square."""
    pixels, file = image.pixels(), io.BytesIO()
    if max(pixels.size) < 2 * SIDE:
        scale = -(-2 * SIDE // max(pixels.size))
        pixels = pixels.resize((pixels.width * scale, pixels.height * scale), PILImage.Resampling.NEAREST)
    else:
        pixels.thumbnail((2 * SIDE, 2 * SIDE))
    pixels.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def _found(frame: pd.DataFrame) -> str:
    if "after" not in frame:
        return f"What the model says to {len(frame)} prompts"
    changed = int((frame["before"] != frame["after"]).sum())
    opened = int(frame["open"].sum())
    return f"On {opened} of {len(frame)} prompts the gate opens; {changed} of the replies change"
