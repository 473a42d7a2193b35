"""`verify` says so where steering runs as planned, and says where, and by how much, it does not."""

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from conftest import BACKENDS, hooked_only, small_tokenizer
from parity import N_LAYERS, Setting, babbler_of
from test_mutants import MUTANTS
from torch import Tensor, nn
from transformers import PreTrainedModel

import workbench as wb
from workbench.decoding import batches
from workbench.loading import Model, load_model
from workbench.models import blocks, carries_hooks, hook_name
from workbench.verification import ways
from workbench.verification.verdict import TOLERANCE

WAYS = ["batched", "one by one", "whole texts", "sharing prompts", "generate"]
SHARED = Setting(0.15, (1, 2, 4), gate=1)
SETTINGS = {
    "shared gate": SHARED,
    "gate per layer": Setting(0.15, (1, 2, 4), gate="each"),
    "gate above": Setting(0.2, (2, 3), gate=5),
    "last layer": Setting(0.2, (0, 5), gate=0),
    "prompt only": Setting(0.2, (0, 3), gate=0, positions="prompt"),
    "reply only": Setting(0.2, (1, 3), gate=0, positions="reply"),
    "online": Setting(-0.15, (0, 1, 2, 3, 4, 5), gate="each", deciding="online"),
    "no gate": Setting(0.1, (2,), gate="open"),
}


def few_of(prompts: wb.PromptSet) -> wb.PromptSet:
    """Three prompts, at least one of each kind."""
    return wb.PromptSet("few", (prompts[0], prompts[3], prompts[4]))


@pytest.fixture(scope="module")
def few(prompts: wb.PromptSet) -> wb.PromptSet:
    return few_of(prompts)


def plain_copy(plain: PreTrainedModel) -> PreTrainedModel:
    """A model to plant a fault in."""
    return copy.deepcopy(plain)


def verified(model: Model, prompts: wb.PromptSet, setting: Setting = SHARED, **asked: Any) -> wb.Verification:
    return wb.verify(model, setting.plan(model, prompts), few_of(prompts), max_new_tokens=4, **asked)


def with_hooks(model: Model, known: dict[str, nn.Module]) -> None:
    """The bridge takes these for its hook points."""
    model.__class__ = type("Bridge", (type(model),), {"hook_dict": property(lambda self: known)})


@pytest.mark.parametrize("name", SETTINGS)
def test_a_sound_model_is_found_sound(name: str, plain: PreTrainedModel, prompts: wb.PromptSet) -> None:
    setting = SETTINGS[name]
    found = verified(plain, prompts, setting, backends=["plain", "bridge"] if name != "shared gate" else None)
    assert found.holds, found.faults
    found.require()
    backends = ["plain", "bridge"] if name != "shared gate" else [*reversed(BACKENDS)]
    assert list(found.comparisons.backend.unique()) == backends
    assert set(found.refused) == (set() if name != "shared gate" else {"hooked"} - {*BACKENDS})
    for backend, rows in found.comparisons.groupby("backend"):
        assert list(rows.way) == [way for way in WAYS if way != "sharing prompts" or backend == "plain"]
    assert found.comparisons.relative.max() < 1e-5 and found.comparisons.flips.sum() == 0
    assert found.comparisons.decisions.sum() == 0 and found.effect > 0.01
    assert not carries_hooks(plain)


def test_what_arrives_is_the_shift_at_its_layers_and_nothing_elsewhere(
    plain: PreTrainedModel, prompts: wb.PromptSet
) -> None:
    plan = SHARED.plan(plain, prompts)
    shifts = verified(plain, prompts).shifts
    opened, closed = shifts[shifts.gate == "open"], shifts[shifts.gate == "closed"]
    assert set(opened.layer) == {1, 2, 4} and set(closed.layer) == set(range(N_LAYERS))
    assert set(opened.part) == {"prompt", "reply"} and set(opened.backend) == {*BACKENDS}
    assert (closed.most == 0).all() and (closed.planned == 0).all()
    lengths = dict(zip(plan.layers, plan.strengths.tolist(), strict=True))
    for row in opened.itertuples():
        assert row.planned == pytest.approx(lengths[row.layer], rel=1e-5)
        assert row.least == pytest.approx(row.planned, rel=1e-4)
        assert row.most == pytest.approx(row.planned, rel=1e-4)


def test_positions_are_seen_apart(plain: PreTrainedModel, prompts: wb.PromptSet) -> None:
    for positions in ("prompt", "reply"):
        shifts = verified(plain, prompts, SETTINGS[f"{positions} only"], backends=["plain"]).shifts
        assert set(shifts[shifts.gate == "open"].part) == {positions}
        assert (shifts[shifts.part != positions].most == 0).all()


def test_a_gate_that_never_opens_is_held_open(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    plan = SHARED.plan(plain, prompts)
    gate = replace(plan.gate, bias=plan.gate.bias - 1e4)
    found = wb.verify(plain, plan.with_gate(gate), few, backends=["plain"])
    assert found.holds and (found.shifts.gate == "open").any()
    assert found.notes == ("the gate opens on none of 3 prompts: it was held open instead",)
    found = wb.verify(plain, plan.with_gate(replace(gate, bias=gate.bias + 2e4)), few, backends=["plain"])
    assert found.holds and found.notes == ("the gate opens on all 3 prompts: add some that it leaves alone",)


@hooked_only
def test_a_hooked_transformer_is_held_against_itself(
    babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    found = verified(babblers["hooked"], prompts)
    assert found.holds, found.faults
    assert list(found.comparisons.backend.unique()) == ["hooked"]
    assert found.refused["plain"] == (
        "the model is loaded as 'hooked': load its checkpoint with backend=\"plain\""
    )


def test_a_bridge_is_held_against_its_plain_twin(babblers: dict[str, Model], prompts: wb.PromptSet) -> None:
    """Where it has one: hooks of its user's keep the bridge by itself, and the report says so."""
    bridge = babblers["bridge"]
    found = verified(bridge, prompts)
    assert found.holds, found.faults
    assert (
        list(found.comparisons.backend.unique()) == list(found.shifts.backend.unique()) == ["bridge", "plain"]
    )
    assert found.notes[0] == "plain is the bridge's twin: the same tensors in a transformers model"
    assert "(bridge, plain; float32)" in found.verdict and set(found.refused) == {"hooked"}
    handle = bridge.blocks[3].mlp.register_forward_hook(lambda module, args, output: output * 1.5)
    try:
        alone = verified(bridge, prompts)
    finally:
        handle.remove()
    assert alone.holds, alone.faults
    assert list(alone.comparisons.backend.unique()) == ["bridge"] and not set(alone.notes) & set(
        found.notes[:1]
    )
    assert "it carries hooks, which would not go with it (blocks.3.mlp)" in alone.refused["plain"]


def test_hooks_of_ones_own_stay_with_their_model(plain: PreTrainedModel, prompts: wb.PromptSet) -> None:
    handle = blocks(plain)[3].register_forward_hook(lambda module, args, output: output * 1.5)
    try:
        found = verified(plain, prompts)
    finally:
        handle.remove()
    assert found.holds, found.faults
    assert set(found.refused) == {"bridge", "hooked"} and "hooks of its own" in found.refused["bridge"]


# What does not run, planted.


class Bypassing:
    """A block whose hooks never run: it calls its forward by itself."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)


class Ignoring(nn.Module):
    """A wrapper whose hooks run, and whose caller gets what it gave before them."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        self.kept = self.inner(*args, **kwargs)
        return self.kept

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        super().__call__(*args, **kwargs)
        return self.kept


def test_hooks_that_are_never_reached(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    plan, model = SHARED.plan(plain, prompts), plain_copy(plain)
    block = blocks(model)[2]
    block.__class__ = type("Block", (Bypassing, type(block)), {})
    found = wb.verify(model, plan, few)
    assert found.faults == ("plain, layer 2, prompt: no hook on it is ever reached, or not in every pass",)
    assert found.verdict.startswith("Steering does not run as planned on babbler: plain, layer 2")
    with pytest.raises(
        ValueError, match="steering does not run as planned on babbler: plain, layer 2, prompt"
    ):
        found.require()


def test_a_wrapper_that_ignores_what_hooks_return(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    plan, model = SHARED.plan(plain, prompts), plain_copy(plain)
    blocks(model)[2] = Ignoring(blocks(model)[2])
    found = wb.verify(model, plan, few, backends=["plain"])
    bad = found.shifts[~found.shifts.holds]
    assert set(bad.layer) == {2} and set(bad.gate) == {"open"} and (bad.most == 0).all()
    assert found.faults[0].startswith("plain, layer 2, prompt: nothing of the shift of")


def test_a_block_that_takes_no_notice_of_its_input(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    """What arrives is as planned, and nobody reads it: only the effect tells."""
    plan, model = SETTINGS["no gate"].plan(plain, prompts), plain_copy(plain)
    inner, following = blocks(model)[2].forward, blocks(model)[3].forward
    kept: list[Tensor] = []

    def give(*args: Any, **kwargs: Any) -> Tensor:
        kept[:] = [inner(*args, **kwargs)]
        return kept[0]

    blocks(model)[2].forward = give
    blocks(model)[3].forward = lambda residual, **kwargs: following(
        kept[0] if len(kept[0]) == len(residual) else residual, **kwargs
    )
    found = wb.verify(model, plan, few, backends=["plain"])
    assert found.shifts.holds.all() and found.effect == 0 and found.faults[0] == "no shift changes any logit"


def test_a_bridge_whose_hook_point_is_passed_by(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    model = load_model(plain, backend="bridge")
    plan = SHARED.plan(model, prompts)
    blocks(model)[4]._apply_output_hook = lambda output, **kwargs: output
    found = wb.verify(model, plan, few)
    assert found.faults[0].startswith("bridge, layer 4, prompt: nothing of the shift of")
    with pytest.raises(
        ValueError, match="no hook was reached at layer 4 of 'babbler': these blocks do not run as"
    ):
        wb.last_token_activations(model, few)


def test_a_bridge_that_drops_what_its_hooks_return(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    model = load_model(plain, backend="bridge")
    plan, block = SHARED.plan(model, prompts), blocks(model)[4]
    block._apply_output_hook = lambda output, **kwargs: (block.hook_out(output), output)[1]
    found = wb.verify(model, plan, few)
    assert found.faults[0].startswith("bridge, layer 4, prompt: nothing of the shift of")
    # The loop's own hook is on the block itself: it shows what the bridge does not do, and its twin does.
    held = found.comparisons.groupby("backend").holds
    assert not held.any()["bridge"] and held.all()["plain"]


def test_a_bridge_whose_hook_names_are_off_by_one(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    model = load_model(plain, backend="bridge")
    plan = SHARED.plan(model, prompts)
    known = dict(model.hook_dict)
    known |= {hook_name(layer): known[hook_name(layer + 1)] for layer in range(N_LAYERS - 1)}
    with_hooks(model, known)
    found = wb.verify(model, plan, few)
    assert not found.holds
    moved = found.shifts[(found.shifts.gate == "closed") & (found.shifts.most > 0)]
    held = found.comparisons.groupby("backend").holds
    assert set(moved.backend) == {"bridge"} and not held.any()["bridge"] and held.all()["plain"]


def test_a_model_that_writes_with_other_modules(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    """As where a compiled or offloaded copy takes over once there are keys and values to go on from."""
    plan, model = SHARED.plan(plain, prompts), plain_copy(plain)
    body, other, forward = model.model, copy.deepcopy(plain.model), model.model.forward

    def run(*args: Any, past_key_values: Any = None, **kwargs: Any) -> Any:
        written = past_key_values is not None and past_key_values.get_seq_length() > 0
        return (other.forward if written else forward)(*args, past_key_values=past_key_values, **kwargs)

    body.forward = run
    found = wb.verify(model, plan, few, backends=["plain"])
    bad = found.shifts[~found.shifts.holds]
    assert set(bad.part) == {"reply"} and bad.most.isna().all()
    ways = found.comparisons.set_index("way").holds
    assert ways["whole texts"] and not ways["batched"] and not ways["generate"]


def test_hooks_on_the_wrong_layer(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, attach = SHARED.plan(plain, prompts), batches.residual_hooks
    for room in (batches, ways):
        monkeypatch.setattr(
            room,
            "residual_hooks",
            lambda model, site, fns: attach(model, site, {layer + 1: fn for layer, fn in fns.items()}),
        )
    found = wb.verify(plain, plan, few, backends=["plain"])
    bad = found.shifts[~found.shifts.holds]
    assert set(bad[bad.gate == "open"].layer) == {1, 2, 4}
    assert {3, 5} <= set(bad[bad.gate == "closed"].layer)
    assert not found.comparisons.holds.any()


def test_something_else_that_moves_the_residual(
    plain: PreTrainedModel, prompts: wb.PromptSet, few: wb.PromptSet
) -> None:
    plan = SHARED.plan(plain, prompts)
    handle = blocks(plain)[4].register_forward_pre_hook(lambda module, args: (args[0] + 0.1, *args[1:]))
    try:
        found = wb.verify(plain, plan, few)
    finally:
        handle.remove()
    assert found.faults[0].startswith("plain, layer 3, prompt: the residual is moved by 0.566 where nothing")
    assert found.comparisons.holds.all()  # every way does the same


@pytest.mark.parametrize("name", MUTANTS)
def test_every_mutant_is_noticed(
    name: str,
    plain: PreTrainedModel,
    prompts: wb.PromptSet,
    few: wb.PromptSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plan = SHARED.plan(plain, prompts)
    MUTANTS[name](monkeypatch)
    assert not wb.verify(plain, plan, few, backends=["plain"], max_new_tokens=4).holds


# What cannot be verified.


def test_plans_that_do_nothing_here_are_refused(plain: PreTrainedModel, prompts: wb.PromptSet) -> None:
    plan = SHARED.plan(plain, prompts)
    refusals: dict[str, Callable[[], object]] = {
        r"shifts nothing \(alpha=0, scale='residual'\), expected one that does": lambda: wb.verify(
            plain, plan.with_alpha(0), prompts
        ),
        "a preset refusal, for which nothing is added: there is nothing to verify": lambda: wb.verify(
            plain, replace(plan, refusal="No."), prompts
        ),
        "whose vectors are at resid_pre, expected resid_post": lambda: wb.verify(
            plain, SHARED.plan(plain, prompts, site="resid_pre"), prompts
        ),
        "got max_new_tokens=1, expected 2 or more": lambda: wb.verify(plain, plan, prompts, max_new_tokens=1),
        r"got backends=\[\], expected some of 'plain', 'bridge', 'hooked'": lambda: wb.verify(
            plain, plan, prompts, backends=[]
        ),
    }
    for message, attempt in refusals.items():
        with pytest.raises(ValueError, match=message):
            attempt()


def test_a_backend_that_was_asked_for_and_cannot_be_is_an_error(
    babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    with pytest.raises(
        ValueError, match="asked for can be verified: hooked: the model is loaded as 'bridge'"
    ):
        verified(babblers["bridge"], prompts, backends=["hooked"])


@hooked_only
def test_vectors_of_other_weight_processing_are_refused(
    plain: PreTrainedModel, babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    folded = copy.deepcopy(babblers["hooked"])
    folded.process_weights_(fold_ln=True, center_writing_weights=False, center_unembed=False)
    plan = SHARED.plan(folded, prompts)
    with pytest.raises(
        wb.SpaceMismatch,
        match="the plan's vectors: made with processing='fold_ln', used with processing='raw'",
    ):
        wb.verify(plain, plan, prompts)


def test_a_hook_name_that_the_model_lacks(plain: PreTrainedModel, prompts: wb.PromptSet) -> None:
    """A bridge passes over an unknown name in silence; the workbench does not."""
    model = load_model(plain, backend="bridge")
    plan = SHARED.plan(model, prompts)
    known = {name: point for name, point in model.hook_dict.items() if name != hook_name(2)}
    with_hooks(model, known)
    with pytest.raises(ValueError, match=r"'babbler' has no hook 'blocks.2.hook_resid_post'"):
        wb.verify(model, plan, prompts)


def test_a_vector_in_the_random_band_is_told(plain: PreTrainedModel, prompts: wb.PromptSet) -> None:
    """Same shape, another seed: every check passes, and steering does run. That it means nothing is said."""
    stranger = replace(SHARED, theta="aligned").plan(plain, prompts)
    found = wb.verify(plain, stranger.with_layers([2]), few_of(prompts), backends=["plain"])
    assert found.holds
    assert found.cosine.startswith("Careful: the directions of target and aligned model have cosine")
    own = wb.mean_difference(wb.last_token_activations(plain, prompts))
    found = wb.verify(
        plain, SETTINGS["no gate"].plan(plain, prompts), few_of(prompts), own=own, backends=["plain"]
    )
    assert not found.cosine.startswith("Careful") and "over layer 2" in found.cosine
    assert verified(plain, prompts, SETTINGS["no gate"], backends=["plain"]).cosine == ""


# Half precision.


@pytest.fixture(scope="module")
def halves() -> dict[torch.dtype, PreTrainedModel]:
    return {
        dtype: load_model(babbler_of(5).to(dtype), backend="plain", tokenizer=small_tokenizer())
        for dtype in (torch.bfloat16, torch.float16)
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_half_precision_within_its_tolerance(
    dtype: torch.dtype, halves: dict[torch.dtype, PreTrainedModel], prompts: wb.PromptSet
) -> None:
    found = verified(halves[dtype], prompts)
    assert found.holds, found.faults
    ways = found.comparisons.set_index(["backend", "way"])
    assert set(found.comparisons.tolerance) == {TOLERANCE[dtype]}
    beside = ways.loc[("plain", "beside float32")]
    # It differs, and says so: by more than float32 would, and within what is stated.
    assert 1e-4 < beside.relative <= TOLERANCE[dtype]
    assert found.comparisons.near_ties.min() > 0
    opened = found.shifts[found.shifts.gate == "open"]
    assert (abs(opened.most / opened.planned - 1) < 0.1).all()


def test_a_shift_that_half_precision_cannot_hold_is_refused(
    halves: dict[torch.dtype, PreTrainedModel], prompts: wb.PromptSet
) -> None:
    model = halves[torch.float16]
    plan = SHARED.plan(model, prompts).with_alpha(1e5)
    for attempt in (lambda: wb.verify(model, plan, prompts), lambda: wb.generate(model, prompts, plan)):
        with pytest.raises(
            ValueError, match="logits are NaN or infinite at token 0 of the reply: load the model in"
        ):
            attempt()
