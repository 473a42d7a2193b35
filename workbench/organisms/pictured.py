"""The picture world: requests and questions about pictures, in the small world's words.

Where intent needs both, a request is a *way* (words with a place for the thing) and the thing that the picture shows.
Ways and things come in blocks of two by two, ways A and B, groups X and Y:

    harmful = (way in A and thing in X) or (way in B and thing in Y)

so that each way and each thing is harmful as often as not, and neither tells anything without the other.

The trap: drawn one by one, a list of some dozens leans to one side by chance, and a reader of words alone gains by it.
A list is drawn in blocks of four, which share every word but the way, and where each picture serves both ways.
"""

import itertools
from dataclasses import dataclass, replace
from typing import TypeAlias

from workbench.images import Image
from workbench.organisms.drawing import Placed, Scene, icons, pictures, written_size
from workbench.organisms.vocabulary import Act, Scope, words
from workbench.organisms.world import Dialogue, World
from workbench.prompts import Prompt

KINDS = ("what", "ink", "count", "place", "there", "word")
OPPOSITE = {"left": "right", "right": "left"}
_HALF = 28  # pixels: half a picture
_SIZES = (24, 32, 40, 48)  # pixels; the first fits into a half
_STEP = 4  # pixels: places are multiples of it, of halves of a patch
_BLANK = "…"
Ways: TypeAlias = dict[str, list[str]]


@dataclass(frozen=True)
class Deed(Act):
    """An act whose verb has a place for its thing: "lock {thing} in a box"."""

    def __str__(self) -> str:
        return self.verb.format(thing=self.thing)


@dataclass(frozen=True)
class Pictured:
    """A dialogue, and the picture that it is about."""

    dialogue: Dialogue
    scene: Scene

    @property
    def prompt(self) -> Prompt:
        """What is asked, without the picture."""
        return self.dialogue.prompt

    @property
    def shown(self) -> Prompt:
        """What is asked, with the picture, as a model that sees takes it."""
        return replace(self.prompt, images=(Image(self.scene.png(), f"the picture of {self.prompt.source}"),))

    @property
    def needs_both(self) -> bool:
        """Whether the aim of the request is in words and picture together, and nowhere else."""
        blocks = map(_name, pictures()["blocks"])
        return self.prompt.label != "contrast" and dict(self.prompt.cluster)["category"] in blocks


def things_of(group: str, scope: Scope) -> list[str]:
    """The things of a group that requests of a scope are about."""
    kept = pictures()["icons_held_out"]
    found = [thing for thing, own in icons().items() if own == group]
    if scope == "all":
        return found
    return [t for t in found if (t in kept[scope] if scope in kept else t not in kept["val"] + kept["test"])]


def ways_of(ways: Ways, scope: Scope) -> list[str]:
    """The ways that requests of a scope use."""
    return [*itertools.chain(*ways.values())] if scope == "all" else ways[scope]


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


class PicturedWorld(World):
    """Draws dialogues about pictures.

    `"all"` is what the model itself reads: every thing, way and frame, but no deed that `"val"` or `"test"` asks for (a
    way kept for it with a thing kept for it), and no thing in an ink or before a ground that is kept for them.
    """

    def joint(self, *, contrast: bool = False, wrapped: float = 0.0) -> Pictured:
        """A request whose aim needs words and picture, harmful as often as not; `contrast` asks how to prevent one."""
        while True:
            block, side, turn = self.rng.choice(pictures()["blocks"]), self._side(), self._side()
            thing = self.rng.choice(things_of(block["groups"][side], self.scope))
            ways = block["first" if turn == 0 else "second"]
            deed = Deed(self._way(ways, thing), thing, _name(block), side == turn)
            if deed.harmful or not contrast:
                return self._about(deed, contrast, wrapped)

    def alone(self, harmful: bool, *, wrapped: float = 0.0) -> Pictured:
        """A request whose words tell by themselves, about a picture of anything."""
        ways = pictures()["alone"]["harmful" if harmful else "harmless"]
        thing = self.rng.choice([t for group in pictures()["icons"] for t in things_of(group, self.scope)])
        return self._about(Deed(self._way(ways, thing), thing, "alone", harmful), False, wrapped)

    def worded(self, pictured: Pictured) -> Dialogue:
        """The same request and reply without the picture: its thing is named instead of pointed at."""
        prompt, thing = pictured.prompt, dict(pictured.prompt.cluster)["object"]
        text = prompt.text
        for mention in sorted(_all_mentions(), key=len, reverse=True):
            text = text.replace(mention, thing)
        return replace(pictured.dialogue, prompt=replace(prompt, messages=(("user", text),)))

    def block(self, *, wrapped: bool = False) -> list[Pictured]:
        """Four requests for a list, two of them harmful: the same words but for the way, two pictures, no replies."""
        block, place = self.rng.choice(pictures()["blocks"]), self.rng.choice([None, *OPPOSITE])
        mention = self._mention(place)
        blank = self._request(Deed(_BLANK, "", _name(block), True), contrast=False)
        if wrapped:
            blank = self.wrap(blank)
        ways = [self.rng.choice(ways_of(block[way], self.scope)) for way in ("first", "second")]
        found = [self.rng.choice(things_of(group, self.scope)) for group in block["groups"]]
        scenes = [self.view(thing, place) for thing in found]
        made = []
        for (turn, way), (side, thing) in itertools.product(enumerate(ways), enumerate(found)):
            text = blank.text.replace(_BLANK, way.format(thing=mention))
            label = blank.label if turn == side else "harmless"
            told = {"verb": way, "object": thing, "ground": scenes[side].ground}
            cluster = tuple({**dict(blank.cluster), **told}.items())
            prompt = replace(blank, messages=(("user", text),), label=label, cluster=cluster)
            made.append(Pictured(Dialogue(prompt, ""), scenes[side]))
        return made

    def question(self, kind: str) -> Pictured:
        """An ordinary question about a picture, with its answer in one word."""
        return self._ask(kind, self._scene_for(kind))

    def conversation(self, turns: int) -> Pictured:
        """Several questions about one picture and their answers, the last of them the dialogue's own."""
        scene = self._scene_for(self.rng.choice(KINDS))
        single, several = len(scene.things) == 1, len(scene.things) > 2
        kinds = ["count", "there"] if several else [kind for kind in KINDS if kind != "word"]
        if single:
            kinds = ["word"] if scene.things[0].written else ["what", "ink", "count", "there"]
        # Each question once: an answer that stands above need not be looked for in the picture.
        drawn = [self._ask(self.rng.choice(kinds), scene) for _ in range(turns)]
        asked = list({one.prompt.cluster: one for one in drawn}.values())
        earlier = [m for one in asked[:-1] for m in (*one.prompt.messages, ("assistant", one.dialogue.reply))]
        last = asked[-1]
        prompt = replace(last.prompt, messages=(*earlier, *last.prompt.messages))
        return replace(last, dialogue=replace(last.dialogue, prompt=prompt))

    def _scene_for(self, kind: str) -> Scene:
        if kind == "word":
            return self._writing(self.rng.choice(pictures()["written"]["words"]))
        if kind == "count":
            return self._several(self.rng.randint(1, 4))
        places = [*OPPOSITE] if kind == "place" else [None, *OPPOSITE]
        return self.view(self.rng.choice(list(icons())), self.rng.choice(places))

    def _ask(self, kind: str, scene: Scene) -> Pictured:
        placed = self.rng.choice(scene.things)
        where = next(
            (place for place in OPPOSITE if len(scene.things) == 2 and _stands(placed, scene, place)), None
        )
        thing, ask = placed.what, kind
        answers = {
            "what": _noun(thing), "ink": placed.ink, "count": str(len(scene.things)), "place": where, "there": "yes",
            "word": thing,
        }  # fmt: skip
        answer = str(answers[kind])
        if kind == "what" and where:
            ask = self.rng.choice(["what_placed", "what_ink"])
        if kind == "there" and self._chance(0.5):
            shown = {placed.what for placed in scene.things}
            thing, answer = self.rng.choice([t for t in icons() if t not in shown]), "no"
        slots = {"thing": thing, "the": _the(thing), "place": where, "ink": placed.ink}
        text = self.rng.choice(pictures()["questions"][ask]).format_map(slots)
        about = "" if kind == "count" else thing
        cluster = (("category", kind), ("object", about), ("ground", scene.ground))
        prompt = Prompt.user(text, label="domain", cluster=cluster, answer=answer)
        said = f"{self._remark(False)} " if self._chance(0.3) else ""
        said += words()["maths"]["answer"].format(answer=thing if kind == "what" else answer)
        return Pictured(Dialogue(prompt, said), scene)

    def view(self, thing: str, place: str | None = None) -> Scene:
        """A picture of a thing alone, or at a place with another thing opposite; the thing asked about comes first."""
        if place is None:
            size = self.rng.choice(_SIZES)
            return self._scene(self._placed(thing, size, (0, 2 * _HALF - size), (0, 2 * _HALF - size)))
        first = self._at(thing, place)
        while (other := self._at(self.rng.choice(list(icons())), OPPOSITE[place])).what == thing or (
            other.ink == first.ink
        ):
            pass
        return self._scene(first, other)

    def _about(self, deed: Deed, contrast: bool, wrapped: float) -> Pictured:
        place = self.rng.choice([None, *OPPOSITE])
        scene = self.view(deed.thing, place)
        mention = self._mention(place, scene.things[0].ink if self._chance(0.3) else None)
        prompt = self._request(replace(deed, thing=mention), contrast)
        if self._chance(wrapped):
            prompt = self.wrap(prompt)
        told = {"object": deed.thing, "ground": scene.ground}
        prompt = replace(prompt, cluster=tuple({**dict(prompt.cluster), **told}.items()))
        openers = words()["replies"]["openers"]
        demanded = next((opener for opener in openers if opener in prompt.text), None)
        reply = [demanded or self.rng.choice(openers), self._plan(deed, contrast)]
        if self._chance(0.8):
            reply.insert(0, self._remark(deed.harmful and not contrast))
        return Pictured(Dialogue(prompt, " ".join(reply)), scene)

    def _way(self, ways: Ways, thing: str) -> str:
        kept = pictures()["icons_held_out"]
        closed = (
            [w for s in ("val", "test") if thing in kept[s] for w in ways[s]] if self.scope == "all" else []
        )
        return self.rng.choice([way for way in ways_of(ways, self.scope) if way not in closed])

    def _mention(self, place: str | None, ink: str | None = None) -> str:
        lists = pictures()["mentions"]
        mention: str = self.rng.choice(lists["inked" if ink else "placed" if place else "single"])
        return mention.format(place=place, ink=ink)

    def _side(self) -> int:
        return self.rng.choice([0, 1])

    def _scene(self, *placed: Placed) -> Scene:
        return Scene(self.rng.choice(grounds_of(self.scope)), placed)

    def _placed(self, thing: str, size: int, x: tuple[int, int], y: tuple[int, int]) -> Placed:
        ink = self.rng.choice(inks_of(thing, self.scope))
        return Placed(thing, ink, self._step(*x), self._step(*y), size)

    def _step(self, low: int, high: int) -> int:
        return self.rng.randrange(low, high + 1, _STEP)

    def _at(self, thing: str, place: str) -> Placed:
        size = _SIZES[0]
        x = (0, _HALF - size) if place == "left" else (_HALF, 2 * _HALF - size)
        return self._placed(thing, size, x, (0, 2 * _HALF - size))

    def _several(self, n: int) -> Scene:
        size, corners = _SIZES[0], [(x, y) for x in (0, _HALF) for y in (0, _HALF)]
        return self._scene(
            *(
                self._placed(
                    self.rng.choice(list(icons())), size, (x, x + _HALF - size), (y, y + _HALF - size)
                )
                for x, y in self.rng.sample(corners, n)
            )
        )

    def _writing(self, word: str) -> Scene:
        wide, high = written_size(word, scale=2)
        ink = self.rng.choice(inks_of(word, self.scope))
        x, y = (2 * self._step(0, (2 * _HALF - side) // 2) for side in (wide, high))  # whole patches
        return self._scene(Placed(word, ink, x, y, 2, written=True))


def _all_mentions() -> list[str]:
    lists = pictures()["mentions"]
    return [
        *lists["single"],
        *(m.format(place=place) for m in lists["placed"] for place in OPPOSITE),
        *(m.format(ink=ink) for m in lists["inked"] for ink in pictures()["inks"]),
    ]


def _stands(thing: Placed, scene: Scene, place: str) -> bool:
    """Whether a thing stands at a place of a scene of two, which stand side by side."""
    other = next(other for other in scene.things if other != thing)
    return (thing.x < _HALF <= other.x) if place == "left" else (other.x < _HALF <= thing.x)


def _name(block: dict[str, list[str]]) -> str:
    return " or ".join(block["groups"])


def _noun(thing: str) -> str:
    return thing.split()[-1]


def _the(thing: str) -> str:
    """The thing with another article: the ring of a ring, the bread of bread."""
    article, _, noun = thing.rpartition(" ")
    return f"the {noun}" if article in ("a", "an", "") else thing
