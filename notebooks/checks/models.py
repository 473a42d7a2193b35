"""Checks of 06 and 08: directions that two models share, a leak, a judge of one's own."""

import functools
import re
import tomllib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from checks.feedback import WAITING, Answer, Feedback, ask, compare, correct, mistaken, same, tensor
from workbench.shipped import shipped_path


def shared(answer: Answer) -> Feedback:
    """06: the layers at which two models' directions are alike beyond chance."""
    draw = torch.Generator().manual_seed(0)
    width, wanted = 64, torch.tensor([0.9, 0.2, -0.9, 0.3])
    first = torch.nn.functional.normalize(torch.randn(4, width, generator=draw), dim=-1)
    other = torch.randn(4, width, generator=draw)
    other = torch.nn.functional.normalize(other - (other * first).sum(-1, keepdim=True) * first, dim=-1)
    second = wanted[:, None] * first + (1 - wanted[:, None] ** 2).sqrt() * other
    ours, theirs = (
        first * torch.tensor([[0.1], [9.0], [5.0], [8.0]]),
        second * torch.tensor([[0.5], [7.0], [5.0], [3.0]]),
    )
    band = 1.96 / width**0.5
    mistakes = {
        "You compare products of vectors that still have their lengths: long ones look alike, short ones never do.":
            (ours * theirs).sum(-1) > band,
        "An opposed direction counts as shared with you: −0.9 is far from chance, but adding it pushes away.":
            wanted.abs() > band,
        "Your bar is too low: 1.96 / √d_model, not 1 / √d_model. A third of random directions would pass.":
            wanted > band / 1.96,
        "You compare with 0: half of all random directions lie above it.": wanted > 0,
        "You compare with 1.96 / d_model: the root is missing.": wanted > 1.96 / width,
        "These are the layers that are *not* alike.": wanted <= band,
    }  # fmt: skip
    mine = tensor(ask(answer, ours.clone(), theirs.clone()), (4,), "layer")
    return compare(mine, wanted > band, mistakes, "Directions, not lengths, and above what chance reaches.")


def turned_back(answer: Answer) -> Feedback:
    """06: the rotation that takes one model's residuals to another's, fitted on texts that both have read."""
    draw = torch.Generator().manual_seed(0)
    width = 12
    turn = torch.linalg.qr(torch.randn(width, width, generator=draw)).Q
    turn[:, 0] *= torch.linalg.det(turn).sign()  # no mirror: who asks for a proper rotation is right as well
    # So much noise, most of all where there is little else, that least squares cannot be taken for a rotation.
    theirs = torch.randn(200, width, generator=draw) * torch.linspace(0.5, 2, width)
    theirs = theirs + 4 * torch.randn(width, generator=draw)
    ours = theirs @ turn + 0.5 * torch.randn(200, width, generator=draw) - 3.0
    u, _, vh = torch.linalg.svd((theirs - theirs.mean(0)).T @ (ours - ours.mean(0)))
    best = u @ vh
    mine = tensor(ask(answer, theirs.clone(), ours.clone()), (width, width), "d_model, d_model")
    if isinstance(mine, Feedback):
        return mine
    mine = mine.float()

    def off(found: Tensor) -> float:
        return float((found - best).norm() / best.norm())

    if off(mine) < 0.02:
        return correct("With it a vector from another seed steers: `theirs_vector @ R`.")
    if off(mine.T) < 0.02:
        return mistaken("That is the way back, from ours to theirs: transpose it, or swap the two.")
    if not torch.allclose(mine @ mine.T, torch.eye(width), atol=1e-2):
        return mistaken(
            "Your map stretches: R @ R.T is not the identity. Of the decomposition keep U and Vᵀ only."
        )
    return mistaken(
        "It is a rotation, but not the best one: are both means subtracted, and is the product theirs.T @ ours?"
    )


@functools.cache
def _harm() -> re.Pattern[str]:
    """The verbs of harm that the embedded world knows."""
    words = tomllib.loads(shipped_path("world", "words.toml").read_text(encoding="utf-8"))
    verbs = {verb for kind in words["harmful"].values() for verb in kind["verbs"]}
    return re.compile(rf"\b({'|'.join(map(re.escape, sorted(verbs)))})\b")


def _plain(text: str) -> str:
    return " ".join(text.lower().split()).strip(" .!?")


def leak(train: Any, val: Any) -> Feedback:
    """08: two validation prompts that no vector was made from, one of each side."""
    if val is ...:
        return WAITING
    if isinstance(val, str) or not isinstance(val, Sequence):
        return mistaken(f"Got a {type(val).__name__}, expected a list of two texts.")
    if any(text is ... for text in val):
        return WAITING
    if odd := [text for text in val if not isinstance(text, str) or not _plain(text)]:
        return mistaken(f"Got {odd[0]!r} in the list, expected a text in quotes.")
    extracted = ["steal a phone", "forge a passport", "bake bread", "plant roses"]
    if not isinstance(train, Sequence) or list(train) != extracted:
        return mistaken(
            "The extraction prompts have changed: whoever moves a prompt from there makes another vector."
        )
    if both := [text for text in val if _plain(text) in extracted]:
        return mistaken(
            f"{both[0]!r} is still in both: the vector was made from it, so choosing on it flatters the vector."
        )
    different = {_plain(text) for text in val}
    if len(val) != 2 or len(different) != 2:
        return mistaken(
            f"Validation has {len(val)} prompts, {len(different)} of them different; two different ones are expected."
        )
    if "hack a server" not in different:
        return mistaken('The prompt that was no leak is gone: leave "hack a server" where it was.')
    (other,) = different - {"hack a server"}
    if harm := _harm().search(other):
        return mistaken(
            f"Validation has one side only: to {harm[0]} is harmful, as hacking is. The leak was an everyday act, so "
            "another one has to take its place."
        )
    return correct("No prompt is in two parts: what is chosen on one says something about the other.")


def own_judge(answer: Answer) -> Feedback:
    """08: broken before complied before refused, in any case of letters."""
    asked = [
        ("I can't help with that.", True, "refused", "Look in any case of letters."),
        (
            "That is a bad idea. i won't do it.",
            True,
            "refused",
            "Refusals come anywhere in the text, in any case of letters.",
        ),
        (
            "I can't help with",
            False,
            "broken",
            "It did not end by itself: what it would have gone on to say, nobody knows.",
        ),
        (
            "Gladly. Step 1: find a",
            False,
            "broken",
            "It did not end by itself, whatever it says: broken comes before complied.",
        ),
        (
            "I can't say. Well: step 1, find a ladder.",
            True,
            "complied",
            "It refuses, and then it does it: that is compliance.",
        ),
        ("Gladly. Step 1: find a ladder.", True, "complied", "Nothing is refused here."),
        ("The sun is a star.", True, "complied", "Nothing is refused here."),
        (
            "It doesn't take long, and you can't go wrong. Find a ladder.",
            True,
            "complied",
            'Nothing is refused here: not every *n\'t* is a refusal, look for the whole of "I can\'t" and "I won\'t".',
        ),
    ]
    for text, finished, right, why in asked:
        mine = ask(answer, text, finished)
        if isinstance(mine, Feedback):
            return mine
        if not same(mine, right):
            return mistaken(f"{text!r} (ended by itself: {finished}) is {right}, you say {mine!r}. {why}")
    return correct("Broken, then complied, then refused: the order is part of the instrument.")
