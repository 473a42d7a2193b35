"""Gates: does this prompt mean harm? One decision per prompt and layer, from the target's own residual.

    g_l = 1 if a_l(P)·s_l + b_l > 0 else 0        b_l = −mean of a_l(P)·s_l over the extraction prompts
                                                                                (arXiv 2401.11206, eq. 3)

With as many harmful as harmless prompts b_l = −½ s_l·(μ⁻+μ⁺): the argument is +½‖v'_l‖ at the mean of the
harmful and −½‖v'_l‖ at the mean of the harmless ones.

The trap: a gate reads the *unsteered* prompt. A reading taken after the shift tells what was added, not
what was asked.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from einops import einsum, repeat
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import Activations
from workbench.provenance import Provenance, Space, content_hash, foreign, load_tensors, save_tensors
from workbench.stats import roc_area
from workbench.vectors import SteeringVectors


@dataclass(frozen=True, eq=False)
class GateReading:
    """What a gate decided on a batch of prompts, for every layer of the model.

    `prompts_hash`, `gate_id` and `model_hash` say which batch it was read on, by which gate and on which model; each is
    empty where that is unknown, as in readings made by hand.
    """

    scores: Float[Tensor, "row layer"]
    open: Bool[Tensor, "row layer"]
    prompts_hash: str
    gate_id: str = ""
    model_hash: str = ""

    def __len__(self) -> int:
        return self.open.shape[0]

    def require_gate(self, gate: "Gate") -> None:
        """Refuse any gate but the one that took these decisions, where that one is known."""
        if self.gate_id not in ("", gate.id):
            raise ValueError(
                f"the reading was made by another gate (id {self.gate_id}) than the plan's (id {gate.id}): read the "
                "plan's own, plan.read(model, prompts)"
            )


@runtime_checkable
class Gate(Protocol):
    """Whatever decides per prompt and layer."""

    @property
    def id(self) -> str:
        """A hash of what it decides by, the same wherever it is loaded."""

    @property
    def reads(self) -> tuple[int, ...]:
        """The layers its decisions rest on."""

    @property
    def space(self) -> Space | None:
        """The space of the residuals it reads; None where it reads none."""

    def read(self, activations: Activations) -> GateReading:
        """Its decisions on these prompts."""


@dataclass(frozen=True)
class AlwaysOpen:
    """No gate: every prompt is shifted, at every layer. Scores are +∞."""

    id: str = "always-open"
    reads: tuple[int, ...] = ()
    space: None = None

    def read(self, activations: Activations) -> GateReading:
        """Open everywhere."""
        opened = torch.ones(activations.values.shape[:2], dtype=torch.bool)
        return GateReading(
            torch.full(opened.shape, torch.inf),
            opened,
            activations.prompts_hash,
            self.id,
            activations.provenance.model_hash,
        )


@dataclass(frozen=True, eq=False)
class ThresholdGate:
    """A hyperplane per layer: open where the residual's projection plus the bias is positive (eq. 3).

    With `shared_layer` that layer's decision holds at every layer; the scores stay each layer's own.
    """

    directions: Float[Tensor, "layer d_model"]
    bias: Float[Tensor, "layer"]
    shared_layer: int | None
    space: Space
    provenance: Provenance

    def __post_init__(self) -> None:
        depth = self.space.n_layers
        if tuple(self.directions.shape) != (depth, self.space.d_model) or tuple(self.bias.shape) != (depth,):
            raise ValueError(
                f"gate has directions {tuple(self.directions.shape)} and bias {tuple(self.bias.shape)}, "
                f"expected {(depth, self.space.d_model)} and {(depth,)}"
            )
        for name, values in (("directions", self.directions), ("a bias", self.bias)):
            if not values.isfinite().all():
                raise ValueError(f"gate has {name} not all finite: expected numbers for every layer")
        if self.shared_layer is not None and not 0 <= self.shared_layer < depth:
            raise ValueError(
                f"gate has shared layer {self.shared_layer}, its model has layers 0 to {depth - 1}"
            )

    @classmethod
    def fit(
        cls, vectors: SteeringVectors, activations: Activations, *, layer: int | None = None
    ) -> "ThresholdGate":
        """The paper's gate: its threshold is the mean projection of these prompts; `layer` serves all if given."""
        vectors.space.require(activations.space, "activations")
        if activations.harmful.all() or not activations.harmful.any():
            side = "harmful" if activations.harmful.all() else "harmless"
            raise ValueError(
                f"got {side} prompts only: the threshold lies between the two, so pass some of both"
            )
        bias = -project(vectors, activations).double().mean(0).float()
        provenance = Provenance(
            "gate", note="mean projection", parents=(vectors.provenance, activations.provenance)
        )
        return cls(vectors.directions, bias, layer, vectors.space, provenance)

    def calibrate(self, activations: Activations, *, false_positive_rate: float) -> "ThresholdGate":
        """The same gate, biased so that at most this share of the non-harmful prompts opens it, per layer.

        The threshold lies half-way between the largest projection kept closed and the next one above it.
        """
        if not 0 <= false_positive_rate < 1:
            raise ValueError(
                f"got false_positive_rate={false_positive_rate}, expected 0 or more and less than 1"
            )
        self.space.require(activations.space, "activations")
        if activations.harmful.all():
            raise ValueError("got harmful prompts only: a false-positive rate needs harmless ones")
        projections = project(self, activations)
        innocent = projections[~activations.harmful].sort(dim=0, descending=True).values
        closed = innocent[int(false_positive_rate * len(innocent))]
        above = torch.where(projections > closed, projections, torch.inf).amin(0)
        margin = torch.where(above.isfinite(), (above - closed) / 2, closed.abs() * 1e-3)
        provenance = Provenance(
            "gate",
            note=f"false-positive rate {false_positive_rate:g}",
            parents=(self.provenance, activations.provenance),
        )
        return replace(self, bias=-(closed + margin), provenance=provenance)

    def shift_bias(self, delta: float) -> "ThresholdGate":
        """The same gate, laxer by `delta` (stricter where it is negative), in units of the projection."""
        provenance = Provenance("gate", note=f"bias shifted by {delta:g}", parents=(self.provenance,))
        return replace(self, bias=self.bias + delta, provenance=provenance)

    def require_along(self, vectors: SteeringVectors) -> None:
        """Refuse vectors that this gate does not read along: its threshold lies on another axis than theirs."""
        vectors.space.require(self.space, "gate")
        if not torch.allclose(self.directions, vectors.directions, atol=1e-4):
            raise ValueError(
                "the gate reads along other directions than these vectors: its threshold lies on another axis; pass "
                "the vectors that it was fitted with"
            )

    @cached_property
    def id(self) -> str:
        """A hash of directions, bias and shared layer."""
        return content_hash(self.directions, self.bias, self.shared_layer)

    @property
    def reads(self) -> tuple[int, ...]:
        """The layers its decisions rest on: the shared one, or all."""
        return tuple(range(self.space.n_layers)) if self.shared_layer is None else (self.shared_layer,)

    def read(self, activations: Activations) -> GateReading:
        """Scores a·s + b and decisions, for every prompt and layer."""
        self.space.require(activations.space, "activations")
        scores = project(self, activations) + self.bias
        opened = scores > 0
        if self.shared_layer is not None:
            opened = repeat(opened[:, self.shared_layer], "row -> row layer", layer=self.space.n_layers)
        return GateReading(
            scores, opened, activations.prompts_hash, self.id, activations.provenance.model_hash
        )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with space and provenance in its header."""
        header = {
            "space": self.space.to_json(),
            "provenance": self.provenance.to_json(),
            "shared_layer": self.shared_layer,
        }
        save_tensors(path, "gate", {"directions": self.directions, "bias": self.bias}, header)


def load_gate(path: str | Path) -> ThresholdGate:
    """The gate that `save` wrote. Nothing is unpickled."""
    tensors, header = load_tensors(path, "gate")
    try:
        space, provenance = Space(**header["space"]), Provenance.from_json(header["provenance"])
        return ThresholdGate(
            tensors["directions"], tensors["bias"], header["shared_layer"], space, provenance
        )
    except (KeyError, TypeError) as error:
        raise foreign(path) from error


def project(onto: SteeringVectors | ThresholdGate, activations: Activations) -> Float[Tensor, "prompt layer"]:
    """The projection a_l(P)·s_l of every prompt at every layer, in float32."""
    return einsum(activations.values, onto.directions, "prompt layer d_model, layer d_model -> prompt layer")


def auroc(scores: Float[Tensor, "prompt layer"], positive: Bool[Tensor, "prompt"]) -> Float[Tensor, "layer"]:
    """The chance that a positive prompt scores above another one, ties counting half, at each layer."""
    truth = positive.numpy()
    return torch.tensor([roc_area(column, truth) for column in scores.double().numpy().T])


def best_layer(
    vectors: SteeringVectors, activations: Activations, *, layers: Sequence[int] | None = None
) -> int:
    """The one of `layers` whose projection best tells harmful prompts from the others: by AUROC, then by `separation`.

    The latter decides where several layers tell all prompts apart. Without `layers` all of the model's take part.
    """
    vectors.space.require(activations.space, "activations")
    projections, harmful = project(vectors, activations), activations.harmful
    if harmful.sum() < 2 or (~harmful).sum() < 2:
        raise ValueError(
            f"got {int(harmful.sum())} harmful of {len(harmful)} prompts, expected two or more of each kind"
        )
    distance = separation(projections[harmful], projections[~harmful]).tolist()
    ranked = list(zip(auroc(projections, harmful).tolist(), distance, range(len(distance)), strict=True))
    return max(ranked[layer] for layer in (range(len(ranked)) if layers is None else layers))[2]


def separation(
    yes: Float[Tensor, "prompt layer"], no: Float[Tensor, "other layer"]
) -> Float[Tensor, "layer"]:
    """How far the mean of `yes` lies above that of `no`, in units of their pooled standard deviation (d').

    A side of one prompt has no spread of its own; where neither has any, means that differ are as good as infinitely
    far apart.
    """
    if not len(yes) or not len(no):
        raise ValueError(
            f"got {len(yes)} prompts to tell from {len(no)} others, expected at least one of each kind"
        )
    spread = ((_variance(yes) + _variance(no)) / 2).sqrt()
    return (yes.mean(0) - no.mean(0)) / spread.clamp(min=torch.finfo(torch.float32).tiny)


def _variance(rows: Float[Tensor, "prompt layer"]) -> Float[Tensor, "layer"]:
    # That of one row is 0: torch makes it NaN, which wins or loses a ranking by chance.
    return rows.var(0, correction=min(1, len(rows) - 1))
