"""Hooks for TransformerLens' own verbs refuse what a bridge would leave out, or do elsewhere, in silence."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from architectures import save_model
from conftest import BACKENDS, LENSES
from parity import N_LAYERS

import workbench as wb
from workbench.lens_hooks import lens_hooks
from workbench.loading import Model, load_model

IDS = torch.arange(10, 18).repeat(2, 1)


@pytest.fixture(scope="module", params=LENSES)
def lens(request: pytest.FixtureRequest, babblers: dict[str, Model]) -> Model:
    return babblers[request.param]


@pytest.fixture
def shallow(checkpoints: dict[str, Path]) -> Model:
    """A bridge of four layers, as wide as the babbler of six."""
    return load_model(checkpoints["llama"], backend="bridge")


def plan_at(model: Model, layers: list[int], site: str = "resid_post") -> wb.SteeringPlan:
    vectors = wb.random_directions(
        wb.SteeringVectors.from_values(
            torch.ones(N_LAYERS, 32), torch.ones(N_LAYERS), wb.space_of(model, site), wb.Provenance("vectors")
        ),
        seed=0,
    )
    return wb.SteeringPlan(vectors, gate=wb.AlwaysOpen(), layers=layers, alpha=2.0)


def reading(model_layers: int = N_LAYERS) -> wb.GateReading:
    opened = torch.ones(2, model_layers, dtype=torch.bool)
    return wb.GateReading(torch.full(opened.shape, torch.inf), opened, "")


def run_with_hooks(model: Model, hooks: list[tuple[object, Callable[..., object]]]) -> torch.Tensor:
    with torch.no_grad():
        return model.run_with_hooks(IDS, fwd_hooks=hooks)


def run_inside(model: Model, hooks: list[tuple[object, Callable[..., object]]]) -> torch.Tensor:
    with torch.no_grad(), model.hooks(fwd_hooks=hooks):
        return model(IDS)


# TransformerLens 4 refuses an unknown name by itself.
LACKS = ValueError if "hooked" in BACKENDS else KeyError


def told(name: str) -> str:
    if LACKS is KeyError:
        return f"'{re.escape(name)}' does not exist on this model"
    return (
        rf"this model has no hook '{re.escape(name)}': the plan is of a model with other layers, or acts at a site "
        r"that this one does not show; read the gate on the model you steer, plan\.read\(model, prompts\)"
    )


VERBS = pytest.mark.parametrize("run", [run_with_hooks, run_inside])


@VERBS
@pytest.mark.parametrize("layers", [[5], [1, 5]])
def test_a_bridge_that_lacks_a_layer_is_refused(
    run: Callable[..., torch.Tensor], layers: list[int], babblers: dict[str, Model], shallow: Model
):
    hooks = plan_at(babblers["bridge"], layers).fwd_hooks(reading())
    with pytest.raises(LACKS, match=told("blocks.5.hook_resid_post")):
        run(shallow, hooks)
    # The hooks are good for the model they are of, before and after.
    moved = run(babblers["bridge"], hooks)
    assert not torch.allclose(moved, run(babblers["bridge"], []), atol=1e-2)
    with pytest.raises(LACKS, match=told("blocks.5.hook_resid_post")):
        run(shallow, hooks)


@VERBS
def test_nothing_else_changes(run: Callable[..., torch.Tensor], lens: Model):
    plan = plan_at(lens, [1, 4])
    hooks = plan.fwd_hooks(reading())
    assert [name for name, _ in hooks[1:]] == ["blocks.1.hook_resid_post", "blocks.4.hook_resid_post"]
    assert torch.equal(run(lens, hooks), run(lens, hooks[1:]))
    assert lens_hooks("resid_post", {}) == []


def test_hooks_serve_several_passes(lens: Model):
    hooks = plan_at(lens, [2]).fwd_hooks(reading())
    with torch.no_grad(), lens.hooks(fwd_hooks=hooks):
        first, second = lens(IDS), lens(IDS)
    assert torch.equal(first, second)


def test_on_a_bridge_resid_mid_is_not_changed_where_it_is_only_read(babblers: dict[str, Model]):
    plan = plan_at(babblers["bridge"], [2], "resid_mid")
    with pytest.raises(
        ValueError,
        match=r"resid_mid can only be read here \('blocks\.2\.hook_resid_mid' stands for 'blocks\.2\.ln2\.hook_in', "
        r'.*\): make the vectors at site="resid_post", or load a HookedTransformer',
    ):
        run_with_hooks(babblers["bridge"], plan.fwd_hooks(reading()))


def test_parallel_blocks_have_no_resid_mid(tmp_path: Path):
    bridge = load_model(save_model("neox", tmp_path / "neox"), backend="bridge")
    plan = plan_at(bridge, [2], "resid_mid")
    with pytest.raises(LACKS, match=told("blocks.2.hook_resid_mid")):
        run_with_hooks(bridge, plan.fwd_hooks(reading()))


def test_a_shift_of_another_width_is_refused(lens: Model):
    plan = plan_at(lens, [2])
    wide = replace(plan.vectors.space, d_model=48)
    vectors = wb.SteeringVectors.from_values(
        torch.ones(N_LAYERS, 48), torch.ones(N_LAYERS), wide, wb.Provenance("vectors")
    )
    with pytest.raises(
        wb.SpaceMismatch,
        match="this shift is 48 wide and met a residual of width 32: it is of another model; read",
    ):
        run_with_hooks(lens, replace(plan, vectors=vectors).fwd_hooks(reading()))
