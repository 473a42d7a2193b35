"""Whether a model's blocks let rows of one prompt branch off in mid-pass: tried on it, before anything rests on that.

    logits of rows that branched off = logits of the same rows, each computed from its first token on

The trap: an architecture may hand its blocks something that has a row per text under a name of its own, or keep states
that no cache shows. Such a model fails here, aloud or by its numbers, and is run row by row.
"""

from dataclasses import replace

import torch
from transformers import PreTrainedModel

from workbench.decoding.batches import decode
from workbench.decoding.choosers import Forced
from workbench.decoding.rows import Row
from workbench.gates import AlwaysOpen
from workbench.loading import Model
from workbench.models import carries_hooks, device_of, n_layers, space_of
from workbench.prompts import Prompt
from workbench.provenance import Provenance
from workbench.steering import SteeringPlan
from workbench.vectors import SteeringVectors, random_directions

TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
"""Of the largest logit; half precision is allowed a hundredth."""


def shares_prompts(model: Model) -> bool:
    """Whether `decode(..., share=True)` gives this model's own logits: tried on a few rows of two short prompts.

    False for models that are no transformers models themselves, and for those that carry hooks of somebody else, which
    may count on the rows they see.
    """
    if not isinstance(model, PreTrainedModel) or n_layers(model) < 2:
        return False
    if carries_hooks(model):
        return False
    rows = _rows(model)
    found = {}
    for share in (True, False):
        chooser = Forced(torch.ones(len(rows), 3, dtype=torch.long, device=device_of(model)))
        try:
            decode(model, rows, chooser, 3, share=share)
        except (IndexError, KeyError, RuntimeError, TypeError, ValueError, AttributeError):
            if not share:
                raise
            return False
        found[share] = torch.stack(chooser.logits).float()
    error = (found[True] - found[False]).abs().max() / found[False].abs().max()
    return bool(error <= TOLERANCE.get(model.dtype, 1e-2))


def _rows(model: PreTrainedModel) -> list[Row]:
    """Two prompts of unequal length, each unsteered and under shifts that begin early, half-way and late."""
    space, depth = space_of(model), n_layers(model)
    ones = torch.ones(depth)
    like = SteeringVectors.from_values(torch.ones(depth, space.d_model), ones, space, Provenance("vectors"))
    plan = SteeringPlan(random_directions(like, seed=0), gate=AlwaysOpen(), layers=[0], alpha=1.0)
    plans = [None, plan.with_layers([depth // 2]), plan.with_layers([depth - 2, depth - 1])]
    plans += [replace(plan, positions="prompt"), replace(plan.with_layers([1]), positions="reply")]
    opened = torch.ones(depth, dtype=torch.bool)
    return [
        Row(Prompt.user("-"), ids, plan, None if plan is None else opened)
        for ids in ((1, 2, 3, 4, 5), (3, 1))
        for plan in plans
    ]
