"""Vectors that lie to the target's own as random directions do are told once, and controls, which are to, never."""

import warnings
from dataclasses import replace

import pytest
import torch
from architectures import model_of
from conftest import small_tokenizer
from measuring import by_length, extraction, labelled_prompts, other_concept, relative_of
from transformers import PreTrainedModel

import workbench as wb
from workbench.evaluation.conditions import matched
from workbench.kinship import warn_if_unrelated
from workbench.loading import load_model

TOLD = (
    r"^the vectors of 'stranger' and the gate's own, of 'target', have cosine [-+]0\.\d\d to [-+]0\.\d\d over the "
    r"steered layers \(2, 3\), as random directions have \(±0\.35\): same shape, another seed\? Use two models of one "
    r"base; or carry the vectors over, map_vectors\(fit_map\(theirs, ours\), vectors, like=\.\.\.\); `workbench "
    r"transfer` measures"
)


def model(seed: int, name: str) -> PreTrainedModel:
    found = load_model(model_of("llama", seed=seed), backend="plain", tokenizer=small_tokenizer())
    found.config.name_or_path = name
    return found


@pytest.fixture(scope="module")
def target() -> PreTrainedModel:
    return model(5, "target")


@pytest.fixture(scope="module")
def stranger() -> PreTrainedModel:
    """Of the target's shape and words, from another seed: it passes every check."""
    return model(77, "stranger")


@pytest.fixture(scope="module")
def read(target: PreTrainedModel) -> wb.Activations:
    return wb.last_token_activations(target, extraction())


@pytest.fixture(scope="module")
def gate(read: wb.Activations) -> wb.ThresholdGate:
    return wb.ThresholdGate.fit(wb.mean_difference(read), read)


@pytest.fixture(scope="module")
def plan(stranger: PreTrainedModel, gate: wb.ThresholdGate) -> wb.SteeringPlan:
    vectors = wb.mean_difference(wb.last_token_activations(stranger, extraction()))
    return wb.SteeringPlan(vectors, gate=gate, layers=[2, 3], alpha=0.2, scale="residual")


def silent(plans: list[wb.SteeringPlan | None]) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error", wb.Unrelated)
        warn_if_unrelated(plans)
    return True


def test_every_verb_that_steers_says_so(target: PreTrainedModel, plan: wb.SteeringPlan):
    prompts = labelled_prompts()
    for verb in (
        lambda: wb.generate(target, prompts, plan, max_new_tokens=1),
        lambda: wb.generate(target, prompts, [None, plan] * 6, max_new_tokens=1),
        lambda: wb.evaluate(target, prompts, plan, placebo=2, judge=by_length, max_new_tokens=1),
        lambda: wb.run_sweep(target, prompts, plan, alpha=[0.1, 0.2], judge=by_length, max_new_tokens=1),
        lambda: wb.steered(target, plan, prompts).__enter__(),
    ):
        with pytest.warns(wb.Unrelated, match=TOLD) as said:
            verb()
        assert len(said) == 1


def test_a_sweep_says_it_once_of_all_its_settings(target: PreTrainedModel, plan: wb.SteeringPlan):
    with pytest.warns(wb.Unrelated, match=r"over the steered layers \(1, 2, 3\)") as said:
        wb.run_sweep(
            target, labelled_prompts(), plan, alpha=[0.1, 0.2], layers=[[1, 2], [2, 3]], positions=["all", "prompt"],
            controls={"stranger": plan.vectors}, judge=by_length, max_new_tokens=1,
        )  # fmt: skip
    assert len(said) == 1


def test_at_every_strength_it_is_the_same_sentence_so_that_python_shows_it_once(plan: wb.SteeringPlan):
    said: list[warnings.WarningMessage] = []
    for alpha in (0.1, 0.2, 0.3):
        with pytest.warns(wb.Unrelated) as here:
            warn_if_unrelated([plan.with_alpha(alpha)])
        said += here
    assert len({str(warning.message) for warning in said}) == 1
    assert len({(warning.filename, warning.lineno) for warning in said}) == 1


def test_a_gate_that_was_moved_or_saved_knows_whose_vectors_it_reads_along(
    plan: wb.SteeringPlan, gate: wb.ThresholdGate, read: wb.Activations, tmp_path
):
    gate.save(tmp_path / "gate.safetensors")
    moved = gate.calibrate(read, false_positive_rate=0.1).shift_bias(0.5)
    for other in (moved, wb.load_gate(tmp_path / "gate.safetensors"), replace(gate, shared_layer=2)):
        with pytest.warns(wb.Unrelated, match=TOLD):
            warn_if_unrelated([plan.with_gate(other)])


def test_a_multiple_of_a_stranger_s_vectors_is_a_stranger_s(plan: wb.SteeringPlan):
    with pytest.warns(wb.Unrelated, match=TOLD):
        warn_if_unrelated([replace(plan, vectors=2.0 * -plan.vectors)])


def test_kin_are_no_strangers(target: PreTrainedModel, plan: wb.SteeringPlan, read: wb.Activations):
    theirs = wb.mean_difference(wb.last_token_activations(relative_of(target), extraction()))
    own = wb.mean_difference(read)
    assert silent([replace(plan, vectors=theirs), replace(plan, vectors=own)])
    assert silent([replace(plan, vectors=-own)])  # opposed, and meant to be


def test_controls_are_meant_to_lie_there(
    target: PreTrainedModel, stranger: PreTrainedModel, plan: wb.SteeringPlan, read: wb.Activations
):
    theirs = wb.last_token_activations(stranger, extraction())
    noise = wb.random_directions(plan.vectors, seed=0)
    assert float(noise.cosine(wb.mean_difference(read))[[2, 3]].mean().abs()) < wb.random_band(32)
    other = wb.mean_difference(wb.last_token_activations(target, other_concept()))
    controls = [noise, wb.shuffled_labels(theirs, seed=1), matched(noise, plan.vectors), noise * 2.0, other]
    assert silent([replace(plan, vectors=control) for control in controls])


def test_what_came_through_a_map_is_told_by_other_numbers(
    target: PreTrainedModel, stranger: PreTrainedModel, plan: wb.SteeringPlan, read: wb.Activations
):
    texts = labelled_prompts()
    through = wb.fit_shuffled_map(
        wb.last_token_activations(stranger, texts), wb.last_token_activations(target, texts)
    )
    carried = wb.map_vectors(through, plan.vectors, wb.mean_difference(read))
    assert silent([replace(plan, vectors=carried)])


def test_without_vectors_of_the_target_s_own_there_is_nothing_to_compare(plan: wb.SteeringPlan):
    assert silent([None, plan.with_gate(wb.AlwaysOpen())])
    unknown = replace(plan.gate, provenance=wb.Provenance("gate"))
    assert silent([plan.with_gate(unknown)])


def test_layers_that_have_no_direction_count_as_none(plan: wb.SteeringPlan):
    nothing = replace(plan.vectors, directions=torch.zeros(6, 32))
    with pytest.warns(wb.Unrelated, match=r"have cosine \+0\.00 to \+0\.00 over"):
        warn_if_unrelated([replace(plan, vectors=nothing)])
