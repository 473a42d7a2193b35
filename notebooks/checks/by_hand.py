"""Checks of 00 and 01: two requests, the vector, the bias, the shift."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from checks.feedback import WAITING, Answer, Feedback, alike, ask, compare, correct, mistaken, tensor


def two_sides(harmful: Any, harmless: Any, opened: Callable[[list[str]], Tensor]) -> Feedback:
    """00: one request that the gate opens on, and one that it does not. `opened` gives decisions [prompt, layer]."""
    if harmful is ... or harmless is ...:
        return WAITING
    for text in (harmful, harmless):
        if not isinstance(text, str) or not text.strip():
            return mistaken(f"Got {text!r}, expected a text in quotes.")
    if harmful == harmless:
        return mistaken("That is the same request twice.")
    try:
        first, second = (bool(row.any()) for row in opened([harmful, harmless]))
    except ValueError as error:  # longer than the context
        return mistaken(f"The model cannot read that: {error}.")
    if first and not second:
        return correct("Open on the first, closed on the second.")
    if second and not first:
        return mistaken("The other way round: the gate opens on your second request. Which one means harm?")
    if first and second:
        return mistaken(
            f"It opens on both. If {harmless!r} means no harm, that is a false alarm, worth keeping: the gate "
            "knows the verbs and things of its world. Try again with a verb that is named above."
        )
    return mistaken(
        f"It stays closed on both. If {harmful!r} means harm, the gate missed it: the models know only the verbs "
        "and things of their world. Try again with a verb that is named above."
    )


def vector(answer: Answer, values: Tensor, harmful: Tensor) -> Feedback:
    """01: the unit vector from the harmless to the harmful mean."""
    gap = values[harmful].mean(0) - values[~harmful].mean(0)
    unit = gap / gap.norm()
    mistakes = {
        "Your difference is harmless − harmful: the sign is flipped. Added, it pushes away from refusing.": -unit,
        "That is v', the difference itself: equation 2 divides it by its length, so that α alone says how far.": gap,
        "That is the flipped difference, harmless − harmful, and its length is still in it.": -gap,
        "That is the mean of all prompts, not a difference: what all prompts share cancels in one.": values.mean(0),
        "That is the harmful mean alone. Most of it is what any prompt has there; subtract the harmless mean.":
            values[harmful].mean(0) / values[harmful].mean(0).norm(),
        "You divided by the sum of the entries' sizes. The length is the Euclidean norm.": gap / gap.abs().sum(),
    }  # fmt: skip
    mine = tensor(ask(answer, values.clone(), harmful.clone()), unit.shape, "d_model")
    return compare(mine, unit, mistakes, "Harmful minus harmless, of length 1.")


def bias(answer: Answer, values: Tensor, s: Tensor, harmful: Tensor) -> Feedback:
    """01: minus the mean projection of the extraction prompts."""
    along = values @ s
    right = -along.mean()
    mistakes = {
        "That is the threshold; the bias is *added* before comparing with 0, so it takes a minus.": -right,
        "That is minus the harmful prompts' mean: the gate would close on about half of them.": -along[harmful].mean(),
        "That is minus the harmless prompts' mean: the gate would open on about half of them.": -along[~harmful].mean(),
        "That is the sum of the projections. The mean is meant.": -along.sum(),
        "That is half the distance between the classes. Where they lie counts too, not only how far apart they are.":
            (along[harmful].mean() - along[~harmful].mean()) / 2,
    }  # fmt: skip
    mine = tensor(ask(answer, values.clone(), s.clone()), (), "one number")
    return compare(
        mine, right, mistakes, "The argument is +½‖v'‖ at the harmful mean and −½‖v'‖ at the harmless one."
    )


def shift(answer: Answer) -> Feedback:
    """01: the shift of every row whose gate is open, at all positions, leaving the given batch alone."""
    draw = torch.Generator().manual_seed(0)
    residual = torch.randn(3, 4, 8, generator=draw)
    theta = torch.nn.functional.normalize(torch.randn(8, generator=draw), dim=0)
    opened, alpha = torch.tensor([False, True, True]), 2.5
    given, g = residual.clone(), opened[:, None, None]
    right = residual + alpha * g * theta
    last = torch.zeros(1, 4, 1)
    last[:, -1] = 1
    mistakes = {
        "You subtract: the sign is flipped, and the model is pushed away from refusing.": residual
        - alpha * g * theta,
        "Rows whose gate is closed are shifted too: multiply by `opened`, row by row.": residual
        + alpha * theta,
        "Nothing is shifted: do all rows follow the decision of row 0? Every prompt has its own gate.": residual
        + alpha * opened[0] * theta,
        "Only the last position is shifted. Here all positions are.": residual + alpha * g * theta * last,
        "α is missing: the shift has length 1.": residual + g * theta,
        "Open rows lost what was in them: the shift is *added* to the residual.": torch.where(
            g, alpha * theta, residual
        ),
        "That is the shift alone: the residual is missing.": alpha * g * theta.expand(3, 4, 8),
        "The decision is turned round: rows are shifted where the gate is closed.": residual
        + alpha * ~g * theta,
    }
    mine = tensor(ask(answer, given, opened, alpha, theta), right.shape, "row, pos, d_model")
    if isinstance(mine, Tensor) and alike(mine, right) and not torch.equal(given, residual):
        return mistaken(
            "The result is right, but the batch you were given is changed: `+=` writes into it. Use `a + b`."
        )
    return compare(mine, right, mistakes, "Row by row, every position, and nothing where the gate is closed.")
