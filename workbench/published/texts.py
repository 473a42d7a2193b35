"""When two texts are the same, and when they are nearly.

    same:        equal after Unicode NFKC, case folding, and single spaces for white space
    similarity:  |A ∩ B| / |A ∪ B| of the sets of words of two such texts (Jaccard)

The trap: benchmarks repeat themselves in other words. A vector that was made from one wording is tested on the next.
"""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.prompts import Prompt, PromptSet

Floats: TypeAlias = NDArray[np.float64]

NEAR = 0.7
"""From here on two prompts count as near duplicates: a word or two apart, in a sentence of ten."""


def normalised(text: str) -> str:
    """The text by which repeats are told."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def said(prompt: Prompt) -> str:
    """What is asked, of which image: one question of two images is no repeat."""
    texts = (normalised(text) for _, text in prompt.messages)
    return "\n".join((*texts, *(image.hash for image in prompt.images)))


def without_repeats(prompts: PromptSet) -> tuple[PromptSet, int]:
    """The first of every prompt that is the same, and how many were left out."""
    first: dict[str, Prompt] = {}
    for prompt in prompts:
        first.setdefault(said(prompt), prompt)
    return PromptSet(prompts.name, tuple(first.values())), len(prompts) - len(first)


def near_duplicates(known: PromptSet, new: PromptSet, *, threshold: float = NEAR) -> pd.DataFrame:
    """Those of `new` that resemble one of `known`, with the one each resembles most.

    A row has `new` and `known` (their sources), `label` (of the new one) and `similarity`, the Jaccard index of the
    sets of words, `threshold` and above.
    """
    counted = _words((*known, *new))
    rows = []
    for first, likeness in _likeness(counted[len(known) :], counted[: len(known)], threshold):
        for place in np.flatnonzero(likeness.max(axis=1) >= threshold):
            nearest, one = int(likeness[place].argmax()), new[first + int(place)]
            rows.append((one.source, known[nearest].source, one.label, float(likeness[place, nearest])))
    return pd.DataFrame(rows, columns=["new", "known", "label", "similarity"])


def marked_alike(prompts: PromptSet, *, threshold: float = NEAR) -> PromptSet:
    """The same prompts, each with a cluster `alike`: those that are linked by near duplicates share it.

    Intervals then draw them together, and `folds(..., apart="alike")` keeps them in one fold.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    counted = _words(prompts)
    links = [
        (first + place, other)
        for first, likeness in _likeness(counted, counted, threshold)
        for place, other in zip(*np.nonzero(likeness >= threshold), strict=True)
    ]
    ends = np.array(links, dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(links)), (ends[0], ends[1])), shape=(len(prompts),) * 2)
    _, groups = connected_components(graph, directed=False)
    names: dict[int, str] = {}
    made = []
    for prompt, group in zip(prompts, groups.tolist(), strict=True):
        name = names.setdefault(group, prompt.source)
        made.append(replace(prompt, cluster=(*prompt.cluster, ("alike", name))))
    return PromptSet(prompts.name, tuple(made))


def _words(prompts: Iterable[Prompt]) -> Any:
    """Which words each prompt has, prompt x word."""
    from sklearn.feature_extraction.text import CountVectorizer

    words = CountVectorizer(binary=True, token_pattern=r"\S+", preprocessor=_spelled, dtype=np.int32)
    return words.fit_transform([prompt.text for prompt in prompts])


def _spelled(text: str) -> str:
    """Words alone; a text of none keeps its signs."""
    return " ".join(re.findall(r"\w+", normalised(text))) or normalised(text) or "-"


def _likeness(new: Any, known: Any, threshold: float, at_once: int = 1024) -> Iterator[tuple[int, Floats]]:
    """The Jaccard index of some of `new` with all of `known`, and the number of the first of these some."""
    if not 0 < threshold <= 1:
        raise ValueError(f"got threshold={threshold}, expected a share of words above 0, and at most 1")
    sizes = np.asarray(known.sum(axis=1)).reshape(1, -1)
    for first in range(0, new.shape[0], at_once):
        some = new[first : first + at_once]
        both = (some @ known.T).toarray()
        yield first, both / (np.asarray(some.sum(axis=1)).reshape(-1, 1) + sizes - both)
