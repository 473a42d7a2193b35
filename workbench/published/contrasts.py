"""Harmful and harmless prompts in parts that share none: the shipped sets, and the paper's split of published ones.

    .train   64 harmful of AdvBench's 520, and 64 of as many harmless ones, drawn from TruthfulQA's 817   (the paper)
    .test    all others: 456 and 456
    .val     none: choose by cross-fitting within .train, then refit on all of it                         (ours)

The trap: a benchmark repeats itself in other words, and then a test prompt was seen in training but for a word or two.
Repeats are left out; near duplicates stay, as in the paper, and are counted.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from workbench.prompts import ContrastSet, PromptSet, load_prompts
from workbench.published.reading import load_published
from workbench.published.texts import NEAR, marked_alike, near_duplicates, said, without_repeats
from workbench.shipped import shipped_path

TRAIN = 64
"""Prompts of each kind that the paper extracts from."""


@dataclass(frozen=True)
class PaperSplit(ContrastSet):
    """A contrast set of two parts, which has no `.val`: `.folds(8)` gives eight sets that have one each.

    `near` lists the test prompts that nearly repeat a training prompt (see `near_duplicates`), `repeats` is how many
    prompts were left out because they repeat another; every prompt has a cluster `alike`.
    """

    val: PromptSet = field(init=False, repr=False, compare=False)
    seed: int
    repeats: int
    near: pd.DataFrame = field(repr=False, compare=False)

    def __getattr__(self, name: str) -> object:
        if name != "val":
            raise AttributeError(f"a {type(self).__name__} has no {name!r}")
        raise AttributeError(
            f"contrast set {self.name!r} has no .val: the paper's split leaves none. Cross-fit: "
            'for part in pairs.folds(8, apart="alike") there is part.train to extract from and part.val to choose on; '
            "then refit on pairs.train"
        )

    @property
    def summary(self) -> str:
        """What is in which part, and how much of the test was nearly seen in training."""
        kinds = ("harmful", "harmless")
        sizes = [
            " and ".join(f"{part.labels.count(kind)} {kind}" for kind in kinds)
            for part in (self.train, self.test)
        ]
        near = " and ".join(f"{int((self.near.label == kind).sum())} {kind}" for kind in kinds)
        return (
            f"{self.name}, seed {self.seed}: train on {sizes[0]}, test on {sizes[1]} prompts; {self.repeats} repeats "
            f"left out; {near} test prompts share {NEAR:.0%} or more of their words with a training prompt"
        )


def load_contrast(
    name: str,
    harmless: str | None = None,
    *,
    domain: str | None = None,
    root: str | Path | None = None,
    hub: bool = False,
    n_train: int = TRAIN,
    seed: int = 0,
) -> ContrastSet:
    """A contrast set: one that ships with the project, or the paper's split of two published sets.

    `load_contrast("small-world")` is the embedded models'. With `domain` (finance, medicine, maths) that domain's own
    prompts join `.val` and `.test`, never `.train`: added to the extraction prompts they would bend the vector towards
    the domain.

    `load_contrast("advbench", "truthfulqa", root=...)` reads both below a folder, or from the hub where `hub` asks for
    it, and splits them as `paper_split` says.
    """
    if harmless is None:
        if root is not None or hub or n_train != TRAIN or seed != 0:
            raise ValueError(
                f"got root, hub, n_train or seed for {name!r} alone, expected a harmless set beside it, for what ships "
                f'is split: load_contrast({name!r}, "truthfulqa", root=...)'
            )
        return _shipped(name, domain)
    if domain is not None:
        raise ValueError(
            f"got domain={domain!r} with published sets, expected none: domains are the shipped sets'"
        )
    return paper_split(
        load_published(name, root=root, hub=hub),
        load_published(harmless, root=root, hub=hub),
        n_train=n_train,
        seed=seed,
    )


def paper_split(
    harmful: PromptSet, harmless: PromptSet, *, n_train: int = TRAIN, seed: int = 0
) -> PaperSplit:
    """The paper's split of any two sets: `n_train` of each kind for `.train`, the others for `.test`.

    Of the harmless prompts as many are drawn as there are harmful ones, where there are enough. Of a set with both
    kinds (XSTest) the fitting one is taken. Each part keeps the sets' order.
    """
    bad, bad_repeats = without_repeats(harmful.labelled("harmful"))
    good, good_repeats = without_repeats(harmless.labelled("harmless"))
    taken = {said(prompt): prompt for prompt in bad}
    for prompt in good:
        if (other := taken.get(said(prompt))) is not None:
            raise ValueError(
                f"{prompt.source} of {harmless.name!r} repeats {other.source} of {harmful.name!r}: a prompt is either "
                "harmful or harmless, take one of them out"
            )
    for kind in (bad, good):
        if not 0 < n_train < len(kind):
            raise ValueError(
                f"got n_train={n_train}, expected 1 to {len(kind) - 1}: {kind.name!r} has {len(kind)} prompts, and one "
                "at least is left to test on"
            )
    good = good.sample(min(len(good), len(bad)), seed=seed)
    parts = [_halves(marked_alike(kind), n_train, seed) for kind in (bad, good)]
    name = f"{harmful.name}+{harmless.name}"
    train, test = (
        PromptSet(f"{name}.{part}", (*of_bad, *of_good))
        for part, of_bad, of_good in zip(("train", "test"), *parts, strict=True)
    )
    near = pd.concat([near_duplicates(*pair) for pair in parts], ignore_index=True)
    return PaperSplit(name, train, test, seed, bad_repeats + good_repeats, near)


def _halves(prompts: PromptSet, n_train: int, seed: int) -> tuple[PromptSet, PromptSet]:
    train = prompts.sample(n_train, seed=seed)
    chosen = {(prompt.messages, prompt.images) for prompt in train}
    return train, prompts.where(lambda prompt: (prompt.messages, prompt.images) not in chosen)


def _shipped(name: str, domain: str | None) -> ContrastSet:
    folder = shipped_path("prompts", name)
    if not folder.is_dir():
        shipped = ", ".join(sorted(path.name for path in shipped_path("prompts").glob("*") if path.is_dir()))
        raise ValueError(
            f"no contrast set {name!r} ships with the workbench: it has {shipped or 'none'}; published prompts come in "
            'pairs of sets, load_contrast("advbench", "truthfulqa", root=...)'
        )
    parts = {
        part: load_prompts(folder / f"{part}.jsonl", f"{name}.{part}") for part in ("train", "val", "test")
    }
    if domain is not None:
        if not (folder / f"domain-{domain}-val.jsonl").is_file():
            found = sorted(path.stem.split("-")[1] for path in folder.glob("domain-*-val.jsonl"))
            raise ValueError(f"{name!r} has no domain {domain!r}: it has {', '.join(found) or 'none'}")
        for part in ("val", "test"):
            parts[part] += load_prompts(folder / f"domain-{domain}-{part}.jsonl", domain)
    return ContrastSet(name, parts["train"], parts["val"], parts["test"])
