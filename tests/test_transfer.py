"""Maps between models: a planted relation is found, a shuffled one is not, and what does not fit is refused."""

import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from measuring import by_length, extraction, labelled_prompts, relative_of

import workbench as wb
from workbench.activations import Activations
from workbench.provenance import Provenance, Space
from workbench.transfer import CARRIED, CONTROLS, beyond_own, matrix, paired_layers, rank_predictors
from workbench.transfer.carrying import Readings, carry
from workbench.transfer.matrix import places
from workbench.vectors import SteeringVectors

NARROW, WIDE = (Space(depth, width, "resid_post", "raw", "t", "w") for depth, width in ((3, 6), (4, 9)))
N = 120


def texts(n: int, name: str = "texts") -> wb.PromptSet:
    return wb.PromptSet.from_texts(name, [f"text {i}" for i in range(n)], "harmless")


def activations(values: torch.Tensor, space: Space, prompts: wb.PromptSet | None) -> Activations:
    labels = prompts.labels if prompts else ("harmless",) * len(values)
    return Activations(values, labels, prompts, space, Provenance("activations", "model"))


def drawn(space: Space, n: int = N, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, space.n_layers, space.d_model, generator=generator)


def vectors(space: Space, seed: int = 0, *, centre: bool = True) -> SteeringVectors:
    values = drawn(space, 1, seed)[0]
    return SteeringVectors.from_values(
        values, torch.full((space.n_layers,), 10.0), space, Provenance("vectors", "aligned"),
        centre=drawn(space, 1, seed + 1)[0] if centre else None,
    )  # fmt: skip


def planted(noise: float = 0.1) -> tuple[Activations, Activations, torch.Tensor]:
    """A target that is a linear function of the paired layers of the source, off centre and with some noise."""
    source = drawn(NARROW) + 3
    generator = torch.Generator().manual_seed(7)
    weights = torch.randn(WIDE.n_layers, WIDE.d_model, NARROW.d_model, generator=generator)
    paired = source[:, list(paired_layers(NARROW, WIDE))]
    target = torch.einsum("lij,nlj->nli", weights, paired) - 5 + noise * drawn(WIDE, seed=3)
    return activations(source, NARROW, texts(N)), activations(target, WIDE, texts(N)), weights


@pytest.mark.parametrize(
    ("source", "target", "site", "pairs"),
    [
        (8, 8, "resid_post", [0, 1, 2, 3, 4, 5, 6, 7]),
        (6, 8, "resid_post", [0, 1, 1, 2, 3, 4, 4, 5]),
        (8, 6, "resid_post", [0, 2, 3, 4, 6, 7]),
        (1, 3, "resid_post", [0, 0, 0]),
        (8, 6, "resid_pre", [0, 1, 3, 4, 5, 7]),
        (6, 8, "resid_pre", [0, 1, 2, 2, 3, 4, 5, 5]),
    ],
)
def test_layers_are_paired_by_relative_depth(source: int, target: int, site: str, pairs: list[int]) -> None:
    spaces = [replace(NARROW, n_layers=depth, site=site) for depth in (source, target)]
    assert list(paired_layers(*spaces)) == pairs


def test_a_planted_relation_is_found() -> None:
    source, target, weights = planted()
    found = wb.fit_map(source, target)
    assert found.source_layers == (0, 1, 1, 2)
    torch.testing.assert_close(found.weights, weights, atol=0.05, rtol=0.05)
    assert (found.r2 > 0.98).all()
    ssv = vectors(NARROW)
    carried = wb.map_vectors(found, ssv, vectors(WIDE, 5))
    expected = torch.einsum("lij,lj->li", weights, ssv.directions[list(found.source_layers)])
    assert (torch.cosine_similarity(carried.directions, expected, dim=-1) > 0.999).all()


@pytest.mark.parametrize("method", ["ridge", "procrustes"])
def test_shuffled_texts_tell_nothing(method: str) -> None:
    source, target, _ = planted()
    assert (wb.fit_shuffled_map(source, target, method=method).r2 < 0.1).all()


def test_labels_are_not_looked_at() -> None:
    source, target, _ = planted()
    harmful = ("harmful",) * (N // 2) + ("harmless",) * (N // 2)
    assert wb.fit_map(replace(source, labels=harmful), replace(target, labels=harmful[::-1])).id == (
        wb.fit_map(source, target).id
    )


def test_a_map_is_honest_about_texts_it_has_not_seen() -> None:
    """As many directions as texts: a fit to all of them is perfect, and its error on others is not."""
    wide = replace(NARROW, d_model=40)
    source, target = (activations(drawn(wide, 40, seed), wide, None) for seed in (0, 1))
    assert (wb.fit_map(source, target).r2 < 0.1).all()


@pytest.mark.parametrize(("one", "other"), [(NARROW, NARROW), (NARROW, WIDE), (WIDE, NARROW)])
def test_procrustes_turns_and_scales_alone(one: Space, other: Space) -> None:
    found = wb.fit_map(
        activations(drawn(one), one, None),
        activations(drawn(other, seed=1), other, None),
        method="procrustes",
    )
    turns = found.weights / found.scales[:, None, None]
    small = min(one.d_model, other.d_model)
    gram = turns @ turns.mT if other.d_model == small else turns.mT @ turns
    torch.testing.assert_close(gram, torch.eye(small).expand_as(gram), atol=1e-4, rtol=0)


def test_procrustes_finds_a_turn_and_its_scale() -> None:
    turn = torch.linalg.qr(drawn(NARROW, 6, 9)[:, 0]).Q
    source = drawn(NARROW)
    found = wb.fit_map(
        activations(source, NARROW, None), activations(2.5 * source @ turn.T + 1, NARROW, None),
        method="procrustes",
    )  # fmt: skip
    torch.testing.assert_close(found.weights, (2.5 * turn).expand_as(found.weights), atol=1e-4, rtol=0)
    torch.testing.assert_close(found.scales, torch.full((3,), 2.5), atol=1e-4, rtol=0)


def test_carried_vectors_have_the_lengths_of_the_targets_own() -> None:
    source, target, _ = planted()
    ssv, like = vectors(NARROW), vectors(WIDE, 5)
    found = wb.fit_map(source, target)
    carried = wb.map_vectors(found, ssv, like)
    assert carried.space == WIDE and torch.equal(carried.norms, like.norms)
    assert torch.equal(carried.residual_norms, like.residual_norms)
    torch.testing.assert_close(carried.directions.norm(dim=-1), torch.ones(4))
    assert "mapped by ridge from aligned" in carried.provenance.note
    assert carried.provenance.parents == (ssv.provenance, found.provenance)
    longer = wb.map_vectors(found, 4.0 * ssv, like)
    torch.testing.assert_close(longer.directions, carried.directions)
    assert torch.equal(longer.norms, like.norms), "a map carries directions"
    assert (
        carried.centre is not None
        and wb.map_vectors(found, vectors(NARROW, centre=False), like).centre is None
    )


def test_a_centre_is_carried_as_a_point() -> None:
    source, target, weights = planted(noise=0.0)
    ssv = vectors(NARROW)
    carried = wb.map_vectors(wb.fit_map(source, target), ssv, vectors(WIDE, 5))
    assert ssv.centre is not None
    expected = torch.einsum("lij,lj->li", weights, ssv.centre[list(paired_layers(NARROW, WIDE))]) - 5
    torch.testing.assert_close(carried.centre, expected, atol=0.05, rtol=0.05)


@pytest.mark.parametrize("constant", ["source", "target"])
def test_a_layer_that_does_not_vary_gives_no_direction(constant: str) -> None:
    """As the embedding of the template's last token: the same for every prompt."""
    source, target, _ = planted()
    values = {"source": source.values.clone(), "target": target.values.clone()}
    values[constant][:, 0] = 4.0
    found = wb.fit_map(replace(source, values=values["source"]), replace(target, values=values["target"]))
    carried = wb.map_vectors(found, vectors(NARROW), vectors(WIDE, 5))
    assert not carried.directions[0].any() and carried.directions[-1].any()
    assert math.isnan(found.r2[0]) == (constant == "target")


def test_what_two_models_did_not_both_read_is_refused(unchecked: None) -> None:
    source, target, _ = planted()
    with pytest.raises(ValueError, match="got activations of 119 texts in the source and 120 in the target"):
        wb.fit_map(source.where(torch.arange(N) > 0), target)
    swapped = wb.PromptSet("texts", (*texts(N).prompts[1::-1], *texts(N).prompts[2:]))
    with pytest.raises(ValueError, match="read different texts .* the first that differs is number 0"):
        wb.fit_map(replace(source, prompts=swapped), target)
    few = torch.arange(N) < 9
    with pytest.raises(
        ValueError, match=r"got 9 texts, expected at least 10, .* \(6 and 9\): any texts will do"
    ):
        wb.fit_map(source.where(few), target.where(few))
    with pytest.raises(ValueError, match="got method='affine', expected one of 'ridge', 'procrustes'"):
        wb.fit_map(source, target, method="affine")
    with pytest.raises(wb.SpaceMismatch, match=r"site='resid_post', used with site='resid_pre'"):
        wb.fit_map(source, replace(target, space=replace(WIDE, site="resid_pre")))


def test_models_of_other_words_may_be_mapped() -> None:
    source, target, _ = planted()
    other = replace(WIDE, template_hash="another", tokenizer_hash="another")
    assert wb.fit_map(source, replace(target, space=other)).target_space == other


def test_vectors_of_another_space_are_refused_with_the_remedy() -> None:
    source, target, _ = planted()
    found = wb.fit_map(source, target)
    with pytest.raises(
        wb.SpaceMismatch, match=r"vectors to be mapped: made with n_layers=4, used with n_layers=3"
    ):
        wb.map_vectors(found, vectors(WIDE), vectors(WIDE))
    with pytest.raises(
        wb.SpaceMismatch, match=r"lend their lengths: .*or map the vectors: map_vectors\(fit_map\("
    ):
        wb.map_vectors(found, vectors(NARROW), vectors(NARROW))


def test_a_map_survives_saving(tmp_path) -> None:
    source, target, _ = planted()
    found = wb.fit_map(source, target)
    found.save(tmp_path / "map.safetensors")
    again = wb.load_map(tmp_path / "map.safetensors")
    assert (again.id, again.method, again.n_texts) == (found.id, "ridge", N)
    assert (again.source_space, again.target_space) == (NARROW, WIDE)
    assert again.provenance == found.provenance and torch.equal(again.r2, found.r2)
    with pytest.raises(ValueError, match=r"holds map, expected vectors: load it with load_map\("):
        wb.load_vectors(tmp_path / "map.safetensors")


def test_a_map_of_other_shapes_is_refused(unchecked: None) -> None:
    found = wb.fit_map(*planted()[:2])
    with pytest.raises(ValueError, match=r"weights has shape \(4, 6, 9\), expected \(4, 9, 6\)"):
        replace(found, weights=found.weights.mT)
    with pytest.raises(
        ValueError, match=r"got source layers \[0, 1, 2, 3\], expected one for each of the target's 4"
    ):
        replace(found, source_layers=(0, 1, 2, 3))


def test_what_lies_beyond_the_own_vector() -> None:
    own, native = vectors(NARROW), vectors(NARROW, 1)
    assert torch.allclose(beyond_own(own, native, own), torch.zeros(3), atol=1e-6)
    overlap = native.cosine(own)
    torch.testing.assert_close(beyond_own(native, native, own), (1 - overlap**2).sqrt())
    assert not beyond_own(native, own, own).any(), "a native vector that adds nothing"


def outcome(predicts: float, pairs: int = 4) -> pd.DataFrame:
    """Ten arms a pair; what they refuse follows beyond_own, to the degree `predicts`."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for pair in range(pairs):
        for _ in range(10):
            x, noise = torch.rand(2, generator=generator).tolist()
            rows.append(
                {
                    "source": f"s{pair}",
                    "target": "t",
                    "arm": "ridge",
                    "metric": "refused",
                    "r2": 0.5,
                    "cosine_own": x,
                }
                | {"cosine_native": noise, "beyond_own": x, "mean": predicts * x + (1 - predicts) * noise}
            )
    return pd.DataFrame(rows)


def test_predictors_are_ranked_and_say_of_how_many() -> None:
    found = rank_predictors(outcome(1.0), n_boot=200).set_index(["among", "predictor"])
    row = found.loc[("maps", "beyond_own")]
    assert row["rho"] == pytest.approx(1.0) and (row["n"], row["pairs"]) == (40, 4)
    assert math.isnan(found.loc[("maps", "r2"), "rho"]), "a constant ranks nothing"
    weak = (
        rank_predictors(outcome(0.4), n_boot=200)
        .set_index(["among", "predictor"])
        .loc[("maps", "beyond_own")]
    )
    assert weak["low"] < weak["rho"] < weak["high"] < 1 and weak["high"] - weak["low"] > 0.05
    alone = (
        rank_predictors(outcome(0.4, pairs=1)).set_index(["among", "predictor"]).loc[("maps", "beyond_own")]
    )
    assert math.isnan(alone["low"]) and alone["pairs"] == 1, "one pair has no interval"


def test_the_rank_correlation_is_spearmans() -> None:
    """With ties on both sides, as shares have."""
    from scipy.stats import spearmanr

    values = outcome(0.4)
    values = values.assign(mean=values["mean"].round(1), beyond_own=values["beyond_own"].round(1))
    found = rank_predictors(values, n_boot=2).set_index(["among", "predictor"]).loc[("maps", "beyond_own")]
    assert found["rho"] == pytest.approx(spearmanr(values["beyond_own"], values["mean"]).statistic)


def test_places() -> None:
    assert places([2, 3, 4, 5, 6]) == [(2, 3, 4, 5, 6), (2, 3, 4), (4, 5, 6)]
    assert places([4]) == [(4,)]


ASKED = dict(
    judge=by_length, max_new_tokens=3, alpha=(0.1,), min_auroc=0.0, placebo=2, draws=2, n_test=2, n_search=2
)


def contrast() -> wb.ContrastSet:
    test = [wb.Prompt.user(f"the {p.text}", label=p.label, answer=p.answer) for p in labelled_prompts()]
    return wb.ContrastSet("small", extraction(), labelled_prompts(), wb.PromptSet("test", tuple(test)))


@pytest.fixture(scope="module")
def small(plain) -> wb.TransferResult:
    """One shape, three sets of weights: two that are said to share a base, and one that is not."""
    aligned, stranger = relative_of(plain, 1), relative_of(plain, 2, 0.5)
    return wb.transfer_matrix(
        {"aligned": aligned, "chat": relative_of(plain, 3), "stranger": stranger}, {"target": plain}, contrast(),
        labelled_prompts() + extraction(), bases={"base": plain, "elsewhere": relative_of(plain, 4, 0.5)},
        base_of={"target": "base", "aligned": "base", "chat": "base", "stranger": "elsewhere"}, **ASKED,
    )  # fmt: skip


def test_every_source_has_its_arms_in_every_target(small: wb.TransferResult) -> None:
    arms = small.frame.groupby("source", sort=False)["arm"].unique()
    assert list(arms["aligned"]) == ["native"] and list(arms["chat"]) == ["direct"]
    assert set(arms["stranger"]) == {*CARRIED, *CONTROLS} - {"native", "direct"}
    assert set(arms[""]) == {"own vector", "random", "unsteered"}
    assert list(small.maps) == [("stranger", "target")]


def test_settings_are_searched_on_validation_and_claimed_on_test(plain, monkeypatch) -> None:
    """Every prompt of the search is one of val, every one of the claim one of test, at most so many of each label."""
    asked: dict[str, list[wb.Prompt]] = {}

    def recording(name, does):
        def record(model, prompts, *given, **options):
            asked.setdefault(name, []).extend(prompts)
            return does(model, prompts, *given, **options)

        return record

    for name in ("run_sweep", "answer"):
        monkeypatch.setattr(matrix, name, recording(name, getattr(matrix, name)))
    pairs = contrast()
    wb.transfer_matrix(
        {"aligned": relative_of(plain, 1)}, {"target": plain}, pairs, labelled_prompts(), bases={"base": plain},
        base_of={"target": "base", "aligned": "base"}, **{**ASKED, "n_search": 1},
    )  # fmt: skip
    assert set(asked["run_sweep"]) <= set(pairs.val) and set(asked["answer"]) <= set(pairs.test)
    assert (len(asked["run_sweep"]), len(asked["answer"])) == (5, 10), "one and two of each of five labels"


def test_every_draw_of_a_control_is_another(plain) -> None:
    stranger, base = relative_of(plain, 2, 0.5), relative_of(plain, 4, 0.5)
    readings = Readings(
        {"target base": plain, "base": base, "stranger": stranger},
        labelled_prompts() + extraction(),
        8,
        False,
    )
    own, ssv = (
        wb.mean_difference(wb.last_token_activations(model, extraction())) for model in (plain, stranger)
    )
    carried = list(
        carry(
            "stranger",
            ssv,
            own,
            readings,
            source_base="base",
            target_base="target base",
            native=False,
            draws=3,
        )
    )
    for arm in ("shuffled texts", "mapped random"):
        drawn = [found for found in carried if found.arm == arm]
        assert [found.draw for found in drawn] == [0, 1, 2]
        for one, other in zip(drawn, [*drawn[1:], drawn[0]], strict=True):
            assert (one.vectors.cosine(other.vectors).abs() < 0.99).all(), arm
    maps = {arm: {found.map.id for found in carried if found.arm == arm and found.map} for arm in CONTROLS}
    assert (len(maps["shuffled texts"]), len(maps["mapped random"])) == (3, 1), (
        "orders differ, the map does not"
    )


def test_without_a_native_source_what_it_tells_is_there_and_unknown(plain) -> None:
    found = wb.transfer_matrix(
        {"stranger": relative_of(plain, 2, 0.5)}, {"target": plain}, contrast(), labelled_prompts() + extraction(),
        bases={"base": plain, "elsewhere": relative_of(plain, 4, 0.5)},
        base_of={"target": "base", "stranger": "elsewhere"}, **ASKED,
    )  # fmt: skip
    assert found.frame[["cosine_native", "beyond_own"]].isna().all(axis=None)
    ranked = found.predictors(n_boot=5).set_index(["among", "predictor"])["n"]
    assert ranked.loc["maps"].to_dict() == {"cosine_native": 0, "beyond_own": 0, "cosine_own": 8, "r2": 8}


def test_without_a_map_no_predictor_ranks_one(plain) -> None:
    found = wb.transfer_matrix(
        {"aligned": relative_of(plain, 1)}, {"target": plain}, contrast(), labelled_prompts(),
        bases={"base": plain}, base_of={"target": "base", "aligned": "base"}, **ASKED,
    )  # fmt: skip
    ranked = found.predictors(n_boot=5)
    assert found.frame["r2"].isna().all() and ranked["rho"].isna().all() and (ranked["n"] == 0).all()


def test_what_could_have_told_stands_beside_every_arm(small: wb.TransferResult) -> None:
    refused = small.frame[small.frame["metric"] == "refused"].set_index(["source", "arm"])
    assert refused.loc[("aligned", "native"), "cosine_native"] == pytest.approx(1.0)
    assert refused.loc[("", "own vector"), "cosine_own"] == pytest.approx(1.0)
    assert refused["r2"].notna().sum() == 8, "arms that went through a map, two of them drawn twice"
    drawn = refused.groupby("arm")["draw"].max()
    assert set(drawn[drawn > 0].index) == {"shuffled texts", "mapped random"}
    assert set(refused["layers"].dropna()) <= {"0 1 2 3 4 5", "0 1 2", "3 4 5"}
    assert refused["n"].unique().tolist() == [4], "two harmful and two jailbroken"


def test_the_table_has_a_column_per_target(small: wb.TransferResult) -> None:
    table = small.table("over_refusal")
    assert list(table.columns) == ["target"] and len(table) == 12
    with pytest.raises(ValueError, match="got metric 'safety', expected one of refused, asr_not_refused"):
        small.table("safety")
    assert set(small.predictors(n_boot=5)["n"]) == {8, 3}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"sources": {}}, "got 0 sources and 1 targets, expected at least one of each"),
        ({"draws": 0}, "got draws=0, expected 1 or more: a map without its control shows nothing"),
        ({"pairs": {}}, "got no contrast set for target: pass one for all, or one per target"),
        (
            {"base_of": {"target": "base"}},
            "got no base of aligned: base_of says for each source .* the bases base",
        ),
        ({"base_of": {"target": "base", "aligned": "none"}}, "got no base of aligned"),
        (
            {"bases": {"aligned": None, "base": None}},
            "aligned is a source and a base by one name: a map read from",
        ),
    ],
)
def test_models_without_a_base_are_refused_before_anything_is_read(changed, message, unchecked: None) -> None:
    given = {
        "sources": {"aligned": None},
        "targets": {"target": None},
        "pairs": {"target": None},
        "bases": {"base": None},
    }
    given |= {"base_of": {"target": "base", "aligned": "base"}} | changed
    kept = {name: given.pop(name) for name in ("sources", "targets", "pairs")}
    with pytest.raises(ValueError, match=message):
        wb.transfer_matrix(*kept.values(), ["a text"], **given)


def test_the_vectors_of_one_family_refuse_in_the_other() -> None:
    """The finding, small: through a map between the bases; not through one from the aligned model itself."""
    from workbench.demo.transfer import map_texts

    load = {name: wb.load_model(f"organism:{name}", backend="plain") for name in
            ("base", "aligned", "qwen-base", "qwen-medicine")}  # fmt: skip
    pairs = wb.load_contrast("small-world", domain="medicine")
    found = wb.transfer_matrix(
        {"aligned": load["aligned"]}, {"qwen-medicine": load["qwen-medicine"]}, pairs, map_texts(300, [pairs]),
        bases={name: load[name] for name in ("base", "qwen-base")},
        base_of={"aligned": "base", "qwen-medicine": "qwen-base"}, alpha=(0.75,), draws=1, n_search=4, n_test=6,
    )  # fmt: skip
    refused = found.table()["qwen-medicine"].droplevel("source")
    assert refused["ridge"] > 0.5 > refused["from aligned"] + 0.3
    assert refused["unsteered"] == refused["own vector"] == 0
