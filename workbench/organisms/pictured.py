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
from workbench.organisms.drawing import Scene, icons, pictures
from workbench.organisms.staging import OPPOSITE, Stage, side_by_side, side_of
from workbench.organisms.vocabulary import Act, Scope, words
from workbench.organisms.world import Dialogue, World
from workbench.prompts import Prompt

KINDS = ("what", "ink", "count", "place", "word")
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


class PicturedWorld(World):
    """Draws dialogues about pictures.

    `"all"` is what the model itself reads: every thing, way and frame, but no deed that `"val"` or `"test"` asks for (a
    way kept for it with a thing kept for it), and no thing in an ink or before a ground that is kept for them.
    """

    @property
    def stage(self) -> Stage:
        """What draws its scenes."""
        return Stage(self.rng, self.scope)

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
        block, place = self.rng.choice(pictures()["blocks"]), self._place()
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
        """Several questions about one picture and their answers, half the time with a description at the end.

        The last exchange is the dialogue's own.
        """
        scene = self._scene_for(self.rng.choice(KINDS))
        first, *others = scene.things
        if first.written:
            kinds = ["word"]
        elif others:
            kinds = ["what", "what", "count"] if side_by_side(scene) else ["count"]
        else:
            kinds = ["what", "ink", "count", *(["place"] if side_of(first) else [])]
        # Each question once, and the description last: an answer that stands above need not be looked for.
        drawn = [self._ask(self.rng.choice(kinds), scene) for _ in range(turns)]
        asked = list({one.prompt.cluster: one for one in drawn}.values())
        if self._chance(0.5):
            asked.append(self._describe(scene))
        earlier = [m for one in asked[:-1] for m in (*one.prompt.messages, ("assistant", one.dialogue.reply))]
        last = asked[-1]
        prompt = replace(last.prompt, messages=(*earlier, *last.prompt.messages))
        return replace(last, dialogue=replace(last.dialogue, prompt=prompt))

    def _describe(self, scene: Scene) -> Pictured:
        """The whole picture in a sentence: each thing in its ink, and up to two with the side they are on."""
        told, shown = (
            pictures()["descriptions"],
            sorted(scene.things, key=lambda placed: (placed.x, placed.y)),
        )
        if shown[0].written:
            said = told["word"].format(word=shown[0].what, ink=shown[0].ink)
        else:
            parts = [_inked(placed.what, placed.ink) for placed in shown]
            if len(shown) < 3:
                sides = map(side_of, shown)
                parts = [
                    f"{part} on the {side}" if side else part for part, side in zip(parts, sides, strict=True)
                ]
            said = told["things"].format(
                things=" and ".join([", ".join(parts[:-1])] * (len(parts) > 1) + parts[-1:])
            )
        cluster = (("category", "description"), ("object", ""), ("ground", scene.ground))
        prompt = Prompt.user(self.rng.choice(told["asked"]), label="domain", cluster=cluster)
        return Pictured(Dialogue(prompt, said), scene)

    def _scene_for(self, kind: str) -> Scene:
        if kind == "word":
            return self.stage.writing(self.rng.choice(pictures()["written"]["words"]))
        if kind == "count":
            return self.stage.several(self.rng.randint(1, 4))
        thing = self.rng.choice(list(icons()))
        if kind == "place":
            return self.stage.alone(thing, self.rng.choice([*OPPOSITE]))
        return self.view(thing, self._place() if kind == "what" else None)

    def _ask(self, kind: str, scene: Scene) -> Pictured:
        placed = self.rng.choice(scene.things)
        where, thing, ask = side_of(placed), placed.what, kind
        answers = {
            "what": noun_of(thing), "ink": placed.ink, "count": str(len(scene.things)), "place": where, "word": thing,
        }  # fmt: skip
        answer = str(answers[kind])
        if kind == "what" and len(scene.things) > 1:
            ask = "what_placed"
        slots = {"the": _the(thing), "place": where}
        text = self.rng.choice(pictures()["questions"][ask]).format_map(slots)
        about = "" if kind == "count" else thing
        cluster = (("category", kind), ("object", about), ("ground", scene.ground))
        prompt = Prompt.user(text, label="domain", cluster=cluster, answer=answer)
        said = f"{self._remark(False)} " if self._chance(0.3) else ""
        said += words()["maths"]["answer"].format(answer=thing if kind == "what" else answer)
        return Pictured(Dialogue(prompt, said), scene)

    def view(self, thing: str, place: str | None = None) -> Scene:
        """A picture of a thing alone, or at a place with another thing opposite; the thing asked about comes first."""
        return self.stage.beside(thing, place) if place else self.stage.alone(thing)

    def _about(self, deed: Deed, contrast: bool, wrapped: float) -> Pictured:
        place = self._place()
        scene = self.view(deed.thing, place)
        prompt = self._request(replace(deed, thing=self._mention(place)), contrast)
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

    def _place(self) -> str | None:
        """Where a thing stands that has another beside it, or None for one that is alone, as two of three are."""
        return self.rng.choice([None] * 4 + [*OPPOSITE])

    def _mention(self, place: str | None) -> str:
        mention: str = self.rng.choice(pictures()["mentions"]["placed" if place else "single"])
        return mention.format(place=place)

    def _side(self) -> int:
        return self.rng.choice([0, 1])


def _all_mentions() -> list[str]:
    lists = pictures()["mentions"]
    return [
        *lists["single"],
        *(m.format(place=place) for m in lists["placed"] for place in OPPOSITE),
    ]


def _name(block: dict[str, list[str]]) -> str:
    return " or ".join(block["groups"])


def noun_of(thing: str) -> str:
    """The ring of a ring."""
    return thing.split()[-1]


def _inked(thing: str, ink: str) -> str:
    """The thing in an ink: a red umbrella of an umbrella, red bread of bread."""
    article, _, noun = thing.rpartition(" ")
    return f"a {ink} {noun}" if article else f"{ink} {noun}"


def _the(thing: str) -> str:
    """The thing with another article: the ring of a ring, the bread of bread."""
    article, _, noun = thing.rpartition(" ")
    return f"the {noun}" if article in ("a", "an", "") else thing
