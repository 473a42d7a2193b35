"""`workbench utility` and `harness`: numbers that the library says, and bad input told before a model is loaded."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest
from test_utility import TEXTS, options, write_tasks
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.utility.tasks import FORM_OF, FORMS


@pytest.fixture(scope="module")
def saved(
    checkpoints: dict[str, Path], prompts: wb.PromptSet, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A plan for the tiny Llama, and a file of questions with two options beside it."""
    folder = tmp_path_factory.mktemp("plan")
    model = wb.load_model(checkpoints["llama"], backend="plain")
    read = wb.last_token_activations(model, prompts)
    vectors = wb.mean_difference(read)
    gate = replace(wb.ThresholdGate.fit(vectors, read), shared_layer=1)
    wb.save_plan(wb.SteeringPlan(vectors, gate=gate, layers=[2, 3], alpha=1.0, scale="gap"), folder)
    options(["bake", "mend", "bake it", "read"], ["yes", "no", "yes", "no"]).save(folder / "asked.jsonl")
    return folder


def test_json_has_what_the_library_says(saved: Path, checkpoints: dict[str, Path]) -> None:
    command = ["utility", str(checkpoints["llama"]), "--plan", str(saved), "--json", "--max-new-tokens", "4"]
    found = CliRunner().invoke(app, [*command, "--task", f"q={saved / 'asked.jsonl'}:last word"])
    assert found.exit_code == 0, found.stderr
    [told] = json.loads(found.stdout)["tasks"]
    model = wb.load_model(checkpoints["llama"], backend="plain")
    task = wb.load_task("q", saved / "asked.jsonl", form="last word")
    result = wb.run_task(model, task, wb.load_plan(saved), max_new_tokens=4)
    assert [row["accuracy"] for row in told["rows"]] == result.summary()["accuracy"].tolist()
    assert told["change"]["strict"]["mean"] == result.change().mean


def test_tables_and_fluency_are_printed(saved: Path, checkpoints: dict[str, Path]) -> None:
    harmless = saved / "alpaca.json"
    rows = [{"instruction": text, "input": "", "output": "sure"} for text in TEXTS]
    harmless.write_text(json.dumps(rows))
    command = ["utility", str(checkpoints["llama"]), "--plan", str(saved), "--max-new-tokens", "4"]
    found = CliRunner().invoke(app, [*command, "--fluency", f"alpaca={harmless}", "-n", "3"])
    assert found.exit_code == 0, found.stderr
    assert "alpaca, 3 prompts, over the prompts' answers" in found.stdout
    assert "KL, nats a token" in found.stdout


def test_refusals_of_safe_prompts_are_those_of_evaluate(saved: Path, checkpoints: dict[str, Path]) -> None:
    rows = "".join(f"{i},{text},homonyms,safe,,\n" for i, text in enumerate(TEXTS))
    (saved / "xstest_prompts.csv").write_text("id,prompt,type,label,focus,note\n" + rows)
    command = ["utility", str(checkpoints["llama"]), "--plan", str(saved), "--max-new-tokens", "4", "--json"]
    found = CliRunner().invoke(app, [*command, "--over-refusal", f"xstest={saved}"])
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout)["over_refusal"]
    model = wb.load_model(checkpoints["llama"], backend="plain")
    safe = wb.load_published("xstest", root=saved).labelled("contrast")
    report = wb.evaluate(model, safe, wb.load_plan(saved), judge=wb.judge_refusal, max_new_tokens=4)
    assert told["steered"] == vars(report.metric("contrast_refusal"))
    assert told["change"] == vars(report.change("contrast_refusal"))


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ("", "got nothing to measure, expected --task, --fluency or --over-refusal: see --help"),
        ("--fluency small-world",
         "got --fluency without --plan, and it tells what a plan does: workbench tune makes one"),
        ("--task gsm8k",
         "got task 'gsm8k', expected SET=PATH with one of gsm8k, svamp, medqa, medmcqa, mmlu, pubmedqa, "
         "headline, financial-phrasebank, fiqa-sa, or NAME=PATH:FORM with one of "
         + ", ".join(FORMS)),
        ("--task mine=a.jsonl",
         "got task 'mine=a.jsonl', expected SET=PATH with one of "
         f"{', '.join(FORM_OF)}, or NAME=PATH:FORM with one of {', '.join(FORMS)}"),
        ("--task mine=a.jsonl:letter", "no prompt file a.jsonl: check the path, or save a PromptSet there first"),
    ],
)  # fmt: skip
def test_bad_input_is_told_before_a_model_is_loaded(
    given: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workbench.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    found = CliRunner().invoke(app, ["utility", "organism:maths", *shlex.split(given)])
    assert (found.exit_code, found.stderr) == (2, f"workbench: {told}\n")


def test_the_harness_runs_both_arms_on_tasks_of_one_s_own(
    saved: Path, checkpoints: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("lm_eval")
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    write_tasks(tmp_path)
    command = ["harness", str(checkpoints["llama"]), "--plan", str(saved), "--include", str(tmp_path)]
    found = CliRunner().invoke(app, [*command, "--tasks", "pick", "--json"])
    assert found.exit_code == 0, found.stderr
    told = json.loads(found.stdout[found.stdout.index("{") :])
    assert set(told) == {"unsteered", "steered"} and 0 <= told["steered"]["pick"]["acc,none"] <= 1
    unknown = CliRunner().invoke(app, [*command, "--tasks", "nothing"])
    assert (unknown.exit_code, unknown.stderr.splitlines()[-1][:58]) == (
        2, "workbench: lm-evaluation-harness knows no task nothing: lm"
    )  # fmt: skip
