"""Checks of 07: a logit lens, and the layer from which a refusal leads."""

import torch

from checks.feedback import Answer, Feedback, ask, compare, correct, mistaken, same, tensor


def lens(answer: Answer) -> Feedback:
    """07: the tokens that a direction promotes, through the final norm's weight and the unembedding."""
    draw = torch.Generator().manual_seed(3)
    direction, weight = torch.randn(8, generator=draw), 3 * torch.rand(8, generator=draw)
    weight[direction.abs().argmax()] = 0.05  # leaving the weight out must show
    unembedding = torch.randn(8, 40, generator=draw) + 0.5
    logits, bare = (direction * weight) @ unembedding, direction @ unembedding
    mistakes = {
        "The final norm's weight is missing: it scales every entry before the unembedding sees it.": bare.topk(
            4
        ).indices,
        "These are the tokens that it *suppresses* most: largest first.": logits.topk(
            4, largest=False
        ).indices,
        "These are the logits. The ids are asked for: `.indices`.": logits.topk(4).values,
        "You sort by size, whatever the sign: what is suppressed most gets in.": logits.abs().topk(4).indices,
        "The right tokens in the wrong order: the most promoted one comes first.": logits.topk(
            4
        ).indices.flip(0),
    }
    mine = tensor(ask(answer, direction.clone(), weight.clone(), unembedding.clone(), 4), (4,), "top")
    return compare(mine, logits.topk(4).indices, mistakes, "Norm's weight, unembedding, largest first.")


def turn(answer: Answer) -> Feedback:
    """07: the layer from which a refusal leads for good."""
    asked: list[tuple[list[float], int | str, str]] = [
        ([-2.0, 1.0, -1.0, 0.5, 2.0], 3, "It leads at layer 1 and falls behind again: count from the last change on."),
        ([1.0, 2.0, 3.0], 0, "It leads from the first layer on, layer 0."),
        ([-1.0, 2.0, -0.5], "never", "At the last layer it is behind: it does not lead in the end, \"never\"."),
        ([-1.0, 0.0, 2.0], 2, "At exactly 0 nobody leads: above 0 is asked for."),
    ]  # fmt: skip
    for given, right, why in asked:
        mine = ask(answer, list(given))
        if isinstance(mine, Feedback):
            return mine
        if not same(mine, right):
            if same(mine, given.index(max(given))):
                why = "That is where the lead is largest, not where it begins."
            return mistaken(f"For {given} you say {mine!r}. {why}")
    return correct("Looked at from the end.")
