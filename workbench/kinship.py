"""Whether the two models of a plan share a direction at all: a warning where theirs lie like random ones.

    mean over the steered layers of cos(s_l, theta_l)   within ± 1.96 / √d_model      (`vectors.random_band`)

s are the directions that the gate reads along, the target's own; theta the plan's, of the aligned model. Two models of
one shape and other seeds pass every check of a `Space`, and steer each other no better than chance.

The trap: a control is meant to lie there. Random directions and shuffled labels, another concept's vector, and whatever
came through a map, are told by other numbers, and no warning is given of them.
"""

import warnings
from collections.abc import Iterable, Iterator

from workbench.gates import ThresholdGate
from workbench.provenance import Provenance
from workbench.steering import SteeringPlan
from workbench.vectors import RANDOM, SHUFFLED, SteeringVectors, cosine_range, random_band


class Unrelated(UserWarning):
    """The vectors of a plan lie to the target's own as random directions do."""


def warn_if_unrelated(plans: Iterable[SteeringPlan | None]) -> None:
    """Warn (`Unrelated`), once for each pair of vectors and gate, where over all their layers they share no direction.

    Nothing is said of a gate whose own vectors are not known, or were made from other prompts, and nothing of controls.
    """
    pairs: dict[tuple[int, int], tuple[SteeringVectors, ThresholdGate, set[int]]] = {}
    for plan in plans:
        if plan is not None and isinstance(plan.gate, ThresholdGate):
            pair = plan.vectors, plan.gate
            pairs.setdefault((id(pair[0]), id(pair[1])), (*pair, set()))[2].update(plan.layers)
    for vectors, gate, layers in pairs.values():
        if told := _said(vectors, gate, sorted(layers)):
            warnings.warn(told, Unrelated, stacklevel=2)


def _said(vectors: SteeringVectors, gate: ThresholdGate, layers: list[int]) -> str | None:
    theirs, ours = _origin(vectors.provenance), _origin(gate.provenance)
    if (
        theirs is None
        or ours is None
        or vectors.space != gate.space
        or theirs.prompts_hash != ours.prompts_hash
    ):
        return None
    if any(_is_told_otherwise(each) for one in (theirs, ours) for each in _lineage(one)):
        return None
    own = SteeringVectors(gate.directions, vectors.norms, vectors.residual_norms, gate.space, ours)
    band = random_band(vectors.space.d_model)
    if not abs(float(vectors.cosine(own)[layers].mean())) <= band:
        return None
    return (
        f"the vectors of {theirs.model!r} and the gate's own, of {ours.model!r}, have cosine "
        f"{cosine_range(vectors, own, layers)} over the steered layers ({', '.join(map(str, layers))}), as random "
        f"directions have (±{band:.2f}): same shape, another seed? Use two models of one base; or carry the vectors "
        "over, map_vectors(fit_map(theirs, ours), vectors, like=...); `workbench transfer` measures what that is worth"
    )


def _origin(provenance: Provenance) -> Provenance | None:
    """Of the vectors behind a gate, however it was moved, or behind vectors that are a multiple of others."""
    while provenance.kind == "gate" or (provenance.note.startswith("times") and not provenance.prompts_hash):
        if not provenance.parents:
            return None
        provenance = provenance.parents[0]
    return provenance if provenance.kind == "vectors" else None


def _lineage(provenance: Provenance) -> Iterator[Provenance]:
    yield provenance
    for parent in provenance.parents:
        yield from _lineage(parent)


def _is_told_otherwise(provenance: Provenance) -> bool:
    return provenance.kind == "map" or provenance.note.startswith((RANDOM, SHUFFLED))
