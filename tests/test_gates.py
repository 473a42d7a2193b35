"""Gates: the paper's closed forms, one layer for all, chosen false-positive rates, and controls."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from workbench import gates
from workbench.activations import Activations, last_token_activations
from workbench.gates import AlwaysOpen, ThresholdGate, auroc, best_layer, load_gate, project, separation
from workbench.loading import Model
from workbench.prompts import PromptSet
from workbench.provenance import Provenance, Space, SpaceMismatch, save_tensors
from workbench.vectors import mean_difference, random_directions

DEPTH, WIDTH, N = 4, 32, 50
SPACE = Space(DEPTH, WIDTH, "resid_post", "raw", "template", "vocabulary")


def draw(seed: int, *, n: int = N) -> Activations:
    """Two clouds that layer 2 tells apart, layer 1 somewhat, and the others not at all."""
    values = torch.randn(2 * n, DEPTH, WIDTH, generator=torch.Generator().manual_seed(seed)) + 3
    values[:n, 2, 0] += 8
    values[:n, 1, 0] += 1
    labels = ("harmful",) * (n // 2) + ("jailbroken",) * (n - n // 2) + ("harmless",) * (n // 2)
    return Activations(values, labels + ("contrast",) * (n - n // 2), None, SPACE, Provenance("activations"))


@pytest.fixture(scope="module")
def train() -> Activations:
    return draw(0)


@pytest.fixture(scope="module")
def val() -> Activations:
    return draw(1)


@pytest.fixture(scope="module")
def gate(train: Activations) -> ThresholdGate:
    return ThresholdGate.fit(mean_difference(train), train)


def test_closed_forms(train: Activations, gate: ThresholdGate):
    vectors = mean_difference(train)
    harmful, harmless = train.values[:N].mean(0), train.values[N:].mean(0)
    bias = -(vectors.directions * (harmful + harmless)).sum(-1) / 2
    torch.testing.assert_close(gate.bias, bias, atol=1e-5, rtol=1e-5)
    for mean, sign in ((harmful, 1), (harmless, -1)):
        argument = (mean * vectors.directions).sum(-1) + gate.bias
        torch.testing.assert_close(argument, sign * vectors.norms / 2, atol=1e-5, rtol=1e-5)


def test_decisions_are_the_sign_of_the_scores(gate: ThresholdGate, val: Activations):
    reading = gate.read(val)
    by_hand = torch.stack(
        [(val.values[:, i] @ gate.directions[i]) + gate.bias[i] for i in range(DEPTH)], dim=1
    )
    torch.testing.assert_close(reading.scores, by_hand, atol=1e-5, rtol=1e-5)
    assert torch.equal(reading.open, reading.scores > 0) and len(reading) == 2 * N
    assert reading.open[:N, 2].all() and not reading.open[N:, 2].any()


def test_the_real_model_meets_the_closed_form(model: Model, prompts: PromptSet):
    read = last_token_activations(model, prompts)
    vectors = mean_difference(read)
    scores = ThresholdGate.fit(vectors, read).read(read).scores
    torch.testing.assert_close(scores[:4].mean(0), vectors.norms / 2, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores[4:].mean(0), -vectors.norms / 2, atol=1e-5, rtol=1e-4)


def test_a_shared_layer_decides_for_all(train: Activations, val: Activations):
    vectors = mean_difference(train)
    shared, own = ThresholdGate.fit(vectors, train, layer=2), ThresholdGate.fit(vectors, train)
    for layer in range(DEPTH):
        assert torch.equal(shared.read(val).open[:, layer], own.read(val).open[:, 2])
    assert torch.equal(shared.read(val).scores, own.read(val).scores)
    assert shared.reads == (2,) and own.reads == (0, 1, 2, 3) and shared.id != own.id
    with pytest.raises(ValueError, match="gate has shared layer 4, its model has layers 0 to 3"):
        ThresholdGate.fit(vectors, train, layer=4)


def test_the_id_is_computed_once(gate: ThresholdGate, monkeypatch: pytest.MonkeyPatch):
    fresh, hashed = replace(gate), []
    monkeypatch.setattr(gates, "content_hash", lambda *parts: hashed.append(parts) or "hash")
    assert fresh.id == fresh.id == "hash"
    assert len(hashed) == 1
    assert replace(fresh).id == "hash" and len(hashed) == 2


@pytest.mark.parametrize("side", ["harmful", "harmless"])
def test_a_threshold_between_one_side_and_nothing_is_refused(train: Activations, side: str):
    with pytest.raises(ValueError, match=f"got {side} prompts only: the threshold lies between the two"):
        ThresholdGate.fit(mean_difference(train), train.labelled(side))


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.3, 0.99])
def test_calibration_keeps_its_promise(gate: ThresholdGate, val: Activations, rate: float):
    opened = gate.calibrate(val, false_positive_rate=rate).read(val).open[N:]
    assert (opened.sum(0) == int(rate * N)).all()


def test_calibration_with_ties_stays_below(gate: ThresholdGate, val: Activations):
    tied = replace(val, values=val.values[:1].expand_as(val.values).contiguous())
    assert not gate.calibrate(tied, false_positive_rate=0.5).read(tied).open.any()


def test_calibration_leaves_room_on_both_sides(gate: ThresholdGate, val: Activations):
    scores = gate.calibrate(val, false_positive_rate=0.0).read(val).scores[:, 2]
    torch.testing.assert_close(scores[:N].min(), -scores[N:].max())


def test_calibration_refuses_what_it_cannot_use(gate: ThresholdGate, val: Activations):
    for rate in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="expected 0 or more and less than 1"):
            gate.calibrate(val, false_positive_rate=rate)
    with pytest.raises(
        ValueError, match="got harmful prompts only: a false-positive rate needs harmless ones"
    ):
        gate.calibrate(val.labelled("harmful"), false_positive_rate=0.1)


def test_a_shifted_bias_is_laxer_or_stricter(gate: ThresholdGate, val: Activations):
    count = [gate.shift_bias(delta).read(val).open.sum() for delta in (-1.0, 0.0, 1.0)]
    assert count[0] < count[1] < count[2]
    with pytest.raises(ValueError, match="gate has a bias not all finite: expected numbers for every layer"):
        gate.shift_bias(float("nan"))


def test_auroc_counts_ties_half():
    scores = torch.tensor([[3.0, 1.0, 1.0], [2.0, 1.0, 0.0], [1.0, 1.0, 2.0], [0.0, 1.0, 3.0]])
    assert auroc(scores, torch.tensor([True, True, False, False])).tolist() == [1.0, 0.5, 0.0]


def test_the_best_layer_is_the_one_that_tells(train: Activations, val: Activations):
    vectors = mean_difference(train)
    assert best_layer(vectors, val) == 2
    wider = replace(val, values=val.values * torch.tensor([1.0, 1.0, 5.0, 1.0])[:, None])
    assert best_layer(vectors, wider) == 2
    with pytest.raises(ValueError, match="got 25 harmful of 25 prompts, expected two or more of each kind"):
        best_layer(vectors, val.labelled("harmful"))


def test_layers_that_tell_all_apart_are_ranked_by_distance(train: Activations, val: Activations):
    values = val.values.clone()
    values[:N, 1, 0] += 30
    both = replace(val, values=values)
    vectors = mean_difference(replace(train, values=train.values + (values - val.values)))
    assert auroc(project(vectors, both), both.harmful)[[1, 2]].tolist() == [1.0, 1.0]
    assert best_layer(vectors, both) == 1


def test_a_side_of_one_prompt_has_no_spread_of_its_own():
    yes, no = torch.tensor([[3.0, 1.0]]), torch.tensor([[0.0, 1.0], [1.0, 1.0], [2.0, 1.0]])
    assert separation(yes, no)[0].item() == pytest.approx(2.0 / (1 / 2) ** 0.5)
    assert separation(yes[:, :1].repeat(2, 2), no)[0] == separation(yes, no)[0]
    # None has any at the second layer, and the first layer's means are apart.
    far, near = separation(yes, no[:1]).tolist()
    assert far > 1e30 and near == 0.0
    for one, other in ((yes[:0], no), (yes, no[:0])):
        with pytest.raises(
            ValueError,
            match=f"got {len(one)} prompts to tell from {len(other)} others, expected at least one of each",
        ):
            separation(one, other)


def test_random_directions_tell_nothing(train: Activations, val: Activations):
    vectors = mean_difference(train)
    areas = [
        auroc(project(random_directions(vectors, seed=seed), val), val.harmful)[[0, 3]] for seed in range(10)
    ]
    assert (torch.stack(areas).mean(0) - 0.5).abs().max() < 0.1


def test_always_open(val: Activations):
    reading = AlwaysOpen().read(val)
    assert reading.open.all() and (reading.scores > 0).all() and reading.open.shape == (2 * N, DEPTH)
    assert AlwaysOpen().id == AlwaysOpen().id and AlwaysOpen().reads == ()


def test_a_reading_knows_its_batch(model: Model, prompts: PromptSet, val: Activations, gate: ThresholdGate):
    read = last_token_activations(model, prompts)
    assert ThresholdGate.fit(mean_difference(read), read).read(read).prompts_hash == prompts.hash
    assert gate.read(val).prompts_hash == ""


def test_another_space_is_refused(gate: ThresholdGate, train: Activations, val: Activations):
    other = replace(val, space=replace(SPACE, processing="fold_ln"))
    for use in (
        gate.read,
        lambda a: gate.calibrate(a, false_positive_rate=0.1),
        lambda a: ThresholdGate.fit(mean_difference(train), a),
        lambda a: best_layer(mean_difference(train), a),
    ):
        with pytest.raises(
            SpaceMismatch, match="activations: made with processing='fold_ln', used with .*'raw'"
        ):
            use(other)


def test_files_bring_everything_back(train: Activations, tmp_path: Path):
    for layer in (None, 2):
        gate = ThresholdGate.fit(mean_difference(train), train, layer=layer)
        gate.save(tmp_path / "g.safetensors")
        back = load_gate(tmp_path / "g.safetensors")
        assert back.id == gate.id and back.shared_layer == layer and back.provenance == gate.provenance
        assert torch.equal(back.read(train).scores, gate.read(train).scores)


@pytest.mark.parametrize("lacks", ["space", "provenance", "shared_layer", "bias"])
def test_files_that_lack_what_save_writes_are_refused(gate: ThresholdGate, tmp_path: Path, lacks: str):
    tensors = {"directions": gate.directions, "bias": gate.bias}
    header = {"space": SPACE.to_json(), "provenance": gate.provenance.to_json(), "shared_layer": None}
    kept = [{key: value for key, value in part.items() if key != lacks} for part in (tensors, header)]
    save_tensors(tmp_path / "g.safetensors", "gate", *kept)
    with pytest.raises(
        ValueError, match=r"g\.safetensors was not written by the workbench: expected a file of its save"
    ):
        load_gate(tmp_path / "g.safetensors")


def test_malformed_gates_are_refused(gate: ThresholdGate):
    with pytest.raises(
        ValueError, match=r"gate has directions \(4, 32\) and bias \(4,\), expected \(5, 32\) and"
    ):
        replace(gate, space=replace(SPACE, n_layers=5))
    for value in (float("nan"), float("inf")):
        with pytest.raises(
            ValueError, match="gate has directions not all finite: expected numbers for every"
        ):
            replace(gate, directions=gate.directions.index_fill(1, torch.tensor([3]), value))
