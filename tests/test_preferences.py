"""Preference training: pairs are read row by row or refused, what was chosen gets likelier, nothing is left behind."""

import json
import os
import subprocess
import sys

import pytest
import torch
from typer.testing import CliRunner

import workbench as wb
from workbench.chat import render
from workbench.cli import app
from workbench.preferences import DpoRecipe, PreferencePair, load_pairs, train_dpo

pytest.importorskip("trl")
QUICK = DpoRecipe(epochs=4, batch_size=2, lr=1e-2, rank=4)
PAIRS = [
    PreferencePair(wb.Prompt.user(text), "no i cannot", "yes here is a plan")
    for text in ("steal a ring", "break the lock", "forge it", "hide the boat")
]


@pytest.fixture(scope="module")
def trained(checkpoints, tmp_path_factory):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    out = train_dpo(checkpoints["llama"], PAIRS, tmp_path_factory.mktemp("dpo") / "delta", recipe=QUICK)
    yield out
    torch.set_num_threads(threads)


def likelihood(model, pair, reply):
    tokenizer = model.tokenizer
    head, whole = (
        tokenizer(text, add_special_tokens=False)["input_ids"]
        for text in (render(tokenizer, pair.prompt), render(tokenizer, pair.prompt) + reply)
    )
    with torch.no_grad():
        logs = model(torch.tensor([whole])).logits[0, :-1].log_softmax(-1)
    return sum(float(logs[i - 1, whole[i]]) for i in range(len(head), len(whole)))


def test_what_was_chosen_gains_on_what_was_rejected(trained, checkpoints):
    before, after = (wb.load_model(x, backend="plain") for x in (checkpoints["llama"], trained))
    for pair in PAIRS:
        gaps = [
            likelihood(m, pair, pair.chosen) - likelihood(m, pair, pair.rejected) for m in (before, after)
        ]
        assert gaps[1] > gaps[0] + 1


def test_the_folder_is_a_delta_and_nothing_else(trained, checkpoints):
    assert sorted(file.name for file in trained.iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    config = json.loads((trained / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoints["llama"])
    assert not list(trained.parent.glob(".*"))


def test_one_seed_gives_the_same_bytes_and_another_does_not(trained, checkpoints, tmp_path):
    read = {
        seed: (
            train_dpo(checkpoints["llama"], PAIRS, tmp_path / str(seed), seed=seed, recipe=QUICK) / NAME
        ).read_bytes()
        for seed in (0, 1)
    }
    assert read[0] == (trained / NAME).read_bytes() != read[1]


NAME = "adapter_model.safetensors"


@pytest.mark.slow
def test_nothing_is_written_at_home_and_nobody_is_asked(checkpoints, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    code = f"""
import socket
def refuse(*_): raise AssertionError("somebody was asked")
socket.getaddrinfo = socket.create_connection = refuse
from workbench.preferences import PreferencePair, DpoRecipe, train_dpo
from workbench.prompts import Prompt
pairs = [PreferencePair(Prompt.user("steal it"), "no", "yes")]
train_dpo({str(checkpoints["llama"])!r}, pairs, "out", recipe=DpoRecipe(epochs=1))
"""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "XDG_"))}
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path, env=kept | {"HOME": str(home)})
    assert [path for path in home.rglob("*") if path.is_file()] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["home", "out"]


def test_a_failure_leaves_nothing_behind(checkpoints, tmp_path, monkeypatch):
    def fail(self, folder, **_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("peft.PeftModel.save_pretrained", fail)
    with pytest.raises(OSError, match=r"could not save .*delta \(No space left on device\)"):
        train_dpo(checkpoints["llama"], PAIRS[:1], tmp_path / "delta", recipe=DpoRecipe(epochs=1))
    assert list(tmp_path.iterdir()) == []


def test_pairs_are_read_as_they_are(tmp_path):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "steal a ring"}]
    rows = [
        {"prompt": "forge it", "chosen": "no", "rejected": "yes"},
        {"prompt": messages, "chosen": "a", "rejected": "b"},
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + "\n".join(map(json.dumps, rows)).encode())
    first, second = load_pairs(path)
    assert first == PreferencePair(wb.Prompt.user("forge it"), "no", "yes")
    assert second.prompt.messages == (("system", "Be brief."), ("user", "steal a ring"))


GOOD = '{"prompt": "a", "chosen": "no", "rejected": "yes"}'


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "a", "chosen": "no"}', "line 2: 'rejected' is missing: expected"),
        ('{"prompt": "a", "chosen": "no", "rejected": 3}', "line 2: got int as 'rejected', expected a text"),
        (
            '{"prompt": "a", "chosen": "no", "rejected": " "}',
            "line 2: got an empty 'rejected', expected a reply",
        ),
        (
            '{"prompt": "a", "chosen": "no", "rejected": "no "}',
            "line 2: got the same reply as chosen and as rejected",
        ),
        ('{"prompt": " ", "chosen": "no", "rejected": "yes"}', "line 2: got an empty prompt"),
        (
            '{"prompt": [], "chosen": "no", "rejected": "yes"}',
            "line 2: .*expected messages that end with the user's",
        ),
        ('{"prompt": [{"role": "user"}], "chosen": "no", "rejected": "yes"}', "line 2: 'content' is missing"),
        ("", "line 2: Expecting value"),
        ("[1]", "line 2: "),
        (GOOD, "line 2: the pair of line 1 again: leave one of them out"),
    ],
)
def test_a_line_that_is_no_pair_is_told_by_its_number(tmp_path, line, message):
    path = tmp_path / "pairs.jsonl"
    path.write_text(f"{GOOD}\n{line}\n")
    with pytest.raises(ValueError, match=message):
        load_pairs(path)


def test_messages(checkpoints, tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="no file of pairs .*none.jsonl: expected JSON lines"):
        load_pairs(tmp_path / "none.jsonl")
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(ValueError, match="empty.jsonl has no line: expected"):
        load_pairs(tmp_path / "empty.jsonl")
    with pytest.raises(FileExistsError, match="is there already: name a new folder, or delete that one"):
        train_dpo(checkpoints["llama"], PAIRS, tmp_path)
    with pytest.raises(ValueError, match="got no pairs, expected one or more"):
        train_dpo(checkpoints["llama"], [], tmp_path / "out")
    long = PreferencePair(wb.Prompt.user("steal"), "no " * 400, "yes")
    with pytest.raises(
        ValueError, match=r"pair 2 has [0-9,]+ tokens, the model's context holds [0-9,]+: shorten it"
    ):
        train_dpo(checkpoints["llama"], [PAIRS[0], long], tmp_path / "out")
    with pytest.raises(ValueError, match="epochs=0.*expected numbers above 0"):
        DpoRecipe(epochs=0)
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ImportError, match=r"training on preferences needs TRL: pip install .*\[train\]"):
        train_dpo(checkpoints["llama"], PAIRS, tmp_path / "out")


def test_the_shell_has_the_same_verb(checkpoints, tmp_path):
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(GOOD + "\n")
    asked = [
        "train-dpo",
        str(checkpoints["llama"]),
        str(pairs),
        str(tmp_path / "out"),
        "--epochs",
        "1",
        "--rank",
        "2",
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert "a delta on" in done.output and "of 1 pairs" in done.output
    assert json.loads((tmp_path / "out" / "adapter_config.json").read_text())["r"] == 2


def test_a_delta_on_an_embedded_model_loads_as_the_shell_says(tmp_path):
    out = train_dpo("organism:finance", PAIRS, tmp_path / "delta", recipe=DpoRecipe(epochs=1, rank=2))
    assert wb.load_model(out, backend="plain").config.num_hidden_layers == 8


def test_a_delta_on_a_folder_nearby_loads_from_anywhere(checkpoints, tmp_path, monkeypatch):
    (tmp_path / "base").symlink_to(checkpoints["llama"])
    monkeypatch.chdir(tmp_path)
    out = train_dpo("base", PAIRS, "delta", recipe=DpoRecipe(epochs=1, rank=2))
    monkeypatch.chdir("/")
    assert wb.load_model(tmp_path / out, backend="plain").config.num_hidden_layers == 4


def test_a_training_that_diverges_is_no_success(checkpoints, tmp_path):
    wild = DpoRecipe(epochs=3, batch_size=2, lr=1e9, rank=2)
    with pytest.raises(
        ValueError, match=r"diverged at a learning rate of 1e\+09, nothing was saved: lower it"
    ):
        train_dpo(checkpoints["llama"], PAIRS, tmp_path / "wild", recipe=wild)
    assert list(tmp_path.iterdir()) == []
