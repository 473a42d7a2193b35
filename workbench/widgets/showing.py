"""What all handles share: how they appear in a notebook, how a picture is drawn anew, how an error is told.

The trap: an exception in a widget's callback goes to a log that nobody reads, and the picture stays as it was. Here it
takes the place of the text beside the picture.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import cached_property
from html import escape
from typing import Any

import plotly.graph_objects as go
from plotly.io import renderers


class Handles(ABC):
    """Something with handles: `widget` is what a notebook shows, built when it is first asked for."""

    @cached_property
    def widget(self) -> Any:
        """The handles and the picture, as an ipywidgets box."""
        return self._build()

    @abstractmethod
    def _build(self) -> Any:
        """The box."""

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        bundle = self.widget._repr_mimebundle_(include=include, exclude=exclude)
        # A page that embeds plotly has no kernel to bring a handle to life: it gets the picture as it is now.
        if bundle and "notebook" in renderers.default:
            pictures = [child for child in self.widget.children if isinstance(child, go.FigureWidget)]
            stills = [
                go.Figure(picture).to_html(full_html=False, include_plotlyjs=False) for picture in pictures
            ]
            bundle["text/html"] = "".join(stills)
        return bundle


def live(fig: go.Figure) -> Any:
    """The same figure as a widget. Data and layout go in together: what is added later may never reach the browser."""
    fig = _one_title(fig)
    return go.FigureWidget(data=fig.data, layout=fig.layout)


def redraw(shown: Any, fig: go.Figure) -> None:
    """Draw `fig` in the place of what is `shown`, in one message where both have the same traces."""
    fig = _one_title(fig)
    alike = [trace.type for trace in shown.data] == [trace.type for trace in fig.data]
    with shown.batch_update():
        if alike:
            for old, new in zip(shown.data, fig.data, strict=True):
                old.update(new.to_plotly_json(), overwrite=True)
        shown.layout.update(fig.layout.to_plotly_json(), overwrite=True)
    if not alike:
        shown.data = []
        shown.add_traces(fig.data)


def _one_title(fig: go.Figure) -> go.Figure:
    """The figure with its subtitle as last lines of its title.

    A widget is drawn before it is part of the page, where a text has no height yet: plotly, which puts a subtitle below
    the height of the title, would write one across the other.
    """
    title, subtitle = fig.layout.title, fig.layout.title.subtitle
    if not subtitle.text:
        return fig
    small = f'<span style="font-size:{subtitle.font.size}px; color:{subtitle.font.color}">'
    lines = [f"{small}{line}</span>" for line in subtitle.text.split("<br>")]
    # All lines of one text are equally high, and plotly raises it by half of those after the first.
    more, lower = len(lines) * (_LINE - _SMALL_LINE), (len(lines) - title.text.count("<br>")) * _LINE // 2
    return go.Figure(fig).update_layout(
        title=dict(text="<br>".join([title.text, *lines]), subtitle=None, pad_t=title.pad.t + lower),
        height=fig.layout.height + more,
        margin_t=fig.layout.margin.t + more,
    )


_LINE, _SMALL_LINE = 24, 17
"""Pixels of a title's line and of a subtitle's, as `style.dress` leaves room for."""


def telling(place: Any, act: Callable[[], str]) -> None:
    """Show the text that `act` returns, or, where it finds bad input, what is wrong with that."""
    try:
        place.value = act()
    except ValueError as error:
        place.value = f'<p role="alert" style="{_ALERT}">{escape(str(error))}</p>'


# Black on a pale ground of its own, since JupyterLab's may be dark.
_ALERT = "color:#222; background:#FBE9E0; border-left:4px solid #D55E00; padding:6px 10px; margin:4px 0"
CARD = "color:#222; background:#fff; padding:8px 12px; margin:4px 0; line-height:1.45"
