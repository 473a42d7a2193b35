"""Checks of 02: which pair of kinds tells intent, and AUROC by hand."""

from typing import Any

import torch

import workbench as wb
from checks.feedback import WAITING, Answer, Feedback, ask, compare, correct, mistaken, tensor


def intent_alone(kinds: Any) -> Feedback:
    """02: harmful against contrast is the pair that words cannot tell apart."""
    if kinds is ...:
        return WAITING
    if not isinstance(kinds, (tuple, list, set, frozenset)) or len(kinds) != 2:
        return mistaken(f"Got {kinds!r}, expected two kinds in parentheses, each in quotes.")
    if any(kind is ... for kind in kinds):
        return WAITING
    if odd := [kind for kind in kinds if not isinstance(kind, str)]:
        return mistaken(f"Got {odd[0]!r}, expected the name of a kind in quotes.")
    named = set(kinds)
    if unknown := named - set(wb.plots.LABELS):
        return mistaken(
            f"There is no kind {', '.join(map(repr, sorted(unknown)))}: there are {', '.join(wb.plots.LABELS)}."
        )
    if len(named) < 2:
        return mistaken("That is one kind twice: which other one has the same words?")
    said = {
        frozenset(("harmful", "contrast")): correct(
            "The verb and the thing are the same; only the aim differs."
        ),
        frozenset(("harmful", "harmless")): mistaken(
            "These differ in their words too: a layer that knows the word *steal* tells them apart, intent or no."
        ),
        frozenset(("harmful", "jailbroken")): mistaken(
            "These share their intent: both mean harm, one of them in a wrapper."
        ),
        frozenset(("jailbroken", "contrast")): mistaken(
            "Their intent differs, but so does the wrapper, which only one of them has: take the plain one."
        ),
        frozenset(("contrast", "harmless")): mistaken(
            "Neither of these means harm: telling them apart is a matter of words."
        ),
    }
    return said.get(
        frozenset(named), mistaken("These differ in their words as well: a layer could tell them by those.")
    )


def auroc(answer: Answer) -> Feedback:
    """02: the chance that one of `yes` lies above one of `no`, ties counting half."""
    yes, no = torch.tensor([-3.0, 4.5, -0.5, -2.0, 6.5, 2.5]), torch.tensor([-3.0, -2.0, -1.5, 1.0, -2.5])
    above, ties = (yes[:, None] > no).double(), (yes[:, None] == no).double()
    right = (above + ties / 2).mean()
    mistakes = {
        "That is the chance the other way round, 1 − AUROC: `yes` is to lie above `no`.": 1 - right,
        "Ties count for nothing with you. A tie is half a win.": above.mean(),
        "Ties count as wins with you. A tie is half a win.": (above + ties).mean(),
        "That is accuracy at the threshold 0. AUROC needs no threshold: it compares every pair.":
            torch.cat([yes > 0, no <= 0]).double().mean(),
        "That is the share of `yes` above 0, at one threshold. AUROC compares every pair.": (yes > 0).double().mean(),
        "That is the number of pairs. Divide by how many there are.": (above + ties / 2).sum(),
        "That is the difference of the means, which has a unit. AUROC is a chance.": (yes.mean() - no.mean()).double(),
        "You compare `yes` with the mean of `no` only. Every pair counts.": (yes > no.mean()).double().mean(),
    }  # fmt: skip
    return compare(
        tensor(ask(answer, yes.clone(), no.clone()), (), "one number"), right, mistakes, "Pair by pair."
    )
