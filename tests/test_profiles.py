"""Layer profiles: a planted direction is found at its layer and nowhere else, and errors name what is missing."""

from dataclasses import replace

import pytest
import torch

from workbench.activations import Activations
from workbench.gates import ThresholdGate, auroc, project
from workbench.profiles import gate_map, layer_profile, projections, select_layers, separability
from workbench.provenance import Provenance, Space, SpaceMismatch
from workbench.vectors import SteeringVectors, mean_difference, shuffled_labels

SPACE = Space(3, 8, "resid_post", "raw", "t", "k")


def activations(
    seed: int, n: int = 60, labels: tuple[str, ...] = ("harmful", "harmless"), planted: int = 1
) -> Activations:
    """Noise, with the first axis of layer `planted` at ±3 for harmful and harmless prompts."""
    values = torch.randn(n * len(labels), 3, 8, generator=torch.Generator().manual_seed(seed))
    named = tuple(label for label in labels for _ in range(n))
    for i, label in enumerate(named):
        values[i, planted, 0] += {"harmful": 3, "harmless": -3}.get(label, 0)
    return Activations(values, named, None, SPACE, Provenance("activations", "planted"))


def test_a_planted_direction_is_found_at_its_layer_only():
    profile = layer_profile(mean_difference(activations(0)), activations(1))
    frame = profile.frame.set_index("layer")
    assert frame.loc[1, "auroc"] > 0.99
    assert frame.loc[1, "balanced_accuracy"] > 0.97
    assert frame.loc[[0, 2], "auroc"].between(0.3, 0.7).all()
    assert (frame["auroc_low"] < frame["auroc_high"]).all()
    assert select_layers(profile) == (1,)


def test_the_accuracy_is_that_of_the_papers_gate():
    train, val = activations(0), activations(1)
    vectors = mean_difference(train)
    opened = gate_map(ThresholdGate.fit(vectors, train), val).set_index(["label", "layer"])["open"]
    expected = (opened["harmful"] + 1 - opened["harmless"]) / 2
    frame = layer_profile(vectors, val).frame.set_index("layer")
    assert frame["balanced_accuracy"].tolist() == pytest.approx(expected.tolist())


def test_the_accuracy_is_held_out():
    """Prompts that all moved along the direction are told apart as before, but not at the threshold of the others."""
    vectors, val = mean_difference(activations(0)), activations(1)
    moved = replace(val, values=val.values + 2 * vectors.values)
    before, after = (layer_profile(vectors, read).frame.set_index("layer") for read in (val, moved))
    assert after.loc[1, "auroc"] == pytest.approx(before.loc[1, "auroc"])
    assert before.loc[1, "balanced_accuracy"] > 0.97
    assert after.loc[1, "balanced_accuracy"] == pytest.approx(0.5, abs=0.02)


def test_vectors_without_midpoints_have_no_accuracy():
    made = mean_difference(activations(0))
    vectors = SteeringVectors.from_values(made.values, made.residual_norms, SPACE, made.provenance)
    bare = layer_profile(vectors, activations(1)).frame
    assert bare["balanced_accuracy"].isna().all()
    whole = layer_profile(made, activations(1)).frame
    accuracy = [f"balanced_accuracy{end}" for end in ("", "_low", "_high")]
    assert bare.drop(columns=accuracy).equals(whole.drop(columns=accuracy))
    assert (whole["balanced_accuracy_low"] < whole["balanced_accuracy_high"]).all()


def test_shuffled_labels_find_nothing():
    profile = layer_profile(shuffled_labels(activations(0), seed=0), activations(1))
    assert profile.frame["auroc"].max() < 0.9
    with pytest.raises(
        ValueError, match=r"no layer reaches AUROC 0.95 in all 1 profiles, the best is layer \d"
    ):
        select_layers(profile)


def test_every_profile_must_pass():
    train, val = activations(0), activations(1)
    other = layer_profile(mean_difference(activations(2, planted=2)), activations(3, planted=2))
    with pytest.raises(ValueError, match="in all 2 profiles"):
        select_layers(layer_profile(mean_difference(train), val), other)
    assert select_layers(layer_profile(mean_difference(train), val), other, min_auroc=0.0) == (0, 1, 2)


def test_a_profile_counts_intent_and_leaves_the_domain_out():
    labels = ("harmful", "jailbroken", "harmless", "contrast")
    everyday, vectors = activations(1, labels=labels), mean_difference(activations(0))
    mixed = activations(1, labels=(*labels, "domain"))
    assert mixed.labelled(*labels).values.shape == everyday.values.shape
    found = layer_profile(vectors, mixed).frame
    assert found.equals(layer_profile(vectors, mixed.labelled(*labels)).frame)
    assert not found.equals(layer_profile(vectors, mixed.labelled("harmful", "harmless")).frame)
    harm = torch.tensor([label in ("harmful", "jailbroken") for label in mixed.labelled(*labels).labels])
    expected = auroc(project(vectors, mixed.labelled(*labels)), harm)
    assert found["auroc"].tolist() == pytest.approx(expected.tolist(), abs=1e-6)


def test_projections_are_centred_between_the_classes_of_train():
    train = activations(0)
    frame = projections(mean_difference(train), train, train=train)
    means = frame.groupby(["layer", "label"])["projection"].mean()
    for layer in range(3):
        assert means[layer, "harmful"] == pytest.approx(0.5, abs=1e-4)
        assert means[layer, "harmless"] == pytest.approx(-0.5, abs=1e-4)


def test_projections_show_data_that_is_shifted_and_stretched():
    """Their own gap and midpoint would hide both: +½ and −½ again."""
    train = activations(0)
    vectors = mean_difference(train)
    moved = 2 * train.values + 0.75 * vectors.values
    other = replace(train, values=moved)
    middle = (train.values * vectors.directions).sum(-1).mean(0) / vectors.norms
    means = projections(vectors, other, train=train).groupby(["layer", "label"])["projection"].mean()
    for layer in range(3):
        shift = 0.75 + float(middle[layer])  # doubling moves the midpoint once more
        assert means[layer, "harmful"] == pytest.approx(shift + 1, abs=1e-3)
        assert means[layer, "harmless"] == pytest.approx(shift - 1, abs=1e-3)


def test_projections_of_a_layer_without_a_direction_are_nothing():
    train = activations(0)
    flat = replace(train, values=train.values * torch.tensor([0.0, 1.0, 1.0])[:, None])
    frame = projections(mean_difference(flat), flat, train=flat)
    assert (frame[frame["layer"] == 0]["projection"] == 0).all()


def test_projections_of_another_space_are_refused():
    train = activations(0)
    stranger = replace(train, space=replace(SPACE, site="resid_pre"))
    for read, made_from in ((stranger, train), (train, stranger)):
        with pytest.raises(SpaceMismatch, match="site"):
            projections(mean_difference(train), read, train=made_from)


def test_gate_map_counts_openings_by_label():
    train = activations(0)
    frame = gate_map(ThresholdGate.fit(mean_difference(train), train), activations(1))
    at = frame[frame["layer"] == 1].set_index("label")
    assert at.loc["harmful", "open"] > 0.95
    assert at.loc["harmless", "open"] < 0.05
    assert at.loc["harmful", "n"] == 60


def test_messages():
    vectors = mean_difference(activations(0))
    with pytest.raises(ValueError, match="got prompts labelled harmful, none harmless: a profile compares"):
        layer_profile(vectors, activations(1).labelled("harmful"))
    with pytest.raises(ValueError, match="got no profile, expected one per model"):
        select_layers()


def test_which_vectors_read_which_prompts():
    """Each of two kinds of prompts is read where its own vectors were planted, and nowhere else."""
    vectors = {
        name: mean_difference(activations(layer, planted=layer)) for name, layer in (("a", 0), ("b", 2))
    }
    asked = {name: activations(5 + layer, planted=layer) for name, layer in (("like a", 0), ("like b", 2))}
    frame = separability(vectors, asked)
    assert list(frame.columns[:5]) == ["model", "made_from", "asked", "layer", "auroc"] and len(frame) == 12
    read = frame[frame["auroc"] > 0.95]
    assert set(zip(read["made_from"], read["asked"], read["layer"], strict=True)) == {
        ("a", "like a", 0),
        ("b", "like b", 2),
    }
    one = frame[(frame["made_from"] == "b") & (frame["asked"] == "like b")]
    expected = layer_profile(vectors["b"], asked["like b"]).frame
    for column in ("auroc", "auroc_low", "auroc_high", "balanced_accuracy", "n"):
        assert one[column].tolist() == expected[column].tolist()


def test_separability_needs_vectors_and_prompts():
    with pytest.raises(ValueError, match="got no vectors, expected some, by name"):
        separability({}, {"words": activations(0)})
    with pytest.raises(ValueError, match="got no prompts, expected some, by name"):
        separability({"words": mean_difference(activations(0))}, {})
