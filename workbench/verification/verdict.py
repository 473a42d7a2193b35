"""What a verification found, as a value: frames to look at, faults to read, one sentence to go by.

    relative = largest |logit - the loop's logit| / largest |logit of the loop|

The trap: a number below a tolerance is not agreement where the tolerance was made for it. They are stated here, per
dtype, and argmax flips are counted beside them whatever the size of the difference.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pandas as pd
import torch

TOLERANCE: Mapping[torch.dtype, float] = MappingProxyType(
    {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 0.03, torch.bfloat16: 0.2}
)
"""Of the largest logit: between two ways of running a model in this dtype, and between half precision and float32.

The worst that was seen on sixteen random architectures of six layers is 16 % in bfloat16 and 2.3 % in float16, most
are below 6 % and 0.8 %; TransformerLens, transformers and float32 are that far from each other alike, since each rounds
in its own order. In float32 it is 0.0005 %.
"""


@dataclass(frozen=True, eq=False)
class Verification:
    """The steered run of one model under one plan, compared in every way that there is, and looked at from outside.

    `comparisons` has a row per backend and way: the largest difference of a logit, absolute and as a share of the
    largest logit; argmax `flips` and `near_ties` among `steps` tokens, the first of the flips. The way "generate"
    decides and writes for itself: there a flip is a row's first token that differs, and `decisions` are the rows whose
    gate decided otherwise. A flip at a near tie (the two top logits closer than twice the tolerance) is counted, and is
    no fault; nor is a decision as close to its threshold as the tolerance, in shares of the residual's norm.

    `shifts` has a row per backend, layer, part (prompt or reply) and gate: the length of the shift that was `planned`,
    and the `least` and the `most` that arrived at any position of `rows` rows; NaN where nothing was to be seen. Rows
    whose gate is closed, and layers that are not steered, are to have 0.

    `effect` is the largest change that a shift makes to a logit. `refused` names the backends that were left out, and
    why; `notes` say what could not be looked at; `cosine` compares the plan's vectors with the target's own.
    """

    comparisons: pd.DataFrame
    shifts: pd.DataFrame
    effect: float
    refused: Mapping[str, str]
    notes: tuple[str, ...]
    cosine: str
    model: str
    plan_id: str
    dtype: str

    @property
    def holds(self) -> bool:
        """Whether steering runs as planned wherever it was looked at."""
        return not self.faults

    @property
    def faults(self) -> tuple[str, ...]:
        """What does not run as planned, the gravest first: a sentence each."""
        silent = ["no shift changes any logit"] if self.effect == 0 else []
        return (*_of_shifts(self.shifts), *silent, *_of_comparisons(self.comparisons))

    @property
    def verdict(self) -> str:
        """One sentence."""
        if faults := self.faults:
            more = f" ({len(faults) - 1} more)" if len(faults) > 1 else ""
            return f"Steering does not run as planned on {self.model}: {faults[0]}{more}."
        worst, flips = self.comparisons.relative.max(), int(self.comparisons.flips.sum())
        otherwise = int(self.comparisons.decisions.sum())
        backends = ", ".join(self.comparisons.backend.unique())
        steps = int(self.comparisons.steps.sum())
        return (
            f"Steering runs as planned on {self.model} ({backends}; {self.dtype}): logits within {worst:.1g} of the "
            f"largest, {flips} of {steps:,} tokens flipped{', all at near ties' if flips else ''}"
            f"{f', {otherwise} decisions differ close to the threshold' if otherwise else ''}."
        )

    def require(self) -> None:
        """Raise `ValueError` with every fault, where there is one."""
        if faults := self.faults:
            raise ValueError(f"steering does not run as planned on {self.model}: {'; '.join(faults)}")


def _of_shifts(shifts: pd.DataFrame) -> Iterator[str]:
    bad: Any
    for (backend, layer), rows in shifts[~shifts.holds.astype(bool)].groupby(["backend", "layer"], sort=True):
        bad = next(iter(rows.itertuples()))
        where = f"{backend}, layer {layer}, {bad.part}"
        if rows.most.isna().any():
            yield f"{where}: no hook on it is ever reached, or not in every pass"
        elif (rows.gate == "closed").any():
            moved = rows[rows.gate == "closed"].most.max()
            yield f"{where}: the residual is moved by {moved:.3g} where nothing is to be added"
        else:
            yield f"{where}: {_span(bad)} of the shift of {bad.planned:.3g} arrives"


def _span(row: Any) -> str:
    return "nothing" if row.most == 0 else f"{row.least:.3g} to {row.most:.3g}, or another direction,"


def _of_comparisons(comparisons: pd.DataFrame) -> Iterator[str]:
    bad: Any
    for bad in comparisons[~comparisons.holds.astype(bool)].itertuples():
        where = f"{bad.backend}, {bad.way}"
        if bad.decisions:
            yield f"{where}: the gate decides otherwise on {bad.decisions} of {bad.rows} rows"
        elif bad.way == "generate":
            yield f"{where}: other tokens, the first at {bad.first}"
        else:
            yield (
                f"{where}: logits differ by {bad.relative:.1%} of the largest (tolerance {bad.tolerance:.2%}), "
                f"{bad.flips} of {bad.steps} tokens flip"
                + (f", the first at {bad.first}" if bad.first else "")
            )
