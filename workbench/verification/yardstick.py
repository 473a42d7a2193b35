"""The rows that a verification compares, and what the plain loop makes of each: the measure of every other way.

    rows of a prompt = as it is, under the plan, under the plan with its gate held open      (less those that are alike)

The trap: a gate that stays closed on every prompt would leave nothing to look at, and all would seem well. Held open it
shifts every row.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from workbench.chat import Tokens, tokenize
from workbench.decoding.replies import stop_tokens
from workbench.decoding.rows import Row
from workbench.gates import AlwaysOpen
from workbench.generation import Completion
from workbench.loading import Model
from workbench.models import context_length, words_of
from workbench.prompts import Prompt, PromptSet
from workbench.steering import SteeringPlan
from workbench.verification.loop import Walked, decide, walk


@dataclass(frozen=True, eq=False)
class Yardstick:
    """A prompt and a plan (or none) per row, with the loop's word on it; `stop_ids` end a reply."""

    plan: SteeringPlan
    prompts: PromptSet
    ids: tuple[Tokens, ...]
    plans: tuple[SteeringPlan | None, ...]
    walked: tuple[Walked, ...]
    n_steps: int
    stop_ids: tuple[int, ...]

    @classmethod
    def of(cls, model: Model, prompts: PromptSet, plan: SteeringPlan, n_steps: int) -> "Yardstick":
        """Every prompt in its two or three rows, each walked by the loop."""
        asked = PromptSet(prompts.name, tuple(dict.fromkeys(prompts)))
        tokens = tokenize(words_of(model), asked, context_length=context_length(model), reserve=n_steps)
        stop_ids = tuple(stop_tokens(model))
        held_open = plan.with_gate(AlwaysOpen())
        rows: list[tuple[Prompt, Tokens, SteeringPlan | None]] = []
        for prompt, ids in zip(asked, tokens, strict=True):
            opened, _ = decide(model, prompt, ids, plan)
            here, most = plan.effect(opened), held_open.effect(torch.ones_like(opened))
            # A closed row is the row without a plan, and a row that is open everywhere is the one that is held open.
            plans = [plan, *([] if here is None else [None]), *([] if here == most else [held_open])]
            rows += [(prompt, ids, one) for one in plans]
        walked = tuple(
            walk(model, prompt, ids, one, n_steps=n_steps, stop_ids=stop_ids) for prompt, ids, one in rows
        )
        return cls(
            plan,
            PromptSet(prompts.name, tuple(prompt for prompt, _, _ in rows)),
            tuple(ids for _, ids, _ in rows),
            tuple(one for _, _, one in rows),
            walked,
            n_steps,
            stop_ids,
        )

    def __len__(self) -> int:
        return len(self.walked)

    @cached_property
    def opened(self) -> Bool[Tensor, "row layer"]:
        """The loop's decisions."""
        return torch.stack([row.opened for row in self.walked])

    @cached_property
    def replies(self) -> Int[Tensor, "row step"]:
        """The loop's tokens; what stands after a reply's end is forced, too, and compared with nothing."""
        longest = max(len(row.tokens) for row in self.walked)
        return torch.tensor([[*row.tokens, *[0] * (longest - len(row.tokens))] for row in self.walked])

    @property
    def steps(self) -> int:
        """The tokens of all rows."""
        return sum(len(row.tokens) for row in self.walked)

    @property
    def notes(self) -> list[str]:
        """What these prompts leave untried."""
        own = [
            plan.effect(row.opened) is not None
            for plan, row in zip(self.plans, self.walked, strict=True)
            if plan is self.plan
        ]
        if all(own) and self.plan.gate.reads:
            return [f"the gate opens on all {len(own)} prompts: add some that it leaves alone"]
        return [] if any(own) else [f"the gate opens on none of {len(own)} prompts: it was held open instead"]

    @cached_property
    def scale(self) -> float:
        """The size of the loop's largest logit."""
        return max(float(row.logits.abs().max()) for row in self.walked)

    @property
    def shifted(self) -> list[bool]:
        """Which rows are shifted at all."""
        return [
            plan is not None and plan.effect(row.opened) is not None
            for plan, row in zip(self.plans, self.walked, strict=True)
        ]

    @property
    def effect(self) -> float:
        """The largest change that a shift makes to a logit, before it has changed a token."""
        still = {
            prompt: row
            for prompt, row, moved in zip(self.prompts, self.walked, self.shifted, strict=True)
            if not moved
        }
        found = [0.0]
        for prompt, row, moved in zip(self.prompts, self.walked, self.shifted, strict=True):
            if moved:
                alike = _alike(row.tokens, still[prompt].tokens)
                pairs = zip(row.logits[: alike + 1], still[prompt].logits[: alike + 1], strict=False)
                found += [float((one - other).abs().max()) for one, other in pairs]
        return max(found)

    @property
    def rows(self) -> list[Row]:
        """The rows under the loop's decisions, for ways that do not decide by themselves."""
        return [
            Row(prompt, ids, plan, None if plan is None else row.opened)
            for prompt, ids, plan, row in zip(self.prompts, self.ids, self.plans, self.walked, strict=True)
        ]

    def compared(self, logits: Float[Tensor, "row step d_vocab"], tolerance: float) -> dict[str, Any]:
        """What a way that was forced along the loop's tokens makes of them."""
        largest, flips, ties, first = 0.0, 0, 0, ""
        for i, (row, mine) in enumerate(zip(self.walked, logits, strict=True)):
            mine = mine[: len(row.tokens)]
            error = float((mine - row.logits).abs().max())
            largest = error if math.isnan(error) else max(largest, error)
            flipped = mine.argmax(-1) != torch.tensor(row.tokens)
            flips += int(flipped.sum())
            ties += int(self._close(row, tolerance).sum())
            if flipped.any() and not first:
                first = self._where(i, int(flipped.int().argmax()))
        return {
            "absolute": largest,
            "relative": largest / self.scale,
            "tolerance": tolerance,
            "flips": flips,
            "near_ties": ties,
            "first": first,
            "decisions": 0,
            # A smaller error than the tolerance cannot turn any but a near tie.
            "holds": largest / self.scale <= tolerance,
        }

    def replied(self, completions: Sequence[Completion], tolerance: float) -> dict[str, Any]:
        """What replies that were written freely make of the loop's: here a flip is the first token that differs.

        A reply under other decisions is another reply: it counts among the decisions.
        """
        flips, ties, decisions, first, holds = 0, 0, 0, "", True
        for i, (row, completion, plan) in enumerate(zip(self.walked, completions, self.plans, strict=True)):
            close = self._close(row, tolerance)
            ties += int(close.sum())
            opened = completion.gate_open or ()
            if plan is not None and any(opened[layer] != bool(row.opened[layer]) for layer in plan.layers):
                decisions += 1
                holds &= row.margin <= tolerance
            elif completion.tokens != row.tokens:
                step = _alike(completion.tokens, row.tokens)
                flips, first = flips + 1, first or self._where(i, step)
                holds &= step < len(row.tokens) and bool(close[step])
        return {
            "absolute": math.nan,
            "relative": math.nan,
            "tolerance": tolerance,
            "flips": flips,
            "near_ties": ties,
            "first": first,
            "decisions": decisions,
            "holds": holds,
        }

    def _close(self, row: Walked, tolerance: float) -> Bool[Tensor, "step"]:
        """The steps at which two ways within the tolerance may choose differently."""
        first, second = row.logits.topk(2).values.unbind(-1)
        return first - second <= 2 * tolerance * self.scale

    def _where(self, row: int, step: int) -> str:
        prompt = self.prompts[row]
        return f"token {step} of {prompt.source or prompt.text!r}"


def _alike(tokens: Sequence[int], others: Sequence[int]) -> int:
    """How many tokens both begin with."""
    for i, (one, other) in enumerate(zip(tokens, others, strict=False)):
        if one != other:
            return i
    return min(len(tokens), len(others))
