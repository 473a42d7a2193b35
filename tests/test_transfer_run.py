"""The transfer run: models by name, texts that stand in no list, a table, a csv, and pictures of what it found."""

import importlib.util
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import small_tokenizer
from measuring import by_length
from parity import babbler_of
from rich.console import Console
from typer.testing import CliRunner

import workbench as wb
from workbench import plots
from workbench.cli import app
from workbench.demo import transfer as run
from workbench.demo.transfer import Named, map_texts, name_models, pairs_for, run_transfer
from workbench.provenance import Provenance
from workbench.style import COLOURS
from workbench.transfer import CARRIED, CONTROLS, WITHOUT_SOURCE, rank_predictors

SCRIPT = Path(__file__).parents[1] / "figures" / "transfer.py"


def frame(*, broken: float = 0.0) -> pd.DataFrame:
    """Two families of one aligned model and one target each; what is carried works, what is a control does not."""
    rows = []
    for target, own in (("medicine", "aligned"), ("qwen-medicine", "qwen-aligned")):
        arms = [("", arm) for arm in WITHOUT_SOURCE] + [(own, "native")]
        other = {"aligned": "qwen-aligned", "qwen-aligned": "aligned"}[own]
        arms += [(other, arm) for arm in (*CARRIED[2:], *CONTROLS)]
        for source, arm in arms:
            works = arm in CARRIED
            told = {
                "cosine_native": 0.9 if works else 0.1,
                "beyond_own": 0.6 if works else 0.0,
                "cosine_own": 0.5,
            }
            told = {**told, "r2": 0.8} if arm not in ("native", "unmapped", *WITHOUT_SOURCE) else told
            values = {"refused": 0.95 if works else 0.0, "asr_not_refused": 0.05 if works else 1.0 - broken}
            values |= {"broken": 0.0 if works else broken, "utility": 1.0}
            for metric, mean in values.items():
                rows.append(
                    {"source": source, "target": target, "arm": arm, "metric": metric, "mean": mean, "low": mean}
                    | {"draw": 0, "high": mean, "n": 10, "clusters": 5, "method": "made up", **told}
                )  # fmt: skip
    return pd.DataFrame(rows)


def test_the_matrix_shows_every_cell_and_frames_the_native_ones() -> None:
    made = frame()
    figure = plots.transfer_matrix(made)
    maps = [trace for trace in figure.data if trace.type == "heatmap"]
    assert len(maps) == 8
    drawn = np.concatenate([np.asarray(trace.z, dtype=float).ravel() for trace in maps])
    assert np.isfinite(drawn).sum() == (made["metric"] == "asr_not_refused").sum()
    assert all((trace.zmin, trace.zmax) == (0, 1) for trace in maps)
    framed = [shape for shape in figure.layout.shapes if shape.line.color == COLOURS["steered"]]
    assert len(framed) == 2
    assert (
        "5 % with native vectors, 5 % mapped between bases, 100 % mapped from the aligned model itself"
        in (figure.layout.title.text.replace("<br>", " "))
    )


def test_what_broke_is_filled_from_below() -> None:
    def bars(broken: float) -> list[float]:
        shapes = plots.transfer_matrix(frame(broken=broken)).layout.shapes
        return [shape.y1 - shape.y0 for shape in shapes if shape.fillcolor]

    assert bars(0.0) == []
    assert bars(0.5) and all(height == pytest.approx(0.47) for height in bars(0.5))


def test_draws_of_one_arm_are_averaged() -> None:
    made = frame()
    again = made[made["arm"] == "shuffled texts"].assign(draw=1, mean=0.0)
    both = pd.concat([made, again], ignore_index=True)
    drawn = {note.text for note in plots.transfer_matrix(both).layout.annotations}
    assert ".50" in drawn and ".50" not in {n.text for n in plots.transfer_matrix(made).layout.annotations}


def test_a_csv_draws_the_same_matrix(tmp_path: Path) -> None:
    frame().to_csv(tmp_path / "t.csv", index=False)
    again = plots.transfer_matrix(pd.read_csv(tmp_path / "t.csv"))
    assert again.to_json() == plots.transfer_matrix(frame()).to_json()


def test_the_predictors_have_a_mark_per_carried_vector() -> None:
    figure = plots.transfer_predictors(frame())
    marks = [trace for trace in figure.data if trace.type == "scatter"]
    assert sum(len(trace.x) for trace in marks) == 3 * 16 + 12, "R² is known of maps alone"
    colours = {trace.marker.line.color for trace in marks}
    assert colours == {COLOURS["steered"], COLOURS["control"], COLOURS["domain"]}
    titles = [note.text for note in figure.layout.annotations if note.text.startswith("ρ")]
    assert len(titles) == 4 and "12 vectors of 2 pairs" in figure.layout.title.text.replace("<br>", " ")


def test_a_predictor_known_of_no_vector_is_left_out_and_said_so() -> None:
    """As where no source is of a target's own base; and as where all are, so that nothing went through a map."""
    unknown = frame()[lambda made: made["arm"] != "native"].assign(cosine_native=np.nan, beyond_own=np.nan)
    figure = plots.transfer_predictors(unknown)
    axes = [axis.title.text for axis in figure.select_xaxes()]
    assert axes == ["cosine to the target's own vector", "the map's held-out R²"]
    said = figure.layout.title.subtitle.text.replace("<br>", " ")
    assert (
        "left out, as it is known of none: cosine to the native vector, what they share with the native"
        in said
    )
    assert "left out" not in plots.transfer_predictors(frame()).layout.title.subtitle.text
    native = plots.transfer_predictors(frame()[lambda made: made["arm"] == "native"].assign(r2=np.nan))
    titles = [note.text for note in native.layout.annotations if note.text.startswith("ρ")]
    assert titles == ["ρ unknown"] * 3 and "nan" not in native.to_json()
    with pytest.raises(
        ValueError,
        match="got 14 carried vectors without a number in cosine_native, .* nothing to draw them against",
    ):
        plots.transfer_predictors(unknown.assign(cosine_own=np.nan, r2=np.nan))


def test_one_pair_of_models_has_no_interval() -> None:
    made = frame()[lambda made: made["target"] == "medicine"]
    figure = plots.transfer_predictors(made)
    titles = [note.text for note in figure.layout.annotations if note.text.startswith("ρ")]
    assert titles == ["ρ = 1.00", "ρ = 1.00", "ρ unknown", "ρ unknown"]
    assert "of one (source, target) pair, which has no interval" in (
        figure.layout.title.subtitle.text.replace("<br>", " ")
    )
    console = Console(record=True, width=120)
    console.print(run._predictors(wb.TransferResult(made, {}, Provenance("transfer"))))
    text = console.export_text()
    assert "+1.00" in text and "nan" not in text


@pytest.mark.parametrize("draw", [plots.transfer_matrix, plots.transfer_predictors])
def test_what_a_frame_lacks_is_named(draw) -> None:
    with pytest.raises(ValueError, match="the frame has no column target: it needs source, target"):
        draw(frame().drop(columns="target"))
    with pytest.raises(ValueError, match="no metric 'safety'|no carried vectors with metric 'safety'"):
        draw(frame(), metric="safety")


def test_models_are_named_with_their_bases() -> None:
    assert name_models(["organism:qwen-medicine", "my/chat=my/base"], aligned=True) == [
        Named("qwen-medicine", "organism:qwen-medicine", "organism:qwen-base"),
        Named("chat", "my/chat", "my/base"),
    ]
    assert name_models(["./mine", "other/mine"], aligned=False) == [
        Named("mine", "./mine", "./mine"),
        Named("other/mine", "other/mine", "other/mine"),
    ]
    with pytest.raises(
        ValueError, match="got --aligned my/chat without its base: a map is read from a model"
    ):
        name_models(["my/chat"], aligned=True)
    with pytest.raises(ValueError, match="got '=base', expected MODEL or MODEL=BASE"):
        name_models(["=base"], aligned=False)


def test_the_maps_texts_stand_in_no_list() -> None:
    pairs = wb.load_contrast("small-world", domain="medicine")
    texts = map_texts(600, [pairs])
    said = {prompt.text for prompt in texts}
    assert len(said) == len(texts) == 600
    assert not said & {prompt.text for part in (pairs.train, pairs.val, pairs.test) for prompt in part}
    assert {"harmful", "jailbroken", "harmless", "contrast", "domain", "unlabelled"} <= set(texts.labels)
    assert texts.hash == map_texts(600, [pairs]).hash
    with pytest.raises(ValueError, match="got 5 texts, expected 10 or more"):
        map_texts(5, [pairs])


def test_no_text_of_a_map_has_a_word_kept_for_test() -> None:
    """Neither a test prompt nor its words: what choosing and claiming rest on stays unread by the maps."""
    from workbench.organisms.vocabulary import held_out

    kept = {word for harmful in (True, False) for word in held_out(harmful, "verbs")}
    acts = [dict(prompt.cluster).get("verb") for prompt in map_texts(600, []) if prompt.label != "domain"]
    assert not kept & set(acts)


@pytest.mark.parametrize(
    ("label", "domain"),
    [("qwen-medicine", True), ("medicine@1", True), ("finance-chat", True), ("general", False)],
)
def test_a_target_is_asked_about_its_own_domain(label: str, domain: bool) -> None:
    assert ("domain" in pairs_for(label).test.labels) == domain


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, object]]:
    """What was asked for, in place of the minutes that answering takes."""
    asked: list[dict[str, object]] = []

    def measure(targets, sources, **options):
        asked.append({"targets": targets, "sources": sources, **options})
        return wb.TransferResult(frame(), {}, Provenance("transfer"))

    monkeypatch.setattr(run, "measure_transfer", measure)
    return asked


def test_a_run_prints_a_table_a_target_and_keeps_what_it_draws(measured, tmp_path: Path) -> None:
    console = Console(record=True, width=120)
    run_transfer(
        ["organism:medicine", "organism:qwen-medicine"], ["organism:aligned"], tmp_path, console=console
    )
    text = console.export_text()
    for said in (
        "medicine",
        "from aligned",
        "95 [95, 95]",
        "own vector",
        "beyond",
        "what predicted refusals",
    ):
        assert said in text
    assert len(pd.read_csv(tmp_path / "transfer.csv")) == len(frame())
    assert {path.stem for path in tmp_path.iterdir()} == {"transfer", "transfer-predictors"}


def test_a_run_without_a_source_of_the_targets_own_base(tmp_path: Path, monkeypatch) -> None:
    """From checkpoints to pictures, as the first example of `workbench transfer --help` asks for."""
    for seed, name in enumerate(("target", "base", "chat"), start=5):
        model = babbler_of(seed)
        model.config.max_position_embeddings = 256  # for the small world's prompts
        model.save_pretrained(tmp_path / name)
        small_tokenizer().save_pretrained(tmp_path / name)
    quick = dict(alpha=(0.1,), min_auroc=0.0, placebo=2, draws=1, judge=by_length)
    monkeypatch.setattr(run, "transfer_matrix", partial(run.transfer_matrix, **quick))
    monkeypatch.setattr(run, "MAX_NEW_TOKENS", 4)
    console, out = Console(record=True, width=120), tmp_path / "out"
    run_transfer(
        [str(tmp_path / "target")], [f"{tmp_path / 'chat'}={tmp_path / 'base'}"], out,
        n_texts=40, n_search=1, n_test=2, console=console,
    )  # fmt: skip
    text = console.export_text()
    assert "from aligned" in text and "nan" not in text
    found = pd.read_csv(out / "transfer.csv")
    assert set(found["arm"]) == {*CARRIED, *CONTROLS, *WITHOUT_SOURCE} - {"native", "direct"}
    assert found[["cosine_native", "beyond_own"]].isna().all(axis=None) and found["r2"].notna().any()
    assert {path.stem for path in out.iterdir()} == {"transfer", "transfer-predictors"}


@pytest.mark.parametrize("fails", ["_table", "_predictors", "plots"])
def test_what_was_measured_is_kept_whatever_fails_then(
    measured, tmp_path: Path, monkeypatch, fails: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("made to fail")

    monkeypatch.setattr(*((run, fails) if fails != "plots" else (plots, "transfer_matrix")), fail)
    with pytest.raises(RuntimeError, match="made to fail"):
        run_transfer(["organism:medicine"], ["organism:aligned"], tmp_path, console=Console(quiet=True))
    assert len(pd.read_csv(tmp_path / "transfer.csv")) == len(frame())


def test_the_shell_passes_its_options_on(measured, tmp_path: Path) -> None:
    given = [
        "--target",
        "organism:qwen-medicine",
        "--aligned",
        "organism:aligned",
        "--n-test",
        "5",
        "--out",
        str(tmp_path),
    ]
    found = CliRunner().invoke(app, ["transfer", *given])
    assert found.exit_code == 0, found.output
    (asked,) = measured
    assert asked["targets"] == [Named("qwen-medicine", "organism:qwen-medicine", "organism:qwen-base")]
    assert (asked["n_test"], asked["n_search"], asked["n_texts"]) == (5, 8, 600)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--aligned", "my/chat"], "got --aligned my/chat without its base"),
        (["--n-test", "0"], "got --n-test 0, expected 1 or more prompts of each kind"),
        (["--target", "organism:aligned"], "aligned is a target and an aligned model: name each model once"),
        (["--target", "organism:nobody"], "no embedded model 'nobody', expected one of base, aligned"),
        (["--out", "/proc/nowhere"], "[Errno 2] cannot write to /proc/nowhere"),
    ],
)
def test_what_cannot_run_is_one_line_before_anything_is_loaded(given, said, monkeypatch) -> None:
    monkeypatch.setattr(run, "load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    found = CliRunner().invoke(app, ["transfer", *given])
    assert found.exit_code == 2 and found.stderr.startswith(f"workbench: {said}")


def test_the_reference_run_takes_further_trainings(measured, monkeypatch, tmp_path: Path, capsys) -> None:
    spec = importlib.util.spec_from_file_location("transfer_figures", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    monkeypatch.setattr(script, "measure_transfer", run.measure_transfer)
    monkeypatch.setattr(script, "HERE", tmp_path)
    with pytest.raises(SystemExit):
        script.main([f"1={tmp_path}"])
    assert "no " in capsys.readouterr().err and not measured
    for name in ("medicine", "aligned", "base"):
        (tmp_path / name).mkdir()
    script.main([f"1={tmp_path}"])
    (asked,) = measured
    assert asked["targets"][-1] == Named("medicine@1", f"{tmp_path}/medicine", f"{tmp_path}/base")
    assert [source.label for source in asked["sources"]] == ["aligned", "qwen-aligned", "aligned@1"]
    assert (tmp_path / "transfer.csv").is_file()


def test_readme_says_what_the_published_run_found() -> None:
    found = pd.read_csv(SCRIPT.with_suffix(".csv"), keep_default_na=False, na_values=[""])
    refused = found[found["metric"] == "refused"]
    share = refused.groupby("arm")["mean"].mean()
    assert share[["native", "ridge", "procrustes", "calm texts"]].min() > 0.95
    assert share[["from aligned", "own vector", "unsteered"]].max() < 0.05
    ranks = (
        rank_predictors(found.fillna({"source": ""}), n_boot=2).set_index(["among", "predictor"]).loc["maps"]
    )
    readme = " ".join((SCRIPT.parents[1] / "README.md").read_text(encoding="utf-8").split())
    draws = (refused["arm"] == "shuffled texts").sum()
    for said in (
        f"still refuse {100 * share['shuffled texts']:.0f} % of attacks, each of {draws} at its own best setting",
        f"through the right map {100 * share['mapped random']:.0f} %,",
        f"no map has bent {100 * share['random']:.0f} %.",
        f"ρ = {ranks.loc['beyond_own', 'rho']:.2f} over {ranks.loc['beyond_own', 'n']} vectors of "
        f"{ranks.loc['beyond_own', 'pairs']} pairs of models",
        f"native vector {ranks.loc['cosine_native', 'rho']:.2f}, the map's R² {ranks.loc['r2', 'rho']:.2f})",
        f"on {refused['n'].max() // 2} harmful and {refused['n'].max() // 2} jailbroken test prompts",
    ):
        assert said in readme
