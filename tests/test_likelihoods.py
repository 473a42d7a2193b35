"""Likelihoods in one pass: what the token-by-token loop says, on every backend, under every kind of plan."""

from dataclasses import replace

import pytest
import torch

import workbench as wb
from workbench.decoding.asking import rows_of
from workbench.likelihoods import continuation_logits, likelihoods
from workbench.loading import Model


@pytest.fixture(scope="module")
def plan(llamas: dict[str, Model], prompts: wb.PromptSet) -> wb.SteeringPlan:
    """A plan at two layers whose gate, above the first of them, opens on the harmful half."""
    read = wb.last_token_activations(llamas["plain"], prompts)
    vectors = wb.mean_difference(read)
    gate = replace(wb.ThresholdGate.fit(vectors, read), shared_layer=2)
    return wb.SteeringPlan(vectors, gate=gate, layers=[1, 3], alpha=0.5, scale="gap")


def mixed(plan: wb.SteeringPlan, n: int) -> list[wb.SteeringPlan | None]:
    """Unsteered, at all positions, at the prompt's, at the reply's, and so on."""
    kinds = [None, plan, replace(plan, positions="prompt"), replace(plan, positions="reply")]
    return [kinds[i % 4] for i in range(n)]


def continuations(n: int) -> list[list[int]]:
    """Of one to five tokens, so that every row is padded on its right but the longest."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(5, 300, (1 + i % 5,), generator=generator).tolist() for i in range(n)]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_one_pass_says_what_the_loop_says(model: Model, plan, prompts: wb.PromptSet, batch_size: int) -> None:
    plans, given = mixed(plan, len(prompts)), continuations(len(prompts))
    loop = wb.teacher_forced_logits(model, prompts, given, plans)
    rows = rows_of(model, prompts, plans, None, 5, 64)
    assert {bool(row.acts) for row in rows} == {True, False}  # or half of this would not be tested
    for i, logits in continuation_logits(model, rows, given, batch_size=batch_size):
        torch.testing.assert_close(logits, loop[i].float(), atol=2e-4, rtol=1e-4)
    for found, logits, ids in zip(
        likelihoods(model, rows, given, batch_size=batch_size), loop, given, strict=True
    ):
        expected = torch.stack([step.log_softmax(-1)[token] for step, token in zip(logits, ids, strict=True)])
        torch.testing.assert_close(found.log_probs, expected.float(), atol=2e-4, rtol=1e-4)
        assert found.total == pytest.approx(float(expected.sum()), abs=1e-3)


def test_greedy_is_what_greedy_decoding_writes(babbler: Model, prompts: wb.PromptSet) -> None:
    written = wb.generate(babbler, prompts, max_new_tokens=4)
    rows = rows_of(babbler, prompts, None, None, 4, 64)
    assert all(found.greedy for found in likelihoods(babbler, rows, [c.tokens for c in written]))
    other = [(*c.tokens[:-1], (c.tokens[-1] + 1) % 300) for c in written]
    assert not any(found.greedy for found in likelihoods(babbler, rows, other))


def test_a_context_is_decided_once_however_many_continuations_it_has(
    llamas: dict[str, Model], plan, prompts: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    import workbench.decoding.asking as asking

    read = []
    activations = asking.token_activations

    def count(model, prompts, rows, **options):
        read.extend(rows)
        return activations(model, prompts, rows, **options)

    monkeypatch.setattr(asking, "token_activations", count)
    four = [prompt for prompt in prompts for _ in range(4)]
    rows = [replace(row, opened=None) for row in rows_of(llamas["plain"], four, plan, None, 5, 64)]
    read.clear()
    likelihoods(llamas["plain"], rows, continuations(len(rows)))
    assert len(read) == len(set(read)) == len(prompts)


def test_what_cannot_be_scored_is_refused(llamas: dict[str, Model], plan, prompts: wb.PromptSet) -> None:
    model = llamas["plain"]
    rows = rows_of(model, prompts, plan, None, 5, 64)
    given = continuations(len(rows))
    with pytest.raises(ValueError, match="got 7 continuations for 8 rows: pass one for each"):
        likelihoods(model, rows, given[1:])
    with pytest.raises(ValueError, match="and 0 to score after prompt 'harmful:0', expected at least one"):
        likelihoods(model, rows, [[], *given[1:]])
    with pytest.raises(ValueError, match=r"and 64 to score after it, the context holds 64: shorten it"):
        likelihoods(model, rows, [[5] * 64, *given[1:]])
    with pytest.raises(ValueError, match="answers with a preset refusal, which no logits lead to"):
        likelihoods(model, [replace(rows[0], plan=replace(plan, refusal="No."))], given[:1])
    online = replace(plan, gate=replace(plan.gate, shared_layer=None), deciding="online")
    with pytest.raises(ValueError, match="a plan that decides online reads its gate in the very pass"):
        likelihoods(model, [replace(rows[0], plan=online, opened=None)], given[:1])
