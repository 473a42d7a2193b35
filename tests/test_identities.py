"""What must not matter, does not: closed gates, alpha 0, batch size, row order, padding, failed runs, number format."""

import copy
from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch
from conftest import LENSES
from parity import N_LAYERS, Setting

import workbench as wb
from workbench.decoding.choosers import Greedy
from workbench.loading import Model

OPEN = Setting(0.2, (1, 3, 4), gate="open")
GATED = Setting(0.15, (1, 2, 4), gate=1)
ONLINE = Setting(-0.15, (0, 1, 2, 3, 4, 5), gate="each", deciding="online")


@pytest.fixture
def replies(prompts: wb.PromptSet) -> list[list[int]]:
    """Tokens to force, another number of them for each row."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(10, 300, (3 + i % 4,), generator=generator).tolist() for i in range(len(prompts))]


def tokens(completions: Sequence[wb.Completion]) -> list[tuple[int, ...]]:
    assert sum(completion.near_ties for completion in completions) == 0, "a near tie: nothing can be promised"
    return [completion.tokens for completion in completions]


def test_closed_gate_and_alpha_0_are_bit_identical_in_a_mixed_batch(
    babbler: Model, prompts: wb.PromptSet, replies: list[list[int]]
) -> None:
    plan, gated = OPEN.plan(babbler, prompts), GATED.plan(babbler, prompts)
    closed = gated.with_gate(replace(gated.gate, bias=torch.full((N_LAYERS,), -1e6)))
    plans = [plan, closed, plan.with_alpha(0.0), None, plan, closed, plan.with_alpha(0.0), plan]
    unsteered = wb.teacher_forced_logits(babbler, prompts, replies)
    steered = wb.teacher_forced_logits(babbler, prompts, replies, plans)
    for own, before, after in zip(plans, unsteered, steered, strict=True):
        assert torch.equal(before, after) == (own is not plan)


def test_a_row_keeps_its_reply_whatever_the_others_are(babbler: Model, prompts: wb.PromptSet) -> None:
    plan = GATED.plan(babbler, prompts)
    alone = wb.generate(babbler, prompts, max_new_tokens=8)
    among = wb.generate(babbler, prompts, plan, max_new_tokens=8)
    closed = [not completion.gate_open[1] for completion in among]
    assert 2 <= sum(closed) <= 6
    for was, now, shut in zip(alone, among, closed, strict=True):
        assert not shut or was.tokens == now.tokens


def test_twice_the_vectors_is_twice_the_strength(babbler: Model, prompts: wb.PromptSet) -> None:
    plan = replace(OPEN.plan(babbler, prompts), scale="gap", alpha=0.2)
    doubled = replace(plan, vectors=2.0 * plan.vectors)
    stronger = plan.with_alpha(0.4)
    assert torch.allclose(doubled.shift, stronger.shift, rtol=1e-6)
    assert tokens(wb.generate(babbler, prompts, doubled, max_new_tokens=8)) == tokens(
        wb.generate(babbler, prompts, stronger, max_new_tokens=8)
    )


def test_adding_what_is_subtracted(babbler: Model, prompts: wb.PromptSet) -> None:
    plan = OPEN.plan(babbler, prompts)
    assert torch.equal(replace(plan, vectors=-plan.vectors).shift, plan.with_alpha(-plan.alpha).shift)


@pytest.mark.parametrize("setting", [GATED, ONLINE], ids=["clean", "online"])
def test_batch_size_row_order_and_padding_do_not_matter(
    babbler: Model, prompts: wb.PromptSet, setting: Setting
) -> None:
    plan = setting.plan(babbler, prompts)
    expected = tokens(wb.generate(babbler, prompts, plan, max_new_tokens=8))
    for batch_size in (1, 3):
        assert (
            tokens(wb.generate(babbler, prompts, plan, max_new_tokens=8, batch_size=batch_size)) == expected
        )
    backwards = wb.PromptSet("backwards", prompts.prompts[::-1])
    assert tokens(wb.generate(babbler, backwards, plan, max_new_tokens=8)) == expected[::-1]
    # The longest prompt beside each one: as much padding as there can be.
    longest = max(prompts, key=lambda prompt: len(prompt.text))
    for prompt, reply in zip(prompts, expected, strict=True):
        if prompt is not longest:
            assert tokens(wb.generate(babbler, [prompt, longest], plan, max_new_tokens=8))[0] == reply


def test_rows_that_finish_leave_the_others_alone(babbler: Model, prompts: wb.PromptSet) -> None:
    plan = GATED.plan(babbler, prompts)
    whole = tokens(wb.generate(babbler, prompts, plan, max_new_tokens=12, stop_ids=[]))
    # Tokens from the middle of replies, so that rows stop at different steps and the batch shrinks.
    stop_ids = sorted({reply[2 + i % 3] for i, reply in enumerate(whole[:6])})
    expected = []
    for reply in whole:
        length = next((i + 1 for i, token in enumerate(reply) if token in stop_ids), len(reply))
        expected.append((reply[:length], length < len(reply) or reply[-1] in stop_ids))
    assert len({len(reply) for reply, _ in expected}) >= 3
    completions = wb.generate(babbler, prompts, plan, max_new_tokens=12, stop_ids=stop_ids)
    assert [(completion.tokens, completion.finished) for completion in completions] == expected


def test_bfloat16_stays_close(
    babblers: dict[str, Model], prompts: wb.PromptSet, replies: list[list[int]]
) -> None:
    """float32 vectors steer a bfloat16 model, with logits within 5 % of the float32 model's spread (median)."""
    exact = babblers["plain"]
    plan = OPEN.plan(exact, prompts)
    rough = copy.deepcopy(exact).to(torch.bfloat16)
    want = torch.cat(wb.teacher_forced_logits(exact, prompts, replies, plan))
    got = torch.cat(wb.teacher_forced_logits(rough, prompts, replies, plan))
    assert got.dtype == torch.bfloat16
    assert (got.float() - want).abs().median() < 0.05 * want.std()


def test_nothing_is_left_behind_after_an_exception(
    babbler: Model, prompts: wb.PromptSet, replies: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = OPEN.plan(babbler, prompts)
    before = wb.teacher_forced_logits(babbler, prompts, replies)

    def fail(self: Greedy, logits: torch.Tensor, rows: torch.Tensor, step: int) -> torch.Tensor:
        if step == 2:
            raise RuntimeError("out of memory")
        return logits.argmax(-1)

    with monkeypatch.context() as patch:
        patch.setattr(Greedy, "choose", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            wb.generate(babbler, prompts, plan, max_new_tokens=5)
    with pytest.raises(RuntimeError, match="by hand"), wb.steered(babbler, plan, prompts):
        raise RuntimeError("by hand")
    after = wb.teacher_forced_logits(babbler, prompts, replies)
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))


@pytest.mark.parametrize("name", LENSES)
def test_hooks_of_ones_own_are_honoured_and_stay(
    name: str, babblers: dict[str, Model], prompts: wb.PromptSet, replies: list[list[int]]
) -> None:
    model = babblers[name]
    plan = OPEN.plan(model, prompts)
    plain = wb.teacher_forced_logits(model, prompts, replies, plan)
    passes = []

    def own(tensor: torch.Tensor, hook: object) -> torch.Tensor:
        passes.append(tensor.shape)
        return tensor * 1.1

    model.add_hook("blocks.0.hook_resid_pre", own)
    try:
        hooked = wb.teacher_forced_logits(model, prompts, replies, plan)
        count = len(passes)
        model(torch.tensor([[1, 2, 3]]))
    finally:
        model.reset_hooks()
    assert count == max(map(len, replies))
    assert len(passes) == count + 1
    assert not torch.allclose(plain[0], hooked[0], atol=1e-3)


def test_model_and_vectors_are_not_modified(babbler: Model, prompts: wb.PromptSet) -> None:
    plan = OPEN.plan(babbler, prompts)
    weights = {name: weight.clone() for name, weight in babbler.named_parameters()}
    plan_id, state = plan.id, plan.vectors.directions.clone()
    wb.generate(babbler, prompts, plan, max_new_tokens=4)
    assert all(torch.equal(weights[name], weight) for name, weight in babbler.named_parameters())
    assert torch.equal(state, plan.vectors.directions) and replace(plan).id == plan_id
