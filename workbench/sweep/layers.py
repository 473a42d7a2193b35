"""Which layer sets a sweep tries: families of sets by name.

The trap: sets differ in size, and a shift is added at every layer of one. At equal α five layers push five times.
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Literal, TypeAlias, get_args

LayerSet: TypeAlias = tuple[int, ...]
LayerSets: TypeAlias = Literal["single", "windows", "from-bottom", "from-top", "subsets"]
MOST_SUBSETS = 1024


def layer_sets(kind: LayerSets, layers: Sequence[int], *, width: int = 3) -> list[LayerSet]:
    """Sets of `layers`, in order.

    "single"        each layer alone
    "windows"       every run of `width` neighbours in the list
    "from-bottom"   the lowest, the two lowest, … all of them
    "from-top"      the highest, the two highest, … all of them
    "subsets"       every set that is not empty, small ones first: 2ⁿ − 1 of n layers

    Raises `ValueError` for a kind that is none of these, for no layers, for a width that the list does not have, and
    for more than `MOST_SUBSETS` subsets.
    """
    ordered = tuple(sorted(set(layers)))
    if kind not in get_args(LayerSets):
        raise ValueError(
            f"got layer sets {kind!r}, expected one of {', '.join(map(repr, get_args(LayerSets)))}"
        )
    if not ordered:
        raise ValueError(
            "got no layers to make sets of, expected at least one: select_layers(...) finds some"
        )
    n = len(ordered)
    if kind == "windows":
        if not 1 <= width <= n:
            raise ValueError(f"got windows of {width} of {n} layers, expected a width from 1 to {n}")
        return [ordered[i : i + width] for i in range(n - width + 1)]
    if kind == "subsets":
        if 2**n - 1 > MOST_SUBSETS:
            raise ValueError(
                f"got {n} layers, which have {2**n - 1:,} subsets, expected at most {MOST_SUBSETS:,}: name fewer "
                'layers, or take "windows"'
            )
        return [chosen for size in range(1, n + 1) for chosen in combinations(ordered, size)]
    if kind == "single":
        return [(layer,) for layer in ordered]
    return [ordered[:size] if kind == "from-bottom" else ordered[-size:] for size in range(1, n + 1)]
