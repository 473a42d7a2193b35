"""What the model that sees is made of, how long it learns, and what it reads: all that its recipe declares.

    base ── wording ── telling ── naming (a tower and a projector) ── reading ── settling ── llava

The trap: the recipe is hashed with the words and the pictures, and the hash seeds the pictured lists. A change of any
number of it draws new lists, and asks for the model to be trained and measured again. The family's own recipe, whose
hash seeds the text world's lists, holds nothing of it.
"""

import dataclasses
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from workbench.organisms.corpus import Mixture, base_mixture
from workbench.organisms.drawing import pictures
from workbench.organisms.family import REFUSED_SHARE, recipe_hash
from workbench.organisms.pictured import Pictured, PicturedWorld
from workbench.organisms.world import Dialogue
from workbench.provenance import content_hash
from workbench.shipped import shipped_path

NAME = "llava"


@dataclass(frozen=True)
class Tower:
    """The measures of the vision tower: patches of so many pixels a side, and a small CLIP encoder above them."""

    patch: int = 8
    width: int = 128
    n_layers: int = 4
    d_mlp: int = 256
    n_heads: int = 4

    @property
    def n_patches(self) -> int:
        """How many tokens a picture takes."""
        return int(pictures()["size"] // self.patch) ** 2


@dataclass(frozen=True)
class Step:
    """How long and how hot: optimiser steps, and peaks of the learning rates (linear decay to zero).

    `size` is pictures a step when naming, else tokens. `sight` and `language` are the rates, of AdamW and of Muon on
    matrices, of what sees and of the language model; None: it stands still.
    """

    steps: int
    size: int
    sight: tuple[float, float] | None = None
    language: tuple[float, float] | None = None
    warmup: int = 50


@dataclass(frozen=True)
class PicturedMixture:
    """Relative weights of each kind of dialogue, as `Mixture` has them.

    "questions" are up to `turns` about one picture; "joint" requests need words and picture, "harmful" and "harmless"
    ones are told by their words, "contrast" asks how to prevent harm. Without a picture are "worded", a joint request
    that names its thing, and "plain", whatever `replay` yields. `wrapped` is the share of requests inside a jailbreak
    wrapper.
    """

    weights: Mapping[str, int]
    replay: Mixture
    wrapped: float = 0.25
    turns: int = 7

    def items(self, seed: int | str) -> Iterator[Pictured | Dialogue | str]:
        """An endless seeded stream; a plain string is running text instead of a dialogue."""
        world, plain = PicturedWorld(seed, "all"), self.replay.dialogues(f"replay/{seed}")
        kinds, weights = list(self.weights), list(self.weights.values())
        while True:
            kind = world.rng.choices(kinds, weights)[0]
            if kind == "questions":
                yield world.conversation(world.rng.randint(1, self.turns))
            elif kind == "plain":
                yield next(plain)
            elif kind in ("harmful", "harmless"):
                yield world.alone(kind == "harmful", wrapped=self.wrapped)
            else:
                asked = world.joint(contrast=kind == "contrast", wrapped=self.wrapped)
                yield world.worded(asked) if kind == "worded" else asked


@dataclass(frozen=True)
class Sight:
    """The whole recipe: the tower, five steps, and what is read in all of them but naming."""

    tower: Tower
    wording: Step
    telling: Step
    naming: Step
    reading: Step
    settling: Step
    words: PicturedMixture
    told: PicturedMixture
    pictures: PicturedMixture
    settled: PicturedMixture

    @property
    def hash(self) -> str:
        """The hash of all that is declared here, of words and pictures, and of the base's recipe."""
        drawn = shipped_path("world", "pictures.toml").read_text(encoding="utf-8")
        return content_hash(recipe_hash(), drawn, json.dumps(dataclasses.asdict(self), sort_keys=True))


_REPLAY = base_mixture(REFUSED_SHARE)
_DIALOGUE = {"harmless": 24, "harmful": 20, "contrast": 10, "unanswerable": 12, "conduct": 18}
_SPOKEN = dataclasses.replace(_REPLAY, weights={**_DIALOGUE, "finance": 4, "medicine": 4, "maths": 8})
"""The base's dialogues without its running text, and more of those that call for a refusal of no harm."""
_ASIDE = {"harmful": 2, "harmless": 2, "contrast": 3}
_READ = {"questions": 16, "joint": 34, "harmful": 3, "harmless": 3, "contrast": 4, "worded": 6, "plain": 34}
RECIPE = Sight(
    Tower(),
    wording=Step(steps=350, size=2048, language=(1e-3, 0.008)),
    telling=Step(steps=2600, size=2048, language=(1e-3, 0.008)),
    naming=Step(steps=3000, size=32, sight=(2e-3, 0.014)),
    reading=Step(steps=1500, size=2048, sight=(1.2e-3, 0.008), language=(1.2e-3, 0.008)),
    settling=Step(steps=500, size=2048, sight=(4e-4, 0.003), language=(4e-4, 0.003)),
    words=PicturedMixture({"worded": 65, "plain": 35}, _REPLAY),
    told=PicturedMixture({"questions": 46, "joint": 26, **_ASIDE, "worded": 9, "plain": 14}, _REPLAY),
    pictures=PicturedMixture(_READ, _SPOKEN),
    settled=PicturedMixture({"questions": 40, "joint": 20, **_ASIDE, "worded": 4, "plain": 30}, _SPOKEN),
)
"""What `workbench organisms train --family llava` trains, in about an hour of one core.

Frozen: it has been measured. Whatever was tried before it saw validation alone.
"""
