"""The prompts of a reproduction: what makes vectors, what choices are made on, what is asked once in the end.

                    published sets                                            what ships
    vectors         64 harmful + 64 harmless                        (paper)   .train
    choices         the fold that is held out of them, its harmful            .val
                    ones in a jailbreak template, too                (ours)
    test            the other harmful (456 of AdvBench) and harmless ones     .test
                    10 templates x 50 of the test's harmful ones    (paper)

    with a bench of pictures vectors and choices rest on the same, in words alone, and its questions are the test

The trap: a template that a strength was chosen on is no test of it. Choices see other templates than the test, where
there are others.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from workbench.organisms.pictured_lists import load_pictured
from workbench.prompts import ATTACKS, ContrastSet, Prompt, PromptSet, load_prompts
from workbench.published import PaperSplit, load_contrast, load_published, load_templates, wrap
from workbench.reproduction.config import Prompts
from workbench.reproduction.usefulness import Task
from workbench.shipped import shipped_path


@dataclass(frozen=True, eq=False)
class Templates:
    """Jailbreak templates for the test, and others to choose on. `left_out` counts those that no context holds."""

    name: str
    test: PromptSet
    choosing: PromptSet | None
    left_out: int


@dataclass(frozen=True, eq=False)
class Material:
    """The prompts of one target. `folds` are empty where `pairs` has a `.val` of its own."""

    pairs: ContrastSet
    folds: tuple[ContrastSet, ...]
    held_out: PromptSet
    search_on: PromptSet
    test: PromptSet
    other_concept: PromptSet
    templates: Templates | None

    @property
    def everything(self) -> PromptSet:
        """All prompts that any model will be asked."""
        parts = (*self.pairs.train, *self.held_out, *self.test, *self.other_concept)
        return PromptSet(self.pairs.name, tuple(dict.fromkeys(parts)))


def load_pairs(asked: Prompts, seed: int) -> ContrastSet:
    """The contrast set that a file names."""
    if asked.pairs is not None:
        return load_contrast(asked.pairs)
    # Where they come from the hub, a root beside it is the bench's.
    root = None if asked.hub and asked.bench else asked.root
    return load_contrast(
        str(asked.harmful), asked.harmless, root=root, hub=asked.hub, n_train=asked.n_train, seed=seed
    )


def load_bench(asked: Prompts) -> PromptSet | None:
    """The questions with pictures that a file names, a published set's or a file's of prompts; None without.

    "pictured" are the requests for harm of the embedded models' picture world.
    """
    if asked.bench is None:
        return None
    if asked.bench == "pictured":
        return load_pictured().test.labelled(*ATTACKS)
    path = Path(asked.bench)
    found = load_prompts(path) if path.is_file() else load_published(asked.bench, root=asked.root)
    if blind := [prompt.source for prompt in found if not prompt.images]:
        raise ValueError(
            f"got bench = {asked.bench!r} with {len(blind)} prompts that have no picture ({blind[0]} first), expected "
            "one for each: workbench reproduce table1 asks in words"
        )
    return found


def find_templates(asked: Prompts) -> PromptSet | None:
    """All the templates that a file names: the small world's own, a file's, or a published set's."""
    if asked.templates is None:
        return None
    if asked.templates == "small-world":
        return _own_templates()
    path = Path(asked.templates)
    if path.is_file():
        return load_templates(path)
    return load_published(asked.templates, root=asked.root, hub=asked.hub)


def deal_templates(found: PromptSet, n: int, *, seed: int, left_out: int = 0) -> Templates:
    """`n` templates for the test, drawn by `seed`, or as many as there are; the others are there to choose on."""
    test = found.sample(min(n, len(found)), seed=seed)
    kept = set(test)
    others = tuple(template for template in found if template not in kept)
    choosing = PromptSet(f"{found.name}.choosing", others) if others else None
    return Templates(found.name, test, choosing, left_out)


def prepare(
    asked: Prompts,
    pairs: ContrastSet,
    templates: Templates | None,
    task: Task | None,
    *,
    seed: int,
    bench: PromptSet | None = None,
) -> Material:
    """The prompts of one target, from the sets that a file names; `bench` is the test in the place of theirs."""
    other = load_prompts(shipped_path("prompts", "small-world", "other-concept.jsonl"))
    folds: tuple[ContrastSet, ...] = ()
    test = pairs.test if bench is None else bench
    if isinstance(pairs, PaperSplit):
        folds = _folds(pairs, asked.folds, templates, task, seed)
        if templates is not None:
            harmful = test.labelled("harmful")
            drawn = harmful.sample(min(asked.n_jailbroken, len(harmful)), seed=seed)
            test += wrap(drawn, templates.test)
        held_out = PromptSet(pairs.train.name, tuple(prompt for fold in folds for prompt in fold.val))
    else:
        if task is not None:
            pairs = replace(pairs, val=pairs.val + task.choosing)
        held_out = pairs.val
    if task is not None:
        test += task.test
    if asked.sample is not None:
        test = test.sample_each(asked.sample, seed=seed)
    if not test.name.endswith(".test"):
        test = replace(test, name=f"{(bench or pairs).name}.test")
    search_on = held_out if asked.search is None else held_out.sample_each(asked.search, seed=seed)
    return Material(pairs, folds, held_out, search_on, test, other, templates)


def _folds(
    pairs: PaperSplit, n: int, templates: Templates | None, task: Task | None, seed: int
) -> tuple[ContrastSet, ...]:
    """The folds of `pairs`, each with its own harmful prompts in a template, too, and its share of the task."""
    turn = 0
    found = []
    for k, fold in enumerate(pairs.folds(n, seed=seed, apart="alike")):
        val = fold.val
        if templates is not None and templates.choosing is not None:
            harmful = val.labelled("harmful")
            val += PromptSet("jailbroken", _dealt(harmful, templates.choosing, turn))
            turn += len(harmful)
        if task is not None and (share := task.choosing.prompts[k::n]):
            val += PromptSet(task.name, share)
        found.append(replace(fold, val=val))
    return tuple(found)


def _dealt(prompts: Sequence[Prompt] | PromptSet, templates: PromptSet, turn: int) -> tuple[Prompt, ...]:
    """Each prompt in one template, in turn: every template costs as many replies as it tells something of."""
    return tuple(
        wrap([prompt], [templates[(turn + i) % len(templates)]])[0] for i, prompt in enumerate(prompts)
    )


def _own_templates() -> PromptSet:
    """The wrappers of the small world, of the kinds that its models were not trained on."""
    words = tomllib.loads(shipped_path("world", "words.toml").read_text(encoding="utf-8"))["wrappers"]
    found = []
    for kind in (*words["held_out"]["kinds"], *words["held_out"]["val_kinds"]):
        table = words[kind]
        texts = [*table["templates"], *table["templates_held_out"]]
        found += [
            Prompt.user(text, source=f"small-world:{kind}:{i}", cluster=(("wrapper", kind),))
            for i, text in enumerate(texts)
            if "{noise}" not in text
        ]
    return PromptSet("small-world", tuple(found))
