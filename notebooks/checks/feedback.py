"""What the exercises ask back: each check says whether an answer is right, and if not, what went wrong.

Every check knows the mistakes that are usually made, computes what each of them gives, and names the one it meets.

The trap: an answer may be wrong in a way that nobody thought of. Then the check says how far off it is, and no more.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

Answer: TypeAlias = Callable[..., Any]


@dataclass(frozen=True)
class Feedback:
    """What a check says. `right` is None as long as there is no answer."""

    right: bool | None
    text: str

    def __repr__(self) -> str:
        return f"{ {None: '·', True: '✓', False: '✗'}[self.right] } {self.text}"


WAITING = Feedback(None, "Yours to write: replace the `...` above, run the cell, then this one again.")


def correct(text: str) -> Feedback:
    return Feedback(True, f"Right. {text}")


def mistaken(text: str) -> Feedback:
    return Feedback(False, f"Not yet. {text}")


def ask(answer: Answer, *given: Any) -> Any:
    """What the student's function gives: a `Feedback` where it fails, or is still the stub."""
    try:
        mine = answer(*given)
    except Exception as error:  # whatever a student's function may raise is the finding
        return mistaken(f"Your function stopped with {type(error).__name__}: {error}.")
    if mine is ...:
        return WAITING
    if mine is None:
        return mistaken("Your function gave None: does it end with `return`?")
    return mine


def tensor(mine: Any, shape: Sequence[int], axes: str) -> Tensor | Feedback:
    """The answer as a tensor of `shape`, or what is wrong with it."""
    if isinstance(mine, Feedback):
        return mine
    try:
        found = torch.as_tensor(mine).detach().cpu()
    except (TypeError, ValueError, RuntimeError):
        return mistaken(f"Your function gave a {type(mine).__name__}, expected a tensor [{axes}].")
    if found.is_complex():
        return mistaken(f"Your function gave complex numbers, expected real ones [{axes}].")
    if tuple(found.shape) != tuple(shape):
        return mistaken(
            f"The shape is {list(found.shape)}, expected {list(shape)} [{axes}]: which axis is averaged?"
        )
    return found


def same(mine: Any, right: Any) -> bool:
    """Whether an answer is this one number or word, whatever kind of thing was given instead."""
    try:
        return bool(mine == right)
    except (TypeError, ValueError, RuntimeError):  # arrays compare entry by entry
        return False


def alike(one: Tensor, other: Tensor) -> bool:
    one, other = one.float(), other.float()
    return one.shape == other.shape and bool(torch.allclose(one, other, rtol=1e-3, atol=1e-4))


def compare(mine: Tensor | Feedback, right: Tensor, mistakes: Mapping[str, Tensor], praise: str) -> Feedback:
    """`praise` for the right answer, the explanation of a mistake that is known, else how far off it is."""
    if isinstance(mine, Feedback):
        return mine
    if alike(mine, right):
        return correct(praise)
    for text, wrong in mistakes.items():
        if alike(mine, wrong):
            return mistaken(text)
    off = float((mine.float() - right.float()).abs().max())
    return mistaken(f"The numbers differ by up to {off:.3g}, in no way that is known here: look at the hint.")
