"""The vectors of one aligned model in the space of one target: as they are, through maps, and through maps that fail.

    native, direct       the source comes from the target's base: its vectors as they are (`native`: the first such one)
    unmapped             it does not, but the shape is the same: as they are, which passes every check
    ridge, procrustes    through a map between the two *bases*, fitted on texts that both have read
    calm texts           ridge on those of the texts that ask for no harm
    from aligned         ridge between the aligned model and the target's base, instead of between the bases
    shuffled texts       ridge on texts in the wrong order, several such orders
    mapped random        random directions of the source, through the ridge map, several of them

The trap: a map that is fitted on the aligned model itself takes what *it* does with harmful texts to what the target
does with them. Its safety vector then becomes the target's own intent vector, at a cosine of almost 1, and steers as
little. Bases, which do not refuse, share only how they read; what alignment adds to that is left to be carried.

And a second one: that a carried vector steers is no proof that its map is right. Whatever a map is fitted on, it sends
vectors to where the target's residuals vary most, and refusing may be one of these directions. Then many wrong orders
of the texts steer to it, each at some setting of its own, with a held-out R² of 0; a random direction of equal length,
which no map has bent there, hardly ever does.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.activations import Activations, last_token_activations
from workbench.loading import Model
from workbench.prompts import PromptSet
from workbench.transfer.maps import ResidualMap, fit_map, fit_shuffled_map, map_vectors
from workbench.vectors import SteeringVectors, random_directions

CARRIED = ("native", "direct", "ridge", "procrustes", "calm texts")
"""The arms that are meant to work."""
CONTROLS = ("unmapped", "from aligned", "shuffled texts", "mapped random")
"""Those that show what does not."""
WITHOUT_SOURCE = ("own vector", "random", "unsteered")


@dataclass(frozen=True, eq=False)
class Carried:
    """One arm of a target: the vectors of a source in the target's space, and the map they came through, if any.

    `draw` counts those of an arm that is drawn at random more than once.
    """

    source: str
    arm: str
    vectors: SteeringVectors
    map: ResidualMap | None = None
    draw: int = 0

    @property
    def key(self) -> str:
        """The arm's name in a sweep."""
        return f"{self.arm} · {self.source} · {self.draw}"


class Readings:
    """What every base, and every source, makes of the maps' texts; each model reads them once."""

    def __init__(self, models: Mapping[str, Model], texts: PromptSet, batch_size: int, progress: bool):
        self.models, self.texts = MappingProxyType(dict(models)), texts
        self.batch_size, self.progress = batch_size, progress
        self._read: dict[str, Activations] = {}

    def of(self, name: str) -> Activations:
        """The activations of the model of that name."""
        if name not in self._read:
            self._read[name] = last_token_activations(
                self.models[name], self.texts, batch_size=self.batch_size, progress=self.progress
            )
        return self._read[name]


def carry(
    source: str,
    ssv: SteeringVectors,
    like: SteeringVectors,
    readings: Readings,
    *,
    source_base: str,
    target_base: str,
    native: bool,
    draws: int = 4,
    seed: int = 0,
) -> Iterator[Carried]:
    """Every arm of one source in one target, with the lengths of `like`, the target's own vectors."""
    if source_base == target_base:
        like.space.require(ssv.space, f"vectors of {source}, said to share a base with the target")
        yield Carried(source, "native" if native else "direct", ssv)
        return
    if ssv.space == like.space:
        yield Carried(source, "unmapped", ssv)
    ours, theirs = readings.of(target_base), readings.of(source_base)
    calm = ~ours.harmful
    ridge = fit_map(theirs, ours, seed=seed)
    maps = {
        "ridge": ridge,
        "procrustes": fit_map(theirs, ours, method="procrustes", seed=seed),
        "from aligned": fit_map(readings.of(source), ours, seed=seed),
    }
    if calm.any() and not calm.all():
        maps["calm texts"] = fit_map(theirs.where(calm), ours.where(calm), seed=seed)
    for arm, through in maps.items():
        yield Carried(source, arm, map_vectors(through, ssv, like), through)
    for draw in range(draws):
        shuffled = fit_shuffled_map(theirs, ours, seed=seed + draw)
        yield Carried(source, "shuffled texts", map_vectors(shuffled, ssv, like), shuffled, draw)
        random = random_directions(ssv, seed=seed + draw)
        yield Carried(source, "mapped random", map_vectors(ridge, random, like), ridge, draw)


def beyond_own(
    vectors: SteeringVectors, native: SteeringVectors, own: SteeringVectors
) -> Float[Tensor, "layer"]:
    """How much of `vectors` lies along what the native vector adds to the target's own: its cosine with that part.

    The part is the native direction without its projection on the own one. 0 where the two are parallel.
    """
    native.space.require(vectors.space, "carried vectors")
    overlap = native.cosine(own)
    part = native.directions - overlap[:, None] * own.directions
    length = part.norm(dim=-1)
    part = torch.where(length[:, None] > 1e-4, part / length[:, None], torch.zeros_like(part))
    return einsum(vectors.directions, part, "layer d_model, layer d_model -> layer")
