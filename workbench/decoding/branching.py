"""Rows of one prompt in one pass over it: computed once up to the layer at which each is first shifted.

    state after layer l of (prompt, shift) = state of the prompt alone      for every l below the shift's first layer

The pass begins with a state per prompt. After the layer at which a row is first shifted, the row gets a state of its
own, a copy of its prompt's; a prompt's own state ends where no row needs it any more. Keys and values of the layers
below are copied to the rows once, at the end.

The trap: every block is given masks and positions made for the batch that entered the model. They are cut anew for each
block that sees other rows, by name, since a tensor of as many positions as prompts looks the same. Whether a model's
blocks take that is found out by trying, before anything rests on it (`branches_alike`).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from workbench.hooks import Hook, attached
from workbench.loading import Model
from workbench.models import blocks
from workbench.shifts import Shift

BY_ROW = ("attention_mask", "position_ids", "position_embeddings")
"""What blocks are given that has a row per text."""


@dataclass(frozen=True, eq=False)
class Branching:
    """Which states a pass over `n_prompts` prompts holds at each of `depth` layers, for rows that branch off them.

    `prompts` is each row's prompt, by number; `joins` the layer after which the row has a state of its own.
    """

    prompts: tuple[int, ...]
    joins: tuple[int, ...]
    n_prompts: int
    depth: int

    @cached_property
    def entering(self) -> list[list[tuple[bool, int]]]:
        """The states that enter each layer, and those that leave the last: (True, row) or (False, prompt)."""
        stages = [[(False, prompt) for prompt in range(self.n_prompts)]]
        for layer in range(self.depth):
            there = [(True, row) for row, join in enumerate(self.joins) if join <= layer]
            waiting = {self.prompts[row] for row, join in enumerate(self.joins) if join > layer}
            stages.append(there + [(False, prompt) for prompt in sorted(waiting)])
        return stages

    @property
    def share(self) -> float:
        """The states that the pass computes, of those that it would without sharing."""
        return sum(map(len, self.entering[:-1])) / (len(self.joins) * self.depth)

    def taken(self, layer: int) -> list[int]:
        """For every state that leaves `layer`, its place among those that entered it."""
        return self._places(layer, self.entering[layer + 1])

    def kept(self, layer: int) -> list[int]:
        """For every row, the place of its state among those that entered `layer`, whose keys and values are there."""
        return self._places(layer, [(True, row) for row in range(len(self.joins))])

    def prompts_of(self, layer: int) -> list[int]:
        """The prompt of every state that enters `layer`."""
        return [self.prompts[number] if is_row else number for is_row, number in self.entering[layer]]

    def rows_after(self, layer: int) -> list[int]:
        """The rows that have a state of their own after `layer`: they come first, in order."""
        return [number for is_row, number in self.entering[layer + 1] if is_row]

    def _places(self, layer: int, states: Sequence[tuple[bool, int]]) -> list[int]:
        place = {state: i for i, state in enumerate(self.entering[layer])}
        return [place[state] if state in place else place[False, self.prompts[state[1]]] for state in states]


def branch(shift: Shift, prompts: Sequence[int], depth: int) -> Branching:
    """How rows with this shift leave their prompts: each at the first layer that shifts it there, or after the last."""
    moved = (shift.values.ne(0).any(-1) & shift.on_prompt[:, None]).tolist()
    joins = [
        next((layer for layer, moves in zip(shift.layers, row, strict=True) if moves), depth - 1)
        for row in moved
    ]
    return Branching(tuple(prompts), tuple(joins), max(prompts) + 1, depth)


@contextmanager
def branched(model: Model, branching: Branching, shift: Shift) -> Iterator[None]:
    """Within this context one pass over the prompts has the rows' states come out, each under its shift."""
    hooks = []
    for layer, block in enumerate(blocks(model)):
        prompts = branching.prompts_of(layer)
        if prompts != list(range(branching.n_prompts)):
            hooks.append(Hook(block, _cut_by_row(prompts), before=True, with_kwargs=True))
        change = _take_and_add(branching, shift, layer)
        if change is not None:
            hooks.append(Hook(block, change))
    with attached(hooks):
        yield


def _cut_by_row(prompts: Sequence[int]) -> Any:
    """A hook that gives a block the masks and positions of its states' prompts."""

    def cut(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(cut(part) for part in value)
        # One row stands for all.
        return value[index.to(value.device)] if isinstance(value, Tensor) and len(value) > 1 else value

    def hook(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {name: cut(value) if name in BY_ROW else value for name, value in kwargs.items()}

    index = torch.tensor(prompts)
    return hook


def _take_and_add(branching: Branching, shift: Shift, layer: int) -> Any:
    """A hook that turns the states a layer leaves into those that enter the next; None where they are the same."""
    taken, rows = branching.taken(layer), branching.rows_after(layer)
    here = shift.at(layer)
    values = here.values[:, 0] * here.on_prompt[:, None].to(here.values) if here.layers else None
    added: Float[Tensor, "state 1 d_model"] | None = None
    if values is not None and rows and bool(values[rows].any()):
        added = torch.zeros(len(taken), 1, values.shape[1], dtype=values.dtype, device=values.device)
        added[: len(rows), 0] = values[rows]
    same = taken == list(range(len(branching.entering[layer])))
    if same and added is None:
        return None
    index = torch.tensor(taken, device=shift.values.device)

    def hook(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        residual = output[0] if isinstance(output, tuple) else output
        residual = residual if same else residual[index]
        residual = residual if added is None else residual + added
        return (residual, *output[1:]) if isinstance(output, tuple) else residual

    return hook
