"""The rows of a batch, and what their gates decide: once per prompt, each layer before anything is added there.

The trap: rows are told apart by what reaches them, not by their plans: a row whose gate is closed is the unsteered row.
A row whose gate is still to be read is nobody's twin but its own plan's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import Activations
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Provenance
from workbench.steering import SteeringPlan

RowKey: TypeAlias = tuple[tuple[int, ...], object]


@dataclass(frozen=True, eq=False)
class Row:
    """One prompt under one plan.

    `opened` are the plan's gate's decisions; None for the unsteered model, and until the prefill has read them.
    """

    prompt: Prompt
    ids: tuple[int, ...]
    plan: SteeringPlan | None
    opened: Bool[Tensor, "layer"] | None

    @property
    def acts(self) -> bool:
        """Whether the plan may do something: its gate is open at one of its layers, or unread."""
        if self.plan is None or self.opened is None:
            return self.plan is not None
        return bool(self.opened[list(self.plan.layers)].any())

    @property
    def refusal(self) -> str | None:
        """The preset text that is this row's reply, if it is one."""
        if self.plan is None or self.plan.refusal is None:
            return None
        return self.plan.refusal if self.acts else None

    @property
    def key(self) -> RowKey:
        """Rows of one key have one reply, and one reading if that is still to come.

        A row that no shift reaches is the unsteered row; which those are is not known before the reading. Plans that
        come to the same shift, by whatever gate or scale, are one.
        """
        if self.plan is None:
            return self.ids, None
        return self.ids, self.plan.id if self.opened is None else self.plan.effect(self.opened)


def size_of(rows: Sequence[Row], *, max_new_tokens: int) -> str:
    """How large a batch of these rows is, in words."""
    longest = max(len(row.ids) for row in rows)
    return (
        f"{len(rows)} row{'s' * (len(rows) > 1)} of up to {longest:,} tokens and {max_new_tokens:,} of reply"
    )


class Decisions:
    """What the gates of a batch decide: known beforehand, or read while the pass over the prompts climbs the layers.

    `opened` holds what is decided so far, nothing being open before. Where plans read before they add, a layer's
    decisions are there once that layer was shown to `read`.
    """

    def __init__(self, rows: Sequence[Row], depth: int) -> None:
        self.opened = torch.zeros(len(rows), depth, dtype=torch.bool)
        alike: dict[tuple[object, ...], tuple[SteeringPlan, list[int]]] = {}
        for i, row in enumerate(rows):
            if row.opened is not None:
                self.opened[i] = row.opened
            elif row.plan is not None:
                asks = row.plan.gate.id, row.plan.reads, row.plan.reads_layer_by_layer
                alike.setdefault(asks, (row.plan, []))[1].append(i)
        self.unread = [_Unread(plan, members, rows) for plan, members in alike.values()]
        self.layers = frozenset(layer for unread in self.unread for layer in unread.plan.reads)
        for unread in self.unread:
            if not unread.plan.reads:
                self.opened[unread.members] = unread.decide()

    def read(self, layer: int, residual: Float[Tensor, "row d_model"]) -> None:
        """Show the gates a layer, going up: last-token residuals, float32 on the CPU, before the layer's own shift."""
        for unread in self.unread:
            if layer in unread.plan.reads:
                unread.seen[:, layer] = residual[unread.members]
                if unread.plan.reads_layer_by_layer:
                    self.opened[unread.members, layer] = unread.decide()[:, layer]
                elif layer == max(unread.plan.reads):
                    self.opened[unread.members] = unread.decide()


class _Unread:
    """Rows that ask one gate about the same layers; `plan` is any of theirs, `seen` what the pass has shown so far."""

    def __init__(self, plan: SteeringPlan, members: list[int], rows: Sequence[Row]) -> None:
        self.plan, self.members = plan, members
        self.prompts = PromptSet("prefill", tuple(rows[i].prompt for i in members))
        # The model's own: `require_space` has seen to that.
        self.space = plan.gate.space or plan.vectors.space
        # Layers that are not read stay zero: no decision rests on them.
        self.seen = torch.zeros(len(members), self.space.n_layers, self.space.d_model)

    def decide(self) -> Bool[Tensor, "row layer"]:
        """The gate's word on what was seen."""
        activations = Activations(
            self.seen, self.prompts.labels, self.prompts, self.space, Provenance("activations")
        )
        return self.plan.gate.read(activations).open
