"""Checks of 10: layers in pairs, a ridge map, and what a carried vector has beyond the target's own."""

import torch

from checks.feedback import Answer, Feedback, ask, compare, correct, mistaken, tensor


def paired(answer: Answer) -> Feedback:
    """10: the source's layer at the same relative depth, for every layer of the target."""
    for theirs, ours in ((6, 8), (8, 6), (12, 12), (1, 4)):
        mine = ask(answer, theirs, ours)
        if isinstance(mine, Feedback):
            return mine
        right = [max(0, int((layer + 1) / ours * theirs + 0.5) - 1) for layer in range(ours)]
        found = tensor(mine, (ours,), "layer of the target")
        if isinstance(found, Feedback):
            return found
        if found.tolist() == right:
            continue
        said = f"of {theirs} layers into {ours} you pair {found.tolist()}"
        mistakes = {
            "you count from the wrong end of a block: after block l a model is (l + 1) / L of its way through":
                [int(layer / ours * theirs + 0.5) for layer in range(ours)],
            "you cut off where the nearest is asked for": [
                max(0, int((layer + 1) / ours * theirs) - 1) for layer in range(ours)
            ],
            "these are counts of blocks, from 1: layers are counted from 0": [
                int((layer + 1) / ours * theirs + 0.5) for layer in range(ours)
            ],
            "the two models are swapped, or their layers paired by number": list(range(ours)),
            "the first layer falls below 0: nothing lies before it": [
                int((layer + 1) / ours * theirs + 0.5) - 1 for layer in range(ours)
            ],
        }  # fmt: skip
        for text, wrong in mistakes.items():
            if found.tolist() == wrong:
                return mistaken(f"{said}: {text}.")
        return mistaken(f"{said}, expected {right}.")
    return correct("The last layer is paired with the last, whatever the depths.")


def ridge(answer: Answer) -> Feedback:
    """10: the linear map of least squared error, with a price on its size."""
    draw = torch.Generator().manual_seed(0)
    theirs = torch.randn(60, 5, generator=draw) + 3
    ours = theirs @ torch.randn(5, 7, generator=draw) + 0.5 * torch.randn(60, 7, generator=draw) - 2
    strength = 20.0

    def solved(x: torch.Tensor, y: torch.Tensor, price: float) -> torch.Tensor:
        return torch.linalg.solve(x.T @ x + price * torch.eye(5), x.T @ y).T

    x, y = theirs - theirs.mean(0), ours - ours.mean(0)
    mine = ask(answer, theirs.clone(), ours.clone(), strength)
    if isinstance(mine, torch.Tensor) and tuple(mine.shape) == (5, 7):
        return mistaken(
            "The shape is [5, 7], expected [7, 5] [d_target, d_source]: W stands before the residual."
        )
    mistakes = {
        "These residuals are not centred: their means would be fitted instead of what varies.":
            solved(theirs, ours, strength),
        "Only one side is centred: subtract both means.": solved(theirs, y, strength),
        "The price is missing: with λ = 0 this is least squares.": solved(x, y, 0.0),
        "The price is paid per text here: λ stands beside a sum over texts, not a mean.": solved(x, y, 60 * strength),
        "λ enters squared: it is λ ‖W‖², not ‖λ W‖².": solved(x, y, strength**2),
    }  # fmt: skip
    found = tensor(mine, (7, 5), "d_target, d_source")
    praise = "The means drop out of a difference: W alone carries a vector."
    return compare(found, solved(x, y, strength), mistakes, praise)


def beyond(answer: Answer) -> Feedback:
    """10: the cosine with what the native vector adds to the own one."""
    draw = torch.Generator().manual_seed(0)
    carried, other, own = torch.nn.functional.normalize(torch.randn(3, 16, generator=draw), dim=-1)
    native = torch.nn.functional.normalize(other + own, dim=-1)
    carried = torch.nn.functional.normalize(carried + own, dim=-1)
    rest = native - (native @ own) * own
    mistakes = {
        "What is left of `native` is shorter than 1: divide by its length.": carried @ rest,
        "That is the cosine with the whole of `native`: its projection on `own` is to go first.": carried @ native,
        "`own` is to be taken out of `native`, not out of `carried`.":
            (carried - (carried @ own) * own) @ native / (carried - (carried @ own) * own).norm(),
        "You subtract the whole of `own`: only the projection on it, (native @ own) * own.":
            carried @ (native - own) / (native - own).norm(),
        "That is what `own` adds to `native`: the two are swapped.":
            carried @ (own - (own @ native) * native) / (own - (own @ native) * native).norm(),
    }  # fmt: skip
    mine = tensor(ask(answer, carried.clone(), native.clone(), own.clone()), (), "a number")
    return compare(
        mine, carried @ rest / rest.norm(), mistakes, "0 for the own vector itself, whatever its cosine."
    )
