"""Plans and shifts: what they hold, what they refuse, and that `run_with_hooks` obeys them."""

import copy
import math
from dataclasses import replace

import pytest
import torch
from conftest import LENSES
from parity import N_LAYERS, Setting

import workbench as wb
from workbench.chat import encode
from workbench.loading import Model
from workbench.provenance import SpaceMismatch


@pytest.fixture(scope="module")
def plan(babblers: dict[str, Model], prompts: wb.PromptSet) -> wb.SteeringPlan:
    return Setting(0.2, (1, 3, 4), gate=1).plan(babblers["plain"], prompts)


@pytest.mark.parametrize(
    ("scale", "unit"),
    [
        ("raw", lambda vectors: torch.ones(N_LAYERS)),
        ("residual", lambda vectors: vectors.residual_norms),
        ("gap", lambda vectors: vectors.norms),
    ],
)
def test_strength_is_alpha_in_units_of_the_scale(plan: wb.SteeringPlan, scale: str, unit) -> None:
    scaled = replace(plan, scale=scale, alpha=-0.5)
    expected = 0.5 * unit(plan.vectors)[[1, 3, 4]]
    assert torch.allclose(scaled.shift.norm(dim=-1), expected)
    assert torch.allclose((scaled.shift * plan.vectors.directions[[1, 3, 4]]).sum(-1), -expected)


def test_layers_are_sorted_and_told_once(plan: wb.SteeringPlan) -> None:
    assert plan.with_layers([4, 1, 3, 1]).layers == (1, 3, 4)
    assert plan.with_layers([4, 1, 3, 1]).id == plan.id


def test_id_tells_plans_apart_by_what_they_do(plan: wb.SteeringPlan) -> None:
    others = [
        plan.with_alpha(0.3),
        plan.with_layers([1, 3]),
        plan.with_gate(wb.AlwaysOpen()),
        replace(plan, positions="reply"),
        replace(plan, deciding="online"),
        replace(plan, scale="gap"),
        replace(plan, refusal="I cannot help with that."),
        replace(plan, vectors=wb.random_directions(plan.vectors, seed=0)),
    ]
    assert len({plan.id, *(other.id for other in others)}) == len(others) + 1
    assert replace(plan).id == plan.id


@pytest.mark.parametrize(
    "alpha", [math.nan, math.inf, -math.inf, 1e39, -1e39, pytest.param(10**400, id="10**400"), "x", None]
)
def test_alpha_must_give_a_finite_shift(plan: wb.SteeringPlan, unchecked: None, alpha: float) -> None:
    with pytest.raises(
        ValueError,
        match=r"got alpha=.+ with scale='residual', expected a finite number that gives shifts of finite length",
    ):
        plan.with_alpha(alpha)


def test_alpha_counts_in_units_of_the_scale(plan: wb.SteeringPlan) -> None:
    """3e38 is a number of float32; with residuals as long as a hundred it makes none."""
    norms = torch.full_like(plan.vectors.residual_norms, 100.0)
    long = replace(plan, vectors=replace(plan.vectors, residual_norms=norms))
    assert replace(long, scale="raw", alpha=3e38).shift.isfinite().all()
    with pytest.raises(ValueError, match=r"got alpha=3e\+38 with scale='residual', expected"):
        long.with_alpha(3e38)


@pytest.mark.parametrize(
    ("layers", "shown"), [((5, 6), r"layers \[6\]"), ((-1, 2), r"layers \[-1\]"), ((), "no layers")]
)
def test_layers_must_be_the_vectors_own(plan: wb.SteeringPlan, layers: tuple[int, ...], shown: str) -> None:
    with pytest.raises(
        ValueError, match=rf"got {shown}, the vectors' model has layers 0 to 5: choose one or more of these"
    ):
        plan.with_layers(layers)


@pytest.mark.parametrize("layers", [5, None, [2.5], "12", [None]])
def test_layers_are_a_list_of_whole_numbers(plan: wb.SteeringPlan, unchecked: None, layers: object) -> None:
    with pytest.raises(
        ValueError,
        match=r"got layers=.+, expected a list of whole numbers from 0 to 5: one layer is layers=\[3\]",
    ):
        plan.with_layers(layers)


@pytest.mark.parametrize(("name", "options"), [("scale", "raw"), ("positions", "all"), ("deciding", "clean")])
def test_unknown_words(plan: wb.SteeringPlan, name: str, options: str) -> None:
    broken = copy.copy(plan)
    # Not through replace(): there the tests' type checker is first to say no.
    object.__setattr__(broken, name, "else")
    with pytest.raises(ValueError, match=f"got {name}='else', expected one of '{options}', "):
        broken.__post_init__()


def test_compile_puts_every_row_s_own_shift_in_its_place(plan: wb.SteeringPlan) -> None:
    low, preset = replace(plan, layers=(0, 3), positions="prompt"), replace(plan, refusal="No.")
    opened = torch.tensor(
        [[True] * 6, [False] * 6, [False, True, True, True, False, True], [True] * 6, [True] * 6]
    )
    shift = wb.compile_shift([plan, plan, low, None, preset], opened)
    assert shift.layers == (0, 1, 3, 4)
    assert torch.equal(shift.values[0], torch.cat([torch.zeros(1, 32), plan.shift]))
    assert torch.equal(shift.values[2, 2], low.shift[1])
    assert shift.values[2, [0, 1, 3]].eq(0).all()
    assert shift.any_open.tolist() == [True, False, True, False, False]
    assert shift.on_prompt.tolist() == [True, True, True, False, False]
    assert shift.on_reply.tolist() == [True, True, False, False, False]


def test_one_plan_serves_all_rows(plan: wb.SteeringPlan) -> None:
    opened = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    assert torch.equal(wb.compile_shift(plan, opened).values, wb.compile_shift([plan] * 3, opened).values)


def test_a_shift_is_thinned_out_layer_by_layer(plan: wb.SteeringPlan) -> None:
    opened = torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) > 0.5
    plans = [plan, None, plan.with_layers([0, 3])]
    everywhere = wb.compile_shift(plans, torch.ones_like(opened))
    shift = wb.compile_shift(plans, opened)
    assert torch.equal(everywhere.gated(opened).values, shift.values)
    for column, layer in enumerate(shift.layers):
        at = everywhere.at(layer).gated(opened)
        assert at.layers == (layer,) and torch.equal(at.values[:, 0], shift.values[:, column])
    nothing = everywhere.at(2)
    assert nothing.layers == () and not nothing.adders(torch.ones(3, 1, dtype=torch.bool))


def test_adders_leave_out_what_does_not_move(plan: wb.SteeringPlan) -> None:
    opened = torch.zeros(2, 6, dtype=torch.bool)
    opened[1, 3] = True
    shift = wb.compile_shift(plan, opened)
    residual = torch.randn(2, 5, 32)
    only = torch.zeros(2, 5, dtype=torch.bool)
    only[:, 2] = True
    assert list(shift.adders(only)) == [3]
    moved = shift.adders(only)[3](residual) - residual
    assert moved[0].eq(0).all() and moved[1, [0, 1, 3, 4]].eq(0).all()
    assert torch.allclose(moved[1, 2], plan.shift[1], atol=1e-5)
    assert not shift.adders(torch.zeros(2, 1, dtype=torch.bool))


def test_number_of_plans_and_sites_must_fit(plan: wb.SteeringPlan) -> None:
    opened = torch.ones(3, 6, dtype=torch.bool)
    with pytest.raises(
        ValueError, match="got 2 plans for a reading of 3 prompts: pass one plan, or one per row"
    ):
        wb.compile_shift([plan, plan], opened)
    vectors = replace(plan.vectors, space=replace(plan.vectors.space, site="resid_pre"))
    with pytest.raises(ValueError, match="resid_post and resid_pre in one batch: run one batch per site"):
        wb.compile_shift([plan, replace(plan, vectors=vectors), plan], opened)
    with pytest.raises(ValueError, match="resid_post and resid_pre in one batch: run one batch per site"):
        wb.compile_shift([replace(plan, vectors=vectors, refusal="No."), None, plan], opened)


@pytest.mark.parametrize("depth", [4, 8])
def test_decisions_of_another_depth_are_refused(plan: wb.SteeringPlan, depth: int) -> None:
    reading = wb.GateReading(torch.zeros(2, depth), torch.ones(2, depth, dtype=torch.bool), "")
    message = (
        f"got decisions for {depth} layers and a plan for a model of 6: read the gate on the model you steer"
    )
    with pytest.raises(ValueError, match=message):
        wb.compile_shift(plan, reading.open)
    with pytest.raises(ValueError, match=message):
        plan.fwd_hooks(reading)


@pytest.mark.parametrize("name", LENSES)
@pytest.mark.parametrize("site", ["resid_post", "resid_pre"])
def test_fwd_hooks_steer_run_with_hooks(
    name: str, site: str, babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    model = babblers[name]
    activations = wb.last_token_activations(model, prompts, site=site)
    vectors = wb.mean_difference(activations)
    gate = wb.ThresholdGate.fit(vectors, activations)
    plan = wb.SteeringPlan(vectors, gate=gate, layers=(1, 3), alpha=0.2, scale="residual")
    reading = plan.read(model, prompts)
    batch = encode(model.tokenizer, prompts)
    logits = model.run_with_hooks(
        batch.input_ids, attention_mask=batch.attention_mask, fwd_hooks=plan.fwd_hooks(reading)
    )
    forced = wb.teacher_forced_logits(model, prompts, [[0]] * len(prompts), plan)
    assert torch.allclose(logits[:, -1], torch.cat(forced), atol=1e-5)
    assert not torch.allclose(
        logits[:, -1], model(batch.input_ids, attention_mask=batch.attention_mask)[:, -1], atol=1e-2
    )


@pytest.mark.parametrize("name", LENSES)
def test_hooks_refuse_another_batch(
    name: str, plan: wb.SteeringPlan, babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    model = babblers[name]
    hooks = plan.fwd_hooks(plan.read(model, prompts))
    with pytest.raises(
        ValueError, match="made for a batch of 8 rows and met one of 1: read the gate for the batch"
    ):
        model.run_with_hooks(torch.tensor([[0, 7, 8]]), fwd_hooks=hooks)


def test_hooks_by_hand_cannot_tell_prompt_from_reply(
    plan: wb.SteeringPlan, babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    partial = replace(plan, positions="prompt")
    with pytest.raises(ValueError, match=r"a hook cannot tell them apart: steer with generate\(...\)"):
        partial.fwd_hooks(partial.read(babblers["plain"], prompts))


def test_no_hook_can_answer_with_a_preset_refusal(plan: wb.SteeringPlan) -> None:
    reading = wb.GateReading(torch.zeros(1, N_LAYERS), torch.ones(1, N_LAYERS, dtype=torch.bool), "")
    with pytest.raises(ValueError, match=r"the plan answers with a preset refusal, .*: use generate\(...\)"):
        replace(plan, refusal="No.").fwd_hooks(reading)


def test_online_every_layer_must_be_able_to_decide_when_it_is_reached(
    plan: wb.SteeringPlan, babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    together = wb.AlwaysOpen("both agree", reads=(2, 4))  # a gate of one's own, of two layers at once
    replace(plan, deciding="online", layers=(1, 2))
    replace(plan, deciding="online", gate=wb.AlwaysOpen())
    replace(plan, deciding="online", gate=replace(plan.gate, shared_layer=None))
    replace(plan, deciding="online", gate=together, layers=(4, 5))
    elsewhere = Setting(0.2, (1, 3, 4), gate=1).plan(babblers["plain"], prompts, site="resid_pre").gate
    for gate, told in (
        (replace(plan.gate, shared_layer=2), "layer 2 at resid_post"),
        (together, "layer 4 at resid_post"),
        (elsewhere, "layer 1 at resid_pre"),
        (replace(elsewhere, shared_layer=None), "layer 5 at resid_pre"),
    ):
        with pytest.raises(
            ValueError,
            match=rf'got deciding="online", steered layers from 1 at resid_post and a gate that reads {told}: take '
            r'a gate per layer, or one of a shared layer .* at the steered site; or give the plan deciding="clean"',
        ):
            replace(plan, deciding="online", gate=gate)
    with pytest.raises(ValueError, match=r'got deciding="online" and a preset refusal, .*deciding="clean"'):
        replace(plan, deciding="online", refusal="No.")


def test_no_reading_serves_a_plan_that_decides_online(
    plan: wb.SteeringPlan, babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    model, online = babblers["bridge"], replace(plan, deciding="online")
    reading = plan.read(model, prompts)
    refused = pytest.raises(
        ValueError,
        match=r"a plan that decides online reads its gate in the very pass that it steers, never beforehand: use "
        r'generate\(...\) without a reading, .*; or give the plan deciding="clean"',
    )
    with refused:
        online.read(model, prompts)
    with refused:
        online.fwd_hooks(reading)
    with refused, wb.steered(model, online, prompts):
        pass
    with refused:
        wb.generate(model, prompts, [plan] * 7 + [online], reading=reading, max_new_tokens=2)
    with refused:
        wb.teacher_forced_logits(model, prompts, [[0]] * 8, online, reading=reading)


def test_a_plan_of_another_space_is_refused(
    plan: wb.SteeringPlan, llamas: dict[str, Model], babblers: dict[str, Model], prompts: wb.PromptSet
) -> None:
    with pytest.raises(
        SpaceMismatch, match=r"the plan's vectors: made with n_layers=6, used with n_layers=4: use two"
    ):
        plan.read(llamas["plain"], prompts)
    with pytest.raises(SpaceMismatch, match=r"the plan's vectors: .*equal in depth and width"):
        wb.generate(llamas["plain"], prompts, plan, max_new_tokens=4)
    folded = replace(plan.gate.space, processing="fold_ln", site="resid_pre")
    foreign = replace(
        plan, vectors=replace(plan.vectors, space=folded), gate=replace(plan.gate, space=folded)
    )
    with pytest.raises(
        SpaceMismatch, match=r"the plan's vectors: made with processing='fold_ln', .*: load both raw"
    ):
        wb.generate(babblers["plain"], prompts, foreign, max_new_tokens=4)


def test_a_model_without_a_chat_template_is_told_so(
    plan: wb.SteeringPlan,
    babbler: Model,
    prompts: wb.PromptSet,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Not that its template is another one."""
    monkeypatch.setattr(babbler.tokenizer, "chat_template", None)
    refused = pytest.raises(
        ValueError, match=r"has no chat template, .*: load it with the format that the model was trained on"
    )
    with refused:
        plan.read(babbler, prompts)
    with refused:
        wb.generate(babbler, prompts, plan, max_new_tokens=4)
    with refused, wb.steered(babbler, plan, prompts):
        pass


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (
            dict(n_layers=N_LAYERS + 2),
            "n_layers=6, used with n_layers=8: use two models of one base, equal in depth",
        ),
        (
            dict(d_model=48),
            "d_model=32, used with d_model=48: .* or map the vectors: .*; `workbench transfer` measures",
        ),
        (
            dict(processing="fold_ln"),
            "processing='raw', used with processing='fold_ln': load both raw: load_model",
        ),
        (dict(template_hash="x"), "the chat templates differ, .*: give both models one, load_model"),
        (
            dict(tokenizer_hash="x"),
            "the vocabularies differ, or how texts and the marks of the chat template are split",
        ),
    ],
)
def test_vectors_and_gate_of_two_spaces_make_no_plan(
    plan: wb.SteeringPlan, change: dict[str, object], what: str
) -> None:
    space = replace(plan.gate.space, **change)
    rows = torch.nn.functional.normalize(torch.ones(space.n_layers, space.d_model), dim=-1)
    gate = wb.ThresholdGate(rows, torch.zeros(space.n_layers), 1, space, wb.Provenance("gate"))
    with pytest.raises(SpaceMismatch, match=f"the plan's vectors, beside its gate: made with .*{what}"):
        plan.with_gate(gate)


def test_a_gate_may_read_at_another_site_than_its_plan_acts(plan: wb.SteeringPlan) -> None:
    gate = replace(plan.gate, space=replace(plan.gate.space, site="resid_pre"))
    assert plan.with_gate(gate).gate.space.site == "resid_pre"


@pytest.mark.parametrize("change", [dict(d_model=48), dict(n_layers=N_LAYERS + 2)])
def test_plans_of_two_models_are_no_batch(plan: wb.SteeringPlan, change: dict[str, int]) -> None:
    space = replace(plan.vectors.space, **change)
    shape = space.n_layers, space.d_model
    vectors = wb.SteeringVectors.from_values(
        torch.ones(shape), torch.ones(shape[0]), space, wb.Provenance("vectors")
    )
    other = replace(plan, vectors=vectors, gate=wb.AlwaysOpen())
    with pytest.raises(SpaceMismatch, match=r"plans of one batch: made with .*: use two models of one base"):
        wb.compile_shift([plan, other], torch.ones(2, N_LAYERS, dtype=torch.bool))
