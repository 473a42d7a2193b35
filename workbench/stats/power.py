"""How many prompts a claim needs: to call a rate small when none was seen, and to tell two conditions apart.

    none of n seen:     rate ≤ 1 − 0.05^(1/n) with 95 % confidence        (exact, one-sided; "3 / n" for short)
    a paired change d:  n = (1.96 √ψ + 0.84 √(ψ − d²))² / d²  for 80 % power, ψ the share of prompts that change either
                        way                                                                 (Connor 1987, for McNemar's)

The trap: power that is computed from the change just seen tells nothing that its p does not. The smallest change worth
telling is said beforehand; of the data, only how many prompts change at all, and how they cluster, is taken.
"""

import math
from statistics import NormalDist

from workbench.stats.clusters import LEVEL

POWER = 0.8
WORTH_TELLING = 0.05
"""The change that a comparison should be able to tell unless another is named: five points of a hundred."""


def prompts_to_bound(rate: float | int) -> int:
    """The fewest independent prompts of which none may be counted for the rate to be at most `rate`, 95 % sure."""
    if not 0 < rate < 1:
        raise ValueError(
            f"got a rate of {rate}, expected one between 0 and 1: no number of prompts shows a rate of 0"
        )
    return math.ceil(math.log(LEVEL) / math.log1p(-rate) - 1e-9)


def bound_of_none(n: float | int) -> float:
    """The highest rate that none of `n` independent prompts leaves possible, 95 % sure."""
    if n <= 0:
        raise ValueError(f"got {n} prompts, expected one or more")
    return float(1 - LEVEL ** (1 / n))


def prompts_to_tell(
    change: float | int, *, changing: float | int | None = None, design_effect: float | int = 1
) -> int:
    """Prompts that both conditions must answer for a change of `change` to be told, at 80 % power.

    `changing` is the share of prompts that change either way; by default the most favourable, `change` itself.
    `design_effect` is how many prompts tell as much as one independent one does (`stats.design_effect`).
    """
    size = abs(change)
    psi = size if changing is None else max(changing, size)
    if not 0 < size <= 1 or psi > 1 or design_effect < 1:
        raise ValueError(
            f"got change={change}, changing={changing}, design_effect={design_effect}: expected a change other than 0 "
            "and a share, both at most 1, and a design effect of 1 or more"
        )
    sure, strong = NormalDist().inv_cdf(1 - LEVEL / 2), NormalDist().inv_cdf(POWER)
    alone = (sure * math.sqrt(psi) + strong * math.sqrt(psi - size**2)) ** 2 / size**2
    return math.ceil(alone * design_effect - 1e-9)


def too_few(n: int, needed: int, *, change: float | int = WORTH_TELLING) -> str:
    """A sentence where `n` prompts are fewer than `needed` to tell `change`; empty where they are enough."""
    if n >= needed:
        return ""
    return (
        f"{n:,} prompts are too few to tell a change of {100 * change:g} points ({100 * POWER:g} % power): "
        f"{needed:,} are needed, so no difference seen is not no difference"
    )
