"""Packed, shared, reserved: whatever a sweep does to be quick, every setting gets the reply that it gets alone."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import CONTEXT, LENSES, small_tokenizer
from measuring import by_length, extraction, labelled_prompts
from parity import babbler_of
from torch import nn
from transformers import DynamicCache, MistralConfig, MistralForCausalLM, PreTrainedModel

import workbench as wb
from workbench.decoding import batches, branching, passes, sharing
from workbench.decoding.asking import rows_of
from workbench.decoding.batches import decode
from workbench.decoding.caches import ReservedLayer, reserved_cache
from workbench.decoding.choosers import Forced
from workbench.decoding.replies import Reply, stop_tokens, write_replies
from workbench.decoding.sharing import shares_prompts
from workbench.generation import distinct_rows
from workbench.loading import Model
from workbench.models import blocks, n_layers
from workbench.sweep.packing import in_order, pack
from workbench.sweep.spec import SETTING

N_TOKENS = 6


def parts(model: Model) -> tuple[wb.SteeringVectors, wb.ThresholdGate, wb.ThresholdGate]:
    """Vectors of the model's own, a gate per layer and a shared one."""
    read = wb.last_token_activations(model, extraction())
    vectors = wb.mean_difference(read)
    return vectors, wb.ThresholdGate.fit(vectors, read), wb.ThresholdGate.fit(vectors, read, layer=1)


def plans_of(model: Model) -> list[wb.SteeringPlan | None]:
    """Every kind of setting, once."""
    vectors, each, shared = parts(model)
    top = n_layers(model) - 1
    base = wb.SteeringPlan(vectors, gate=shared, layers=[1, 2], alpha=0.2, scale="residual")
    other = wb.random_directions(vectors, seed=3)
    return [
        None,
        base,
        base.with_alpha(0.4),
        base.with_alpha(-0.3),
        base.with_alpha(0),
        replace(base, alpha=4.0, scale="raw"),
        replace(base, alpha=0.7, scale="gap"),
        *(base.with_layers(layers) for layers in ([0], [top], [0, top], range(top + 1))),
        replace(base, positions="prompt"),
        replace(base, positions="reply"),
        replace(base, positions="reply", layers=[0], gate=wb.AlwaysOpen()),
        base.with_gate(wb.AlwaysOpen()),
        base.with_gate(each),
        replace(base, gate=each, layers=range(top + 1)),
        base.with_gate(shared.shift_bias(0.5)),
        base.with_gate(shared.shift_bias(-0.5)),
        replace(base, vectors=other, gate=wb.AlwaysOpen()),
        replace(base, vectors=other, gate=wb.AlwaysOpen(), layers=[top], positions="prompt"),
    ]


def in_batch(model: Model) -> list[wb.Row]:
    """Every prompt under every plan."""
    prompts, plans = labelled_prompts().prompts, plans_of(model)
    asked = [prompt for prompt in prompts for _ in plans]
    return distinct_rows(rows_of(model, asked, plans * len(prompts), None, N_TOKENS, 64))


def written(model: Model, rows: Sequence[wb.Row], *, share: bool) -> dict[object, Reply]:
    found = write_replies(model, rows, max_new_tokens=N_TOKENS, stop_ids=stop_tokens(model), share=share)
    return {row.key: reply for row, reply in zip(rows, found, strict=True)}


def same_but_for_near_ties(one: dict[object, Reply], other: dict[object, Reply]) -> bool:
    """Token for token; a row with a near tie may differ, and there are few of them."""
    assert one.keys() == other.keys()
    tied = [key for key in one if one[key].near_ties or other[key].near_ties]
    assert len(tied) <= 0.1 * len(one)
    return all(one[key].tokens == other[key].tokens for key in one if key not in tied)


@pytest.fixture(scope="module")
def batch(plain: Model) -> list[wb.Row]:
    return in_batch(plain)


@pytest.fixture(scope="module")
def alone(plain: Model, batch: list[wb.Row]) -> dict[object, Reply]:
    """Every row as a batch of its own."""
    found = {}
    for row in batch:
        found |= written(plain, [row], share=False)
    assert len({reply.tokens for reply in found.values()}) > len(found) / 3, "all replies are alike"
    return found


# Equal to runs apart ------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("budget", [1, 90, 700, 10**9])
def test_every_kind_of_setting_comes_out_as_it_does_alone(plain, batch, alone, budget, share):
    found = {}
    for part in pack(batch, budget, N_TOKENS):
        found |= written(plain, part, share=share)
    assert same_but_for_near_ties(found, alone)


def test_a_whole_sweep_comes_out_as_its_settings_do_alone(babbler, backend):
    """On every backend, through the front door: axes, arms, presets and all."""
    vectors, each, shared = parts(babbler)
    plan = wb.SteeringPlan(vectors, gate=shared, layers=[1, 2], alpha=0.2, scale="residual")
    other = wb.random_directions(vectors, seed=3)
    swept = wb.run_sweep(
        babbler, labelled_prompts(), plan, alpha={"residual": [0.2], "raw": [4]}, layers=[[1, 2], [5]],
        positions=["all", "reply"], gates={"each": each, "shared": shared}, bias=[0, 0.5], placebo=2,
        vectors={"own": vectors, "other": other}, judge=by_length, max_new_tokens=N_TOKENS,
    )  # fmt: skip
    frame = swept.frame[swept.frame["arm"] == "steered"]
    groups = list(frame.groupby(SETTING, sort=False))
    assert len(groups) == len(swept.spec.settings) == 64
    for tags, group in random.Random(0).sample(groups, 10):
        setting = wb.Setting.from_tags(dict(zip(SETTING, tags, strict=True)))
        told = wb.generate(babbler, labelled_prompts(), swept.spec.at(setting), max_new_tokens=N_TOKENS)
        for (_, row), completion in zip(group.sort_values("prompt").iterrows(), told, strict=True):
            if not row["near_ties"] and not completion.near_ties:
                assert row["reply"] == completion.text, (tags, row["prompt"])
                assert row["finished"] == completion.finished


def test_online_plans_and_presets_go_through_a_sweep(plain):
    vectors, each, _ = parts(plain)
    online = wb.SteeringPlan(
        vectors, gate=each, layers=[1, 2, 4], alpha=0.2, scale="residual", deciding="online"
    )
    preset = replace(online, deciding="clean", refusal="no i cannot")
    for plan in (online, preset):
        swept = wb.run_sweep(
            plain, labelled_prompts(), plan, alpha=[0.2, -0.3], placebo=1, judge=by_length, max_new_tokens=5
        )
        for alpha in (0.2, -0.3):
            frame = swept.frame[(swept.frame["arm"] == "steered") & (swept.frame["alpha"] == alpha)]
            told = wb.generate(plain, labelled_prompts(), plan.with_alpha(alpha), max_new_tokens=5)
            assert frame.sort_values("prompt")["reply"].tolist() == [reply.text for reply in told]
            opened = [any(reply.gate_open[layer] for layer in plan.layers) for reply in told]
            assert frame.sort_values("prompt")["open"].tolist() == opened
            assert any(opened) and not all(opened)


def test_batches_do_not_depend_on_the_order_of_rows(plain, batch):
    shuffled = list(batch)
    random.Random(1).shuffle(shuffled)
    keys = [[row.key for row in part] for part in pack(batch, 500, N_TOKENS)]
    assert keys == [[row.key for row in part] for part in pack(shuffled, 500, N_TOKENS)]
    assert [key for part in keys for key in part] == [row.key for row in in_order(batch)]


@pytest.mark.parametrize("budget", [1, 90, 700, 10**9])
def test_batches_hold_every_row_once_within_the_budget(batch, budget):
    found = list(pack(batch, budget, N_TOKENS))
    assert sorted(id(row) for part in found for row in part) == sorted(map(id, batch))
    for part in found:
        tokens = len(part) * (max(len(row.ids) for row in part) + N_TOKENS)
        assert tokens <= budget or len(part) == 1
    assert list(pack([], budget, N_TOKENS)) == []


# Shared lower layers ------------------------------------------------------------------------------


def logits_of(model: Model, rows: Sequence[wb.Row], *, share: bool) -> torch.Tensor:
    """The logits of some forced tokens, row by row."""
    generator = torch.Generator().manual_seed(0)
    chooser = Forced(torch.randint(2, 300, (len(rows), 4), generator=generator))
    decode(model, rows, chooser, 4, share=share)
    return torch.stack(chooser.logits, 1).float()


def error_of(model: Model, rows: Sequence[wb.Row]) -> float:
    """How far sharing is from computing every row from its first token on, relative to the largest logit."""
    apart = logits_of(model, rows, share=False)
    return float((logits_of(model, rows, share=True) - apart).abs().max() / apart.abs().max())


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "neox", "gpt2"])
def test_four_architectures(checkpoints: dict[str, Path], architecture: str) -> None:
    """Where a model shares, its logits are its own; where it does not, the sweep goes without."""
    model = wb.load_model(checkpoints[architecture], backend="plain")
    rows = in_batch(model)
    shares = shares_prompts(model)
    assert shares or architecture not in ("llama", "qwen2")
    if shares:
        assert error_of(model, rows) < 1e-5
    plan = next(plan for plan in plans_of(model) if plan is not None)
    swept = wb.run_sweep(
        model, labelled_prompts(), plan, alpha=[0.2, 0.4], placebo=1, judge=by_length, max_new_tokens=4
    )
    frame = swept.frame[(swept.frame["arm"] == "steered") & (swept.frame["alpha"] == 0.4)]
    told = wb.generate(model, labelled_prompts(), plan.with_alpha(0.4), max_new_tokens=4)
    for (_, row), completion in zip(frame.sort_values("prompt").iterrows(), told, strict=True):
        assert row["near_ties"] or completion.near_ties or row["reply"] == completion.text


def test_rows_that_share_have_their_own_logits(plain, batch):
    assert error_of(plain, batch) < 1e-5


@pytest.mark.parametrize("kept", ["one prompt", "prompts of one length", "one row"])
def test_few_rows_share_as_well(plain, batch, kept):
    if kept == "one prompt":
        rows = [row for row in batch if row.ids == batch[0].ids]
    elif kept == "prompts of one length":
        width = max({len(row.ids) for row in batch}, key=[len(row.ids) for row in batch].count)
        rows = [row for row in batch if len(row.ids) == width]
        assert len({row.ids for row in rows}) > 1
    else:
        rows = batch[5:6]
    assert error_of(plain, rows) < 1e-5


def test_in_bfloat16_within_its_precision(plain):
    half = wb.load_model(babbler_of(5).to(torch.bfloat16), backend="plain", tokenizer=small_tokenizer())
    assert shares_prompts(half) and error_of(half, in_batch(half)) < 0.05


def test_a_sliding_window_is_kept(plain):
    torch.manual_seed(0)
    model = MistralForCausalLM(
        MistralConfig(
            vocab_size=360, hidden_size=32, intermediate_size=48, num_hidden_layers=4, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=CONTEXT, sliding_window=5, bos_token_id=0, eos_token_id=1,
        )
    )  # fmt: skip
    model = wb.load_model(model, backend="plain", tokenizer=small_tokenizer())
    assert max(len(row.ids) for row in in_batch(model)) > 2 * 5
    if shares_prompts(model):
        assert error_of(model, in_batch(model)) < 1e-5
    told = [wb.generate(model, [p], max_new_tokens=4)[0] for p in labelled_prompts()]
    packed = wb.generate(model, labelled_prompts(), max_new_tokens=4)
    assert [r.tokens for r in told] == [r.tokens for r in packed]


def test_rows_that_end_at_the_first_token(plain, batch):
    """Every reply is over at once: nothing is left to decode."""
    first = {row.key: reply.tokens[0] for row, reply in zip(batch, _replies(plain, batch, []), strict=True)}
    found = _replies(plain, batch, sorted(set(first.values())))
    assert all(reply.tokens == (first[row.key],) for row, reply in zip(batch, found, strict=True))
    assert all(reply.finished for reply in found)


def _replies(model: Model, rows: Sequence[wb.Row], stop: list[int]) -> list[Reply]:
    return write_replies(model, rows, max_new_tokens=N_TOKENS, stop_ids=stop, share=True)


def test_plans_at_another_site_are_computed_apart(plain):
    """What is added before a block cannot branch off after the one below: such a batch goes without sharing."""
    read = wb.last_token_activations(plain, extraction(), site="resid_pre")
    plan = wb.SteeringPlan(
        wb.mean_difference(read), gate=wb.AlwaysOpen(), layers=[3], alpha=0.3, scale="residual"
    )
    prompts = labelled_prompts().prompts
    plans = [plan, plan.with_alpha(0.1), None]
    rows = rows_of(plain, [p for p in prompts for _ in plans], plans * len(prompts), None, 4, 64)
    assert error_of(plain, rows) == 0.0


# Models that cannot share -------------------------------------------------------------------------


def test_others_than_transformers_models_do_not_share(babblers):
    assert shares_prompts(babblers["plain"])
    assert not any(shares_prompts(babblers[name]) for name in LENSES)


@pytest.mark.parametrize("where", ["a block", "inside a block", "the embedding", "the model"])
def test_a_hook_of_somebody_else_is_honoured(where):
    model = wb.load_model(babbler_of(5), backend="plain", tokenizer=small_tokenizer())
    module = {
        "a block": blocks(model)[2],
        "inside a block": blocks(model)[2].mlp,
        "the embedding": model.get_input_embeddings(),
        "the model": model,
    }[where]
    assert shares_prompts(model)
    handle = module.register_forward_hook(lambda module, args, output: None)
    assert not shares_prompts(model)
    handle.remove()
    assert shares_prompts(model)


class _Moody(nn.Module):
    """A block that is given something per text under a name of its own: how much it listens to its input."""

    def __init__(self, block: nn.Module, moods: Callable[[], torch.Tensor]) -> None:
        super().__init__()
        self.block, self.moods = block, moods

    def forward(self, hidden_states: torch.Tensor, **given: object) -> torch.Tensor:
        mood = self.moods()
        return self.block(hidden_states * (mood if len(mood) == len(hidden_states) else mood.mean()), **given)


def test_a_model_with_something_per_row_under_another_name_is_refused():
    model = wb.load_model(babbler_of(5), backend="plain", tokenizer=small_tokenizer())
    seen: list[torch.Tensor] = []
    forward = model.model.forward

    def keep_ids(input_ids: torch.Tensor, **given: object) -> object:
        seen[:] = [1 + 0.1 * input_ids[:, -1:, None].remainder(5)]
        return forward(input_ids=input_ids, **given)

    model.model.forward = keep_ids
    for i, block in enumerate(model.model.layers):
        model.model.layers[i] = _Moody(block, lambda: seen[0])
    assert not shares_prompts(model)


# Mutants ------------------------------------------------------------------------------------------


def joins_late(patch: pytest.MonkeyPatch) -> None:
    move_joins(patch, 1)


def joins_early(patch: pytest.MonkeyPatch) -> None:
    """One layer too early costs work and changes nothing; with the shift there, too, it does."""
    move_joins(patch, -1)
    add = branching._take_and_add

    def below(branch: branching.Branching, shift: wb.Shift, layer: int) -> object:
        moved = replace(shift, layers=tuple(max(0, steered - 1) for steered in shift.layers))
        return add(branch, moved, layer)

    patch.setattr(branching, "_take_and_add", below)


def move_joins(patch: pytest.MonkeyPatch, by: int) -> None:
    branch = branching.branch

    def moved(shift: wb.Shift, prompts: Sequence[int], depth: int) -> branching.Branching:
        found = branch(shift, prompts, depth)
        return replace(found, joins=tuple(min(max(0, join + by), depth - 1) for join in found.joins))

    patch.setattr(batches, "branch", moved)


def cache_not_spread(patch: pytest.MonkeyPatch) -> None:
    """Every row goes on from the keys and values of the first prompt."""

    def first(self: branching.Branching, layer: int) -> list[int]:
        return [0] * len(self.joins)

    patch.setattr(branching.Branching, "kept", first)


def mask_not_cut(patch: pytest.MonkeyPatch) -> None:
    """Every state sees the mask of the first prompt."""
    cut = branching._cut_by_row
    patch.setattr(branching, "_cut_by_row", lambda prompts: cut([0] * len(prompts)))


def mask_not_spread(patch: pytest.MonkeyPatch) -> None:
    spread = passes.TransformersPasses.spread

    def unspread(self: passes.TransformersPasses, branch: branching.Branching) -> None:
        spread(self, branch)
        self.mask = torch.ones_like(self.mask)

    patch.setattr(passes.TransformersPasses, "spread", unspread)


@pytest.mark.parametrize("mutate", [joins_late, joins_early, cache_not_spread, mask_not_cut, mask_not_spread])
def test_a_mistake_in_sharing_is_seen(plain, batch, monkeypatch, mutate):
    """By the comparison here, and by the trial that a model's blocks must pass."""
    mutate(monkeypatch)
    assert error_of(plain, batch) > 1e-3
    assert not shares_prompts(plain)


def test_the_trial_shares(plain, monkeypatch):
    """It would prove nothing if the rows it tries were computed apart."""
    seen = []
    begin = batches._begin_shared
    monkeypatch.setattr(batches, "_begin_shared", lambda *given: seen.append(begin(*given)) or seen[-1])
    assert sharing.shares_prompts(plain) and len(seen) == 1 and seen[0] is not None


# Reserved caches ----------------------------------------------------------------------------------


def test_a_reserved_cache_holds_what_a_dynamic_one_holds(plain: PreTrainedModel) -> None:
    generator = torch.Generator().manual_seed(0)
    reserved, dynamic = reserved_cache(plain, 12), DynamicCache(config=plain.config)
    assert {type(layer) for layer in reserved.layers} == {ReservedLayer}
    n = 4
    for step, kept in ((5, None), (1, None), (1, [3, 1]), (1, None), (1, [1, 1, 0]), (2, None)):
        for layer in range(n_layers(plain)):
            keys, values = torch.randn(2, n, 2, step, 8, generator=generator).unbind()
            for one, other in zip(
                reserved.update(keys, values, layer), dynamic.update(keys, values, layer), strict=True
            ):
                assert torch.equal(one, other)
        assert reserved.get_seq_length() == dynamic.get_seq_length()
        if kept is not None:
            for cache in (reserved, dynamic):
                cache.batch_select_indices(torch.tensor(kept))
            n = len(kept)


def test_a_layer_that_holds_nothing_is_passed_over() -> None:
    ReservedLayer(4).batch_select_indices(torch.tensor([0, 0]))


def test_logits_are_those_without_a_cache(plain, batch):
    """Step by step over growing texts: the reserved cache against no cache at all."""
    row = batch[0]
    told = write_replies(plain, [row], max_new_tokens=N_TOKENS, stop_ids=[], share=False)[0].tokens
    ids = list(row.ids)
    for token in told:
        with torch.no_grad():
            assert int(plain(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()) == token
        ids.append(token)
