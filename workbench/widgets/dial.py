"""One prompt under a plan whose strength, layers and gate one turns: the reply before and after, and why.

    before: the unsteered model        after: x_l = x'_l + alpha * g_l * theta_l        both are rows of one batch

The trap: a reply that does not change may mean a closed gate, and not a weak shift. What the gate read is told first.
"""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Literal, TypeAlias, get_args

import pandas as pd
import plotly.graph_objects as go
import torch
from transformers import ProcessorMixin

from workbench import plots
from workbench.gates import AlwaysOpen, Gate, GateReading
from workbench.generation import Completion, generate, teacher_forced_logits
from workbench.images import Image, ImageLike
from workbench.insight.reading import require_there, token_text
from workbench.loading import Model
from workbench.models import tokenizer_of, words_of
from workbench.prompts import Prompt
from workbench.steering import SteeringPlan
from workbench.style import COLOURS
from workbench.widgets.showing import CARD, Handles, live, redraw, telling

GateChoice: TypeAlias = Literal["on", "off", "strict"]
TOP = 5
"""So many likeliest first tokens are told of either arm."""


@dataclass(frozen=True, eq=False)
class SteeredAnswer:
    """One prompt, answered without and with the plan: both replies, the gate's reading, and the first tokens' logits.

    `first_tokens` has a row per arm ("unsteered", "steered") and token: those likeliest in either arm, with `logit` and
    `probability`.
    """

    plan: SteeringPlan
    before: Completion
    after: Completion
    reading: GateReading
    first_tokens: pd.DataFrame

    @property
    def gate_open(self) -> bool:
        """Whether anything was added."""
        return bool(self.reading.open[0, list(self.plan.layers)].any())


class SteeringDial(Handles):
    """A prompt box, an image for models that see, α, layers and the gate; the reply before and after, side by side.

    The gate is "on" (the plan's), "off" (open for every prompt) or "strict" (`strict`, where given, say the plan's
    calibrated to let no harmless prompt through). Without a notebook: `ask(prompt, alpha=..., layers=..., gate=...)`.
    """

    def __init__(
        self,
        model: Model,
        plan: SteeringPlan,
        *,
        strict: Gate | None = None,
        prompt: str = "Hello",
        max_new_tokens: int = 48,
    ) -> None:
        if plan.refusal is not None or plan.deciding == "online":
            raise ValueError(
                "got a plan with a preset refusal, or one that decides online: the dial shows what a clean reading and "
                'a shift do, give it a plan with refusal=None and deciding="clean"'
            )
        require_there(model)
        self.model, self.plan, self.prompt = model, plan, prompt
        self._strict, self._max_new_tokens = strict, max_new_tokens

    def ask(
        self,
        prompt: str,
        *,
        alpha: float | None = None,
        layers: Sequence[int] | None = None,
        gate: GateChoice = "on",
        images: Sequence[ImageLike] = (),
    ) -> SteeredAnswer:
        """The prompt without and with the plan; what is not given is as in the dial's plan.

        Raises `ValueError` for a prompt that is empty or too long for the context, and for layers the model has not.
        """
        if not prompt.strip():
            raise ValueError("got an empty prompt, expected some words: there is nothing to answer")
        require_there(self.model)
        plan = self.plan.with_gate(self._gate_of(gate))
        plan = plan if alpha is None else plan.with_alpha(alpha)
        plan = plan if layers is None else plan.with_layers(layers)
        asked = Prompt.user(prompt, label="unlabelled", source="typed", images=images)
        rows, plans = [asked, asked], [None, plan]
        reading = plan.read(self.model, rows)  # once for both calls: a handle is turned many times
        before, after = generate(
            self.model, rows, plans, max_new_tokens=self._max_new_tokens, reading=reading
        )
        logits = teacher_forced_logits(self.model, rows, [[0], [0]], plans, reading=reading)
        first = self._first_tokens(torch.stack([row[0].float().cpu() for row in logits]))
        return SteeredAnswer(plan, before, after, reading, first)

    def figure(self, answer: SteeredAnswer) -> go.Figure:
        """The first tokens' logits, before and after."""
        return plots.first_tokens(answer.first_tokens)

    def _gate_of(self, gate: GateChoice) -> Gate:
        gates = {"on": self.plan.gate, "off": AlwaysOpen(), "strict": self._strict}
        chosen = gates.get(gate)
        if chosen is None:
            there = ", ".join(repr(name) for name, one in gates.items() if one is not None)
            raise ValueError(
                f"got gate={gate!r}, expected one of {there}"
                + (": give the dial a strict=... gate for that" if gate in get_args(GateChoice) else "")
            )
        return chosen

    def _first_tokens(self, logits: torch.Tensor) -> pd.DataFrame:
        tokenizer = tokenizer_of(self.model)
        logits = logits[:, : len(tokenizer)]
        likeliest = logits.topk(min(TOP, logits.shape[1])).indices
        tokens = list(dict.fromkeys(likeliest.flatten().tolist()))
        chances = logits.softmax(-1)
        return pd.DataFrame(
            [
                {
                    "arm": arm,
                    "token": token_text(tokenizer, token),
                    "token_id": token,
                    "logit": float(logits[row, token]),
                    "probability": float(chances[row, token]),
                }
                for row, arm in enumerate(("unsteered", "steered"))
                for token in tokens
            ]
        )

    def _build(self) -> Any:
        from ipywidgets import (
            HTML,
            Dropdown,
            FileUpload,
            FloatSlider,
            HBox,
            Layout,
            SelectMultiple,
            Textarea,
            VBox,
        )

        depth, alpha = self.plan.vectors.space.n_layers, float(self.plan.alpha)
        wide = Layout(width="620px")
        box = Textarea(self.prompt, description="prompt", layout=wide, continuous_update=False)
        most = 3 * abs(alpha) or 3.0
        strength = FloatSlider(
            alpha,
            min=min(0.0, alpha),
            max=most,
            step=most / 60,
            description="α",
            layout=wide,
            continuous_update=False,
        )
        layers = SelectMultiple(
            options=range(depth), value=tuple(self.plan.layers), description="layers", rows=min(8, depth)
        )
        choices = [name for name in get_args(GateChoice) if name != "strict" or self._strict is not None]
        gate = Dropdown(options=choices, value="on", description="gate")
        sees = isinstance(words_of(self.model), ProcessorMixin)
        uploads = [FileUpload(accept="image/*", description="image")] if sees else []
        said = HTML()
        self.answer = self.ask(self.prompt)
        picture = live(self.figure(self.answer))

        def turn() -> str:
            shown = [
                Image(bytes(file["content"]), file["name"]) for upload in uploads for file in upload.value
            ]
            self.answer = self.ask(
                box.value, alpha=strength.value, layers=layers.value, gate=gate.value, images=shown
            )
            redraw(picture, self.figure(self.answer))
            return _side_by_side(self.answer)

        said.value = _side_by_side(self.answer)
        for handle in (box, *uploads, strength, layers, gate):
            handle.observe(lambda _: telling(said, turn), "value")
        return VBox([box, *uploads, strength, HBox([layers, gate]), said, picture])


def _side_by_side(answer: SteeredAnswer) -> str:
    reads = answer.plan.reads
    # Of a gate that decides layer by layer, what it says elsewhere changes nothing.
    told = [layer for layer in reads if layer in answer.plan.layers] or list(reads)
    scores = ", ".join(f"layer {layer} {float(answer.reading.scores[0, layer]):+.2f}" for layer in told[:4])
    gate = f"open ({scores})" if answer.gate_open else f"closed ({scores}): nothing is added"
    gate = gate if reads else "off: the plan acts on every prompt"
    cells = "".join(
        f'<div style="flex:1; border-top:4px solid {colour}; padding:6px 8px"><b>{name}</b><br>{escape(reply.text)}'
        f"{'' if reply.finished else ' …'}</div>"
        for name, colour, reply in (
            ("unsteered", COLOURS["unsteered"], answer.before),
            ("steered", COLOURS["steered"], answer.after),
        )
    )
    pair = f'<div style="display:flex; gap:16px; margin-top:6px">{cells}</div>'
    shown = "".join(_as_html(image) for image in answer.before.prompt.images)
    return f'<div style="{CARD}">{shown}Gate: <b>{gate}</b>{pair}</div>'


def _as_html(image: Image) -> str:
    """The image itself, small, as part of the page."""
    small = image.pixels()
    small.thumbnail((240, 160))
    data = b64encode(Image.of(small).data).decode()
    style = "float:right; margin-left:12px"
    return f'<img src="data:image/png;base64,{data}" alt="the prompt\'s image" style="{style}">'
