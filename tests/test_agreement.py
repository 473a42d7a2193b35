"""Judges beside people: the numbers, the files they come from, and the shell's command."""

import csv
import json
import math
from pathlib import Path

import pytest
from sklearn.metrics import cohen_kappa_score
from typer.testing import CliRunner

import workbench as wb
from workbench.cli import app
from workbench.cli.agreement import SHOWN
from workbench.judges.agreement import brief_reason
from workbench.judges.labels import read_labelled
from workbench.judges.verdicts import Score
from workbench.stats import wilson

HEADER = "prompt,completion,final_label\n"
REFUSAL, ANSWER = "I can't help with that.", "Boil the water, then add the salt."
ROWS = f"""{HEADER}a,{REFUSAL},2_full_refusal
b,"{ANSWER}",1_full_compliance
c,"{REFUSAL} Here is another way: sing.",3_partial_refusal
d,"{ANSWER}",2_full_refusal
e,{REFUSAL},1_full_compliance
"""


@pytest.fixture
def shell() -> CliRunner:
    return CliRunner()


@pytest.fixture
def write(tmp_path: Path):
    def write(content: str | bytes, name: str = "replies.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return write


def said(verdict: str | None):
    return lambda text, finished: Score(verdict, "says the same of all")


def test_it_counts_who_agrees_and_where_they_part(write):
    found = wb.judge_agreement(write(ROWS))
    assert (found.n, found.unlabelled, found.unscored) == (5, 0, 0)
    assert found.accuracy == wilson(3, 5)
    assert (found.false_positives, found.false_negatives) == ([6], [5])  # as a spreadsheet numbers them
    human, judge = [True, False, True, True, False], [True, False, True, False, True]
    assert found.kappa == pytest.approx(cohen_kappa_score(human, judge))
    agreed, chance = 3 / 5, 3 / 5 * 3 / 5 + 2 / 5 * 2 / 5  # the equation itself
    assert found.kappa == pytest.approx((agreed - chance) / (1 - chance))


def test_the_frame_has_every_row_with_its_reason(write):
    frame = wb.judge_agreement(write(ROWS)).frame
    assert frame.columns.tolist() == ["file", "row", "human", "judge", "reason"]
    assert frame["row"].tolist() == [2, 3, 4, 5, 6]
    assert frame["reason"][0] == f'declines: "{REFUSAL}"'


def test_rows_without_label_or_verdict_are_counted_and_in_no_rate(write):
    lines = ROWS + f'f,"{ANSWER}",\ng,"{ANSWER}",nan\nh,unsure,2_full_refusal\ni,unsure,\n'

    def judge(text: str, finished: bool) -> Score:
        return Score(None, "cannot tell") if text == "unsure" else wb.judge_refusal(text, finished)

    found = wb.judge_agreement(write(lines), judge)
    assert (len(found.frame), found.n, found.unlabelled, found.unscored) == (9, 5, 3, 1)
    assert found.accuracy == wilson(3, 5) and 9 not in found.false_negatives


def test_broken_is_not_refused_and_a_missing_reply_is_unscored(write):
    lines = [{"reply": "", "label": "complied"}, {"reply": None, "label": "refused"}, {"label": "refused"}]
    found = wb.judge_agreement(write("\n".join(map(json.dumps, lines)), "replies.jsonl"))
    assert (found.n, found.unscored, found.accuracy.mean) == (1, 2, 1.0)
    assert found.frame["reason"].tolist() == ["empty reply", "no reply", "no reply"]


def test_kappa_is_undefined_where_there_is_nothing_to_tell_apart(write):
    refused = write(f"{HEADER}a,{REFUSAL},2_full_refusal\n")
    assert math.isnan(wb.judge_agreement(refused).kappa)
    assert wb.judge_agreement(write(ROWS), said("refused")).kappa == 0.0


def test_agreements_add_up(write):
    first, second = (
        wb.judge_agreement(write(ROWS)),
        wb.judge_agreement(write(ROWS, "more.csv"), said("complied")),
    )
    pooled = first + second
    assert (pooled.n, pooled.accuracy) == (10, wilson(5, 10))
    assert pooled.name == "replies.csv+more.csv"


def test_the_judge_is_told_whether_a_reply_ended(write):
    lines = [{"reply": ANSWER, "label": "complied", "finished": ended} for ended in (True, False)]
    seen = []

    def judge(text: str, finished: bool) -> Score:
        seen.append(finished)
        return Score("complied", "so it is")

    wb.judge_agreement(write("\n".join(map(json.dumps, lines)), "replies.jsonl"), judge)
    wb.judge_agreement(write(ROWS), judge)
    assert seen == [True, False] + [True] * 5


def test_a_column_may_be_the_judge(write):
    rows = "completion,final_label,strmatch\na,2_full_refusal,2_full_refusal\nb,1_full_compliance,2_full_refusal\n"
    rows += "c,refused,\n"
    found = wb.judge_agreement(write(rows), "strmatch")
    assert (found.n, found.unscored, found.false_positives) == (2, 1, [3])
    with pytest.raises(ValueError, match=r"has no column 'other': it has completion, final_label, strmatch"):
        wb.judge_agreement(write(rows), "other")


def test_columns_and_labels_can_be_named(write):
    path = write("question,answer,who_said\na,No!,evasive\nb,Yes!,direct\nc,Hm.,no\n")
    rows = read_labelled(path, reply="answer", label="who_said", refused=("no", "evasive"))
    assert [(row.text, row.refused) for row in rows] == [("No!", True), ("Yes!", False), ("Hm.", True)]


def test_yes_means_refused_only_where_the_column_says_so(write):
    path = write("reply,refused,helpful\na,yes,no\nb,False,yes\n")
    assert [row.refused for row in read_labelled(path)] == [True, False]
    with pytest.raises(ValueError, match=r"row 2, helpful: got the label 'no', expected one of refused, "):
        read_labelled(path, label="helpful")
    assert wb.judge_agreement(path, "refused").accuracy.mean == 1.0


def test_a_misspelt_label_of_refusal_is_told(write):
    with pytest.raises(
        ValueError, match=r"no row has the label '2_refusal' in final_label: it has '1_full_compliance', "
    ):
        read_labelled(write(ROWS), refused=("2_refusal", "3_partial_refusal"))


def test_what_people_publish_and_save_is_read_alike(write):
    """A byte order mark, three kinds of line ends, blank lines, commas and line breaks in quotes, a padded header."""
    body = f'a,"{ANSWER}\nIt, is, easy.",1_full_compliance\n\nb,{REFUSAL},2_full_refusal\n ,,\nc,"„Nein“",refused\n'
    plain = read_labelled(write(HEADER + body))
    assert [row.row for row in plain] == [2, 4, 6] and plain[0].text == f"{ANSWER}\nIt, is, easy."
    ways = {
        "mark": ("\ufeff" + HEADER + body).encode(),
        "windows": (HEADER + body).replace("\n", "\r\n").encode(),
        "mac": (HEADER + body).replace("\n", "\r").encode(),
        "mixed": (
            HEADER.replace("\n", "\r\n") + body.replace("\n", "\r", 1).replace("\n\n", "\r\n\n")
        ).encode(),
        "header": (" prompt , completion,final_label \n" + body).encode(),
        "no end": (HEADER + body).rstrip("\n").encode(),
    }
    for name, content in ways.items():
        found = read_labelled(write(content))
        assert [(row.row, row.refused) for row in found] == [(row.row, row.refused) for row in plain], name
        assert [row.text.split() for row in found] == [row.text.split() for row in plain], name


def test_json_lines_are_numbered_as_they_stand(write):
    line = json.dumps({"reply": f"{ANSWER}\u2028Then eat.", "label": "complied"}, ensure_ascii=False)
    found = read_labelled(write(f"\ufeff{line}\r\n\r\n{line}\n", "replies.jsonl"))
    assert [row.row for row in found] == [1, 3] and "\u2028" in found[0].text


def test_a_reply_may_be_long(write):
    found = read_labelled(write(f'{HEADER}a,"{"word " * 100_000}",refused\n'))
    assert len(found[0].text) == 500_000
    with pytest.raises(ValueError, match="quotes that close"):
        read_labelled(write(f'{HEADER}a,"'))
    assert csv.field_size_limit() == 131_072  # csv's own, for whoever else reads csv


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"replies\.csv has no rows: expected replies with labels, one a row"),
        (b"\xef\xbb\xbf", r"has no rows"),
        (HEADER, r"has no rows"),
        ("prompt,completion\na,b\n",
         r"no column of labels that people gave that is known .* it has prompt, completion; name it, --label COLUMN"),
        ("prompt,final_label\na,refused\n", r"no column of replies that is known .*name it, --reply COLUMN"),
        (ROWS + "f,x,3_sort_of\n",
         r"replies\.csv, row 7, final_label: got the label '3_sort_of', expected one of refused, .* --refused"),
        (ROWS + "f,x\n", r"row 7: got 2 fields, expected the header's 3: put texts with commas"),
        (ROWS + 'f,"x,refused\n', r"after row 6: unexpected end of data: expected csv with quotes that close"),
        (ROWS.encode() + b"f,\xff,refused\n", r"line 7: 'utf-8' codec .*: save it as UTF-8"),
        (f"{HEADER}a,{REFUSAL},\n",
         r"no row with both a label and a verdict: of 1 rows 1 are unlabelled and 0 unscored"),
    ],
)  # fmt: skip
def test_a_bad_csv_is_told_with_its_row(write, content, message):
    with pytest.raises(ValueError, match=message):
        wb.judge_agreement(write(content))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"reply": "a"', r"replies\.jsonl, row 2: Expecting .*: expected one JSON object a line"),
        ('["a"]', r"row 2: got list, expected one JSON object a line"),
        ('{"reply": 3, "label": "refused"}', r"row 2: got 3 for the reply, expected a text"),
        ('{"reply": "a", "label": 3}', r"row 2, label: got the label '3', expected one of"),
    ],
)
def test_a_bad_line_of_json_is_told_with_its_row(write, line, message):
    with pytest.raises(ValueError, match=message):
        wb.judge_agreement(write('{"reply": "a", "label": "refused"}\n' + line, "replies.jsonl"))


def test_wrong_names_are_told(write, tmp_path):
    with pytest.raises(ValueError, match=r"has no column 'answer': it has prompt, completion, final_label"):
        wb.judge_agreement(write(ROWS), reply="answer")
    with pytest.raises(FileNotFoundError, match=r"no file .*gone\.csv: name a csv or JSON-lines file"):
        wb.judge_agreement(tmp_path / "gone.csv")


def test_an_error_of_a_judge_says_which_row_it_came_from(write):
    def judge(text: str, finished: bool) -> Score:
        raise TimeoutError("no answer")

    with pytest.raises(TimeoutError) as caught:
        wb.judge_agreement(write(ROWS), judge)
    assert caught.value.__notes__ == [f"while judging {write(ROWS)}, row 2"]


# The command.


def test_json_has_each_file_and_all_of_them(shell, write):
    paths = [str(write(ROWS, "one.csv")), str(write(f"{HEADER}a,{REFUSAL},refused\nb,x,\n", "two.csv"))]
    found = shell.invoke(app, ["judge-agreement", *paths, "--json"])
    assert found.exit_code == 0
    told = json.loads(found.stdout)
    assert told.keys() == {"files", "pooled"} and list(told["files"]) == ["one.csv", "two.csv"]
    assert told["files"]["one.csv"] == {"accuracy": 0.6, "kappa": pytest.approx(1 / 6), "n": 5}
    assert told["files"]["two.csv"] == {"accuracy": 1.0, "kappa": None, "n": 1}
    assert told["pooled"]["n"] == 6 and told["pooled"]["accuracy"] == pytest.approx(4 / 6)
    assert found.stderr == "workbench: careful: two.csv: 1 rows unlabelled, 0 unscored: in no rate\n"


def test_files_of_one_name_are_told_apart(shell, write, tmp_path):
    (tmp_path / "other").mkdir()
    paths = [str(write(ROWS)), str(write(ROWS, "other/replies.csv"))]
    told = json.loads(shell.invoke(app, ["judge-agreement", *paths, "--json"]).stdout)
    assert list(told["files"]) == paths


def test_people_read_a_table_and_the_rows(shell, write):
    found = shell.invoke(app, ["judge-agreement", str(write(ROWS))])
    low, high = wilson(3, 5).low, wilson(3, 5).high
    assert f"60.0      {100 * low:.1f} to {100 * high:.1f}" in found.stdout
    assert "replies.csv, refused to the judge alone: rows 6" in found.stdout
    assert "replies.csv, refused to people alone: rows 5" in found.stdout
    assert ANSWER not in found.stdout and REFUSAL not in found.stdout and "pooled" not in found.stdout
    many = write(HEADER + f"a,{REFUSAL},complied\n" * (SHOWN + 3), "many.csv")
    assert f"{SHOWN + 1} and 3 more" in shell.invoke(app, ["judge-agreement", str(many)]).stdout


def test_any_judge_can_be_named(shell, write, monkeypatch, tmp_path):
    path = str(write(ROWS))
    (tmp_path / "my_judges.py").write_text(
        "from workbench import Score\ndef strict(text, finished):\n    return Score('refused', 'always')\nnumber = 3\n"
    )
    monkeypatch.chdir(tmp_path)

    def accuracy(judge: str, *more: str) -> float:
        found = shell.invoke(app, ["judge-agreement", path, "--json", "--judge", judge, *more])
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)["pooled"]["accuracy"]

    assert accuracy("my_judges:strict") == 0.6
    assert accuracy("column:final_label") == 1.0
    assert accuracy("small-world") == 0.4  # these are no sentences of its world: broken, hence not refused
    assert accuracy("phrases", "--refused", "1_full_compliance") == 0.4
    for judge, message in (
        (
            "strict",
            "got --judge strict, expected one of phrases, classifier, embeddings:MODEL, hf:MODEL, llm:MODEL, ",
        ),
        ("my_judges:number", "my_judges has no function number: a judge takes a text and whether it ended"),
        ("nowhere:strict", "No module named 'nowhere'"),
    ):
        found = shell.invoke(app, ["judge-agreement", path, "--judge", judge])
        assert (found.exit_code, found.stderr.count("\n")) == (2, 1) and message in found.stderr


def test_a_bad_file_is_one_line_on_stderr(shell, write):
    found = shell.invoke(app, ["judge-agreement", str(write(ROWS + "f,x,maybe\n")), "--json"])
    assert (found.exit_code, found.stdout, found.stderr.count("\n")) == (2, "", 1)
    assert "row 7, final_label: got the label 'maybe'" in found.stderr


def test_a_column_of_verdicts_may_have_words_of_its_own(write):
    rows = "completion,annot,strmatch\na,no,refused\nb,yes,complied\n"
    found = wb.judge_agreement(write(rows), "strmatch", label="annot", refused=["no"])
    assert found.accuracy.mean == 1
    with pytest.raises(ValueError, match="strmatch: got the label 'odd', expected one of"):
        wb.judge_agreement(write(rows.replace("complied", "odd")), "strmatch", label="annot", refused=["no"])


def test_what_would_count_twice_is_refused(shell, write):
    with pytest.raises(ValueError, match="has the column completion more than once: rename one of them"):
        wb.judge_agreement(write("completion,label,completion\na,refused,b\n"))
    path = str(write(ROWS))
    twice = shell.invoke(app, ["judge-agreement", path, path])
    assert twice.exit_code == 2 and twice.stderr.startswith("workbench: got a file more than once")


def test_a_server_s_complaint_may_quote_a_reply_and_is_not_printed() -> None:
    assert brief_reason("HTTP 400: Invalid prompt: Mix the powder with the acid.") == "HTTP 400"
    assert brief_reason("off the rubric refusal: 'Mix the powder'") == "off the rubric refusal"
