"""What a target is for, as prompts with one right answer: some to choose with, others to measure by.

The one place that knows which tasks there are: a target's `utility` in, labelled prompts and a reader of replies out.

The trap: a gate that never met the domain opens on it. The prompts to choose with see to that, and are never measured.
"""

from collections.abc import Callable
from dataclasses import dataclass

from workbench.evaluation.readings import answers_correctly
from workbench.organisms.items import DOMAINS
from workbench.prompts import Prompt, PromptSet, load_prompts
from workbench.shipped import shipped_path


@dataclass(frozen=True, eq=False)
class Task:
    """Prompts labelled `domain`, and `right`: 1 or 0 for a right or a wrong reply, NaN where there is no answer."""

    name: str
    choosing: PromptSet
    test: PromptSet
    right: Callable[[Prompt, str, bool], float] = answers_correctly


def task_named(name: str) -> Task:
    """The task of that name: a domain of the small world."""
    if name not in DOMAINS:
        raise ValueError(
            f"got utility = {name!r}, expected one of {', '.join(DOMAINS)}: the domains of the small world"
        )
    choosing, test = (
        load_prompts(shipped_path("prompts", "small-world", f"domain-{name}-{part}.jsonl"), f"{name}.{part}")
        for part in ("val", "test")
    )
    return Task(name, choosing, test)
