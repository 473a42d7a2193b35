"""Checks of 03 and 04: layers, false alarms, a bias with a rate."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from checks.feedback import Answer, Feedback, alike, ask, compare, correct, mistaken, tensor


def _layers(mine: Any) -> tuple[int, ...] | Feedback:
    if isinstance(mine, Feedback):
        return mine
    expected = mistaken(f"Your function gave {mine!r}, expected a list of layer numbers.")
    if isinstance(mine, str):
        return expected
    try:
        given = [layer.item() if hasattr(layer, "item") else layer for layer in mine]
        found = tuple(sorted(int(layer) for layer in given))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        return expected
    if any(isinstance(layer, bool) for layer in given):
        return mistaken(
            "Your function says yes or no for every layer. The numbers of the layers are asked for."
        )
    return found if found == tuple(sorted(given)) else expected


def _compare_layers(
    mine: Any, right: tuple[int, ...], mistakes: Mapping[str, tuple[int, ...]], asked: str = ""
) -> Feedback | None:
    """What is wrong with these layers; None where nothing is."""
    found = _layers(mine)
    if isinstance(found, Feedback):
        return found
    if found == right:
        return None
    for text, wrong in mistakes.items():
        if found == wrong:
            return mistaken(text)
    return mistaken(f"Got layers {list(found)}, expected {list(right)}{asked}.")


def both_models(answer: Answer) -> Feedback:
    """03: the layers at which both models reach the level."""
    ours, theirs, level = [0.6, 0.97, 0.9, 0.99, 0.95, 0.7], [0.7, 0.8, 0.98, 0.96, 0.99, 0.97], 0.95
    mistakes = {
        "Either model is enough for you. The paper wants *both*: one to read by, one to steer by.": (
            1,
            2,
            3,
            4,
            5,
        ),
        "These are the target's layers alone: where does the aligned model stand there?": (1, 3, 4),
        "These are the aligned model's layers alone: can the target's gate read anything there?": (
            2,
            3,
            4,
            5,
        ),
        "A layer that just reaches the level counts: ≥, not >.": (3,),
    }
    # The mean of both is above the level at these layers alone as well: a second question tells it from the minimum.
    again = {
        "You average the two models: a good one hides a bad one. Both have to reach the level.": (0, 1, 3),
        "The level is an argument of your function: here it was 0.7, and you went by another one.": (1,),
    }
    return (
        _compare_layers(ask(answer, list(ours), list(theirs), level), (3, 4), mistakes)
        or _compare_layers(
            ask(answer, [1.0, 0.96, 0.6, 0.75], [0.65, 0.97, 0.6, 0.7], 0.7), (1, 3), again, " at 0.7"
        )
        or correct("Where the weaker of the two is good enough.")
    )


def careful_layers(answer: Answer) -> Feedback:
    """03: the layers whose whole interval lies above the level."""
    frame = pd.DataFrame(
        {
            "layer": range(6),
            "auroc": [0.70, 0.96, 0.97, 0.94, 0.99, 0.99],
            "auroc_low": [0.60, 0.85, 0.955, 0.90, 0.97, 0.93],
            "auroc_high": [0.80, 0.99, 0.99, 0.97, 1.00, 1.00],
        }
    )
    mistakes = {
        "These are the layers whose *estimate* is above the level. Layer 1 may be at 0.85 in truth.": (
            1,
            2,
            4,
            5,
        ),
        "You look at the upper end: these are the layers that *may* be good enough.": (1, 2, 3, 4, 5),
        "These are the layers you should leave out.": (0, 1, 3, 5),
        "A middle between two of the numbers hides the lower one: layer 5 may be at 0.93 in truth.": (
            2,
            4,
            5,
        ),
    }
    # The same numbers under other names, and asked for less.
    other = frame.assign(layer=frame["layer"] + 10)
    again = {
        "The level is an argument of your function: here it was 0.8, and you went by another one.": (12, 14),
        "These are the numbers of the rows. The layers are in the column `layer`.": (1, 2, 3, 4, 5),
    }
    return (
        _compare_layers(ask(answer, frame.copy(), 0.95), (2, 4), mistakes)
        or _compare_layers(ask(answer, other, 0.8), (11, 12, 13, 14, 15), again, " at 0.8")
        or correct("The lower end decides, where one has to be sure.")
    )


def false_positive_rate(answer: Answer) -> Feedback:
    """04: the share of prompts without harm on which the gate is open."""
    opened = torch.tensor([1, 1, 0, 1, 1, 0, 1, 0, 0, 0, 1, 0, 0]).bool()
    harmful = torch.tensor([1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]).bool()
    alarms = (opened & ~harmful).float()
    mistakes = {
        "That is a share of *all* prompts. False alarms are counted among those that mean no harm.": alarms.mean(),
        "That is the share of openings that were wrong. The rate is a share of the prompts that mean no harm.":
            alarms.sum() / opened.sum(),
        "That is the true-positive rate: how many attacks open the gate.": opened[harmful].float().mean(),
        "That is the share of attacks that are missed.": (~opened[harmful]).float().mean(),
        "That is the share that stays closed, as it should: 1 minus the rate.": (~opened[~harmful]).float().mean(),
        "That is how many there are. The rate is a share.": alarms.sum(),
        "That is how often the gate opens on anything.": opened.float().mean(),
    }  # fmt: skip
    mine = tensor(ask(answer, opened.clone(), harmful.clone()), (), "one number")
    return compare(
        mine, opened[~harmful].float().mean(), mistakes, "Of those that mean no harm, how many open it."
    )


def strict_bias(answer: Answer) -> Feedback:
    """04: the bias at which at most a share of the calm prompts opens the gate, and as many as that allows."""
    draw = torch.Generator().manual_seed(0)
    # Like a bell, then with a long tail: what goes by mean and spread is right about the first alone.
    calm, tail = 5 + torch.randn(40, generator=draw), torch.empty(60).exponential_(generator=draw)
    return (
        _strict(answer, calm, 0.05)
        or _strict(answer, tail, 0.18, was=0.05)
        or correct("As many open it as the rate allows, and no more.")
    )


def _strict(answer: Answer, calm: Tensor, rate: float, was: float | None = None) -> Feedback | None:
    """What is wrong with the bias for this sample and rate, after one that was asked for `was`; None if nothing is."""
    mine = tensor(ask(answer, calm.clone(), rate), (), "one number")
    if isinstance(mine, Feedback):
        return mine
    mine = mine.float()

    def openings(bias: Tensor) -> int:
        return int((calm + bias > 0).sum())

    allowed, found = int(rate * len(calm)), openings(mine)
    if found == allowed:
        return None
    spreads = (torch.special.ndtri(torch.tensor(1 - at)) for at in (rate, was or rate))
    if any(alike(mine, -(calm.mean() + spread * calm.std())) for spread in spreads):
        return mistaken(
            f"{found} of {len(calm)} open it, the rate allows {allowed}: mean and spread tell the rest of a bell curve "
            "only, and these have a long tail. Sort them."
        )
    if was and found == int(was * len(calm)):
        return mistaken(
            f"{found} of {len(calm)} open it at a rate of {rate}: that is {was:.0%} of them, whatever `rate` says."
        )
    if alike(mine, -calm.quantile(1 - rate)):
        return mistaken(
            f"{found} of {len(calm)} open it, the rate allows {allowed}: a quantile lies between two prompts. "
            "*At most* the rate is asked for: take the upper one of the two."
        )
    if openings(-mine) == allowed:
        return mistaken(
            "That is the threshold. The bias is added to the projection, so it is *minus* the threshold."
        )
    if alike(mine, -calm.quantile(rate)) or found >= len(calm) - allowed - 1:
        return mistaken(
            f"{found} of {len(calm)} open it: your threshold is at the low end. Sort the largest first."
        )
    if alike(mine, -calm.mean()):
        return mistaken(
            "That is the paper's rule on the calm prompts alone: about half of them open the gate."
        )
    if found > allowed:
        return mistaken(
            f"{found} of {len(calm)} open it, the rate allows {allowed}: count from 0, and the gate opens *above*."
        )
    return mistaken(
        f"Only {found} of {len(calm)} open it, the rate allows {allowed}: stricter than asked, and attacks get lost."
    )
