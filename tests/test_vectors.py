"""The mean difference, found where it was planted and nowhere else; its arithmetic and its file."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import LENSES, N_LAYERS

from workbench.activations import Activations, last_token_activations
from workbench.gates import ThresholdGate
from workbench.loading import Model
from workbench.prompts import PromptSet
from workbench.provenance import Provenance, Space, SpaceMismatch, save_tensors
from workbench.vectors import (
    SteeringVectors,
    cosine_sentence,
    load_vectors,
    mean_difference,
    random_band,
    random_directions,
    shuffled_labels,
)

DEPTH, WIDTH, N = 5, 64, 64
SPACE = Space(DEPTH, WIDTH, "resid_post", "raw", "template", "vocabulary")


@pytest.fixture(scope="module")
def planted() -> torch.Tensor:
    """A unit direction per layer."""
    values = torch.randn(DEPTH, WIDTH, generator=torch.Generator().manual_seed(700))
    return values / values.norm(dim=-1, keepdim=True)


@pytest.fixture(scope="module")
def activations(planted: torch.Tensor) -> Activations:
    """Noise around a large common mean, with the planted direction added twice over for harmful prompts."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2 * N, DEPTH, WIDTH, generator=generator) / 4 + 10 * torch.randn(
        DEPTH, WIDTH, generator=generator
    )
    values[:N] += 2 * planted
    return Activations(values, ("harmful",) * N + ("harmless",) * N, None, SPACE, Provenance("activations"))


def test_the_equations(activations: Activations):
    vectors = mean_difference(activations)
    difference = activations.values[:N].mean(0) - activations.values[N:].mean(0)
    torch.testing.assert_close(vectors.values, difference, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vectors.norms, difference.norm(dim=-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(vectors.directions.norm(dim=-1), torch.ones(DEPTH))
    torch.testing.assert_close(vectors.residual_norms, activations.values.norm(dim=-1).mean(0))


def test_midpoints_are_minus_the_papers_bias(activations: Activations):
    vectors = mean_difference(activations)
    centre = (activations.values[:N].mean(0) + activations.values[N:].mean(0)) / 2
    torch.testing.assert_close(vectors.centre, centre, atol=1e-4, rtol=1e-4)
    for made in (vectors, -vectors, 3.0 * vectors, random_directions(vectors, seed=0), vectors + vectors):
        torch.testing.assert_close(
            made.midpoints, -ThresholdGate.fit(made, activations).bias, atol=1e-3, rtol=1e-4
        )
    unknown = replace(vectors, centre=None)
    assert all(made.midpoints is None for made in (unknown, -unknown, unknown + vectors, vectors + unknown))


def test_the_planted_direction_is_found_and_controls_are_not(activations: Activations, planted: torch.Tensor):
    vectors = mean_difference(activations)
    truth = replace(vectors, directions=planted)
    assert (vectors.cosine(truth) > 0.95).all()
    for control in (
        *(shuffled_labels(activations, seed=seed) for seed in range(10)),
        *(random_directions(vectors, seed=seed) for seed in range(10)),
    ):
        assert (control.cosine(truth).abs() < 2 * random_band(WIDTH)).all()
        assert (control.cosine(vectors).abs() < 2 * random_band(WIDTH)).all()


def test_controls_keep_what_they_should(activations: Activations):
    vectors = mean_difference(activations)
    control = random_directions(vectors, seed=0)
    assert torch.equal(control.norms, vectors.norms) and torch.equal(
        control.residual_norms, vectors.residual_norms
    )
    assert control.id == random_directions(vectors, seed=0).id != random_directions(vectors, seed=1).id
    shuffled = shuffled_labels(activations, seed=0)
    assert shuffled.id == shuffled_labels(activations, seed=0).id != shuffled_labels(activations, seed=1).id
    assert (shuffled.norms < vectors.norms / 2).all()


def test_the_random_band_holds_95_percent():
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(20_000, WIDTH, generator=generator)
    cosines = values[:, 0] / values.norm(dim=-1)
    assert abs((cosines.abs() < random_band(WIDTH)).double().mean() - 0.95) < 0.005


def at_cosines(activations: Activations, *cosines: float) -> tuple[SteeringVectors, SteeringVectors]:
    """Two sets of vectors with these cosines, layer by layer."""
    own = mean_difference(activations)
    noise = random_directions(own, seed=1).directions
    across = noise - (noise * own.directions).sum(-1, keepdim=True) * own.directions
    across = across / across.norm(dim=-1, keepdim=True)
    share = torch.tensor(cosines)[:, None]
    return own, replace(own, directions=share * own.directions + (1 - share**2).sqrt() * across)


def test_the_sentence_about_the_cosine_is_about_the_chosen_layers(activations: Activations):
    pair = at_cosines(activations, 0.9, 0.6, 0.1, -0.2, -0.8)  # random directions of this width reach 0.24
    said = "the directions of target and aligned model have cosine"
    careful = (
        ", not above the 0.24 that random directions reach: the models do not share a direction, and the"
    )
    assert (
        cosine_sentence(*pair, (0, 1))
        == f"{said} +0.60 to +0.90 over layers 0, 1; random directions reach 0.24"
    )
    assert cosine_sentence(*pair, (1, 2)) == (
        f"{said} +0.10 to +0.60 over layers 1, 2; random directions reach 0.24, which it does not exceed at layer 2"
    )
    assert cosine_sentence(*pair, (2, 3)).startswith(
        f"Careful: {said} -0.20 to +0.10 over layers 2, 3{careful}"
    )
    assert cosine_sentence(*pair, (4,)).startswith(f"Careful: {said} -0.80 over layer 4{careful}")
    with pytest.raises(ValueError, match="got no layers, expected at least one"):
        cosine_sentence(*pair, ())


def test_one_sided_or_unlabelled_activations_are_refused(activations: Activations):
    harmful = activations.labelled("harmful")
    for make in (mean_difference, lambda a: shuffled_labels(a.where(torch.arange(len(a)) < 1), seed=0)):
        with pytest.raises(ValueError, match="expected some of both|is chosen"):
            make(harmful)
    with pytest.raises(ValueError, match="got 64 harmful and 0 harmless activations, expected some of both"):
        mean_difference(harmful)
    with pytest.raises(ValueError, match="some activations are unlabelled: give their prompts a label"):
        mean_difference(replace(activations, labels=("unlabelled",) * 2 * N))


def test_sums_do_not_lose_small_differences(planted: torch.Tensor):
    """In float32 alone, a difference of 1e-3 around a mean of 1,000 would be mostly rounding."""
    values = torch.full((2000, DEPTH, WIDTH), 1000.0, dtype=torch.float64)
    values[:1000] += planted.double() / 4
    labels = ("harmful",) * 1000 + ("harmless",) * 1000
    vectors = mean_difference(Activations(values.float(), labels, None, SPACE, Provenance("activations")))
    exact = (values[0] - values[-1]).float().double()
    assert (vectors.cosine(replace(vectors, directions=planted)) > 0.999).all()
    torch.testing.assert_close(vectors.norms.double(), exact.norm(dim=-1), atol=1e-3, rtol=1e-3)


def test_where_all_prompts_agree_there_is_no_direction(model: Model, prompts: PromptSet):
    """What enters layer 0 at the last token is the embedding of the template's last token, whatever was asked."""
    read = last_token_activations(model, prompts.prompts[:7], site="resid_pre")
    vectors = mean_difference(read)
    assert vectors.norms[0] == 0 and (vectors.directions[0] == 0).all()
    assert (vectors.norms[1:] > 0).all()
    assert not ThresholdGate.fit(vectors, read).read(read).open[:, 0].any()


def test_backends_agree(llamas: dict[str, Model], prompts: PromptSet):
    made = {
        backend: mean_difference(last_token_activations(model, prompts)) for backend, model in llamas.items()
    }
    for backend in LENSES:
        torch.testing.assert_close(made[backend].cosine(made["plain"]), torch.ones(N_LAYERS))


def test_arithmetic_is_that_of_the_unnormalised_vectors(activations: Activations):
    one = mean_difference(activations)
    other = random_directions(one, seed=0)
    torch.testing.assert_close((one + other).values, one.values + other.values)
    torch.testing.assert_close((one - other).values, one.values - other.values)
    torch.testing.assert_close((3.0 * one).values, 3 * one.values)
    torch.testing.assert_close((-one).directions, -one.directions)
    torch.testing.assert_close((2.0 * one).directions, one.directions)
    assert ((one - one).norms == 0).all()
    assert (one + other).provenance.parents == (one.provenance, other.provenance)
    for factor in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="expected a finite number"):
            one * factor


def test_vectors_of_another_space_are_refused(activations: Activations):
    one = mean_difference(activations)
    other = replace(one, space=replace(SPACE, template_hash="other"))
    for operate in (one.cosine, one.__add__, one.__sub__):
        with pytest.raises(SpaceMismatch, match="give both models one"):
            operate(other)


def test_malformed_vectors_are_refused(activations: Activations):
    one = mean_difference(activations)
    with pytest.raises(
        ValueError, match=r"directions have shape \(4, 64\), expected \(5, 64\) \(layer, d_model\)"
    ):
        SteeringVectors(one.directions[1:], one.norms[1:], one.residual_norms[1:], SPACE, one.provenance)
    with pytest.raises(ValueError, match="rows that are not of unit length: make them with .*from_values"):
        replace(one, directions=one.directions * 2)


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_vectors_of_what_is_no_number_are_refused(activations: Activations, wrong: float):
    one = mean_difference(activations)
    values = one.values.clone()
    values[2, 3] = wrong
    with pytest.raises(ValueError, match="got NaN or infinity at layer 2, expected numbers"):
        SteeringVectors.from_values(values, one.residual_norms, SPACE, one.provenance)
    for name in ("norms", "residual_norms"):
        lengths = getattr(one, name).clone()
        for length in (wrong, -1.0):
            lengths[1] = length
            with pytest.raises(ValueError, match=rf"{name} are \[.*\], expected finite numbers of 0 or more"):
                replace(one, **{name: lengths})


def test_a_malformed_centre_is_refused(activations: Activations, unchecked: None):
    one = mean_difference(activations)
    with pytest.raises(
        ValueError, match=r"centre has shape \(4, 64\), expected \(5, 64\) \(layer, d_model\)"
    ):
        replace(one, centre=one.centre[1:])


def test_files_bring_everything_back(activations: Activations, tmp_path: Path):
    one = mean_difference(activations)
    one.save(tmp_path / "v.safetensors")
    back = load_vectors(tmp_path / "v.safetensors")
    assert back.id == one.id and back.space == one.space and back.provenance == one.provenance
    assert torch.equal(back.centre, one.centre)
    ThresholdGate.fit(one, activations).save(tmp_path / "g.safetensors")
    with pytest.raises(ValueError, match="holds gate, expected vectors: load it with load_gate"):
        load_vectors(tmp_path / "g.safetensors")


def test_files_from_before_the_centre_was_kept_load(activations: Activations, tmp_path: Path):
    one, path = mean_difference(activations), tmp_path / "v.safetensors"
    tensors = {"directions": one.directions, "norms": one.norms, "residual_norms": one.residual_norms}
    save_tensors(path, "vectors", tensors, {"space": SPACE.to_json(), "provenance": one.provenance.to_json()})
    back = load_vectors(path)
    assert back.centre is None and back.midpoints is None and back.id == one.id
    back.save(path)
    assert load_vectors(path).centre is None


@pytest.mark.parametrize(
    ("lacks", "header", "tensors"),
    [
        ("a space", {"space": None}, {}),
        ("a depth", {"space": {"d_model": 64}}, {}),
        ("a parent", {"provenance": {"kind": "vectors"}}, {}),
        ("a known field", {"provenance": {"kind": "vectors", "parents": [], "mood": "good"}}, {}),
        ("norms", {}, {"norms": None}),
    ],
)
def test_files_that_lack_what_save_writes_are_refused(
    activations: Activations, tmp_path: Path, lacks: str, header: dict[str, object], tensors: dict[str, None]
):
    """Intact, with the right hash: made by hand, or by something else."""
    one, path = mean_difference(activations), tmp_path / "v.safetensors"
    given = {"directions": one.directions, "norms": one.norms, "residual_norms": one.residual_norms} | tensors
    head = {"space": SPACE.to_json(), "provenance": one.provenance.to_json()} | header
    kept = [{key: value for key, value in part.items() if value is not None} for part in (given, head)]
    save_tensors(path, "vectors", *kept)
    with pytest.raises(
        ValueError, match=r"v\.safetensors was not written by the workbench: expected a file of its save"
    ):
        load_vectors(path)


def test_truncated_files_are_refused(activations: Activations, tmp_path: Path):
    path = tmp_path / "v.safetensors"
    mean_difference(activations).save(path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        ValueError, match=r"v\.safetensors is damaged or truncated .*: restore it from a copy"
    ):
        load_vectors(path)
