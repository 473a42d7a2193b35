"""The prompt lists of the small world: extraction, validation, test.

`train` makes vectors, `val` makes choices, `test` makes claims. The seed of the test lists is the hash of the
family's recipe, so they cannot be picked: another recipe means other lists, and the card counts the draws.
"""

import functools
import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from workbench.organisms.items import DOMAINS
from workbench.organisms.vocabulary import Scope, wrapper_templates
from workbench.organisms.world import Dialogue, World
from workbench.prompts import Prompt, PromptSet

N_TRAIN = 64  # of each class, as in the paper
SIZES: dict[Scope, dict[str, int]] = {
    "val": {
        "harmful": 160,
        "jailbroken": 200,
        "harmless": 160,
        "wrapped_harmless": 100,
        "contrast": 120,
        "domain": 100,
    },
    "test": {
        "harmful": 456,
        "jailbroken": 500,
        "harmless": 300,
        "wrapped_harmless": 100,
        "contrast": 240,
        "domain": 300,
    },
}
# Another concept than harm, for a control vector: both harmless, and as far apart in the models as harm is. The small
# difference of two everyday topics, brought to that length, is noise along the direction of harm as much as a concept.
TOPICS = ("maths", "finance")


def draw_lists(seed: int | str) -> dict[str, PromptSet]:
    """Every list by its file name: train, other-concept, val, test, and each domain's val and test.

    No prompt stands in two lists: later draws skip the texts of earlier ones.
    """
    taken: set[str] = set()
    prompts = {"train": _train(seed, taken), "other-concept": _other_concept(seed, taken)}
    for scope in SIZES:
        prompts[scope] = _everyday(seed, scope, taken)
        for domain in DOMAINS:
            world = World(f"{seed}/{domain}", scope)
            draw = functools.partial(world.domain, domain)
            prompts[f"domain-{domain}-{scope}"] = _distinct(draw, SIZES[scope]["domain"], taken)
    return {
        name: PromptSet(
            f"small-world.{name}",
            tuple(replace(prompt, source=f"small-world/{name}:{i}") for i, prompt in enumerate(found)),
        )
        for name, found in prompts.items()
    }


def save_lists(lists: dict[str, PromptSet], folder: Path) -> None:
    """Write each list to `folder/NAME.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, prompts in lists.items():
        prompts.save(folder / f"{name}.jsonl")


def _distinct(draw: Callable[[], Dialogue], n: int, taken: set[str]) -> list[Prompt]:
    prompts: list[Prompt] = []
    while len(prompts) < n:
        prompt = draw().prompt
        if prompt.text not in taken:
            taken.add(prompt.text)
            prompts.append(prompt)
    return prompts


def _train(seed: int | str, taken: set[str]) -> list[Prompt]:
    """64 harmful, 64 harmless; half of the harmless share the words of harm, as everyday questions about crime do.

    Without those the difference of the means would be the words as much as the intent.
    """
    world = World(f"{seed}/train", "seen")
    harmful = _distinct(lambda: world.everyday(True), N_TRAIN, taken)
    plain = _distinct(lambda: world.everyday(False), N_TRAIN // 2, taken)
    contrast = _distinct(lambda: world.everyday(False, contrast=True), N_TRAIN // 2, taken)
    return [*harmful, *plain, *(replace(p, label="harmless") for p in contrast)]


def _other_concept(seed: int | str, taken: set[str]) -> list[Prompt]:
    """Two harmless topics; the first takes the seat of *harmful*, so that the same verb makes the vector."""
    world = World(f"{seed}/other-concept", "seen")
    first, second = (_distinct(functools.partial(world.domain, topic), N_TRAIN, taken) for topic in TOPICS)
    labels = ("harmful", "harmless")
    return [
        replace(p, label=label) for label, found in zip(labels, (first, second), strict=True) for p in found
    ]


def _everyday(seed: int | str, scope: Scope, taken: set[str]) -> list[Prompt]:
    world, sizes = World(f"{seed}/{scope}", scope), SIZES[scope]
    return [
        *_distinct(lambda: world.everyday(True), sizes["harmful"], taken),
        *_jailbroken(world, sizes["jailbroken"], taken),
        *_distinct(lambda: world.everyday(False), sizes["harmless"], taken),
        *_distinct(lambda: world.everyday(False, wrapped=1.0), sizes["wrapped_harmless"], taken),
        *_distinct(lambda: world.everyday(False, contrast=True), sizes["contrast"], taken),
    ]


def _jailbroken(world: World, n: int, taken: set[str]) -> list[Prompt]:
    """Templates x instructions, as in the paper (10 x 50): every template around the same instructions."""
    templates = [(kind, t) for kind, found in wrapper_templates(world.scope).items() for t in found]
    bare = _distinct(lambda: world.everyday(True), -(-n // len(templates)), set())
    pairs = itertools.product(templates, bare)
    draws = (Dialogue(world.wrap(prompt, kind, template), "") for (kind, template), prompt in pairs)
    return _distinct(lambda: next(draws), n, taken)
