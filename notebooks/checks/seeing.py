"""Checks of 11: an image among tokens, what words alone can tell, and the patches of an image on a direction."""

from itertools import count

import torch

from checks.feedback import Answer, Feedback, ask, compare, correct, mistaken, tensor


def expanded(answer: Answer) -> Feedback:
    """11: a prompt's tokens with as many marks for each image as it has patches."""
    mark = 7
    for ids, n in (([1, 7, 4, 5], 3), ([7, 2, 7, 3], 4), ([1, 2], 2), ([7], 1)):
        mine = ask(answer, list(ids), mark, n)
        if isinstance(mine, Feedback):
            return mine
        right = [token for one in ids for token in [one] * (n if one == mark else 1)]
        found = mine.tolist() if isinstance(mine, torch.Tensor) else mine
        if not (isinstance(found, list) and all(isinstance(one, int) for one in found)):
            return mistaken(f"Your function gave a {type(mine).__name__}, expected a list of token ids.")
        if found == right:
            continue
        said = f"of {ids} with {n} patches you make {found}"
        seen = count()
        mistakes = {
            "the mark itself stands for the first patch: it is one of them, not one more": [
                token for one in ids for token in [one] * (n + 1 if one == mark else 1)
            ],
            "every image has its patches, and not the first one alone": [
                token for one in ids for token in [one] * (n if one == mark and not next(seen) else 1)
            ],
            "the patches stand where the mark stood, and not at the end": [
                *(one for one in ids if one != mark), *[mark] * (n * ids.count(mark))
            ],
        }  # fmt: skip
        for text, wrong in mistakes.items():
            if found == wrong:
                return mistaken(f"{said}: {text}.")
        return mistaken(f"{said}, expected {right}.")
    return correct("So a picture takes its patches of the context, and moves every word behind it.")


def by_heart(answer: Answer) -> Feedback:
    """11: how often one is right who knows, for everything that can be told, the commoner label."""
    told = ["a", "a", "a", "b", "b", "c"]
    harmful = [True, True, False, False, False, True]
    mistakes = {
        "One label for all: what is told was not looked at.": 3 / 6,
        "The mean over what is told: what is told often counts for more.": (2 / 3 + 1 + 1) / 3,
        "You leave out what was told once: it, too, can be known by heart.": 4 / 6,
        "You count who is right, and not the share of them.": 5,
    }
    return compare(
        tensor(ask(answer, list(told), list(harmful)), (), "no axis"),
        torch.tensor(5 / 6),
        {text: torch.tensor(float(wrong)) for text, wrong in mistakes.items()},
        "On a balanced list it is one half; take any request away, and it is more.",
    )


def patches(answer: Answer) -> Feedback:
    """11: how each patch of an image lies on a direction, as rows and columns."""
    draw = torch.Generator().manual_seed(0)
    residuals = torch.randn(14, 6, generator=draw)
    direction = torch.nn.functional.normalize(torch.randn(6, generator=draw), dim=0)
    middle, length, start, side = 0.7, 2.5, 3, 3
    mine = tensor(
        ask(answer, residuals.clone(), direction.clone(), middle, length, start, side),
        (side, side),
        "row, column",
    )
    raw = residuals @ direction
    right = ((raw - middle) / length)[start : start + side**2].reshape(side, side)
    mistakes = {
        "Rows and columns are swapped: patches go from left to right, then down.": right.T,
        "The middle is not taken away: 0 is where neither side is.":
            (raw / length)[start : start + side**2].reshape(side, side),
        "It is not in units of ‖v'‖: divide what is left of the middle by the length.":
            (raw - middle)[start : start + side**2].reshape(side, side),
        "Only the projection is divided: first the middle off, then the unit.":
            (raw / length - middle)[start : start + side**2].reshape(side, side),
        "These are the tokens from the beginning: the image's begin at `start`.":
            ((raw - middle) / length)[: side**2].reshape(side, side),
        "These are the last tokens: words, which stand behind the image.":
            ((raw - middle) / length)[-(side**2) :].reshape(side, side),
    }  # fmt: skip
    return compare(mine, right, mistakes, "On the picture, what is white lies on the threshold.")
