"""What choices rest on: both models' word on the extraction prompts, and on prompts that had no say in the vectors.

    one pair       vectors from .train, choices on .val
    cross-fitting  K pairs (all but a fold, that fold): vectors from the former, choices on the latter, all K together;
                   then vectors from all of .train                                                             (ours)

A held-out projection is carried over from its fold's direction to the final one by what both mean by the middle and by
a unit:

    s' = (a·v_k − m_k) / ‖v'_k‖ · ‖v'‖ + m        m half-way between the means of the prompts that made v

The trap: the final vectors were made from all extraction prompts, and tell those apart better than any others. Of such
a prompt they are never asked; only the vectors of the fold that held it out are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from einops import einsum

from workbench.activations import Activations, last_token_activations
from workbench.gates import ThresholdGate, project
from workbench.loading import Model
from workbench.profiles import LayerProfile, layer_profile
from workbench.prompts import ContrastSet, Prompt, PromptSet
from workbench.provenance import Provenance
from workbench.vectors import SteeringVectors, mean_difference, shuffled_labels


@dataclass(frozen=True, eq=False)
class Evidence:
    """What both models say about the extraction and the held-out prompts, and the vectors made from the former.

    The held-out ones, `target_val` and `aligned_val`, are as these vectors see them: carried over from their folds
    where there are several.
    """

    srv: SteeringVectors
    ssv: SteeringVectors
    shuffled: SteeringVectors
    other_concept: SteeringVectors
    target_train: Activations
    target_val: Activations
    aligned_val: Activations

    @classmethod
    def of(
        cls,
        train: tuple[Activations, Activations],
        val: tuple[Activations, Activations],
        other_concept: SteeringVectors,
    ) -> "Evidence":
        """The vectors of what target and aligned model say of `train`, beside what they say of `val`."""
        srv, ssv = map(mean_difference, train)
        return cls(srv, ssv, shuffled_labels(train[1], seed=0), other_concept, train[0], *val)

    @cached_property
    def profiles(self) -> tuple[LayerProfile, LayerProfile]:
        """How well each layer of the target, and of the aligned model, tells the held-out prompts apart."""
        return layer_profile(self.srv, self.target_val), layer_profile(self.ssv, self.aligned_val)

    @property
    def controls(self) -> dict[str, SteeringVectors]:
        """The vectors of the conditions that need one of their own."""
        return {"own_srv": self.srv, "shuffled": self.shuffled, "other_concept": self.other_concept}


def read_evidence(
    target: Model,
    aligned: Model,
    pairs: ContrastSet,
    other_concept: PromptSet,
    *,
    aligned_pairs: ContrastSet | None = None,
    batch_size: int = 128,
) -> Evidence:
    """Read both models once: vectors from `pairs.train`, profiles from `pairs.val`.

    The controls are read where ours is, from the aligned model. That one reads `aligned_pairs`, where they are given: a
    model of words alone cannot be asked what pictures are in.
    """

    def read(part: PromptSet, theirs: PromptSet) -> tuple[Activations, Activations]:
        return (
            last_token_activations(target, part, batch_size=batch_size),
            last_token_activations(aligned, theirs, batch_size=batch_size),
        )

    theirs = aligned_pairs or pairs
    other = mean_difference(last_token_activations(aligned, other_concept, batch_size=batch_size))
    return Evidence.of(read(pairs.train, theirs.train), read(pairs.val, theirs.val), other)


def cross_fit(
    target: Model,
    aligned: Model,
    train: PromptSet,
    folds: Sequence[ContrastSet],
    other_concept: PromptSet,
    *,
    batch_size: int = 128,
) -> tuple[Evidence, tuple[Evidence, ...]]:
    """The vectors of all of `train` with every fold's held-out prompts, and the evidence of each fold by itself.

    Every prompt is read once per model.
    """
    if strangers := {prompt for fold in folds for prompt in fold.train} - set(train):
        raise ValueError(
            f"got folds that extract from {len(strangers)} prompts beside {train.name!r}, such as "
            f"{next(iter(strangers)).text!r}: a fold's .train is a part of the whole, pairs.folds(8)"
        )
    parts = [train, *(part for fold in folds for part in (fold.train, fold.val))]
    read = [_read_once(model, parts, batch_size) for model in (target, aligned)]
    other = mean_difference(last_token_activations(aligned, other_concept, batch_size=batch_size))
    (whole, *mine), (whole_aligned, *theirs) = read
    each = tuple(
        Evidence.of((mine[k], theirs[k]), (mine[k + 1], theirs[k + 1]), other)
        for k in range(0, 2 * len(folds), 2)
    )
    srv, ssv = mean_difference(whole), mean_difference(whole_aligned)
    held_out = (
        _joined([carried(fold.target_val, fold.srv, srv) for fold in each]),
        _joined([carried(fold.aligned_val, fold.ssv, ssv) for fold in each]),
    )
    return Evidence.of((whole, whole_aligned), held_out, other), each


def carried(activations: Activations, seen_by: SteeringVectors, to: SteeringVectors) -> Activations:
    """`activations`, moved along `to` until these project as they do on `seen_by`, in middles and units of each."""
    scores = (project(seen_by, activations) - _middle(seen_by)) * _rate(seen_by, to) + _middle(to)
    missing = scores - project(to, activations)
    moved = activations.values + einsum(
        missing, to.directions, "prompt layer, layer d_model -> prompt layer d_model"
    )
    return replace(activations, values=moved)


def carried_gate(gate: ThresholdGate, of: SteeringVectors, to: SteeringVectors) -> ThresholdGate:
    """`gate`, which reads along `of`, with its threshold at the same place along `to`."""
    gate.require_along(of)
    bias = (gate.bias + _middle(of)) * _rate(of, to) - _middle(to)
    provenance = Provenance("gate", note="carried to a fold", parents=(gate.provenance, to.provenance))
    return replace(gate, directions=to.directions, bias=bias, provenance=provenance)


def _rate(of: SteeringVectors, to: SteeringVectors) -> torch.Tensor:
    return to.norms / torch.where(of.norms > 0, of.norms, 1.0)


def _middle(vectors: SteeringVectors) -> torch.Tensor:
    if vectors.midpoints is None:
        raise ValueError("got vectors without a middle, expected those of mean_difference(activations)")
    return vectors.midpoints


def _read_once(model: Model, parts: Sequence[PromptSet], batch_size: int) -> list[Activations]:
    """The activations of every part, a prompt that is in several of them read once."""
    asked = PromptSet(parts[0].name, tuple(dict.fromkeys(prompt for part in parts for prompt in part)))
    read = last_token_activations(model, asked, batch_size=batch_size)
    row: dict[Prompt, int] = {prompt: i for i, prompt in enumerate(asked)}
    return [
        replace(
            read,
            values=read.values[[row[prompt] for prompt in part]],
            labels=part.labels,
            prompts=part,
            provenance=replace(read.provenance, prompts=part.name, prompts_hash=part.hash),
        )
        for part in parts
    ]


def _joined(held_out: Sequence[Activations]) -> Activations:
    """What every fold held out, one after the other."""
    first = held_out[0]
    known = [part.prompts for part in held_out if part.prompts is not None]
    prompts = PromptSet("held out", tuple(prompt for part in known for prompt in part))
    return replace(
        first,
        values=torch.cat([part.values for part in held_out]),
        labels=tuple(label for part in held_out for label in part.labels),
        prompts=prompts,
        provenance=replace(first.provenance, prompts=prompts.name, prompts_hash=prompts.hash),
    )
