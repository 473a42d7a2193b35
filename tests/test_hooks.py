"""Hooks are gone when their context ends, whatever ended it, and whenever it did."""

import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest
import torch
from conftest import LENSES
from measuring import labelled_prompts, plan_for
from parity import babbler_of
from torch import nn
from torch.utils.hooks import RemovableHandle
from transformer_lens.hook_points import HookPoint

import workbench as wb
from workbench import hooks
from workbench.chat import EncodedBatch
from workbench.forward import run_body
from workbench.hooks import Hook, attached
from workbench.loading import Model
from workbench.models import carries_hooks


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell that starts tests in the background has them ignore Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def mine(plain: Model) -> Model:
    """A model of this test alone: what it may leave is nobody else's."""
    return wb.load_model(babbler_of(5), backend="plain", tokenizer=plain.tokenizer)


def interrupted(inside: Callable[..., object], turn: int) -> Callable[..., object]:
    """The same, but the `turn`th call is followed by a Ctrl-C before anybody could note what it gave."""
    calls = []

    def called(*given: object, **further: object) -> object:
        found = inside(*given, **further)
        calls.append(found)
        if len(calls) == turn:
            signal.raise_signal(signal.SIGINT)
        return found

    return called


@pytest.mark.parametrize("turn", range(1, 6))
def test_a_ctrl_c_as_a_hook_is_set_leaves_none(mine, monkeypatch, interruptible, turn):
    before = wb.generate(mine, labelled_prompts(), max_new_tokens=4)
    plan = plan_for(mine)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(nn.Module, "register_forward_hook", interrupted(nn.Module.register_forward_hook, turn))
        wb.generate(mine, labelled_prompts(), plan, max_new_tokens=4)
        pytest.fail("nothing was interrupted")
    assert not carries_hooks(mine)
    after = wb.generate(mine, labelled_prompts(), max_new_tokens=4)
    assert [reply.tokens for reply in after] == [reply.tokens for reply in before]


def test_a_ctrl_c_while_hooks_are_taken_off_leaves_none(monkeypatch, interruptible):
    module = nn.Linear(2, 2)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        take_off, calls = hooks._take_off, []

        def half(given):
            calls.append(len(given))
            take_off(given[:1] if len(calls) == 1 else given)
            if len(calls) == 1:
                signal.raise_signal(signal.SIGINT)

        patch.setattr(hooks, "_take_off", half)
        with attached([Hook(module, lambda *given: None), Hook(module, lambda *given: None, before=True)]):
            pass
        pytest.fail("nothing was interrupted")
    assert calls == [2, 2] and not module._forward_hooks and not module._forward_pre_hooks


@pytest.fixture(params=LENSES)
def lens(request: pytest.FixtureRequest, plain: Model) -> Model:
    """A model of TransformerLens' own, for this test alone."""
    return wb.load_model(babbler_of(5), backend=request.param, tokenizer=plain.tokenizer)


def held_by(model: Model) -> list[object]:
    """Every hook on a hook point, whether TransformerLens has noted it or not."""
    points = {id(point): point for point in model.hook_dict.values()}.values()
    return [hook for point in points for hook in (*point._forward_hooks.values(), *point.fwd_hooks)]


WINDOWS = {
    "set and not noted": (nn.Module, "register_forward_hook"),
    "noted by the hook point alone": (HookPoint, "add_hook"),
    "taken off": (RemovableHandle, "remove"),
}


@pytest.mark.parametrize("turn", [1, 3])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_ctrl_c_leaves_no_hook_on_hook_points(lens, monkeypatch, interruptible, window, turn):
    """TransformerLens' own `hooks` would leave some, at each of these moments."""
    before = wb.generate(lens, labelled_prompts(), max_new_tokens=4)
    owner, name = WINDOWS[window]
    plan, level = plan_for(lens), lens.context_level
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        patch.setattr(owner, name, interrupted(getattr(owner, name), turn))
        wb.generate(lens, labelled_prompts(), plan, max_new_tokens=4)
        pytest.fail("nothing was interrupted")
    assert held_by(lens) == [] and lens.context_level == level
    after = wb.generate(lens, labelled_prompts(), max_new_tokens=4)
    assert [reply.tokens for reply in after] == [reply.tokens for reply in before]


def test_a_ctrl_c_while_hook_points_are_cleared_leaves_none(lens, monkeypatch, interruptible):
    plan = plan_for(lens)
    with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
        clear, calls = hooks._clear, []

        def cut_short(points, fns):
            calls.append(len(fns))
            if len(calls) == 1:
                signal.raise_signal(signal.SIGINT)
            clear(points, fns)

        patch.setattr(hooks, "_clear", cut_short)
        patch.setattr(RemovableHandle, "remove", lambda handle: None)
        wb.generate(lens, labelled_prompts(), plan, max_new_tokens=4)
        pytest.fail("nothing was interrupted")
    assert len(calls) == 2 and held_by(lens) == []


def test_hooks_of_others_stay_on_hook_points(lens):
    seen = []
    lens.hook_dict["blocks.1.hook_resid_post"].add_hook(lambda residual, hook: seen.append("own"))
    with wb.residual_hooks(lens, "resid_post", {1: lambda residual: seen.append("ours")}):
        run_body(lens, EncodedBatch(torch.tensor([[5, 7]]), torch.ones(1, 2, dtype=torch.long)))
    run_body(lens, EncodedBatch(torch.tensor([[5, 7]]), torch.ones(1, 2, dtype=torch.long)))
    assert seen == ["own", "ours", "own"] and len(held_by(lens)) == 2


def test_hooks_of_others_stay(plain):
    module, seen = nn.Linear(2, 2), []
    own = module.register_forward_hook(lambda *given: seen.append("own"))
    with attached(
        [
            Hook(module, lambda *given: seen.append("ours")),
            Hook(module, lambda module, args, kwargs: seen.append(kwargs), before=True, with_kwargs=True),
        ]
    ):
        module(torch.zeros(1, 2))
    module(torch.zeros(1, 2))
    assert seen == [{}, "own", "ours", "own"] and list(module._forward_hooks) == [own.id]
    assert not module._forward_pre_hooks_with_kwargs
