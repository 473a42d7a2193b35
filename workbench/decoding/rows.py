"""The rows of a batch, and what their gates decide: once per prompt, before anything is added to it.

The trap: rows are told apart by what reaches them, not by their plans: a row whose gate is closed is the unsteered row.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import Activations
from workbench.loading import Model
from workbench.models import n_layers
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Provenance
from workbench.steering import SteeringPlan, gate_site


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
        return self.plan.refusal if self.plan is not None and self.acts else None

    @property
    def key(self) -> tuple[tuple[int, ...], str | None]:
        """Rows of one key have one reply: a row that no shift reaches is the unsteered row."""
        moved = self.plan is not None and self.acts and bool(self.plan.shift.any())
        return self.ids, self.plan.id if self.plan is not None and moved else None


def decide(
    model: Model, rows: Sequence[Row], residuals: dict[int, Float[Tensor, "row d_model"]]
) -> Bool[Tensor, "row layer"]:
    """Every row's decisions, known or read from last-token residuals of the layers that the unread gates ask for."""
    opened = torch.zeros(len(rows), n_layers(model), dtype=torch.bool)
    unread: dict[str, list[int]] = {}
    plans: dict[str, SteeringPlan] = {}
    for i, row in enumerate(rows):
        if row.opened is not None:
            opened[i] = row.opened
        elif row.plan is not None:
            plans[row.plan.gate.id] = row.plan
            unread.setdefault(row.plan.gate.id, []).append(i)
    for gate_id, members in unread.items():
        gate = plans[gate_id].gate
        # The model's own: `require_space` has seen to that.
        space = gate.space or plans[gate_id].vectors.space
        # Layers that the gate does not read stay zero: no decision rests on them.
        values = torch.zeros(len(members), space.n_layers, space.d_model)
        for layer in gate.reads:
            values[:, layer] = residuals[layer][members]
        prompts = PromptSet("prefill", tuple(rows[i].prompt for i in members))
        activations = Activations(values, prompts.labels, prompts, space, Provenance("activations"))
        opened[members] = gate.read(activations).open
    return opened


def readable_in_prefill(plans: Sequence[SteeringPlan]) -> bool:
    """Whether every gate can be read in the one pass over the prompts: none reads above the first steered layer."""
    first_steered = min(layer for plan in plans for layer in plan.layers)
    return all(
        all(layer <= first_steered for layer in plan.gate.reads)
        and (not plan.gate.reads or gate_site(plan.gate) == plan.vectors.space.site)
        for plan in plans
    )
