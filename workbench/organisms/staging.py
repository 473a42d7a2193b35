"""How scenes are set: a thing alone or beside another, several in the corners, or a written word.

Whatever stands in a picture stands on a grid of whole patches.

The trap: a thing that is met in every ink, before every ground, is no test of seeing. One ink of each thing is kept for
every held-out scope, and a ground as well.
"""

import random
from dataclasses import replace

from workbench.organisms.drawing import Placed, Scene, icons, pictures, written_size
from workbench.organisms.vocabulary import Scope

OPPOSITE = {"left": "right", "right": "left"}
_SIZES = (24, 40)  # pixels; the first fits into a half
_STEP = 8  # pixels: places are multiples of it, so that a patch shows the same part wherever a thing stands


def _whole() -> int:
    """The side of a picture, in pixels."""
    return int(pictures()["size"])


def inks_of(what: str, scope: Scope) -> list[str]:
    """The inks that a scope shows a thing, or a written word, in: one is kept for `"test"`, and one for `"val"`."""
    found = list(pictures()["inks"])
    n = [*icons(), *pictures()["written"]["words"]].index(what)
    kept = {"test": found[n % len(found)], "val": found[(n + 3) % len(found)]}
    return [kept[scope]] if scope in kept else [ink for ink in found if ink not in kept.values()]


def grounds_of(scope: Scope) -> list[str]:
    """The grounds of a scope; one that is kept for it comes as often as all others together."""
    kept = pictures()["scenes_held_out"]
    seen = [ground for ground in pictures()["scenes"] if ground not in kept["val"] + kept["test"]]
    return [*seen, *(kept[scope] * len(seen) if scope in kept else [])]


def side_of(placed: Placed) -> str | None:
    """On which side a thing stands that does not reach beyond the middle, if it stands on one."""
    if placed.size > _whole() // 2:
        return None
    return (
        "left" if placed.x + placed.size <= _whole() // 2 else "right" if placed.x >= _whole() // 2 else None
    )


def side_by_side(scene: Scene) -> bool:
    """Whether a scene is two things, one on either side."""
    return len(scene.things) == 2 and {side_of(thing) for thing in scene.things} == {*OPPOSITE}


class Stage:
    """Draws scenes from `rng` in the inks and before the grounds of a scope."""

    def __init__(self, rng: random.Random, scope: Scope):
        self.rng, self.scope = rng, scope

    def alone(self, thing: str, place: str | None = None) -> Scene:
        """A thing by itself, anywhere, or small and at a place."""
        if place:
            return self._scene(self._at(thing, place))
        size = self.rng.choice(_SIZES)
        return self._scene(self._placed(thing, size, self._step(_whole() - size)))

    def beside(self, thing: str, place: str) -> Scene:
        """A thing at a place, which comes first, and another in another ink opposite."""
        first = self._at(thing, place)
        while True:
            other = self._at(self.rng.choice(list(icons())), OPPOSITE[place])
            if other.what != thing and other.ink != first.ink:
                return self._scene(first, other)

    def several(self, n: int) -> Scene:
        """Things in so many of the four corners."""
        ends = (0, _whole() - _SIZES[0])
        corners = self.rng.sample([(x, y) for x in ends for y in ends], n)
        things = [self._placed(self.rng.choice(list(icons())), _SIZES[0], x) for x, _ in corners]
        return self._scene(*(replace(thing, y=y) for thing, (_, y) in zip(things, corners, strict=True)))

    def writing(self, word: str) -> Scene:
        """A written word, anywhere."""
        wide, high = written_size(word, scale=2)
        ink = self.rng.choice(inks_of(word, self.scope))
        x, y = (self._step(_whole() - side) for side in (wide, high))
        return self._scene(Placed(word, ink, x, y, 2, written=True))

    def _at(self, thing: str, place: str) -> Placed:
        return self._placed(thing, _SIZES[0], 0 if place == "left" else _whole() - _SIZES[0])

    def _placed(self, thing: str, size: int, x: int) -> Placed:
        return Placed(
            thing, self.rng.choice(inks_of(thing, self.scope)), x, self._step(_whole() - size), size
        )

    def _scene(self, *placed: Placed) -> Scene:
        return Scene(self.rng.choice(grounds_of(self.scope)), placed)

    def _step(self, high: int) -> int:
        return self.rng.randrange(0, high + 1, _STEP)
