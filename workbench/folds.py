"""Who goes into which fold: at random, the like together, and every fold with its share of every label.

The trap: an item whose twin is on the other side tells how well the twin is remembered.
"""

import random
from collections import Counter
from collections.abc import Hashable, Sequence


def deal(
    n: int, *, labels: Sequence[str], keys: Sequence[Hashable], seed: int, what: str = "the set"
) -> tuple[int, ...]:
    """The fold, 0 to n - 1, of every item, which has a label and a key; items of one key share a fold.

    Raises `ValueError`, naming `what` is dealt, for fewer than two folds and where a fold would lack a label.
    """
    if n < 2:
        raise ValueError(
            f"{what}: got n={n} folds, expected 2 or more, one to choose on and others to fit on"
        )
    together: dict[Hashable, list[int]] = {}
    for i, key in enumerate(keys):
        together.setdefault(key, []).append(i)
    groups = list(together.values())
    random.Random(seed).shuffle(groups)
    folds = [0] * len(keys)
    held: list[Counter[str]] = [Counter() for _ in range(n)]
    # The largest first, so that the small ones even out what these leave.
    for group in sorted(groups, key=len, reverse=True):
        own = Counter(labels[i] for i in group)
        least = min(range(n), key=lambda k: (sum(held[k][label] for label in own), held[k].total()))
        held[least] += own
        for i in group:
            folds[i] = least
    for label in dict.fromkeys(labels):
        if not all(label in counts for counts in held):
            found = sum(any(labels[i] == label for i in group) for group in groups)
            raise ValueError(
                f"{what}: got n={n} folds and {found} separate groups of {label}, expected one for every fold: "
                "take fewer folds, or smaller groups"
            )
    return tuple(folds)
