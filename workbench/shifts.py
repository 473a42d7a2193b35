"""What is added to the residual stream of one batch: the vector alpha * g_l * theta_l of every row and layer.

    x_l = x'_l + shift[row, l]      at the shifted positions      (equation 4 of arXiv 2401.11206)

A hook only adds it; it keeps no state and knows no method, backend, step or mask.

The trap: a shift belongs to its batch, row by row. Another batch is refused where its rows differ in number; where they
do not, only `generation.steered` notices, which sees the tokens.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.provenance import SpaceMismatch

Adder: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Shift:
    """What is added to every row of one batch, and where: alpha * g * theta, zero where a row's gate is closed.

    `values` has a column for each of `layers` only; `on_prompt` and `on_reply` say which tokens of a row are shifted.
    """

    values: Float[Tensor, "row steered d_model"]
    layers: tuple[int, ...]
    site: str
    on_prompt: Bool[Tensor, "row"]
    on_reply: Bool[Tensor, "row"]

    @property
    def any_open(self) -> Bool[Tensor, "row"]:
        """The rows that are shifted at all; the others are the unsteered model's, bit for bit."""
        return self.values.ne(0).flatten(1).any(1)

    def rows(self, rows: Tensor) -> "Shift":
        """The shift of some rows, by index or by mask."""
        return replace(
            self, values=self.values[rows], on_prompt=self.on_prompt[rows], on_reply=self.on_reply[rows]
        )

    def at(self, layer: int) -> "Shift":
        """What is added at one layer; nothing where no plan steers it."""
        columns = [i for i, steered in enumerate(self.layers) if steered == layer]
        return replace(self, values=self.values[:, columns], layers=(layer,) * len(columns))

    def gated(self, opened: Bool[Tensor, "row layer"]) -> "Shift":
        """The same shift where a row's gate is open, nothing where it is closed."""
        return replace(self, values=self.values * opened[:, list(self.layers), None].to(self.values.device))

    def to(self, device: torch.device, dtype: torch.dtype) -> "Shift":
        """The same shift where a model lives, in its dtype, so that hooks need not cast at every step."""
        return replace(
            self,
            values=self.values.to(device, dtype),
            on_prompt=self.on_prompt.to(device),
            on_reply=self.on_reply.to(device),
        )

    def adders(self, shifted: Bool[Tensor, "row pos"]) -> dict[int, Adder]:
        """For every layer that moves, a function that adds the shift to the residual [row pos d_model] it is given.

        `shifted` says which positions; one column stands for every position of a pass. Layers at which no row is
        shifted are left out.
        """
        masked = self.values[:, :, None] * shifted[:, None, :, None].to(self.values)
        moves = masked.ne(0).any(-1).any(-1).any(0).tolist()
        return {layer: _adder(masked[:, i]) for i, layer in enumerate(self.layers) if moves[i]}

    def everywhere(self) -> dict[int, Adder]:
        """`adders` for hooks set by hand, which cannot tell the prompt from the reply.

        Raises `ValueError` where a row is shifted at some positions only.
        """
        if not (self.on_prompt & self.on_reply)[self.any_open].all():
            raise ValueError(
                "the plan shifts the prompt or the reply only, and a hook cannot tell them apart: "
                'steer with generate(...), or give the plan positions="all"'
            )
        return self.adders(self.on_prompt[:, None])

    def by_width(self, width: int) -> dict[int, Adder]:
        """`adders` for passes by hand over whole texts, whose first `width` positions are the prompt, padding and all.

        Where prompt and reply are shifted alike, any pass will do. Otherwise one of fewer positions goes on
        from a cache and cannot tell where it stands: `ValueError`.
        """
        if (self.on_prompt == self.on_reply)[self.any_open].all():
            return self.everywhere()

        def add_at(layer: int, residual: Tensor) -> Tensor:
            longer = residual.shape[1] - width
            if longer < 0:
                raise ValueError(
                    f"got a pass over {residual.shape[1]} positions, the prompts have {width}: a plan that shifts the "
                    "prompt or the reply only needs passes over the whole text; generate(...) keeps count by itself"
                )
            prompt, reply = self.on_prompt[:, None], self.on_reply[:, None]
            shifted = torch.cat([prompt.expand(-1, width), reply.expand(-1, longer)], dim=1)
            adders = self.at(layer).adders(shifted)
            return adders[layer](residual) if adders else residual

        return {layer: partial(add_at, layer) for layer in self.layers}


def _adder(shift: Float[Tensor, "row pos_or_1 d_model"]) -> Adder:
    def add(residual: Float[Tensor, "row pos d_model"]) -> Float[Tensor, "row pos d_model"]:
        if len(residual) != len(shift):
            raise ValueError(
                f"this shift was made for a batch of {len(shift)} rows and met one of {len(residual)}: "
                "read the gate for the batch you run (plan.read), and compile again"
            )
        if residual.shape[-1] != shift.shape[-1]:
            raise SpaceMismatch(
                f"this shift is {shift.shape[-1]} wide and met a residual of width {residual.shape[-1]}: it is of "
                "another model; read the gate on the model you steer, plan.read(model, prompts)"
            )
        return residual + shift.to(residual)

    return add
