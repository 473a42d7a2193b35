"""A gate above the first shift: its rows go on from the middle of the clean pass, and come out as they always did."""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from architectures import ARCHITECTURES, model_of, save_model
from measuring import extraction, labelled_prompts

import workbench as wb
from workbench.decoding import asking, batches, passes
from workbench.decoding.resuming import TESTED, can_resume
from workbench.loading import Model


def plans_of(model: Model) -> list[wb.SteeringPlan | None]:
    """Gates above the first shift, shared and per layer, open for half of the prompts; all positions, some; no plan."""
    read = wb.last_token_activations(model, extraction())
    vectors = wb.mean_difference(read)
    gate = wb.ThresholdGate.fit(vectors, read)
    scores = gate.read(wb.last_token_activations(model, labelled_prompts())).scores
    gate = replace(gate, bias=gate.bias - scores.median(0).values)
    shared = wb.SteeringPlan(
        vectors, gate=replace(gate, shared_layer=3), layers=(1, 2), alpha=0.3, scale="residual"
    )
    each = replace(shared, gate=gate, layers=(2, 3), alpha=-0.4)
    several = [shared, each, replace(shared, positions="prompt"), replace(shared, positions="reply"), None]
    return (several * 3)[: len(labelled_prompts())]


def replies_of(model: Model) -> tuple[list[torch.Tensor], list[wb.Completion]]:
    prompts = labelled_prompts()
    forced = [[5, 7, 9][: 1 + i % 3] for i in range(len(prompts))]
    plans = plans_of(model)
    logits = wb.teacher_forced_logits(model, prompts, forced, plans)
    return logits, wb.generate(model, prompts, plans, max_new_tokens=5, batch_size=5)


def error_of(found: list[torch.Tensor], expected: list[torch.Tensor]) -> float:
    """The largest difference, relative to the largest logit."""
    scale = max(float(row.abs().max()) for row in expected)
    return (
        max(float((mine - theirs).abs().max()) for mine, theirs in zip(found, expected, strict=True)) / scale
    )


@pytest.fixture(scope="module", params=ARCHITECTURES)
def subject(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("resuming") / request.param
    return wb.load_model(save_model(request.param, folder), backend="plain")


def test_rows_that_go_on_are_those_that_were_read_ahead(subject: Model, monkeypatch: pytest.MonkeyPatch):
    twice, begun = batches._begin_twice, []
    monkeypatch.setattr(batches, "_begin_twice", lambda *given: begun.append(given) or twice(*given))
    logits, completions = replies_of(subject)
    assert len(begun) == 1 + 3  # all at once, then by five
    monkeypatch.setattr(asking, "can_resume", lambda *given: False)
    apart, others = replies_of(subject)
    assert error_of(logits, apart) < 1e-6
    opened = [reply.gate_open for reply in completions]
    assert opened == [reply.gate_open for reply in others]
    shifted = [decisions and (decisions[1] or decisions[2]) for decisions in opened]
    assert 2 <= sum(map(bool, shifted)) < len(shifted) - 2  # gates of both kinds
    for mine, theirs in zip(completions, others, strict=True):
        assert mine.tokens == theirs.tokens or mine.near_ties or theirs.near_ties


def test_every_architecture_listed_is_tested():
    seeing = {"LlavaForConditionalGeneration"}  # in test_seeing.py
    assert {type(model_of(name)).__name__ for name in ARCHITECTURES} | seeing == set(TESTED)


def counted(model: Model) -> list[tuple[int, int, int]]:
    """(block, rows, positions) of every pass over the prompts, as blocks compute them."""
    seen = []
    for number, block in enumerate(wb.models.blocks(model)):
        inside = block.forward

        def forward(hidden, *given, inside=inside, number=number, **further):
            seen.append((number, len(hidden), hidden.shape[1]))
            return inside(hidden, *given, **further)

        block.forward = forward
    return seen


def test_only_shifted_rows_are_computed_again_and_only_above_the_first_shift(checkpoints: dict[str, Path]):
    model = wb.load_model(checkpoints["llama"], backend="plain")
    plan = plans_of(model)[0]
    asked = labelled_prompts()
    n_open = sum(reply.gate_open[3] for reply in wb.generate(model, asked, plan, max_new_tokens=1))
    assert 0 < n_open < len(asked)
    seen = counted(model)
    wb.generate(model, asked, plan, max_new_tokens=1)
    rows = [[n for block, n, width in seen if block == number and width > 1] for number in range(4)]
    assert rows == [[len(asked)], [len(asked)], [len(asked), n_open], [len(asked), n_open]]
    for block in wb.models.blocks(model):
        assert block.__dict__["forward"].__name__ == "forward"  # what somebody had put there is there again


def takes_nothing(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(passes.TransformersPasses, "take", lambda self, other, rows, *, above: None)


def takes_one_layer_less(patch: pytest.MonkeyPatch) -> None:
    take = passes.TransformersPasses.take
    patch.setattr(
        passes.TransformersPasses,
        "take",
        lambda self, other, rows, *, above: take(self, other, rows, above=above + 1),
    )


def stands_in_for_other_rows(patch: pytest.MonkeyPatch) -> None:
    stand = batches.standing_in
    patch.setattr(batches, "standing_in", lambda blocks, output, rows: stand(blocks, output, rows.flip(0)))


def goes_on_without_the_shift(patch: pytest.MonkeyPatch) -> None:
    inside = wb.Shift.rows
    patch.setattr(
        wb.Shift, "rows", lambda self, rows: replace(shift := inside(self, rows), values=0 * shift.values)
    )


@pytest.mark.parametrize(
    "mutate", [takes_nothing, takes_one_layer_less, stands_in_for_other_rows, goes_on_without_the_shift]
)
def test_a_mistake_is_seen(
    plain: Model, monkeypatch: pytest.MonkeyPatch, mutate: Callable[[pytest.MonkeyPatch], None]
):
    model = plain
    with monkeypatch.context() as patch:
        patch.setattr(asking, "can_resume", lambda *given: False)
        expected, _ = replies_of(model)
    mutate(monkeypatch)
    found, _ = replies_of(model)
    assert error_of(found, expected) > 1e-3


def test_a_model_with_hooks_of_ones_own_is_read_ahead(checkpoints: dict[str, Path]):
    """A hook on a block that stands in for itself would act twice."""
    model = copy.deepcopy(wb.load_model(checkpoints["llama"], backend="plain"))
    plan = plans_of(model)[0]
    assert can_resume(model, [plan])
    handle = wb.models.blocks(model)[1].register_forward_hook(lambda module, args, output: 2 * output)
    assert not can_resume(model, [plan])
    hooked = wb.generate(model, labelled_prompts(), plan, max_new_tokens=4)
    one_by_one = [wb.generate(model, [p, p], [plan, plan], max_new_tokens=4)[0] for p in labelled_prompts()]
    handle.remove()
    assert [reply.tokens for reply in hooked] == [reply.tokens for reply in one_by_one]


def test_what_goes_wrong_leaves_the_model_as_it_was(
    checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
):
    model = wb.load_model(checkpoints["llama"], backend="plain")
    before = wb.generate(model, labelled_prompts(), max_new_tokens=2)

    def fails(*given: object) -> None:
        raise RuntimeError("in the middle")

    plan = plans_of(model)[0]
    with monkeypatch.context() as patch:
        patch.setattr(batches, "residual_hooks", counting_to(2, batches.residual_hooks, fails))
        with pytest.raises(RuntimeError, match="in the middle"):
            wb.generate(model, labelled_prompts(), plan, max_new_tokens=2)
    assert not any("forward" in block.__dict__ for block in wb.models.blocks(model))
    assert not wb.models.carries_hooks(model)
    after = wb.generate(model, labelled_prompts(), max_new_tokens=2)
    assert [reply.tokens for reply in after] == [reply.tokens for reply in before]


def counting_to(n: int, inside: Callable[..., object], then: Callable[..., object]) -> Callable[..., object]:
    """Calls `inside` until the `n`th call, which is `then`'s."""
    calls = iter(range(1, n))
    return lambda *given: inside(*given) if next(calls, None) else then(*given)
