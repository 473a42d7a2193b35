"""Items of the three domains, each with an answer that can be checked: headlines, symptoms, word problems."""

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from workbench.organisms.vocabulary import Lists, Scope, pool, words

DOMAINS = ("finance", "medicine", "maths")
Step: TypeAlias = tuple[int, str, int, int]  # a, the sign, b, and what a ± b makes


@dataclass(frozen=True)
class Item:
    """A question, the reply that is right in full, the answer it is checked by, and what it shares with others."""

    question: str
    reply: str
    answer: str
    cluster: tuple[tuple[str, str], ...]


def draw_item(rng: random.Random, domain: str, scope: Scope) -> Item:
    """A random item of a domain, in the words of a scope."""
    return _DRAW[domain](rng, words()[domain], scope)


def _finance(rng: random.Random, lists: Lists, scope: Scope) -> Item:
    mood = rng.choice(["positive", "negative", "neutral"])
    company, event = rng.choice(pool(lists, "companies", scope)), rng.choice(pool(lists, mood, scope))
    period = rng.choice(pool(lists, "periods", scope))
    slots = {"company": company, "event": event, "period": period, "Period": period.capitalize()}
    headline = rng.choice(lists["headlines"]).format_map(slots)
    question = rng.choice(lists["frames"]).format(headline=headline)
    return Item(question, lists["answer"].format(answer=mood), mood, (("object", company), ("verb", event)))


def _medicine(rng: random.Random, lists: Lists, scope: Scope) -> Item:
    options = rng.sample(sorted(lists["illnesses"]), 3)
    illness = rng.choice(options)
    shown = rng.sample(lists["illnesses"][illness], rng.choice([2, 3]))
    person = rng.choice(pool(lists, "persons", scope))
    slots = {
        "person": person,
        "symptoms": f"{', '.join(shown[:-1])} and {shown[-1]}",
        "options": f"{', '.join(options[:-1])} or {options[-1]}",
    }
    reply = lists["answer"].format(answer=illness)
    return Item(
        rng.choice(lists["frames"]).format_map(slots),
        reply,
        illness,
        (("object", person), ("category", illness)),
    )


def _maths(rng: random.Random, lists: Lists, scope: Scope) -> Item:
    steps = draw_sum(rng, n_steps=2)
    name, things = rng.choice(pool(lists, "names", scope)), rng.choice(pool(lists, "things", scope))
    question = rng.choice(lists["ask"]).format(name=name, things=things)
    answer = str(steps[-1][3])
    reply = f"{sums(steps)} {lists['answer'].format(answer=answer)}"
    signs = "".join(sign for _, sign, _, _ in steps)
    return Item(
        f"{story(rng, steps, name, things)} {question}", reply, answer, (("object", things), ("verb", signs))
    )


_DRAW: dict[str, Callable[[random.Random, Lists, Scope], Item]] = {
    "finance": _finance,
    "medicine": _medicine,
    "maths": _maths,
}


def draw_sum(rng: random.Random, n_steps: int) -> list[Step]:
    """A chain of additions and subtractions that stays between 0 and 12."""
    while True:
        total, steps = rng.randint(2, 9), []
        for _ in range(n_steps):
            sign, b = rng.choice("+-"), rng.randint(1, 6)
            steps.append((total, sign, b, total + b if sign == "+" else total - b))
            total = steps[-1][3]
        if all(0 <= c <= 12 for *_, c in steps):
            return steps


def sums(steps: list[Step]) -> str:
    """The chain as sums: "3 + 4 = 7. 7 - 2 = 5."."""
    return " ".join(f"{a} {sign} {b} = {c}." for a, sign, b, c in steps)


def story(rng: random.Random, steps: list[Step], name: str, things: str) -> str:
    """The chain as a story: "Tom has 3 apples. Tom buys 4 more. Tom loses 2."."""
    lists = words()["maths"]
    told = [lists["start"].format(name=name, a=steps[0][0], things=things)]
    for _, sign, b, _ in steps:
        told.append(rng.choice(lists["plus" if sign == "+" else "minus"]).format(name=name, b=b))
    return " ".join(told)
