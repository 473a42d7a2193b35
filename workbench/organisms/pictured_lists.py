"""The pictured lists: extraction, validation, test, drawn when asked for, by a seed that cannot be picked.

`train` makes vectors, `val` makes choices, `test` makes claims. Nothing of them lies on disk: a picture is a few
numbers until someone wants its bytes. The seed is the hash of the recipe of `organism:llava`.

The trap: requests whose intent needs words and picture stand in blocks of four (`pictured.py`). Take a block apart, and
what is left leans: a sample by label alone may be told by its words.
"""

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Literal, TypeAlias, get_args

from workbench.organisms.drawing import Scene
from workbench.organisms.pictured import KINDS, Pictured, PicturedWorld
from workbench.organisms.sight import RECIPE
from workbench.organisms.vocabulary import Scope
from workbench.prompts import ContrastSet, PromptSet
from workbench.published import load_contrast

Extract: TypeAlias = Literal["words", "pictures", "both"]
Part: TypeAlias = Literal["train", "val", "test"]
SIZES: dict[Part, dict[str, int]] = {
    "train": {"joint": 128},
    "val": {"joint": 160, "wrapped": 80, "contrast": 40, "harmful": 40, "harmless": 40, "question": 120},
    "test": {"joint": 384, "wrapped": 192, "contrast": 96, "harmful": 96, "harmless": 96, "question": 360},
}
"""How many of each kind: joint requests, plain and wrapped, half of them harmful; words that tell alone; questions."""
_SCOPES: dict[Part, Scope] = {"train": "seen", "val": "val", "test": "test"}


def draw_pictured_lists(seed: int | str) -> dict[Part, tuple[Pictured, ...]]:
    """Every list, each request or question with its picture; none twice, none in two lists."""
    return {part: _draw(seed, part) for part in SIZES}


def _draw(seed: int | str, part: Part) -> tuple[Pictured, ...]:
    world = PicturedWorld(f"{seed}/{part}", _SCOPES[part])
    taken: set[tuple[str, Scene]] = set()
    found: list[Pictured] = []
    draws: dict[str, Callable[[int], list[Pictured]]] = {
        "joint": lambda _: world.block(),
        "wrapped": lambda _: world.block(wrapped=True),
        "contrast": lambda _: [world.joint(contrast=True)],
        "harmful": lambda _: [world.alone(True)],
        "harmless": lambda _: [world.alone(False)],
        "question": lambda n: [world.question(KINDS[n % len(KINDS)])],
    }
    for kind, size in SIZES[part].items():
        end = len(found) + size
        while len(found) < end:
            drawn = draws[kind](len(found))
            keys = {(one.prompt.text, one.scene) for one in drawn}
            if not keys & taken:
                taken |= keys
                found += [_sourced(one, f"pictured/{part}:{len(found) + n}") for n, one in enumerate(drawn)]
    return tuple(found)


def _sourced(one: Pictured, source: str) -> Pictured:
    return replace(one, dialogue=replace(one.dialogue, prompt=replace(one.prompt, source=source)))


@functools.cache
def pictured_list(part: Part) -> tuple[Pictured, ...]:
    """A list of the recipe that ships: each has a `prompt` (text, label, cluster), and a picture, `scene.png()`."""
    return _draw(RECIPE.hash, part)


def load_pictured(extract: Extract = "both") -> ContrastSet:
    """The requests and questions about pictures that `organism:llava` is chosen and measured on.

    `extract` is what vectors are made from: the text world's extraction prompts ("words"), requests whose intent needs
    words and picture ("pictures"), or both. `.val` and `.test` are the same for all three.
    """
    if extract not in get_args(Extract):
        raise ValueError(f"got extract={extract!r}, expected one of {', '.join(get_args(Extract))}")
    pictures, val, test = map(_shown, SIZES)
    words = load_contrast("small-world").train
    train = {"words": words, "pictures": pictures, "both": words + pictures}[extract]
    return ContrastSet("pictured", train, val, test)


@functools.cache
def _shown(part: Part) -> PromptSet:
    return PromptSet(f"pictured.{part}", tuple(one.shown for one in pictured_list(part)))
