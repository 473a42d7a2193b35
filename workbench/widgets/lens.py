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

    def _last(self, frame: pd.DataFrame) -> "pd.Series[float]":
        """What the last token reads at every layer."""
        return frame[frame["position"] == frame["position"].max()].set_index("layer")["reads"]

    def _layers(self, frame: pd.DataFrame) -> list[int]:
        """The layers that decide: the gate's, or all."""
        return sorted(frame["layer"].unique().tolist()) if self.gate is None else list(self.gate.reads)

    def _draw(self, frame: pd.DataFrame) -> go.Figure:
        last = self._last(frame)
        layer = max(self._layers(frame), key=lambda layer: abs(float(last[layer])))
        side = "harmful" if last[layer] > 0 else "harmless"
        fig = plots.token_map(
            frame, finding=f"At layer {layer} the last token reads {last[layer]:+.1f} ‖v'‖: the {side} side"
        )
        fig.layout.annotations = ()  # the panel's title, a label, which nobody gave
        return fig

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
        last = self._last(frame)
        opened = [layer for layer in self._layers(frame) if last[layer] > 0]
        what = "the gate" if self.gate is not None else "a gate half-way"
        where = (
            f"open at layer{'s' * (len(opened) > 1)} {', '.join(map(str, opened))}" if opened else "closed"
        )
        return f'<div style="{CARD}">At the last token {what} is <b>{where}</b>.</div>'
