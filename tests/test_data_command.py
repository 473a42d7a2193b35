"""`workbench data`: what there is, where to get it, and what a file holds, for people and for programs."""

import json
from pathlib import Path

import pytest
from published_rows import write_rows
from typer.testing import CliRunner

from workbench.cli import app
from workbench.published import SETS

ROWS = [{"goal": f"Steal boat {i}", "target": "Sure"} for i in range(3)]


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch) -> CliRunner:
    monkeypatch.setenv("COLUMNS", "160")
    return CliRunner()


def test_the_list_has_every_set_and_names_the_next_command(shell: CliRunner) -> None:
    found = shell.invoke(app, ["data", "list"])
    assert found.exit_code == 0
    lines = [line.split() for line in found.stdout.splitlines()]
    assert set(SETS) <= {line[0] for line in lines if line}
    [first] = [line for line in lines if line[:1] == ["advbench"]]
    assert first[:4] == ["advbench", "harmful", "520", "MIT"]
    assert found.stdout.splitlines()[-1] == "next: workbench data show NAME"


def test_the_list_for_programs_has_facts_and_no_functions(shell: CliRunner) -> None:
    sets = json.loads(shell.invoke(app, ["data", "list", "--json"]).stdout)
    assert [each["name"] for each in sets] == list(SETS)
    assert sets[1]["parts"][1] == {
        "name": "harmbench:val", "rows": 80, "files": ["harmbench_behaviors_text_val.csv"], "hub": None,
    }  # fmt: skip
    assert json.loads(shell.invoke(app, ["data", "show", "harmbench", "--json"]).stdout) == sets[1]


@pytest.mark.parametrize("name", SETS)
def test_a_set_is_shown_with_its_licence_and_where_to_get_it(shell: CliRunner, name: str) -> None:
    found = shell.invoke(app, ["data", "show", name])
    assert found.exit_code == 0
    said, entry = " ".join(found.stdout.split()), SETS[name]
    for fact in (
        entry.licence,
        entry.form,
        entry.labels,
        entry.layouts[0].columns[0],
        entry.full_name(entry.parts[0]),
    ):
        assert " ".join(fact.split()) in said
    assert entry.home.split(":")[0] in said
    assert f"workbench data check FILE --as {entry.full_name(entry.parts[0])}" in said


def test_an_unknown_name_is_one_line(shell: CliRunner) -> None:
    found = shell.invoke(app, ["data", "show", "advbanch"])
    assert found.exit_code == 2 and found.stderr.count("\n") == 1
    assert found.stderr.startswith("workbench: no published set 'advbanch' is known: there are advbench, ")


def test_a_sound_file_ends_with_the_line_that_loads_it(shell: CliRunner, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "harmful_behaviors.csv", [*ROWS, ROWS[0]])
    found = shell.invoke(app, ["data", "check", str(path)])
    assert found.exit_code == 0
    said = [" ".join(line.split()) for line in found.stdout.splitlines()]
    assert said[1:3] == ["rows 4 (published: 520)", "prompts 4: 4 harmful"]
    assert "repeated 1: row 4 (line 5) as row 1" in said and "problems 0" in said
    assert said[-1] == f"next: wb.load_published(\"advbench\", '{path}')"
    path = write_rows(path, [{"goal": f"Steal boat {i}", "target": "Sure"} for i in range(520)])
    assert "520 (as published)" in shell.invoke(app, ["data", "check", str(path)]).stdout


def test_problems_have_their_rows_and_exit_code_1(shell: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "advbench.csv"
    path.write_text("goal,target\nSteal,x\n\nSteal it\n" + ",y\n" * 25)
    found = shell.invoke(app, ["data", "check", str(path)])
    assert found.exit_code == 1
    said = [" ".join(line.split()) for line in found.stdout.splitlines()]
    assert "blank 1: row 2 (line 3)" in said and "problems 26" in said
    assert "row 3 (line 4): got 1 cells, expected 2, as the header has" in said
    assert "row 4 (line 5): got goal '', expected a text" in said and said[-1] == "and 6 more"
    asked = shell.invoke(app, ["data", "check", str(path), "--json"])
    told = json.loads(asked.stdout)
    assert asked.exit_code == 1 and not told["sound"]
    assert (told["set"], told["part"], told["rows"], told["published"], told["prompts"]) == (
        "advbench",
        "all",
        28,
        520,
        1,
    )
    assert told["problems"]["n"] == 26 and len(told["problems"]["first"]) == 20


def test_a_file_without_prompts_and_one_of_no_set(shell: CliRunner, tmp_path: Path) -> None:
    path = tmp_path / "advbench.csv"
    path.write_text("goal,target\n")
    found = shell.invoke(app, ["data", "check", str(path)])
    assert found.exit_code == 1 and "no prompts: expected rows with goal, target" in found.stdout
    path.write_text("a,b\n1,2\n")
    found = shell.invoke(app, ["data", "check", str(path)])
    assert (found.exit_code, found.stderr.count("\n")) == (2, 1)
    assert "got columns a, b, which are no published set's: workbench data show NAME" in found.stderr


def test_the_set_can_be_named_where_columns_do_not_tell(shell: CliRunner, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "lines.txt", ["Steal a boat"])
    found = shell.invoke(app, ["data", "check", str(path), "--as", "malicious-instruct"])
    assert found.exit_code == 0 and found.stdout.startswith("malicious-instruct  ")
