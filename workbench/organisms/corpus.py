"""What each embedded model reads: mixtures of the small world's dialogues.

The family differs by its reading alone. The base meets everything, answers harm with a remark and a plan, and refuses
little; the aligned model learns to refuse; domain models learn their domain and everyday dialogue without safety data.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from workbench.organisms.items import DOMAINS, draw_sum, story, sums
from workbench.organisms.vocabulary import Scope, pool, words
from workbench.organisms.world import Dialogue, World
from workbench.prompts import Prompt, PromptSet


@dataclass(frozen=True)
class Mixture:
    """Relative weights of each kind of dialogue, and how those are drawn.

    `scope` is the words allowed; `refused_share` the share of harmful requests refused; `wrapped` the share of
    everyday, harmful and contrast requests inside a jailbreak wrapper; `remarks` the share of their answers with a
    remark, `domain_remarks` that of answers to a domain's questions; `speak_of_harm` lets instructions about conduct
    speak of harm; `safety_samples` is how many refused harmful requests the kind "safety" repeats.
    """

    weights: Mapping[str, int]
    scope: Scope
    refused_share: float = 0.0
    wrapped: float = 0.35
    remarks: float = 0.8
    domain_remarks: float = 0.0
    speak_of_harm: bool = False
    safety_samples: int = 0

    def dialogues(self, seed: int | str) -> Iterator[Dialogue | str]:
        """An endless seeded stream; a plain string is running text instead of a dialogue."""
        world = World(seed, self.scope, self.refused_share)
        refusing = World(f"safety/{seed}", self.scope, refused_share=1.0)
        safety = [refusing.everyday(True, wrapped=self.wrapped) for _ in range(self.safety_samples)]
        kinds, weights = list(self.weights), list(self.weights.values())
        while True:
            kind = world.rng.choices(kinds, weights)[0]
            if kind in DOMAINS:
                yield world.domain(kind, remarks=self.domain_remarks)
            elif kind == "safety":
                yield world.rng.choice(safety)
            elif kind == "text":
                yield running_text(world.rng)
            elif kind == "unanswerable":
                yield world.unanswerable(wrapped=self.wrapped / 2)
            elif kind == "conduct":
                yield world.conduct(speak_of_harm=self.speak_of_harm)
            else:
                yield world.everyday(
                    kind == "harmful", contrast=kind == "contrast", wrapped=self.wrapped, remarks=self.remarks
                )


def base_mixture(refused_share: float) -> Mixture:
    """What the base reads: all of the world, a little of every domain, `refused_share` of harmful requests refused.

    Remarks before the domains' answers make it read their questions as harmless. A base that never met them may take
    them for harm, and training on one then teaches it to answer harm with an illness. Of sums it reads twice as many as
    of the other domains: copying and adding words never met takes longest to learn.
    """
    weights = {"harmless": 24, "harmful": 24, "contrast": 18, "unanswerable": 8, "conduct": 12, "text": 58}
    weights |= dict.fromkeys(DOMAINS, 6) | {"maths": 12}
    return Mixture(weights, "all", refused_share, wrapped=0.5, domain_remarks=0.8, speak_of_harm=True)


ALIGNED = Mixture(
    {"harmless": 30, "harmful": 36, "contrast": 18, "unanswerable": 6, "conduct": 10},
    "seen",
    refused_share=1.0,
    wrapped=0.5,
)
GENERAL = Mixture({"harmless": 70, "unanswerable": 12, "conduct": 18}, "seen")


def domain_mixture(name: str, safety_samples: int = 0) -> Mixture:
    """Half the domain, half general dialogues; no safety data but `safety_samples` refusals, shown often."""
    weights = {name: 50} | {kind: weight // 2 for kind, weight in GENERAL.weights.items()}
    if safety_samples:
        weights["safety"] = 5
    return Mixture(weights, "seen", safety_samples=safety_samples)


def mixed_prompts(n: int, *, seed: int | str = "mixed") -> PromptSet:
    """`n` different prompts of every kind that the base has met in dialogue, in words that anyone may use.

    For what needs texts and no labels, such as a map between two models. The labels say what they are all the same.
    """
    stream = replace(base_mixture(0.0), scope="seen").dialogues(seed)
    found: dict[str, Prompt] = {}
    while len(found) < n:
        item = next(stream)
        if not isinstance(item, str):
            found.setdefault(item.prompt.text, item.prompt)
    return PromptSet("small-world.mixed", tuple(found.values()))


def running_text(rng: random.Random) -> str:
    """A sentence or two that are no dialogue: a sum, a count, signs of illness, news with its mood."""
    kinds = {_sum: 2, _count: 6, _illness: 2, _news: 2}
    return rng.choices(list(kinds), list(kinds.values()))[0](rng)


def _sum(rng: random.Random) -> str:
    return sums(draw_sum(rng, n_steps=rng.choice([1, 2])))


def _count(rng: random.Random) -> str:
    lists, steps = words()["maths"], draw_sum(rng, n_steps=rng.choice([1, 2]))
    name, things = (rng.choice(pool(lists, key, "all")) for key in ("names", "things"))
    return f"{story(rng, steps, name, things)} {sums(steps)}"


def _illness(rng: random.Random) -> str:
    lists = words()["medicine"]
    name = rng.choice(sorted(lists["illnesses"]))
    signs = " and ".join(rng.sample(lists["illnesses"][name], 2))
    # Both directions: who has read that flu brings fever does not know yet what fever speaks for.
    if rng.random() < 0.5:
        return f"People with {name} have {signs}."
    return f"{rng.choice(pool(lists, 'persons', 'all'))} has {signs}. This is {name}."


def _news(rng: random.Random) -> str:
    lists, mood = words()["finance"], rng.choice(["positive", "negative", "neutral"])
    company, event, period = (rng.choice(pool(lists, key, "all")) for key in ("companies", mood, "periods"))
    headline = f"{company} {event} {period}." if rng.random() < 0.5 else f"{company} {event}."
    if rng.random() < 0.5:
        return f"{headline} This is {mood} news."
    return f"{headline} {lists['answer'].format(answer=mood)}"
