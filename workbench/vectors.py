"""Steering vectors: the direction from harmless to harmful at every layer, and its controls.

    v'_l = mean a_l(harmful) − mean a_l(harmless)      v_l = v'_l / ‖v'_l‖      (arXiv 2401.11206, eq. 1, 2)

Read from the aligned model, v is the safety steering vector (where to go); read from the target, its intent
vector (how it tells intent). They are two uses of one kind of value.

The trap: two models of equal shape but different seed give vectors that fit by every check and point
nowhere in each other. Compare `cosine` with `random_band` before steering.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.activations import Activations
from workbench.provenance import Provenance, Space, content_hash, foreign, load_tensors, save_tensors

RESOLUTION = 1e-6
"""A difference shorter than this share of the residual norm is rounding, not a direction."""
RANDOM, SHUFFLED = "random directions", "shuffled labels"
"""With these words begin the notes of controls."""


@dataclass(frozen=True, eq=False)
class SteeringVectors:
    """One direction per layer of the model, with its length before normalising.

    Rows of `directions` have unit length, or are zero where the two means coincide (`resid_pre` of layer 0,
    the embedding of the template's last token, is the same for every prompt). `norms` is ‖v'_l‖;
    `residual_norms` the mean length of the last-token residual over the extraction prompts, the yardstick
    for a shift. `centre` is the point half-way between the two means, which says what a projection is to be
    compared with; it steers nothing, and files that were saved before it was kept have none.
    """

    directions: Float[Tensor, "layer d_model"]
    norms: Float[Tensor, "layer"]
    residual_norms: Float[Tensor, "layer"]
    space: Space
    provenance: Provenance
    centre: Float[Tensor, "layer d_model"] | None = None

    def __post_init__(self) -> None:
        expected = (self.space.n_layers, self.space.d_model)
        for name, rows in (("directions have", self.directions), ("centre has", self.centre)):
            if rows is not None and tuple(rows.shape) != expected:
                raise ValueError(f"{name} shape {tuple(rows.shape)}, expected {expected} (layer, d_model)")
        for name in ("norms", "residual_norms"):
            lengths = getattr(self, name)
            if not (lengths.isfinite() & (lengths >= 0)).all():
                raise ValueError(f"{name} are {lengths.tolist()}, expected finite numbers of 0 or more")
        lengths = self.directions.norm(dim=-1)
        if not (((lengths - 1).abs() < 1e-4) | (lengths == 0)).all():
            raise ValueError(
                "directions have rows that are not of unit length: make them with SteeringVectors.from_values"
            )

    @classmethod
    def from_values(
        cls,
        values: Float[Tensor, "layer d_model"],
        residual_norms: Float[Tensor, "layer"],
        space: Space,
        provenance: Provenance,
        *,
        centre: Float[Tensor, "layer d_model"] | None = None,
    ) -> "SteeringVectors":
        """Vectors from unnormalised rows; rows below the resolution of float32 become zero."""
        if not values.isfinite().all():
            layers = [i for i, row in enumerate(values) if not row.isfinite().all()]
            raise ValueError(
                f"got NaN or infinity at {_listed(layers)}, expected numbers: check what they are read from"
            )
        norms = values.norm(dim=-1)
        norms = torch.where(norms > RESOLUTION * residual_norms, norms, torch.zeros_like(norms))
        directions = torch.where(norms[:, None] > 0, values / norms[:, None], torch.zeros_like(values))
        return cls(directions, norms, residual_norms, space, provenance, centre)

    @property
    def values(self) -> Float[Tensor, "layer d_model"]:
        """The vectors before normalising, v'_l."""
        return einsum(self.directions, self.norms, "layer d_model, layer -> layer d_model")

    @property
    def midpoints(self) -> Float[Tensor, "layer"] | None:
        """The projection half-way between the two means, minus the paper's bias b_l; None without a centre."""
        if self.centre is None:
            return None
        return einsum(self.centre, self.directions, "layer d_model, layer d_model -> layer")

    @property
    def id(self) -> str:
        """A hash of the numbers that steer, the same wherever they are loaded."""
        return content_hash(self.directions, self.norms, self.residual_norms)

    def cosine(self, other: "SteeringVectors") -> Float[Tensor, "layer"]:
        """The cosine of the two directions at each layer; 0 where one of them is zero."""
        self.space.require(other.space, "vectors")
        return einsum(self.directions, other.directions, "layer d_model, layer d_model -> layer")

    def __add__(self, other: "SteeringVectors") -> "SteeringVectors":
        self.space.require(other.space, "vectors")
        provenance = Provenance("vectors", note="sum", parents=(self.provenance, other.provenance))
        halfway = None
        if self.centre is not None and other.centre is not None:
            halfway = (self.centre + other.centre) / 2
        return SteeringVectors.from_values(
            self.values + other.values,
            (self.residual_norms + other.residual_norms) / 2,
            self.space,
            provenance,
            centre=halfway,
        )

    def __sub__(self, other: "SteeringVectors") -> "SteeringVectors":
        return self + -other

    def __mul__(self, factor: float) -> "SteeringVectors":
        if not math.isfinite(factor):
            raise ValueError(f"got factor {factor}, expected a finite number")
        provenance = Provenance("vectors", note=f"times {factor:g}", parents=(self.provenance,))
        return SteeringVectors.from_values(
            self.values * factor, self.residual_norms, self.space, provenance, centre=self.centre
        )

    __rmul__ = __mul__

    def __neg__(self) -> "SteeringVectors":
        return self * -1.0

    def save(self, path: str | Path) -> None:
        """Write a safetensors file with space and provenance in its header."""
        tensors = {"directions": self.directions, "norms": self.norms, "residual_norms": self.residual_norms}
        if self.centre is not None:
            tensors["centre"] = self.centre
        header = {"space": self.space.to_json(), "provenance": self.provenance.to_json()}
        save_tensors(path, "vectors", tensors, header)


def load_vectors(path: str | Path) -> SteeringVectors:
    """The vectors that `save` wrote. Nothing is unpickled."""
    tensors, header = load_tensors(path, "vectors")
    try:
        return SteeringVectors(
            tensors["directions"],
            tensors["norms"],
            tensors["residual_norms"],
            Space(**header["space"]),
            Provenance.from_json(header["provenance"]),
            tensors.get("centre"),
        )
    except (KeyError, TypeError) as error:
        raise foreign(path) from error


def mean_difference(activations: Activations) -> SteeringVectors:
    """Mean residual of the harmful prompts minus mean of the others, per layer, normalised (eq. 1 and 2)."""
    if "unlabelled" in activations.labels:
        raise ValueError(
            "some activations are unlabelled: give their prompts a label, or choose with .labelled(...)"
        )
    return _difference(activations, activations.harmful, note="mean difference, harmful minus harmless")


def shuffled_labels(activations: Activations, *, seed: int) -> SteeringVectors:
    """A control: the mean difference of the same residuals under labels that tell nothing.

    Each side gets half of the harmful prompts and half of the others, drawn at random, so that the true
    difference cancels and is not merely diluted; of an odd number one is left out.
    """
    generator = torch.Generator().manual_seed(seed)
    side = torch.zeros(len(activations), dtype=torch.bool)
    kept = torch.zeros(len(activations), dtype=torch.bool)
    for members in (activations.harmful, ~activations.harmful):
        index = members.nonzero()[:, 0]
        index = index[torch.randperm(len(index), generator=generator)]
        half = len(index) // 2
        side[index[:half]] = True
        kept[index[: 2 * half]] = True
    return _difference(activations.where(kept), side[kept], note=f"{SHUFFLED}, seed {seed}")


def random_directions(like: SteeringVectors, *, seed: int) -> SteeringVectors:
    """A control: an independent, uniformly random direction at each layer, with the norms of `like`."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(like.directions.shape, generator=generator)
    provenance = Provenance("vectors", note=f"{RANDOM}, seed {seed}", parents=(like.provenance,))
    return replace(like, directions=values / values.norm(dim=-1, keepdim=True), provenance=provenance)


def random_band(d_model: int) -> float:
    """The cosine that 95 % of random directions stay below in size, by the normal law: 1.96 / √d_model."""
    return 1.96 / math.sqrt(d_model)


def cosine_sentence(srv: SteeringVectors, ssv: SteeringVectors, layers: Sequence[int]) -> str:
    """How far target and aligned model share a direction over `layers`, told beside what random directions reach.

    It opens with "Careful" where no layer of them lies above `random_band`; an opposed direction is not shared either.
    """
    if not layers:
        raise ValueError("got no layers, expected at least one: name those that are steered")
    cosine, band = srv.cosine(ssv), random_band(srv.space.d_model)
    over = {layer: float(cosine[layer]) for layer in layers}
    said = cosine_range(srv, ssv, layers)
    said = f"the directions of target and aligned model have cosine {said} over {_listed(over)}"
    alike = [layer for layer, value in over.items() if value <= band]
    if len(alike) == len(over):
        return (
            f"Careful: {said}, not above the {band:.2f} that random directions reach: the models do not share a "
            "direction, and the vectors will not transfer"
        )
    beside = f", which it does not exceed at {_listed(alike)}" if alike else ""
    return f"{said}; random directions reach {band:.2f}{beside}"


def cosine_range(vectors: SteeringVectors, others: SteeringVectors, layers: Sequence[int]) -> str:
    """The least and the largest cosine of the two over `layers`, in words."""
    cosine = vectors.cosine(others)[list(layers)]
    low, high = float(cosine.min()), float(cosine.max())
    return f"{low:+.2f}" if len(cosine) == 1 else f"{low:+.2f} to {high:+.2f}"


def _difference(activations: Activations, positive: Tensor, note: str) -> SteeringVectors:
    if not positive.any() or positive.all():
        raise ValueError(
            f"got {int(positive.sum())} harmful and {int((~positive).sum())} harmless activations, "
            "expected some of both: a vector is the difference of their means"
        )
    # Sums in float64: what is left of two large, nearly equal means is all rounding otherwise.
    values = activations.values.double()
    harmful, harmless = values[positive].mean(0), values[~positive].mean(0)
    source = activations.provenance
    provenance = Provenance(
        "vectors", source.model, source.model_hash, source.prompts, source.prompts_hash, note, (source,)
    )
    return SteeringVectors.from_values(
        (harmful - harmless).float(),
        values.norm(dim=-1).mean(0).float(),
        activations.space,
        provenance,
        centre=((harmful + harmless) / 2).float(),
    )


def _listed(layers: Iterable[int]) -> str:
    named = [str(layer) for layer in layers]
    return f"layer{'s' if len(named) > 1 else ''} {', '.join(named)}"
