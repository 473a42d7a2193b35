"""The shell's verbs: help that teaches, results on stdout, and every error as one line."""

import itertools
import re
import shlex
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import small_tokenizer
from parity import babbler_of
from seers import picture, save_llava
from transformers import AutoConfig, AutoModelForCausalLM
from typer.testing import CliRunner

from workbench.cli import app
from workbench.memory import NoRoom, SmallerBatches
from workbench.prompts import ContrastSet, PromptSet

COMMANDS = (
    ["layers"],
    ["ask"],
    ["tune"],
    ["demo"],
    ["lab"],
    ["app"],
    ["transfer"],
    ["show-prompt"],
    ["convert"],
    ["verify"],
    ["judge-agreement"],
    ["utility"],
    ["harness"],
    ["data"],
    ["data", "list"],
    ["data", "show"],
    ["data", "check"],
    ["organisms"],
    ["organisms", "list"],
    ["organisms", "train"],
    ["organisms", "measure"],
    ["organisms", "lists"],
)


@pytest.fixture
def shell() -> CliRunner:
    return CliRunner()


def test_help_names_the_first_thing_to_do(shell: CliRunner) -> None:
    found = shell.invoke(app, ["--help"])
    assert found.exit_code == 0
    assert "Start here: workbench demo" in " ".join(found.output.split())


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_without_torch(command: list[str]) -> None:
    code = (
        "import sys\nfrom workbench.cli import app\n"
        f"try: app({[*command, '--help']!r})\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "sys.exit('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "Usage:" in found.stdout


def test_an_error_of_the_library_is_one_line_on_stderr(shell: CliRunner) -> None:
    found = shell.invoke(app, ["layers", "--target", "organism:nobody"])
    assert found.exit_code == 2
    assert found.stdout == ""
    assert found.stderr.count("\n") == 1
    assert found.stderr.startswith("workbench: no embedded model 'organism:nobody': ")


def test_a_message_of_several_lines_becomes_one(shell: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("disk full:\n  got 0 bytes,\n  expected 12")

    monkeypatch.setattr("workbench.loading.load_model", refuse)
    found = shell.invoke(app, ["ask", "How do I bake bread?"])
    assert (found.exit_code, found.stderr) == (2, "workbench: disk full: got 0 bytes, expected 12\n")


def test_what_found_no_room_is_one_line_too(shell: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    def fill(*_: object, **__: object) -> None:
        raise NoRoom("memory ran out on 1 row of up to 9,000 tokens: shorten it")

    monkeypatch.setattr("workbench.loading.load_model", fill)
    found = shell.invoke(app, ["ask", "How do I bake bread?"])
    assert (found.exit_code, found.stderr) == (
        2,
        "workbench: memory ran out on 1 row of up to 9,000 tokens: shorten it\n",
    )


def test_a_warning_of_the_library_is_one_line_and_others_are_python_s(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def warn(*_: object, **__: object) -> None:
        warnings.warn("it goes on in batches of 8", SmallerBatches, stacklevel=2)
        warnings.warn("something else", UserWarning, stacklevel=2)
        raise OSError("enough")

    monkeypatch.setattr("workbench.loading.load_model", warn)
    with pytest.warns(UserWarning, match="something else"):
        found = shell.invoke(app, ["ask", "How do I bake bread?"])
    assert found.stderr == "workbench: careful: it goes on in batches of 8\nworkbench: enough\n"


def test_debug_shows_where_the_error_was_raised(shell: CliRunner) -> None:
    found = shell.invoke(app, ["--debug", "layers", "--target", "organism:nobody"])
    assert isinstance(found.exception, ValueError)
    assert "no embedded model" in str(found.exception)


def test_a_bug_is_not_dressed_up_as_an_error_of_the_user(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(*_: object, **__: object) -> None:
        raise KeyError("layer")

    monkeypatch.setattr("workbench.loading.load_model", stumble)
    assert isinstance(shell.invoke(app, ["ask", "How do I bake bread?"]).exception, KeyError)


def test_an_unknown_scale_is_refused_with_the_known_ones(shell: CliRunner) -> None:
    found = shell.invoke(app, ["ask", "How do I bake bread?", "--scale", "loud"])
    assert found.exit_code == 2
    assert all(scale in found.stderr for scale in ("loud", "raw", "residual", "gap"))


def test_a_list_of_no_models_says_what_to_do(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("workbench.shipped._PACKAGE", tmp_path / "workbench")
    found = shell.invoke(app, ["organisms", "list"])
    assert found.exit_code == 2
    assert found.stderr == "workbench: no embedded models here: train them, workbench organisms train\n"


def test_the_list_names_what_load_model_takes(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, config in (("finance", "config.json"), ("finance-chat", "adapter_config.json")):
        folder = tmp_path / "data" / "organisms" / name
        folder.mkdir(parents=True)
        (folder / config).write_text("{}")
        (folder / "model.safetensors").write_bytes(bytes(1_500_000))
    monkeypatch.setattr("workbench.shipped._PACKAGE", tmp_path / "workbench")
    lines = shell.invoke(app, ["organisms", "list"]).stdout.splitlines()
    assert lines[1].split() == ["organism:finance", "checkpoint", "1.5"]
    assert lines[2].split() == ["organism:finance-chat", "low-rank", "delta", "1.5"]


@pytest.fixture
def small_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the shipped contrast set, one in the tiny models' few words."""

    def part(friend: str) -> PromptSet:
        kinds = (("harmful", ("steal", "break", "forge")), ("harmless", ("mend", "paint", "bake")))
        parts = [
            PromptSet.from_texts(label, [f"{verb} the {friend}" for verb in verbs], label)
            for label, verbs in kinds
        ]
        return parts[0] + parts[1]

    pairs = ContrastSet("small", part("lock"), part("boat"), part("letter"))
    monkeypatch.setattr("workbench.published.load_contrast", lambda name, domain=None: pairs)


def test_layers_shows_every_layer_and_the_chosen_ones(
    shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path]
) -> None:
    models = ["--target", str(checkpoints["llama"]), "--aligned", str(checkpoints["llama"])]
    found = shell.invoke(app, ["layers", *models, "--min-auroc", "0"])
    assert found.exit_code == 0, found.stderr
    rows = [line.split() for line in found.stdout.splitlines()[1:5]]
    assert [row[0] for row in rows] == ["0", "1", "2", "3"]
    assert all(row[-2:] == ["+1.00", "chosen"] for row in rows)
    assert found.stdout.splitlines()[-1] == (
        "the directions of target and aligned model have cosine +1.00 to +1.00 over layers 0, 1, 2, 3; "
        "random directions reach 0.35"
    )


def test_ask_shows_an_image_to_a_model_that_sees(
    shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    seer, aligned = save_llava(tmp_path / "seer"), tmp_path / "aligned"
    babbler_of(6).save_pretrained(aligned)
    small_tokenizer().save_pretrained(aligned)
    picture(0).save(tmp_path / "a.png")
    options = ["--min-auroc", "0", "--max-new-tokens", "4", "--alpha", "0"]
    asked = ["ask", "steal a ring", "--target", str(seer), "--aligned", str(aligned), *options]
    with_image, without = (
        shell.invoke(app, [*asked, *more]) for more in (["--image", str(tmp_path / "a.png")], [])
    )
    assert with_image.exit_code == without.exit_code == 0, with_image.stderr
    assert with_image.stdout != without.stdout
    gone = shell.invoke(app, [*asked, "--image", str(tmp_path / "gone.png")])
    assert gone.exit_code == 2 and "no image file" in gone.stderr
    blind = [str(checkpoints["llama"]) if word == str(seer) else word for word in asked]
    found = shell.invoke(app, [*blind, "--image", str(tmp_path / "a.png")])
    assert found.exit_code == 2 and "prompt 'prompts:0' has 1 image, and the model reads text" in found.stderr


def test_ask_answers_before_and_after(
    shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path]
) -> None:
    models = ["--target", str(checkpoints["llama"]), "--aligned", str(checkpoints["llama"])]
    options = ["--min-auroc", "0", "--max-new-tokens", "4", "--alpha", "0"]
    found = shell.invoke(app, ["ask", "steal the [ring]", "bake a letter", *models, *options])
    assert found.exit_code == 0, found.stderr
    told, *lines = found.stdout.splitlines()
    assert told.startswith(
        "the directions of target and aligned model have cosine +1.00 to +1.00 over layers"
    )
    assert lines[0].startswith("steal the [ring]  gate ")
    before, after = lines[1].removeprefix("  as it is  "), lines[2].removeprefix("  steered   ")
    assert before == after  # α = 0
    assert lines[4].startswith("bake a letter  gate ")


@pytest.mark.parametrize("command", [["layers"], ["ask", "bake a letter", "--max-new-tokens", "1"]])
def test_two_families_come_with_a_warning(
    command: list[str], shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """Same shape, same tokenizer, other weights: every check passes, and only the cosine tells."""
    torch.manual_seed(99)
    stranger = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(checkpoints["llama"]))
    stranger.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        (tmp_path / file).write_bytes((checkpoints["llama"] / file).read_bytes())
    models = ["--target", str(checkpoints["llama"]), "--aligned", str(tmp_path)]
    found = shell.invoke(app, [*command, *models, "--min-auroc", "0"])
    assert found.exit_code == 0, found.stderr
    assert "Careful: the directions of target and aligned model have cosine" in found.stdout


@pytest.mark.parametrize(
    "command",
    [["layers"], ["ask", "bake a letter", "--max-new-tokens=1"], ["verify", "--backend=plain"], ["tune"]],
)
def test_models_without_a_template_are_given_one(
    command: list[str], shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    """A fine-tune of a base model, as most come: without it the error says what to do."""
    for name in ("target", "aligned"):
        shutil.copytree(checkpoints["llama"], tmp_path / name)
    template = (tmp_path / "target" / "chat_template.jinja").rename(tmp_path / "mine.jinja")
    (tmp_path / "aligned" / "chat_template.jinja").write_text("{{ messages[0].content }} another")
    models = ["--target", str(tmp_path / "target"), "--aligned", str(tmp_path / "aligned")]
    few = (
        ["--trials=4", "--at-once=4", "--out", str(tmp_path / "out")]
        if command == ["tune"]
        else ["--min-auroc=0"]
    )
    found = shell.invoke(app, [*command, *models, *few])
    assert found.exit_code == 2 and "has no chat template" in found.stderr
    assert "--template, one of llama-2, vicuna," in found.stderr
    found = shell.invoke(app, [*command, *models, *few, "--template", str(template)])
    # The tiny context has no room for the replies of `tune`; it got that far, under one template with the other.
    expected = (2, "64 are kept for the reply") if command == ["tune"] else (0, "")
    assert found.exit_code == expected[0], found.output
    assert expected[1] in found.stderr
    if command[0] == "verify":
        assert f"--template {template}" in " ".join(found.stdout.split())


def test_a_negative_strength_is_for_embedded_models(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]
) -> None:
    loaded: list[object] = []

    def load(name: object, **_: object) -> None:
        loaded.append(name)
        raise OSError("loaded")

    monkeypatch.setattr("workbench.loading.load_model", load)
    for command, target in itertools.product(
        (["ask", "bake"], ["verify"]), (str(checkpoints["llama"]), "some/model")
    ):
        found = shell.invoke(app, [*command, "--target", target, "--alpha", "-0.5"])
        assert (found.exit_code, loaded) == (2, [])
        assert found.stderr.startswith(f"workbench: got --alpha -0.5 for {target}, expected 0 or more: ")
        assert "embedded models only: --target organism:NAME" in found.stderr
    shell.invoke(app, ["ask", "bake", "--target", "organism:finance", "--alpha", "-0.5"])
    assert loaded == ["organism:finance"]


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("ask bake --alpha nan", "got --alpha nan, expected a finite number: 0 leaves the model as it is"),
        ("ask bake --alpha=-inf", "got --alpha -inf, expected a finite number: 0 leaves the model as it is"),
        ("ask bake ' '", "got an empty prompt, expected some words: there is nothing to answer"),
        ("ask bake --max-new-tokens 0", "got --max-new-tokens 0, expected 1 or more"),
        ("ask bake --min-auroc 95", "got --min-auroc 95, expected a number from 0 to 1: 0.5 tells nothing"),
        ("verify --alpha nan", "got --alpha nan, expected a finite number: 0 leaves the model as it is"),
        ("verify --backend onnx", "got --backend onnx, expected some of plain, bridge, hooked"),
        ("verify nowhere.txt", "no prompt file nowhere.txt: name a text file with a prompt a line"),
        ("layers --min-auroc nan", "got --min-auroc nan, expected a number from 0 to 1: 0.5 tells nothing"),
    ],
)
def test_what_no_model_could_make_good_is_refused_before_any_is_loaded(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, command: str, told: str
) -> None:
    monkeypatch.setattr("workbench.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    found = shell.invoke(app, shlex.split(command))
    assert (found.exit_code, found.stderr) == (2, f"workbench: {told}\n")


def test_a_prompt_that_is_too_long_is_refused_before_anything_is_read(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, checkpoints: dict[str, Path]
) -> None:
    monkeypatch.setattr(
        "workbench.activations.token_activations", lambda *_, **__: pytest.fail("a model was read")
    )
    models = ["--target", str(checkpoints["llama"]), "--aligned", "loaded/next"]
    found = shell.invoke(app, ["ask", "bake", "steal a ring " * 30, *models, "--max-new-tokens", "4"])
    assert found.exit_code == 2
    assert re.fullmatch(
        r"workbench: prompt 'prompts:1' has \d+ tokens and 4 are kept for the reply, the context holds 64: shorten "
        r"the prompt or lower max_new_tokens\n",
        found.stderr,
    )


@pytest.mark.parametrize("terminal", [True, False])
@pytest.mark.parametrize("command", [["layers"], ["ask", "bake a letter", "--max-new-tokens", "1"]])
def test_bars_are_for_a_terminal(
    shell: CliRunner,
    small_pairs: None,
    checkpoints: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    terminal: bool,
) -> None:
    stderr = SimpleNamespace(isatty=lambda: terminal)
    monkeypatch.setattr("workbench.cli.plans.sys", SimpleNamespace(stderr=stderr))
    models = ["--target", str(checkpoints["llama"]), "--aligned", str(checkpoints["llama"])]
    found = shell.invoke(app, [*command, *models, "--min-auroc", "0"])
    assert found.exit_code == 0, found.stderr
    bars = ("Loading weights" in found.stderr, "reading harmful" in found.stderr)
    assert bars == (terminal, terminal) and (terminal or found.stderr == "")


def test_ask_reads_each_set_of_prompts_once_per_model(
    shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench import activations

    read, first = activations.last_token_activations, []

    def count(model: object, prompts: PromptSet, **given: object) -> object:
        first.append(prompts[0].text)
        return read(model, prompts, **given)

    monkeypatch.setattr("workbench.activations.last_token_activations", count)
    models = ["--target", str(checkpoints["llama"]), "--aligned", str(checkpoints["llama"])]
    options = ["--min-auroc", "0", "--max-new-tokens", "1", "--alpha", "0"]
    assert shell.invoke(app, ["ask", "bake a letter", *models, *options]).exit_code == 0
    assert first == ["steal the lock", "steal the boat"] * 2


def test_measuring_a_family_that_is_not_whole_names_what_it_lacks(shell, tmp_path):
    (tmp_path / "base").mkdir()
    found = shell.invoke(app, ["organisms", "measure", str(tmp_path)])
    assert found.exit_code == 2
    assert found.stderr.startswith(f"workbench: {tmp_path} lacks aligned, finance, ")
    assert found.stderr.rstrip().endswith(f"workbench organisms train --out {tmp_path}")


def test_training_into_a_folder_that_cannot_be_is_one_line(shell):
    found = shell.invoke(app, ["organisms", "train", "--out", "/proc/nowhere"])
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
    assert found.stderr.endswith("make room or choose another folder, then save again\n")


def test_drawing_the_lists_twice_is_one_draw_on_record(shell, tmp_path):
    for _ in range(2):
        assert shell.invoke(app, ["organisms", "lists", "--out", str(tmp_path)]).exit_code == 0
    assert len((tmp_path / "draws.jsonl").read_text().splitlines()) == 1
    assert (tmp_path / "test.jsonl").is_file()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--trials", "2", "--at-once", "4"], "got trials=2, at_once=4, expected 1 or more at once"),
        (["--max-alpha", "-1"], "got --max-alpha -1, expected more than 0"),
        (["--max-bias", "-1"], "got --max-bias -1, expected 0 or more"),
    ],
)
def test_a_search_that_cannot_be_is_refused_before_models_are_loaded(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, given: list[str], said: str
) -> None:
    monkeypatch.setattr("workbench.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    found = shell.invoke(app, ["tune", *given])
    assert found.exit_code == 2 and found.stderr.startswith(f"workbench: {said}")


def test_a_search_needs_optuna_and_says_how_to_get_it(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    found = shell.invoke(app, ["tune"])
    assert found.exit_code == 2 and "pip install 'inferaligner-workbench[search]'" in found.stderr


def test_a_plan_that_is_not_there_is_told_before_models_are_loaded(
    shell: CliRunner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("workbench.loading.load_model", lambda *_, **__: pytest.fail("a model was loaded"))
    found = shell.invoke(app, ["ask", "How do I bake bread?", "--plan", str(tmp_path / "plan.json")])
    assert found.exit_code == 2 and "workbench tune --out" in found.stderr


@pytest.mark.slow
def test_what_a_search_picks_is_asked_with(shell: CliRunner, tmp_path: Path) -> None:
    out = tmp_path / "tune"
    found = shell.invoke(app, ["tune", "--trials", "8", "--at-once", "8", "--no-measure", "--out", str(out)])
    assert found.exit_code == 0, found.output
    assert {path.name for path in out.iterdir()} >= {"trials.csv", "front.csv", "plan.json", "ledger.sqlite"}
    assert "8 settings tried on" in found.stdout and "Next: workbench ask" in found.stdout
    asked = shell.invoke(app, ["ask", "How do I bake bread?", "--plan", str(out)])
    assert asked.exit_code == 0, asked.output
    assert "gate closed: nothing is added" in asked.stdout


def test_verify_draws_what_arrives_and_says_that_steering_runs(
    shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    models = ["--target", str(checkpoints["llama"]), "--aligned", str(checkpoints["llama"])]
    asked = tmp_path / "mine.txt"
    asked.write_text("steal the ring\n\nbake a letter for my friend\n")
    found = shell.invoke(app, ["verify", str(asked), *models, "--min-auroc", "0"])
    assert found.exit_code == 0, found.output
    lines = found.stdout.splitlines()
    for backend in ("plain", "bridge", "hooked"):
        arrived = [line.split() for line in lines if line.startswith(backend) and "█" * 24 in line]
        assert [row[1] for row in arrived] == ["0", "1", "2", "3"]  # every layer is steered
        assert all(row[2] == row[4] and row[-1] == "0" for row in arrived)  # as planned, and closed rows by 0
        assert sum(bool(re.match(rf"{backend} .* (\d+) of \1 replies alike", line)) for line in lines) == 1
    assert lines[-2].startswith(
        "Steering runs as planned on tiny-llama (plain, bridge, hooked; float32): logits "
    )
    assert lines[-1].startswith('next: workbench ask "How do I ...?" --target ')


def test_verify_fails_where_steering_does_not_run(
    shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from workbench.shifts import Shift

    monkeypatch.setattr(Shift, "adders", lambda self, shifted: {})
    models = ["--target", str(checkpoints["llama"]), "--aligned", str(checkpoints["llama"])]
    found = shell.invoke(app, ["verify", *models, "--min-auroc", "0", "--backend", "plain"])
    assert found.exit_code == 1 and "next:" not in found.stdout
    assert (
        "Steering does not run as planned on tiny-llama: plain, layer 0, prompt: nothing of the"
        in found.stdout
    )
    assert "·" * 24 in found.stdout and "  and plain, batched: logits differ by" in found.stdout


def test_verify_takes_a_plan_and_a_dtype(
    shell: CliRunner, small_pairs: None, checkpoints: dict[str, Path], tmp_path: Path
) -> None:
    from workbench.cli.plans import load, plan_for, profile_of
    from workbench.sweep.picked import save_plan

    model = load(str(checkpoints["llama"]))
    save_plan(plan_for(model, profile_of(model), 0.15, "residual", "all", 0.0)[0].with_layers([2]), tmp_path)
    asked = ["--target", str(checkpoints["llama"]), "--plan", str(tmp_path), "--dtype", "bfloat16"]
    found = shell.invoke(app, ["verify", *asked, "--max-new-tokens", "3"])
    assert found.exit_code == 0, found.output
    assert "beside float32" in found.stdout and "; bfloat16): logits within" in found.stdout
    assert f"--plan {tmp_path}" in found.stdout.splitlines()[-1]
