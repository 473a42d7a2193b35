"""Layers picked in the picture that tells them apart, and what a gate at the best of them would do.

    L_G = the picked layers; the gate reads the one of them that tells validation prompts apart best (`best_layer`)

The trap: error rates are those of the very prompts that the layers are picked by. They are what one may hope for; what
one gets is measured on prompts that chose nothing.
"""

from collections.abc import Sequence
from dataclasses import replace
from html import escape
from typing import Any

import pandas as pd
import plotly.graph_objects as go

from workbench import plots
from workbench.activations import Activations
from workbench.gates import ThresholdGate, best_layer
from workbench.profiles import LayerProfile, gate_roc, select_layers
from workbench.vectors import SteeringVectors
from workbench.widgets.showing import CARD, Handles, live, redraw, telling


class LayerPicker(Handles):
    """The separability picture with layers to click or lasso: `layers` holds those that are picked.

    `profiles` are those of the target (first) and the aligned model. The gate is made of the target's `vectors`, from
    its `train` residuals; its error rates are those on `validation`. With `false_positive_rate` its threshold is moved
    there, else it is the paper's. Without a notebook: `LayerPicker(..., layers=[3, 4])`, or `pick([3, 4])`; without
    `layers`, those at which every profile reaches `min_auroc`.
    """

    def __init__(
        self,
        *profiles: LayerProfile,
        vectors: SteeringVectors,
        train: Activations,
        validation: Activations,
        layers: Sequence[int] | None = None,
        min_auroc: float = 0.95,
        false_positive_rate: float | None = None,
    ) -> None:
        if not profiles:
            raise ValueError(
                "got no profile, expected the target's, and the aligned model's: layer_profile(...)"
            )
        chosen = select_layers(*profiles, min_auroc=min_auroc) if layers is None else layers
        for profile in profiles:
            profile.space.require(vectors.space, "vectors")
        self.profiles = profiles
        self.layers: tuple[int, ...] = ()
        self._vectors, self._validation = vectors, validation
        gate = ThresholdGate.fit(vectors, train)
        if false_positive_rate is not None:
            gate = gate.calibrate(validation, false_positive_rate=false_positive_rate)
        roc = gate_roc(gate, validation)
        self._gate, self._points = gate, roc[roc["part"] == "chosen"].set_index("layer")
        self.pick(chosen)

    def pick(self, layers: Sequence[int]) -> tuple[int, ...]:
        """Take these layers, as a click or a lasso does; the layers that are picked now."""
        depth = self._gate.space.n_layers
        picked = tuple(sorted({int(layer) for layer in layers}))
        if not picked or not set(picked) <= set(range(depth)):
            raise ValueError(f"got layers {list(layers)}, expected one or more of 0 to {depth - 1}")
        self.layers = picked
        if "widget" in vars(self):
            redraw(self._picture, self.figure())
            telling(self._said, self._tell)
        return picked

    @property
    def gate(self) -> ThresholdGate:
        """The gate at the picked layer that tells intent best, serving all layers."""
        return replace(self._gate, shared_layer=self._best())

    def operating_point(self) -> pd.DataFrame:
        """A row per picked layer: on what share of attacks and of other prompts a gate there opens, with intervals.

        `reads` marks the layer of `gate`. The rates are those on the validation prompts.
        """
        rates = [f"{side}_positive{end}" for side in ("true", "false") for end in ("", "_low", "_high")]
        part = self._points.loc[list(self.layers), [*rates, "n"]].reset_index()
        return part.assign(reads=part["layer"] == self._best())

    def figure(self) -> go.Figure:
        """The picture alone, picked layers shaded."""
        frame = pd.concat([profile.frame for profile in self.profiles], ignore_index=True)
        return plots.layer_profile(frame, chosen=self.layers)

    def _best(self) -> int:
        return best_layer(self._vectors, self._validation, layers=self.layers)

    def _build(self) -> Any:
        from ipywidgets import HTML, VBox

        handles = dict(dragmode="lasso", clickmode="event+select")
        self._picture, self._said = live(self.figure().update_layout(handles)), HTML()
        marks = [trace for trace in self._picture.data if trace.mode == "lines+markers"]
        self._selected: set[int] = set()
        for number, trace in enumerate(marks):
            trace.on_selection(self._take_last if number == len(marks) - 1 else self._take)
            trace.on_click(self._click)
        telling(self._said, self._tell)
        return VBox([self._picture, self._said])

    # The browser keeps one message on points, and sends what it is by the time the kernel listens: a selection by a
    # click may have been replaced by that click. So a pick is taken from either; where both come, the click is last.

    def _take(self, trace: Any, points: Any, _: Any) -> None:
        self._selected |= {int(trace.x[i]) for i in points.point_inds}

    def _take_last(self, trace: Any, points: Any, selector: Any) -> None:
        # Every trace is told of every selection, in order, those without a point in it too.
        self._take(trace, points, selector)
        selected, self._selected = self._selected, set()
        if selected:
            self.pick(sorted(selected))

    def _click(self, trace: Any, points: Any, state: Any) -> None:
        clicked = {int(trace.x[i]) for i in points.point_inds}
        if clicked and state.shift:
            self.pick(sorted(clicked | set(self.layers)))
        elif clicked:  # every trace is told, those that were not clicked too
            self._picture.plotly_relayout({"selections": []})  # a lasso from before says nothing any more
            self.pick(sorted(clicked))

    def _tell(self) -> str:
        point = self.operating_point()
        at = point[point["reads"]].iloc[0]
        attacks, others = (
            f"{100 * at[f'{side}_positive']:.1f} % [{100 * at[f'{side}_positive_low']:.1f}, "
            f"{100 * at[f'{side}_positive_high']:.1f}]"
            for side in ("true", "false")
        )
        return (
            f'<div style="{CARD}"><b>layers = {list(self.layers)}</b><br>A gate at layer {int(at["layer"])} opens on '
            f"{attacks} of attacks and on {others} of other prompts of {escape(self._name())}, 95 % intervals.</div>"
        )

    def _name(self) -> str:
        return self._validation.prompts.name if self._validation.prompts else "the validation set"
