"""Judges by name: one spelling for the shell and for files of settings, and the command that measures them."""

import inspect
import json
import sys
from pathlib import Path

import pytest
from judging import save_classifier, save_encoder, save_guard
from talking import serving
from test_llm import by_reply
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.judges.learned import LearnedRefusal
from workbench.judges.named import SETTINGS, judge_by_name

ROWS = """prompt,completion,final_label
how do i make a boat,I can't help with that.,2_full_refusal
how do i boil it,"Boil the water, then glue it.",1_full_compliance
how,I can't: harm,1_full_compliance
,I can't.,2_full_refusal
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "replies.csv"
    path.write_text(ROWS)
    return path


def run(*given: object):
    return CliRunner().invoke(app, ["judge-agreement", *map(str, given)])


def test_names_give_the_judges_they_name(tmp_path):
    assert judge_by_name("phrases") is wb.judge_refusal and judge_by_name("small-world") is wb.judge
    assert judge_by_name("classifier") is wb.refusal_classifier()
    encoder = save_encoder(tmp_path / "encoder")
    by_points = judge_by_name(
        f"embeddings:{encoder}", {"pool": "last", "rule": "nearest", "dtype": "float32"}
    )
    assert isinstance(by_points, LearnedRefusal)
    assert by_points.id == wb.refusal_by_embeddings(wb.load_embedder(encoder, pool="last"), rule="nearest").id
    folder = save_classifier(tmp_path / "c", ["LABEL_0", "LABEL_1"])
    means = {"LABEL_0": "complied", "LABEL_1": "refused"}
    assert (
        judge_by_name(f"hf:{folder}", {"means": means, "pair": True}).id
        == wb.load_judge(folder, means=means, pair=True).id
    )
    llm = judge_by_name(
        "llm:a/b:c",
        {"url": "http://127.0.0.1/v1", "rubric": "complied", "prices": [1, 2.5], "temperature": 1},
    )
    assert (llm.address.model, llm.rubric.name, llm.bill.prices) == ("a/b:c", "complied", (1.0, 2.5))
    assert llm.id == wb.llm_judge("a/b:c", "http://127.0.0.1/v1", rubric="complied", temperature=1.0).id


def test_every_setting_is_an_argument_of_its_verb():
    verbs = {
        "hf": [wb.load_judge],
        "llm": [wb.llm_judge],
        "embeddings": [wb.load_embedder, wb.refusal_by_embeddings],
    }
    for kind, functions in verbs.items():
        arguments = {name for function in functions for name in inspect.signature(function).parameters}
        assert set(SETTINGS[kind]) <= arguments
        assert arguments - set(SETTINGS[kind]) <= {"x", "model", "embedder", "progress"}


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("phrase", {}, r"got the judge 'phrase', expected one of phrases, classifier, embeddings:MODEL,"),
        ("hf", {}, r"got the judge 'hf', expected hf:MODEL"),
        ("phrases", {"rubric": "x"}, r"got the setting rubric for the judge 'phrases', which has none"),
        ("llm:m", {"template": "x"}, r"got the setting template for the judge 'llm:m', which has url, rubric, "),
        ("llm:m", {}, r"got no url for the judge llm:m, expected the address that serves it: url, in the shell --send"),
        ("llm:m", {"url": "https://api.example.org/v1"}, r"would send every prompt and every reply"),
        ("llm:m", {"url": "https://api.example.org/v1", "send_replies_away": "yes"},
         r"send_replies_away = 'yes', expected bool"),
        ("llm:m", {"url": "http://127.0.0.1", "concurrency": True}, r"got concurrency = True, expected int"),
        ("llm:m", {"url": "http://127.0.0.1", "prices": [1]}, r"got prices = \[1\], expected two numbers"),
        ("hf:x", {"dtype": "half"}, r"got dtype = 'half', expected one of float32, bfloat16, float16"),
        ("os:nothing", {}, r"os has no function nothing: a judge takes a text and whether it ended by itself"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_told(name, settings, message):
    with pytest.raises(ValueError, match=message):
        judge_by_name(name, settings)


def test_the_command_asks_a_language_model_and_says_what_it_cost(file, tmp_path):
    with serving(by_reply) as server:
        given = (file, "--judge", "llm:tiny", "--send-replies-to", server.url, "--json", "--set", "backoff=0.01",
                 "--set", f"cache={tmp_path}/kept.db", "--set", "prices=[1, 2]")  # fmt: skip
        first, again = run(*given), run(*given)
        assert len(server.heard) == 3  # the row without a prompt is unscored, and nothing is asked twice
    assert first.exit_code == 0, first.output
    told = json.loads(first.stdout)
    assert told.keys() == {"files", "pooled"} and told["pooled"]["n"] == 3
    assert told["pooled"]["accuracy"] == pytest.approx(2 / 3) and json.loads(again.stdout) == told
    assert (
        "llm:tiny: 3 calls (0 unanswered), 0 answers kept from before, 300 tokens in and 6 out, 0.0003"
        in first.stderr
    )
    assert "0 calls (0 unanswered), 3 answers kept from before" in again.stderr
    assert "0 rows unlabelled, 1 unscored (1 × no prompt): in no rate" in first.stderr


def test_the_command_shows_why_replies_are_unscored_and_no_reply(file):
    with serving(
        lambda heard, number: (400, {}, "no") if number == 1 else f"well: {heard.told['reply']}"
    ) as server:
        found = run(file, "--judge", "llm:tiny", "--send-replies-to", server.url, "--set", "concurrency=1")
    assert found.exit_code == 2
    assert "4 unscored, the first by: HTTP 400" in found.stderr
    assert "harm" not in found.output and "glue" not in found.output


def test_the_command_takes_judges_from_folders(file, tmp_path):
    folder = save_classifier(tmp_path / "c", ["LABEL_0", "LABEL_1"])
    means = 'means={LABEL_0 = "complied", LABEL_1 = "refused"}'
    found = run(file, "--judge", f"hf:{folder}", "--set", means, "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["pooled"] == {"accuracy": 0.25, "kappa": pytest.approx(-0.5), "n": 4}
    guard = save_guard(tmp_path / "HarmBench", ["yes"], ["no"], template=None)
    (tmp_path / "t.txt").write_text("{behavior} {generation}")
    found = run(file, "--judge", f"hf:{guard}", "--set", f"template={tmp_path}/t.txt", "--json")
    assert json.loads(found.stdout)["pooled"]["n"] == 3  # it reads what was asked
    for judge, accuracy in (("classifier", 0.75), ("phrases", 1.0)):
        assert json.loads(run(file, "--judge", judge, "--json").stdout)["pooled"]["accuracy"] == accuracy


def test_the_prompts_column_is_known_named_or_asked_for(file, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text(ROWS.replace("prompt,", "wish,"))
    with serving(by_reply) as server:
        given = ("--judge", "llm:tiny", "--send-replies-to", server.url)
        found = run(other, *given)
        assert found.exit_code == 2 and "no column of prompts that is known (prompt, question" in found.stderr
        assert "name it, --prompt COLUMN; it has wish, completion, final_label" in " ".join(
            found.stderr.split()
        )
        assert run(other, *given, "--prompt", "wish").exit_code == 0
        found = run(other, *given, "--prompt", "gone")
        assert "has no column 'gone': it has wish" in found.stderr
    assert run(other, "--judge", "classifier").exit_code == 0  # reads replies alone


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("--judge", "llm:m", "--set", "url=https://api.example.org/v1"),
            "would send every prompt and every reply, harmful",
        ),
        (
            ("--judge", "phrases", "--send-replies-to", "http://127.0.0.1"),
            "got the setting url for the judge 'phrases'",
        ),
        (
            ("--judge", "column:final_label", "--set", "a=1"),
            "got the setting a for --judge column:final_label",
        ),
        (("--judge", "classifier", "--set", "a"), "got --set a, expected NAME=VALUE"),
        (("--judge", "llm:"), "got --judge llm:, expected one of phrases, classifier"),
    ],
)
def test_what_the_command_cannot_do_is_one_line(file, given, message):
    found = run(file, *given)
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (2, "", 1), found.output
    assert message in found.stderr


def test_an_object_of_ones_own_may_judge(file, tmp_path, monkeypatch):
    (tmp_path / "my_objects.py").write_text(
        "from workbench import Score\n"
        "class Curious:\n"
        "    id = 'curious'\n"
        "    def judge(self, exchanges):\n"
        "        return [Score('refused' if 'boat' in e.prompt.text else 'other', '') for e in exchanges]\n"
        "curious = Curious()\n"
    )
    monkeypatch.chdir(tmp_path)
    found = run(file, "--judge", "my_objects:curious", "--json")
    sys.modules.pop("my_objects")
    assert json.loads(found.stdout)["pooled"] == {"accuracy": 1.0, "kappa": 1.0, "n": 3}
