"""Plausible mistakes must not pass: each one is planted in the library, and the parity check has to notice."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from parity import SETTINGS, parity
from torch import Tensor

import workbench as wb
from workbench.chat import EncodedBatch
from workbench.decoding import asking, batches
from workbench.decoding.rows import Decisions, Row
from workbench.loading import Model

MUTANTS: dict[str, Callable[[pytest.MonkeyPatch], None]] = {}


def mutant(plant: Callable[[pytest.MonkeyPatch], None]) -> Callable[[pytest.MonkeyPatch], None]:
    MUTANTS[plant.__name__.replace("_", " ")] = plant
    return plant


def change_shift(patch: pytest.MonkeyPatch, change: Callable[[wb.Shift], wb.Shift]) -> None:
    patch.setattr(batches, "compile_shift", lambda *given: change(wb.compile_shift(*given)))


def move_hooks(patch: pytest.MonkeyPatch, by: int) -> None:
    attach = batches.residual_hooks
    patch.setattr(
        batches,
        "residual_hooks",
        lambda model, site, fns: attach(model, site, {(layer + by) % 6: fn for layer, fn in fns.items()}),
    )


@mutant
def no_shift_in_decode_steps(patch: pytest.MonkeyPatch) -> None:
    change_shift(patch, lambda shift: replace(shift, on_reply=torch.zeros_like(shift.on_reply)))


@mutant
def no_shift_in_the_prompt(patch: pytest.MonkeyPatch) -> None:
    change_shift(patch, lambda shift: replace(shift, on_prompt=torch.zeros_like(shift.on_prompt)))


@mutant
def only_row_0_is_shifted(patch: pytest.MonkeyPatch) -> None:
    def first_only(shift: wb.Shift) -> wb.Shift:
        return replace(shift, values=torch.cat([shift.values[:1], torch.zeros_like(shift.values[1:])]))

    change_shift(patch, first_only)


@mutant
def row_0_decides_for_all(patch: pytest.MonkeyPatch) -> None:
    class FirstDecides(Decisions):
        def read(self, layer: int, residual: Tensor) -> None:
            super().read(layer, residual)
            self.opened = self.opened[:1].expand_as(self.opened)

    patch.setattr(batches, "Decisions", FirstDecides)


@mutant
def one_layer_up(patch: pytest.MonkeyPatch) -> None:
    move_hooks(patch, 1)


@mutant
def one_layer_down(patch: pytest.MonkeyPatch) -> None:
    move_hooks(patch, -1)


@mutant
def wrong_sign(patch: pytest.MonkeyPatch) -> None:
    change_shift(patch, lambda shift: replace(shift, values=-shift.values))


@mutant
def missing_attention_mask(patch: pytest.MonkeyPatch) -> None:
    pad_left = batches.pad_left

    def unmasked(*given: object) -> EncodedBatch:
        batch = pad_left(*given)
        return replace(batch, attention_mask=torch.ones_like(batch.attention_mask))

    patch.setattr(batches, "pad_left", unmasked)


@mutant
def gate_read_after_the_shift(patch: pytest.MonkeyPatch) -> None:
    """In the prefill: the residual already holds the shift. In the clean pass: it is not clean."""
    read = asking.token_activations

    class DecidesLate(Decisions):
        def __init__(self, rows: list[Row], depth: int) -> None:
            super().__init__(rows, depth)
            self.shift = wb.compile_shift([row.plan for row in rows], torch.ones_like(self.opened))

        def read(self, layer: int, residual: Tensor) -> None:
            below = [self.shift.at(each).values.sum(1) for each in range(layer + 1)]
            super().read(layer, residual + sum(below))

    def read_late(
        model: Model, prompts: wb.PromptSet, rows: list[tuple[int, ...]], *, site: str, batch_size: int
    ) -> wb.Activations:
        activations = read(model, prompts, rows, site=site, batch_size=batch_size)
        shift = 0.15 * wb.mean_difference(activations).residual_norms[:, None]
        return replace(
            activations, values=activations.values + shift * wb.mean_difference(activations).directions
        )

    patch.setattr(batches, "Decisions", DecidesLate)
    patch.setattr(asking, "token_activations", read_late)


@pytest.mark.parametrize("name", MUTANTS)
def test_parity_notices(
    name: str,
    babbler: Model,
    babblers: dict[str, Model],
    prompts: wb.PromptSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`test_parity` shows that the check holds without the mutant."""
    MUTANTS[name](monkeypatch)
    assert not parity(babbler, babblers["plain"], prompts, SETTINGS["read in the prefill"]).holds


def test_parity_notices_an_unclean_pass(
    babbler: Model, babblers: dict[str, Model], prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTANTS["gate read after the shift"](monkeypatch)
    result = parity(babbler, babblers["plain"], prompts, SETTINGS["read above the shift"])
    assert not result.same_gates


def test_parity_notices_an_online_gate_that_sees_its_own_shift(
    babbler: Model, babblers: dict[str, Model], prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    MUTANTS["gate read after the shift"](monkeypatch)
    assert not parity(babbler, babblers["plain"], prompts, SETTINGS["read online"]).same_gates


def test_parity_notices_an_online_gate_that_is_read_clean(
    babbler: Model, babblers: dict[str, Model], prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    clean = dict(zip(prompts, wb.last_token_activations(babbler, prompts).values, strict=True))

    class DecidesClean(Decisions):
        def __init__(self, rows: list[Row], depth: int) -> None:
            super().__init__(rows, depth)
            self.clean = torch.stack([clean[row.prompt] for row in rows])

        def read(self, layer: int, residual: Tensor) -> None:
            super().read(layer, self.clean[:, layer])

    monkeypatch.setattr(batches, "Decisions", DecidesClean)
    assert not parity(babbler, babblers["plain"], prompts, SETTINGS["read online"]).same_gates
    assert parity(babbler, babblers["plain"], prompts, SETTINGS["read in the prefill"]).holds
