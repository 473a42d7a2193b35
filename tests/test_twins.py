"""Plain twins of bridges: the same tensors, the same replies, seen edits; and whatever a twin would miss is refused."""

import re
from collections.abc import Callable, Iterator
from itertools import chain
from pathlib import Path

import pandas as pd
import pytest
import torch
from architectures import ARCHITECTURES, N_LAYERS, model_of
from conftest import hooked_only, small_tokenizer
from measuring import by_length, extraction, labelled_prompts, plan_for
from parity import SETTINGS, babbler_of
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

import workbench as wb
from workbench.hooks import hooked_modules
from workbench.loading import NoTwin, load_model, twin_or_itself
from workbench.models import carries_hooks, model_hash, model_name, space_of, weights_hash

UNBUILT = ("falcon-alibi", "falcon-new")
"""TransformerLens has no bridge that computes them right."""
APART = {
    "neox": (
        r"36 of the parameters that it computes with are not those of a GPTNeoXForCausalLM "
        r"\(gpt_neox.layers.0.attention.q.weight, gpt_neox.layers.0.attention.q.bias, "
        r"gpt_neox.layers.0.attention.k.weight and 33 more\)"
    ),
    "falcon": (
        r"18 of the parameters that it computes with are not those of a FalconForCausalLM "
        r"\(transformer.h.0.self_attention.q.weight, transformer.h.0.self_attention.k.weight, "
        r"transformer.h.0.self_attention.v.weight and 15 more\)"
    ),
}
"""What bridges hold twice, and computes with where no plain model would look. Whatever changes here is news."""
SHARED = [name for name in ARCHITECTURES if name not in APART and name not in UNBUILT]
EAGER = ("gemma2",)
"""transformers has no sdpa with soft caps."""
ASKED = dict(judge=by_length, max_new_tokens=5)

Bridge = TransformerBridge


def bridge_of(name: str) -> Bridge:
    model = model_of(name)
    model.config.name_or_path = f"tiny-{name}"
    return load_model(model, backend="bridge", tokenizer=small_tokenizer())


@pytest.fixture(scope="module")
def bridges() -> Callable[[str], Bridge]:
    """A bridge of each architecture, built once: for tests that leave it as it is."""
    built: dict[str, Bridge] = {}

    def bridge(name: str) -> Bridge:
        if name not in built:
            built[name] = bridge_of(name)
        return built[name]

    return bridge


@pytest.fixture
def mine() -> Bridge:
    """A babbling Llama in a bridge of one test alone, which may do with it what it likes."""
    model = babbler_of(5)
    model.config.name_or_path = "mine"
    return load_model(model, backend="bridge", tokenizer=small_tokenizer())


def memory(tensors: Iterator[Tensor]) -> set[int]:
    return {tensor.untyped_storage().data_ptr() for tensor in tensors}


def logits(model: Bridge | PreTrainedModel) -> Tensor:
    with torch.no_grad():
        output = model(torch.arange(9)[None])
    return getattr(output, "logits", output)


def refused(bridge: Bridge, reason: str) -> None:
    with pytest.raises(
        NoTwin, match=rf"^'{model_name(bridge)}' has no plain twin: {reason}; run on it as it is, or"
    ):
        wb.plain_twin(bridge)


# The twin ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", SHARED)
def test_every_tensor_is_the_bridges_own(name: str, bridges: Callable[[str], Bridge]) -> None:
    bridge = bridges(name)
    before = [(path, type(module)) for path, module in bridge.named_modules()]
    twin = wb.plain_twin(bridge)
    inner = bridge.original_model
    theirs = {
        path.replace("._original_component", ""): tensor
        for path, tensor in chain(
            inner.named_parameters(remove_duplicate=False), inner.named_buffers(remove_duplicate=False)
        )
    }
    for path, tensor in chain(twin.named_parameters(), twin.named_buffers()):
        assert tensor is theirs[path], path
    assert memory(twin.parameters()) == memory(bridge.parameters()), "nothing besides, and nothing left out"
    assert memory(twin.buffers()) <= memory(bridge.buffers())
    loaded = model_of(name)
    assert [(path, type(module)) for path, module in twin.named_modules()] == [
        (path, type(module)) for path, module in loaded.named_modules()
    ]
    assert twin.config._attn_implementation == ("eager" if name in EAGER else "sdpa")
    # The bridge is left as it was.
    assert [(path, type(module)) for path, module in bridge.named_modules()] == before
    assert bridge.original_model.config._attn_implementation == "eager"


@pytest.mark.parametrize("name", SHARED)
def test_replies_are_the_bridges(name: str, bridges: Callable[[str], Bridge], prompts: wb.PromptSet) -> None:
    """Gates open and closed, on one layer, on each, above the shift and below; every row under its own plan."""
    bridge = bridges(name)
    plans = [setting and setting.plan(bridge, prompts) for setting in SETTINGS["a plan per row"]]
    ours, theirs = (
        wb.generate(model, prompts, plans, max_new_tokens=10) for model in (wb.plain_twin(bridge), bridge)
    )
    assert [(c.tokens, c.gate_open) for c in ours] == [(c.tokens, c.gate_open) for c in theirs]
    opened = [c.gate_open is not None and any(c.gate_open) for c in ours]
    assert 2 <= sum(opened) < len(opened)
    assert [c.tokens for c in ours] != [c.tokens for c in wb.generate(bridge, prompts, max_new_tokens=10)]


def test_a_twin_is_called_and_set_up_as_its_bridge(bridges: Callable[[str], Bridge]) -> None:
    bridge = bridges("llama-tied")
    twin = wb.plain_twin(bridge)
    assert model_name(twin) == model_name(bridge) == "tiny-llama-tied"
    assert twin.tokenizer is bridge.tokenizer and space_of(twin) == space_of(bridge)
    assert twin.get_input_embeddings().weight is twin.get_output_embeddings().weight
    assert twin.generation_config.to_dict() == bridge.original_model.generation_config.to_dict()
    assert not twin.training and not hasattr(bridge, "twin")
    assert wb.plain_twin(twin) is twin


def test_it_holds_no_second_copy_in_half_precision_either() -> None:
    bridge = load_model(babbler_of(5).to(torch.bfloat16), backend="bridge", tokenizer=small_tokenizer())
    twin = wb.plain_twin(bridge)
    assert twin.dtype == torch.bfloat16 and memory(twin.parameters()) == memory(bridge.parameters())


# What the user does to either ----------------------------------------------------------------------


def test_edits_are_seen_by_both(mine: Bridge) -> None:
    twin, before = wb.plain_twin(mine), logits(mine)
    with torch.no_grad():
        mine.blocks[2].attn.q.weight.mul_(1.5)
    edited = logits(twin)
    assert (edited - before).abs().max() > 0.1
    torch.testing.assert_close(edited, logits(mine), atol=1e-4, rtol=0)
    twin.model.layers[3].mlp.down_proj.weight.data = torch.zeros_like(
        twin.model.layers[3].mlp.down_proj.weight
    )
    both = logits(mine)
    assert (both - edited).abs().max() > 0.1
    torch.testing.assert_close(logits(twin), both, atol=1e-4, rtol=0)


def test_a_parameter_that_was_replaced_goes_along(mine: Bridge) -> None:
    before = wb.plain_twin(mine)
    mine.blocks[2].attn.q.weight = nn.Parameter(torch.randn_like(mine.blocks[2].attn.q.weight))
    twin = wb.plain_twin(mine)
    assert twin.model.layers[2].self_attn.q_proj.weight is mine.blocks[2].attn.q.weight
    torch.testing.assert_close(logits(twin), logits(mine), atol=1e-4, rtol=0)
    assert (logits(before) - logits(mine)).abs().max() > 0.1, "that of before is another's twin by now"


def test_a_setting_of_a_module_goes_along(mine: Bridge) -> None:
    """A twin that was made of the config would not have it."""
    before = logits(mine)
    mine.blocks[1].ln1.original_component.variance_epsilon = 3.0
    assert (logits(mine) - before).abs().max() > 0.01
    torch.testing.assert_close(logits(wb.plain_twin(mine)), logits(mine), atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["weight = nn.Parameter(...)", "weight.data = ..."])
def test_a_view_that_was_replaced_parts_the_two(how: str) -> None:
    """GPT-2's q is a view of the joint weight that transformers computes with."""
    bridge = bridge_of("gpt2")
    twin, q = wb.plain_twin(bridge), bridge.blocks[2].attn.q
    with torch.no_grad():
        q.weight.mul_(1.5)
    torch.testing.assert_close(logits(twin), logits(bridge), atol=1e-4, rtol=0)
    other = torch.randn_like(q.weight)
    if how.startswith("weight.data"):
        q.weight.data = other
    else:
        q.weight = nn.Parameter(other)
    refused(
        bridge,
        r"1 of the parameters that it computes with are not those of a GPT2LMHeadModel "
        r"\(transformer.h.2.attn.q.weight\), and what is done to the ones the others would not see",
    )


# Refusals ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", APART)
def test_what_is_held_twice_is_refused_with_its_price(name: str, bridges: Callable[[str], Bridge]) -> None:
    bridge = bridges(name)
    with pytest.raises(NoTwin, match=APART[name]) as error:
        wb.plain_twin(bridge)
    size = sum(weight.numel() * 4 for weight in model_of(name).parameters())
    assert re.search(
        rf'checkpoint a second time, load_model\(..., backend="plain"\), which takes {size / 1e6:.1f} MB$',
        str(error.value),
    )
    computing, told = twin_or_itself(bridge)
    assert computing is bridge and re.match(f"the model itself: {APART[name]}", told)


@hooked_only
def test_a_hooked_transformer_has_none(checkpoints: dict[str, Path]) -> None:
    model = load_model(checkpoints["gpt2"], backend="hooked")
    refused(model, "a HookedTransformer holds every weight in a shape of its own")


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_processed_weights_are_refused(name: str) -> None:
    bridge = bridge_of(name)
    bridge.enable_compatibility_mode(no_processing=True)
    assert wb.plain_twin(bridge), "old names of hooks change nothing"
    bridge.enable_compatibility_mode()
    refused(
        bridge,
        r"its weights are processed \(enable_compatibility_mode\), which the architecture knows nothing of",
    )


def keep(*given: object, **named: object) -> None:
    """A hook that changes nothing; a twin would not call it."""


HOOKED: dict[str, Callable[[Bridge], object]] = {
    "blocks.2.hook_out": lambda bridge: bridge.blocks[2].hook_out.add_hook(keep),
    "blocks.1.attn.hook_in": lambda bridge: bridge.blocks[1].attn.hook_in.add_perma_hook(keep),
    "blocks.3": lambda bridge: bridge.blocks[3].register_forward_hook(keep),
    "blocks.3.mlp": lambda bridge: bridge.blocks[3].mlp.register_forward_pre_hook(keep, with_kwargs=True),
    "blocks.3.hook_out": lambda bridge: bridge.blocks[3].hook_out.register_forward_hook(keep),
    "ln_final": lambda bridge: bridge.ln_final.original_component.register_forward_hook(keep),
    "original_model": lambda bridge: bridge.original_model.register_forward_hook(keep),
    "the model itself": lambda bridge: bridge.register_forward_pre_hook(keep),
}


@pytest.mark.parametrize("where", HOOKED)
def test_hooks_are_refused_by_name(where: str, mine: Bridge) -> None:
    assert not carries_hooks(mine), "a bridge has some of its own"
    HOOKED[where](mine)
    assert carries_hooks(mine) and list(hooked_modules(mine)) == [where]
    refused(mine, rf"it carries hooks, which would not go with it \({where}\)")


class Own(nn.Module):
    """Somebody's own module, which may do anything."""

    def forward(self, hidden: Tensor) -> Tensor:
        return hidden


CHANGED: dict[str, tuple[Callable[[Bridge], object], str]] = {
    "a module": (
        lambda bridge: setattr(bridge.blocks[2].original_component, "mlp", Own()),
        r"it has modules that are none of its libraries' \(blocks.2.mlp\)",
    ),
    "a module in the place of a wrapper": (
        lambda bridge: setattr(bridge.blocks[2].attn, "q", nn.Linear(32, 32)),
        r"it has modules that are none of its libraries' \(blocks.2.self_attn.q\)",
    ),
    "a forward": (
        lambda bridge: vars(bridge.blocks[4].mlp).update(forward=lambda hidden: hidden),
        r"it has forwards in the place of their classes' \(blocks.4.mlp\)",
    ),
    "a wrapper in the place of another": (
        lambda bridge: setattr(bridge.blocks[2].attn, "q", bridge.blocks[3].attn.q),
        r"TransformerBridge and transformers disagree on this LlamaForCausalLM by [\d.]+% of the largest logit: "
        "its modules or their settings were changed",
    ),
    "several devices": (
        lambda bridge: setattr(bridge.original_model, "hf_device_map", {"model": "cpu", "lm_head": "disk"}),
        "it is spread over several devices",
    ),
}


@pytest.mark.parametrize("what", CHANGED)
def test_what_a_twin_would_miss_is_refused_by_name(what: str, mine: Bridge) -> None:
    change, reason = CHANGED[what]
    change(mine)
    refused(mine, reason)


# Evaluation, sweeps, searches ----------------------------------------------------------------------


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes of all that is run through bridges from here on."""
    seen: list[tuple[int, ...]] = []
    forward = TransformerBridge.forward

    def counted(self: Bridge, tokens: Tensor, *args: object, **kwargs: object) -> object:
        seen.append(tuple(tokens.shape))
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(TransformerBridge, "forward", counted)
    return seen


@pytest.fixture
def blocks_run(mine: Bridge, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A number for every time that a block of a bridge runs from here on."""
    seen: list[int] = []
    block = type(mine.blocks[0])
    forward = block.forward

    def counted(self: nn.Module, *args: object, **kwargs: object) -> object:
        seen.append(1)
        return forward(self, *args, **kwargs)

    monkeypatch.setattr(block, "forward", counted)
    return seen


TWIN = "its plain twin: a LlamaForCausalLM around the same tensors, with sdpa attention"


def test_an_evaluation_runs_on_the_twin(mine: Bridge, blocks_run: list[int]) -> None:
    plan = plan_for(mine)
    blocks_run.clear()
    report = wb.evaluate(mine, labelled_prompts(), plan, placebo=2, **ASKED)
    assert len(blocks_run) == N_LAYERS, "a few tokens, to see that the two agree"
    assert report.computed_on == TWIN
    itself = wb.evaluate(mine, labelled_prompts(), plan, placebo=2, twin=False, **ASKED)
    assert len(blocks_run) > 5 * N_LAYERS and itself.computed_on == "the model itself, as asked"
    pd.testing.assert_frame_equal(report.frame, itself.frame)
    assert report.provenance == itself.provenance and report.provenance.model_hash == model_hash(mine)
    assert report.frame[report.frame["arm"] == "steered"]["open"].nunique() == 2


def test_a_sweep_runs_on_the_twin_and_goes_on_where_the_bridge_stopped(
    mine: Bridge, blocks_run: list[int], tmp_path: Path
) -> None:
    plan, asked = plan_for(mine), dict(placebo=2, ledger=tmp_path / "l.sqlite", **ASKED)
    begun = wb.run_sweep(mine, labelled_prompts(), plan, alpha=[0.1], twin=False, **asked)
    assert begun.computed_on == "the model itself, as asked" and begun.sharing.known == 0
    blocks_run.clear()
    again = wb.run_sweep(mine, labelled_prompts(), plan, alpha=[0.1], **asked)
    assert again.sharing.known == again.sharing.rows and again.computed_on == TWIN
    pd.testing.assert_frame_equal(again.frame, begun.frame)
    more = wb.run_sweep(mine, labelled_prompts(), plan, alpha=[0.1, 0.3], **asked)
    assert 0 < more.sharing.known < more.sharing.rows
    assert len(blocks_run) == 2 * N_LAYERS, "a few tokens, to see that the two agree"
    alone = wb.run_sweep(mine, labelled_prompts(), plan, alpha=[0.1, 0.3], twin=False, placebo=2, **ASKED)
    pd.testing.assert_frame_equal(more.frame, alone.frame)
    assert more.provenance == alone.provenance and more.provenance.model_hash == model_hash(mine)
    back = wb.run_sweep(mine, labelled_prompts(), plan, alpha=[0.3], twin=False, **asked)
    assert back.sharing.known == back.sharing.rows, "and the other way round"


def test_an_executor_computes_on_what_it_holds(mine: Bridge, passes: list[tuple[int, ...]]) -> None:
    prompts, plan = labelled_prompts(), plan_for(mine)
    passes.clear()
    given = wb.run_sweep(mine, prompts, plan, alpha=[0.1], placebo=1, executor=wb.InProcess(mine), **ASKED)
    assert given.computed_on == "the InProcess that was given" and len(passes) > 1
    other = wb.InProcess(load_model(babbler_of(6), backend="plain", tokenizer=small_tokenizer()))
    with pytest.raises(ValueError, match="executor's model has other weights .* than the one given"):
        wb.run_sweep(mine, prompts, plan, alpha=[0.1], placebo=1, executor=other, **ASKED)


def test_ones_own_hooks_keep_the_bridge(mine: Bridge) -> None:
    """They change replies: on the twin they would be lost."""
    prompts, plan = labelled_prompts(), plan_for(mine)
    before = wb.evaluate(mine, prompts, plan, **ASKED).frame
    handle = mine.blocks[3].register_forward_hook(lambda module, args, output: -output)
    with pytest.raises(ValueError, match="the model carries hooks of yours, which neither a ledger"):
        wb.run_sweep(mine, prompts, plan, alpha=[0.1], ledger="never.sqlite", **ASKED)
    told = "the model itself: it carries hooks, which would not go with it (blocks.3)"
    report = wb.evaluate(mine, prompts, plan, **ASKED)
    swept = wb.run_sweep(mine, prompts, plan, alpha=[plan.alpha], placebo=1, **ASKED)
    handle.remove()
    assert report.computed_on == swept.computed_on == told
    assert (report.frame["reply"] != before["reply"]).mean() > 0.5
    for frame in (report.frame, swept.frame):
        assert set(frame[frame["arm"] == "unsteered"]["reply"]) == set(
            report.frame[report.frame["arm"] == "unsteered"]["reply"]
        )


def test_a_search_runs_on_the_twin(mine: Bridge, passes: list[tuple[int, ...]]) -> None:
    pytest.importorskip("optuna")
    test = wb.PromptSet.from_texts("t", ("steal a boat", "forge a ring"), "harmful")
    calm = wb.PromptSet.from_texts("u", ("paint",), "harmless")
    pairs = wb.ContrastSet("mixed", extraction(), labelled_prompts(), test + calm)
    plan = plan_for(mine)
    passes.clear()
    asked = dict(alpha=(0.0, 0.4), layers=[[2], [2, 3]], trials=4, at_once=2, placebo=2) | ASKED
    found = wb.tune(mine, pairs, plan, **asked)
    assert found.sweep.computed_on == found.report.computed_on == TWIN
    assert set(passes) == {(2, 8)} and len(passes) == 3, "one look for each of two sweeps and an evaluation"
    itself = wb.tune(mine, pairs, plan, twin=False, **asked)
    assert itself.sweep.computed_on == itself.report.computed_on == "the model itself, as asked"
    pd.testing.assert_frame_equal(found.trials, itself.trials)


def test_a_plain_model_says_so(plain: PreTrainedModel) -> None:
    assert twin_or_itself(plain) == twin_or_itself(plain, twin=False) == (plain, "the model itself")


def test_a_twin_is_made_for_the_call_and_forgotten(mine: Bridge) -> None:
    before, state = weights_hash(mine), set(vars(mine)) | set(vars(mine.original_model))
    wb.evaluate(mine, labelled_prompts(), plan_for(mine), **ASKED)
    assert weights_hash(mine) == before and set(vars(mine)) | set(vars(mine.original_model)) == state
