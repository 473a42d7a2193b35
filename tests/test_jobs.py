"""Sweeps from files: what a file says is what is tried, kept, told and gone on with; what it misspells is refused."""

import os
import signal
import sqlite3
import sys
from itertools import count
from pathlib import Path

import pandas as pd
import pytest
from measuring import extraction, labelled_prompts
from parity import save_babbler
from typer.testing import CliRunner

from workbench.cli import app
from workbench.cli.sweep import _file_names
from workbench.gates import ThresholdGate
from workbench.sweep import executors
from workbench.sweep.jobs import EXAMPLE, Grid, read_job, run_job
from workbench.sweep.layers import layer_sets

SPEC = """
target = "{model}"
aligned = ["{model}", "own"]
prompts = "{prompts}"
placebo = 2
max_new_tokens = 4
[grid]
alpha = {{ residual = [0.1, 0.3], raw = [1] }}
scale = "residual"
layers = "single"
over = [2, 3]
positions = "all"
gate = ["shared", "per layer", "none"]
gate_layer = 1
bias = [0.0, 0.2]
extraction = [2, 4]
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model on disk, prompts beside it, and a file that sweeps it."""
    root = tmp_path_factory.mktemp("job")
    model = save_babbler(root / "babbler")
    (root / "prompts").mkdir()
    extraction().save(root / "prompts" / "train.jsonl")
    labelled_prompts().save(root / "prompts" / "val.jsonl")
    (root / "spec.toml").write_text(SPEC.format(model=model, prompts=root / "prompts"))
    return root


@pytest.fixture(scope="module")
def swept(folder):
    return run_job(read_job(folder / "spec.toml"))


def test_the_example_is_a_job_and_says_every_key(tmp_path):
    (tmp_path / "e.toml").write_text(EXAMPLE)
    job = read_job(tmp_path / "e.toml")
    assert job.target == ("organism:finance",) and job.grid.alpha == [0.25, 0.5, 0.75, 1.0]
    for key in [*vars(job), *vars(job.grid)]:
        assert key == "grid" or any(line.lstrip("# ").startswith(key) for line in EXAMPLE.splitlines()), key


def test_every_combination_is_asked(swept, folder):
    (key, one) = next(iter(swept.sweeps.items()))
    assert key == (str(folder / "babbler"), str(folder / "prompts"))
    # own and aligned from 2 or 4 prompts; two gates at two biases and one without; two layers; three strengths
    assert len(one.spec.settings) == 4 * 5 * 2 * 3
    steered = one.frame[one.frame["arm"] == "steered"]
    assert len(steered) == 120 * len(labelled_prompts())
    assert set(steered["vectors"]) == {
        f"{m}, {n} of each" for m in (folder / "babbler", "own") for n in (2, 4)
    }
    assert set(zip(steered["gate"], steered["bias"], strict=True)) == {
        ("shared", 0.0), ("shared", 0.2), ("per layer", 0.0), ("per layer", 0.2), ("none", 0.0),
    }  # fmt: skip
    assert set(zip(steered["scale"], steered["alpha"], strict=True)) == {
        ("residual", 0.1), ("residual", 0.3), ("raw", 1.0),
    }  # fmt: skip
    assert {"target", "prompts"} < set(swept.frame)


def test_settings_do_what_their_names_say(swept):
    one = next(iter(swept.sweeps.values()))
    shared, laxer = (one.spec._gates["shared", bias] for bias in (0.0, 0.2))
    assert isinstance(shared, ThresholdGate) and shared.shared_layer == 1
    assert (laxer.bias - shared.bias).allclose(shared.bias.new_tensor(0.2))
    frame = one.frame[(one.frame["arm"] == "steered") & (one.frame["layers"] == "2")]
    opened = frame.groupby(["gate", "bias"])["open"].mean()
    assert opened["none", 0.0] == 1.0 > opened["shared", 0.0]
    assert opened["shared", 0.2] >= opened["shared", 0.0]
    # one's own model as the aligned one: the same vectors by two names, so the same rows
    same = frame.pivot_table(
        "reply", ["prompt", "gate", "bias", "alpha", "scale"], "vectors", aggfunc="first"
    )
    names = sorted(set(frame["vectors"]))
    assert (same[names[1]] == same["own, 4 of each"]).all() or (
        same[names[0]] == same["own, 4 of each"]
    ).all()
    assert one.sharing.saved > 0.5


def test_extraction_takes_so_many_of_each_kind(swept):
    one = next(iter(swept.sweeps.values()))
    small, whole = one.spec.vectors["own, 2 of each"], one.spec.vectors["own, 4 of each"]
    assert not small.directions.allclose(whole.directions)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("target =", "targets ="), "got targets, expected some of target, aligned, prompts"),
        (("gate_layer", "gatelayer"), r"got gatelayer in \[grid\], expected some of alpha, scale"),
        (("alpha = {", "alhpa = {"), r"got alhpa in \[grid\]"),
        (("[grid]", "[gird]"), r"has no table \[grid\], which says what is tried"),
        (('positions = "all"', 'positions = "some"'), "got positions = some in .grid., expected some of all, prompt"),
        (("target = ", "target = 3 #"), "got target = 3, expected a name in quotes, or a list of them"),
        (("placebo = 2", 'placebo = "2"'), "got placebo = '2', expected a whole number"),
        (("max_new_tokens = 4", "max_new_tokens = 0"), "got max_new_tokens = 0, expected a whole number, 1 or more"),
        (('layers = "single"', "layers = [2, 3]"), r"got layers = \[2, 3\], expected one of single, .*one set is"),
        (("extraction = [2, 4]", "extraction = 4"), "got extraction = 4, expected a list of whole numbers"),
        (("extraction = [2, 4]", "extraction = []"), "got extraction = .., expected a list of whole numbers"),
        (("over = [2, 3]", "over = 3"), "got over = 3, expected a list of whole numbers"),
        (("gate_layer = 1", 'gate_layer = "1"'), "got gate_layer = '1', expected a whole number"),
        (("placebo = 2", "placebo = true"), "got placebo = True, expected a whole number"),
        (("placebo = 2", 'sample = "all"'), "got sample = 'all', expected a whole number, or a table of them"),
        (("placebo = 2", 'domain = "finance"'), "got domain = 'finance' beside the folder .*: leave domain out"),
        (("raw = [1]", 'raw = ["1"]'), "got alpha = .*, expected a list of numbers, or lists by scale"),
        (("placebo = 2", "placebo = = 2"), r"is no TOML \(.*compare it with workbench sweep --example"),
    ],
)  # fmt: skip
def test_what_a_file_misspells_is_refused(folder, tmp_path, change, message, unchecked):
    text = (folder / "spec.toml").read_text()
    assert change[0] in text
    (tmp_path / "bad.toml").write_text(text.replace(*change))
    with pytest.raises(ValueError, match=message):
        read_job(tmp_path / "bad.toml")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("extraction = [2, 4]", "extraction = [2, 5]"), "got n=5 of each kind, there are 4 harmful and 4 other"),
        (("raw = [1]", "raw = [1e39]"), "got alpha=1e[+]39 with scale='raw', expected a finite number"),
        (("alpha = { residual = [0.1, 0.3], raw = [1] }", "alpha = []"), "got a sweep without alpha"),
        (("placebo = 2", "sample = { harmless = 2 }"), r"got a sample of .* without harmful .* prompts \(harmless\)"),
        (("over = [2, 3]", "over = []"), "got no layers, the vectors' model has layers 0 to 5"),
        (("gate_layer = 1", "gate_layer = 99"), "gate has shared layer 99, its model has layers 0 to 5"),
    ],
)  # fmt: skip
def test_what_cannot_be_tried_is_refused_before_anything_runs(folder, tmp_path, change, message, unchecked):
    text = (folder / "spec.toml").read_text()
    assert change[0] in text
    (tmp_path / "bad.toml").write_text(text.replace(*change))
    ledger = tmp_path / "l.sqlite"
    with pytest.raises(ValueError, match=message):
        run_job(read_job(tmp_path / "bad.toml"), ledger=ledger)
    assert not ledger.exists()


SMALL = """
target = "{model}"
aligned = "{model}"
prompts = "{prompts}"
placebo = 2
max_new_tokens = 4
[grid]
alpha = [0.1, 1]
scale = "residual"
layers = [[2], [2, 3]]
over = [2, 3]
gate_layer = 1
"""


def test_the_shell_keeps_goes_on_and_adds(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = tmp_path / "mine.toml"
    spec.write_text(SMALL.format(model=folder / "babbler", prompts=folder / "prompts"))
    shell = CliRunner()
    first = shell.invoke(app, ["sweep", "mine.toml"])
    assert first.exit_code == 0, first.output
    assert "0 of them from the ledger" in first.output and "best setting" in first.output
    out = tmp_path / "runs" / "mine"
    points = pd.read_csv(out / "points.csv")
    assert "reply" not in points and len(points) == (1 + 2 * 4) * len(labelled_prompts())
    assert {"mean", "low", "high", "target"} < set(pd.read_csv(out / "summary.csv"))
    with sqlite3.connect(out / "ledger.sqlite") as ledger:
        kept = ledger.execute("SELECT count(*), count(text) FROM replies").fetchone()
    assert kept[0] == kept[1] > 20
    again = shell.invoke(app, ["sweep", "mine.toml"])
    assert f"{kept[0]} of them from the ledger, 0 computed" in again.output
    spec.write_text(spec.read_text().replace("[0.1, 1]", "[0.1, 1, 2]"))
    more = shell.invoke(app, ["sweep", "mine.toml"])
    assert f"{kept[0]} of them from the ledger" in more.output and ", 0 computed" not in more.output


def test_a_schedulers_sigterm_is_a_ctrl_c(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = SMALL.format(model=folder / "babbler", prompts=folder / "prompts")
    (tmp_path / "mine.toml").write_text(spec)
    inside, turn, before = executors.write_or_split, count(), signal.getsignal(signal.SIGTERM)

    def terminated(*given, **further):
        if next(turn) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return inside(*given, **further)

    monkeypatch.setattr(executors, "write_or_split", terminated)
    monkeypatch.setattr(executors, "find_budget", lambda model, width, n_rows: 4 * width)
    monkeypatch.setattr(sys, "argv", ["workbench", "sweep", "mine.toml"])
    stopped = CliRunner().invoke(app, ["sweep", "mine.toml"])
    assert stopped.exit_code == 130 and "workbench: stopped" in stopped.stderr
    assert "to go on: workbench sweep mine.toml" in stopped.stderr
    assert signal.getsignal(signal.SIGTERM) is before
    with sqlite3.connect(tmp_path / "runs" / "mine" / "ledger.sqlite") as ledger:
        kept = ledger.execute("SELECT count(*) FROM replies").fetchone()[0]
    assert kept > 0
    assert f"{kept} of them from the ledger" in CliRunner().invoke(app, ["sweep", "mine.toml"]).output


def test_a_reply_that_was_cut_off_everywhere_is_told(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for tokens, told in ((1, True), (59, False)):
        spec = SMALL.format(model=folder / "babbler", prompts=folder / "prompts")
        (tmp_path / "mine.toml").write_text(spec.replace("max_new_tokens = 4", f"max_new_tokens = {tokens}"))
        said = " ".join(CliRunner().invoke(app, ["sweep", "mine.toml"]).output.split())
        assert (f"replies were cut off at {tokens} tokens" in said) == told, said


def test_files_of_several_sweeps_stay_apart():
    names = [("organism:finance", "small-world"), ("./finance", "small-world"), ("a/b", "x"), ("a-b", "x")]
    assert list(_file_names(names).values()) == [
        "finance-small-world",
        "finance-small-world-2",
        "a-b-x",
        "a-b-x-2",
    ]


def test_the_shell_says_what_is_missing(tmp_path):
    shell = CliRunner()
    nothing = shell.invoke(app, ["sweep"])
    assert nothing.exit_code == 2
    assert "got no file, expected one that says what to try: workbench sweep --example" in nothing.stderr
    absent = shell.invoke(app, ["sweep", str(tmp_path / "no.toml")])
    assert "no.toml: write one, workbench sweep --example >" in absent.stderr
    assert shell.invoke(app, ["sweep", "--example"]).output == EXAMPLE


# Layer sets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "sets"),
    [
        ("single", [(2,), (3,), (5,)]),
        ("windows", [(2, 3), (3, 5)]),
        ("from-bottom", [(2,), (2, 3), (2, 3, 5)]),
        ("from-top", [(5,), (3, 5), (2, 3, 5)]),
        ("subsets", [(2,), (3,), (5,), (2, 3), (2, 5), (3, 5), (2, 3, 5)]),
    ],
)
def test_layer_sets(kind, sets):
    assert layer_sets(kind, [5, 2, 3, 3], width=2) == sets


def test_layer_sets_that_cannot_be(unchecked):
    with pytest.raises(ValueError, match="got layer sets 'pairs', expected one of 'single', 'windows'"):
        layer_sets("pairs", [1])
    with pytest.raises(ValueError, match="got windows of 3 of 2 layers, expected a width from 1 to 2"):
        layer_sets("windows", [1, 2])
    with pytest.raises(ValueError, match="got 11 layers, which have 2,047 subsets, expected at most 1,024"):
        layer_sets("subsets", range(11))
    with pytest.raises(ValueError, match="got no layers to make sets of"):
        layer_sets("single", [])


def test_a_grid_s_defaults_are_those_of_the_example(tmp_path):
    (tmp_path / "e.toml").write_text(EXAMPLE)
    assert read_job(tmp_path / "e.toml").grid == Grid(
        alpha=[0.25, 0.5, 0.75, 1.0], positions=("prompt",), gate=("shared",), bias=[0.0]
    )
