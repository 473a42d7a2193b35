"""What a target is for, as prompts with one right answer: some to choose with, others to measure by.

The one place that knows which tasks there are: a target's `utility` in, labelled prompts and a reader of replies out.

The trap: a gate that never met the domain opens on it. The prompts to choose with see to that, and are never measured.
"""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from workbench.evaluation.readings import answers_correctly, same_answer
from workbench.organisms.items import DOMAINS
from workbench.prompts import Prompt, PromptSet, load_prompts
from workbench.shipped import shipped_path
from workbench.utility.tasks import task_of

MOST = 100
"""Prompts of a file that choices are made with, at most."""


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts labelled `domain`, and `right`: 1 or 0 for a right or a wrong reply, NaN where there is no answer."""

    name: str
    choosing: PromptSet
    test: PromptSet
    right: Callable[[Prompt, str, bool], float] = answers_correctly


def task_named(name: str, *, seed: int = 0) -> Task:
    """The task of that name: a domain of the small world, or one from a file, as `utility.tasks.task_of` reads it.

    Of a file a tenth, `MOST` prompts at most, is drawn to choose with; all others are the test.
    """
    if "=" in name:
        return _from_file(name, seed)
    if name not in DOMAINS:
        raise ValueError(
            f"got utility = {name!r}, expected one of {', '.join(DOMAINS)}, the domains of the small world; or a file, "
            '"gsm8k=PATH" or "mine=PATH:FORM"'
        )
    choosing, test = (
        load_prompts(shipped_path("prompts", "small-world", f"domain-{name}-{part}.jsonl"), f"{name}.{part}")
        for part in ("val", "test")
    )
    return Task(name, choosing, test)


def _from_file(text: str, seed: int) -> Task:
    found = task_of(text)
    asked = [
        replace(prompt, label="domain", answer=answer)
        for prompt, answer in zip(found.asked, found.answers, strict=True)
    ]
    drawn = max(1, min(MOST, len(asked) // 10))
    if len(asked) < 2:
        raise ValueError(
            f"got utility = {text!r} with one prompt, expected one to choose with and one to test on"
        )
    chosen = set(random.Random(seed).sample(range(len(asked)), drawn))
    choosing, test = (
        PromptSet(f"{found.name}.{part}", tuple(p for i, p in enumerate(asked) if (i in chosen) == here))
        for part, here in (("choosing", True), ("test", False))
    )

    def right(prompt: Prompt, reply: str, finished: bool) -> float:
        return float(same_answer(found.form.read(reply, finished), str(prompt.answer)))

    return Task(found.name, choosing, test, right)
