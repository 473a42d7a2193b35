"""A prompt typed, read token by token: where along the text, and at which layer, the target's direction is present."""

from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench import plots
from workbench.gates import ThresholdGate
from workbench.insight.tokens import token_map
from workbench.loading import Model
from workbench.prompts import Prompt
from workbench.vectors import SteeringVectors
from workbench.widgets.showing import CARD, Handles, live, redraw, telling


class PromptLens(Handles):
    """Type a prompt, see how every token reads at every layer. Without a notebook: `read(text)` and `figure(text)`.

    `vectors` are the target's own; a `gate` of theirs sets what counts as neutral, else the half-way point does.
    """

    def __init__(
        self,
        model: Model,
        vectors: SteeringVectors,
        *,
        gate: ThresholdGate | None = None,
        prompt: str = "Hello",
    ) -> None:
        self.model, self.vectors, self.gate, self.prompt = model, vectors, gate, prompt
        self.read(prompt)  # what cannot be read is told here, and not when a notebook shows it

    def read(self, prompt: str) -> pd.DataFrame:
        """The frame of `token_map` for this one prompt; `ValueError` where it is empty or longer than the context."""
        if not prompt.strip():
            raise ValueError("got an empty prompt, expected some words: there is no token of yours to read")
        asked = Prompt.user(prompt, label="unlabelled", source="typed")
        return token_map(self.vectors, self.model, [asked], gate=self.gate)

    def figure(self, prompt: str) -> go.Figure:
        """The picture of this one prompt."""
        return self._draw(self.read(prompt))

    def _draw(self, frame: pd.DataFrame) -> go.Figure:
        fig = plots.token_map(frame)
        return fig.update_layout(annotations=[])  # a panel's title, for one text whose label nobody knows

    def _build(self) -> Any:
        from ipywidgets import HTML, Layout, Textarea, VBox

        box = Textarea(self.prompt, description="prompt", layout=Layout(width="620px"))
        said, picture = HTML(), live(self.figure(self.prompt))

        def read() -> str:
            frame = self.read(box.value)
            self.prompt = box.value
            redraw(picture, self._draw(frame))
            return self._tell(frame)

        box.observe(lambda _: telling(said, read), "value")
        telling(said, read)
        return VBox([box, said, picture])

    def _tell(self, frame: pd.DataFrame) -> str:
        last = frame[frame["position"] == frame["position"].max()].set_index("layer")["reads"]
        layers = self.gate.reads if self.gate is not None else tuple(last.index)
        opened = [layer for layer in layers if last[layer] > 0]
        what = "the gate" if self.gate is not None else "a gate half-way"
        where = (
            f"open at layer{'s' * (len(opened) > 1)} {', '.join(map(str, opened))}" if opened else "closed"
        )
        return f'<div style="{CARD}">At the last token {what} is <b>{where}</b>.</div>'
