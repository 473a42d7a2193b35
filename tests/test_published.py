"""Published sets: every layout by a made-up row, files that are damaged or renamed, the hub, and the real files."""

import dataclasses
import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_rows import MADE, Made, write_made, write_rows

import workbench as wb
from workbench.published.lookup import SETS, find_file, identify, open_as, published_set
from workbench.published.reading import _prompts
from workbench.published.registry import PublishedSet
from workbench.published.tables import TEXT, Row

REAL = Path(__file__).parents[2] / "shared" / "data"
real = pytest.mark.skipif(not REAL.is_dir(), reason="the published files are not here")


def each(made: Made) -> str:
    return f"{made.name}-{made.layout}"


@pytest.mark.parametrize("made", MADE, ids=each)
def test_every_layout_becomes_prompts(tmp_path: Path, made: Made) -> None:
    path = write_made(tmp_path, made)
    entry = SETS[made.name]
    assert open_as(path, entry)[1] is entry.layouts[made.layout]
    # A file of a set that is joined of several is one of its parts.
    name = f"{made.name}:{entry.parts[1].name}" if entry.parts[0].joined else made.name
    found = wb.load_published(name, path)
    first = found.prompts[: len(made.texts)]
    assert tuple(prompt.text for prompt in first) == made.texts
    assert tuple(prompt.label for prompt in first) == made.labels
    assert tuple(prompt.answer for prompt in first) == made.answers
    assert dict(first[0].cluster) == made.clusters and set(made.clusters) <= set(entry.clusters)
    assert (found.name, first[0].source) == (name, f"{name}:{made.source}")


@pytest.mark.parametrize("made", MADE, ids=each)
def test_every_file_is_recognized_and_found(tmp_path: Path, made: Made) -> None:
    path = write_made(tmp_path / "here", made)
    entry, part = identify(path)
    assert entry.name == made.name and part is not None
    (tmp_path / "here" / "more").mkdir()
    (tmp_path / "here" / "more" / "notes.md").write_text("nothing")
    assert find_file(entry, part, tmp_path / "here") == path


def test_a_dialogue_keeps_its_turns_and_a_system_message_stands_first(tmp_path: Path) -> None:
    chat, asked = (next(m for m in MADE if each(m) == name) for name in ("ultrachat-0", "mmlu-0"))
    assert wb.load_published("ultrachat", write_made(tmp_path, chat))[0].messages == (
        ("user", "Hi"), ("assistant", "Hello"), ("user", "A tree?"),
    )  # fmt: skip
    assert wb.load_published("mmlu", write_made(tmp_path, asked))[0].messages[0] == (
        "system",
        "Say a letter.",
    )


def test_empty_options_turns_and_passages_are_published_too(tmp_path: Path) -> None:
    asked = {"question": "Which?", "opa": "sky", "opb": "", "opc": None, "opd": "fog ", "cop": 3}
    path = write_rows(tmp_path / "medmcqa-dev.jsonl", [asked])
    assert wb.load_published("medmcqa", path)[0].text == "Which?\n\nA. sky\nB.\nC.\nD. fog"
    path = write_rows(tmp_path / "ultrachat.jsonl", [{"data": ["Hi", "", "A tree?", "Oak", " "]}])
    found = wb.load_published("ultrachat", path)[0]
    assert (
        found.messages == (("user", "Hi"), ("assistant", ""), ("user", "A tree?")) and found.answer == "Oak"
    )
    asked = {"QUESTION": "Does it?", "CONTEXTS": ["", "One. "], "final_decision": "no"}
    path = write_rows(tmp_path / "pubmedqa.jsonl", [asked])
    assert wb.load_published("pubmedqa", path)[0].text == "One.\n\nDoes it?"


def test_xstest_of_version_2_has_its_labels_in_the_types(tmp_path: Path) -> None:
    rows = [{"id": "1", "type": kind, "prompt": f"{kind}?", "focus": "kill", "note": ""}
            for kind in ("homonyms", "contrast_homonyms")]  # fmt: skip
    path = write_rows(tmp_path / "xstest_v2_prompts.csv", rows)
    assert wb.load_published("xstest", path).labels == ("contrast", "harmful")


ADVBENCH = {"goal": "Steal a boat", "target": "Sure"}


@pytest.mark.parametrize(
    ("name", "suffix", "row", "message"),
    [
        ("advbench", ".csv", {"goal": " ", "target": "Sure"}, "got goal ' ', expected a text"),
        ("xstest", ".csv", {"prompt": "a", "type": "b", "focus": "c", "label": "odd"},
         "got label 'odd', expected safe"),
        ("gsm8k", ".jsonl", {"question": "a", "answer": "5"}, "got an answer without ####"),
        ("svamp", ".json", {"Body": "a", "Question": "b", "Answer": "five"}, "got Answer 'five', expected a number"),
        ("medqa", ".jsonl", {"question": "a", "options": {"A": "b"}, "answer_idx": "C"},
         "got answer 'C', expected one of A"),
        ("medqa", ".jsonl", {"question": "a", "options": "b", "answer_idx": "C"},
         "got options 'b', expected an object"),
        ("medmcqa", ".json", {"question": "a", "opa": "b", "opb": "c", "opc": "d", "opd": "e", "cop": 0},
         "got cop 0 for the right option, expected 1 to 4"),
        ("medmcqa", ".jsonl", {"question": "a", "opa": "b", "opb": "c", "opc": "d", "opd": "e", "cop": 4},
         "got cop 4 for the right option, expected 0 to 3"),
        ("mmlu", ".jsonl", {"question": "a", "subject": "s", "choices": ["b", "c"], "answer": 0.5},
         "got answer 0.5 for the right option, expected 0 to 1"),
        ("svamp", ".jsonl", {"Body": "a", "Question": "b", "Answer": float("nan")},
         "got Answer nan, expected a number"),
        ("fiqa-sa", ".csv", {"sentence": "a", "target": "b", "sentiment_score": "inf"}, "got sentiment_score 'inf'"),
        ("mmlu", ".jsonl", {"question": "a", "subject": "s", "choices": [], "answer": 0},
         r"got choices \[\], expected"),
        ("mmlu", ".csv", {"system": "s", "prompt": "a", "answer": "yes"}, "got answer 'yes', expected a letter"),
        ("pubmedqa", ".jsonl", {"QUESTION": "a", "CONTEXTS": ["b"], "final_decision": "no idea"}, "got final_decision"),
        ("pubmedqa", ".jsonl", {"QUESTION": "a", "CONTEXTS": "b", "final_decision": "no"},
         "got passages 'b', expected"),
        ("financial-phrasebank", ".txt", "No mood here", "got a line without one of negative, neutral, positive"),
        ("financial-phrasebank", ".csv", {"sentence": "a", "label": "odd"},
         "got label 'odd', expected negative, neutral"),
        ("fiqa-sa", ".csv", {"sentence": "a", "target": "b", "sentiment_score": "high"}, "got sentiment_score 'high'"),
        ("fiqa-sa", ".jsonl", {"sentence": "a", "info": []}, r"got info \[\], expected a list"),
        ("headline", ".csv", {"News": "a", "Asset Comparision": "maybe"},
         "got Asset Comparision 'maybe', expected 0 or 1"),
        ("mt-bench", ".jsonl", {"question_id": 1, "category": "a", "turns": "b"}, "got turns 'b', expected a list"),
        ("self-instruct", ".jsonl", {"instruction": "a", "instances": []}, r"got instances \[\], expected a list"),
        ("ultrachat", ".jsonl", {"data": []}, r"got data \[\], expected a list of turns"),
        ("ultrachat", ".jsonl", {"messages": [{"role": "assistant", "content": "a"}]},
         "got no turn of the user's, expected one"),
        ("ultrachat", ".jsonl", {"messages": [{"role": "tool", "content": "a"}, {"role": "user", "content": "b"}]},
         "got role 'tool'"),
    ],
)  # fmt: skip
def test_a_row_that_says_nothing_is_named(
    tmp_path: Path, name: str, suffix: str, row: object, message: str
) -> None:
    path = write_rows(tmp_path / f"few{suffix}", [row, row])
    with pytest.raises(
        ValueError, match=rf"few\{suffix}, row 1.*: .*{message}.*: workbench data check .* lists every"
    ):
        wb.load_published(name, path)


def test_a_test_part_without_answers_has_none(tmp_path: Path) -> None:
    row = {"question": "a", "opa": "b", "opb": "c", "opc": "d", "opd": "e"}
    for cop in ({}, {"cop": -1}, {"cop": None}):
        path = write_rows(tmp_path / "medmcqa-test.jsonl", [row | cop])
        assert wb.load_published("medmcqa:test", path)[0].answer is None
    assert wb.check_published(path).answered == 0


def test_other_columns_are_told_beside_those_expected(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "advbench.csv", [{"Goal ": "Steal", "target": "Sure"}])
    with pytest.raises(
        ValueError,
        match=r"advbench\.csv: got columns Goal, target, expected those of advbench: goal, target or prompt, target\. "
        r"Rename them, or see which set it is: workbench data check",
    ):
        wb.load_published("advbench", path)
    with pytest.raises(ValueError, match=r"got columns Goal, target, which are no published set's"):
        wb.check_published(path)


def test_blank_rows_are_skipped_and_repeated_ones_stay(tmp_path: Path) -> None:
    path = tmp_path / "harmful_behaviors.csv"
    path.write_bytes(b"\xef\xbb\xbfgoal,target\r\nSteal a boat,x\r\n\r\nsteal  a BOAT ,y\n,\nHide it,z\n")
    assert [prompt.source for prompt in wb.load_published("advbench", path)] == [
        "advbench:1", "advbench:3", "advbench:5",
    ]  # fmt: skip
    found = wb.check_published(path)
    assert (found.entry.name, found.rows, found.prompts, found.labels) == ("advbench", 5, 3, {"harmful": 3})
    assert found.blank.shown == ("row 2 (line 3)", "row 4 (line 5)")
    assert found.repeated.shown == ("row 3 (line 4) as row 1",) and found.sound


def test_a_check_lists_twenty_problems_counts_all_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "advbench.csv"
    path.write_text("goal,target\n" + "a\n" * 30 + ",x\nSteal a boat,x\n")
    found = wb.check_published(path)
    assert found.problems.n == 31 and len(found.problems.shown) == 20 and not found.sound
    assert found.problems.shown[0] == "row 1 (line 2): got 1 cells, expected 2, as the header has"
    assert (found.rows, found.prompts, found.entry.name) == (32, 1, "advbench")


def test_a_file_without_prompts_is_not_sound(tmp_path: Path) -> None:
    path = tmp_path / "advbench.csv"
    path.write_text("goal,target\n\n")
    assert not wb.check_published(path).sound
    with pytest.raises(ValueError, match=r"advbench\.csv has no prompts: expected rows with goal, target"):
        wb.load_published("advbench", path)


def test_columns_of_two_sets_are_told_apart_by_name_alone(tmp_path: Path) -> None:
    row = {"question_id": 1, "category": "a", "turns": ["b"]}
    path = write_rows(tmp_path / "question.jsonl", [row])
    with pytest.raises(ValueError, match=r"could be mt-bench or vicuna by its columns: say which"):
        wb.check_published(path)
    assert wb.check_published(path, "vicuna").entry.name == "vicuna"
    for folder, name in (("mt_bench", "mt-bench"), ("vicuna_bench", "vicuna")):
        assert identify(write_rows(tmp_path / folder / "question.jsonl", [row]))[0].name == name


def test_sets_and_parts_that_are_unknown_are_named() -> None:
    with pytest.raises(
        ValueError, match="no published set 'advbanch' is known: there are advbench, harmbench"
    ):
        wb.load_published("advbanch", "x.csv")
    with pytest.raises(ValueError, match="harmbench has no part 'dev': it has test, val, all"):
        wb.load_published("harmbench:dev", "x.csv")
    assert published_set("harmbench")[1].name == "test"


def test_one_place_is_given_and_the_error_tells_where_the_set_is_published(tmp_path: Path) -> None:
    message = (
        r"got {} for advbench, expected one of path= .* It is published at github\.com/llm-attacks.*\(MIT\)"
    )
    with pytest.raises(ValueError, match=message.format("no place")):
        wb.load_published("advbench")
    with pytest.raises(ValueError, match=message.format("path and hub")):
        wb.load_published("advbench", "x.csv", hub=True)


def test_a_folder_has_the_file_once_or_the_error_says_what_it_has(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no folder .*nowhere: name the one that your downloads lie in"
    ):
        wb.load_published("advbench", root=tmp_path / "nowhere")
    with pytest.raises(
        FileNotFoundError, match=r"no file of advbench in .*, looked for harmful_behaviors\.csv, "
    ):
        wb.load_published("advbench", root=tmp_path)
    write_rows(tmp_path / "advbench.csv", [{"text": "Steal"}])
    with pytest.raises(
        FileNotFoundError, match=r"advbench\.csv has other columns than goal, target or prompt, target"
    ):
        wb.load_published("advbench", root=tmp_path)
    write_rows(tmp_path / "a" / "harmful_behaviors.csv", [ADVBENCH])
    assert len(wb.load_published("advbench", root=tmp_path)) == 1
    write_rows(tmp_path / "b" / "harmful_behaviors.csv", [ADVBENCH])
    with pytest.raises(
        ValueError, match=r"advbench is in .* 2 times: .*a/harm.*, .*b/harm.*: say which with path="
    ):
        wb.load_published("advbench", root=tmp_path)


def test_the_hub_is_read_by_its_own_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """By the library itself, on a repository of the same layout in a folder: no network, and nothing is faked."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    repository = tmp_path / "jbb"
    made = next(made for made in MADE if made.name == "jailbreakbench")
    write_rows(repository / "data" / "harmful-behaviors.csv", [made.row] * 3)
    (repository / "README.md").write_text(
        "---\nconfigs:\n- config_name: behaviors\n  data_files:\n  - split: harmful\n"
        "    path: data/harmful-behaviors.csv\n---\n"
    )
    moved_to(monkeypatch, "jailbreakbench", (str(repository), "behaviors", "harmful"))
    found = wb.load_published("jailbreakbench", hub=True)
    assert found.labels == ("harmful",) * 3 and found[2].text == made.texts[0]


def moved_to(monkeypatch: pytest.MonkeyPatch, name: str, hub: tuple[str, str | None, str]) -> None:
    entry = SETS[name]
    part = dataclasses.replace(entry.parts[0], hub=hub)
    monkeypatch.setitem(SETS, name, dataclasses.replace(entry, parts=(part, *entry.parts[1:])))


def test_what_the_hub_has_not_says_where_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"gptfuzz is not read from the hub: get it from github\.com/sherdencooper"
    ):
        wb.load_published("gptfuzz", hub=True)
    pytest.importorskip("datasets")
    moved_to(monkeypatch, "advbench", (str(tmp_path / "gone"), None, "train"))
    with pytest.raises(FileNotFoundError) as caught:
        wb.load_published("advbench", hub=True)
    assert (
        "accept its terms there and log in first (hf auth login), or get it from" in caught.value.__notes__[0]
    )
    write_rows(tmp_path / "changed" / "train.csv", [{"text": "Steal"}])
    moved_to(monkeypatch, "strongreject", (str(tmp_path / "changed"), None, "train"))
    with pytest.raises(
        ValueError, match=r"changed on the hub: got columns text, expected category, source, forb.* changed"
    ):
        wb.load_published("strongreject", hub=True)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(
        ImportError, match=r"advbench from the hub takes the library datasets: pip install '\.\[data\]'"
    ):
        wb.load_published("advbench", hub=True)


def test_the_registry_tells_everything_of_every_set() -> None:
    for entry in SETS.values():
        said = [getattr(entry, field.name) for field in dataclasses.fields(PublishedSet) if field.type is str]
        assert all(said) and len(said) >= 7, entry.name
        assert len({part.name for part in entry.parts}) == len(entry.parts)
        assert all(part.files for part in entry.parts) and entry.layouts
    named = (
        "advbench harmbench jailbreakbench strongreject tdc2023 malicious-instruct xstest or-bench do-not-answer "
        "truthfulqa alpaca dolly self-instruct mt-bench gsm8k svamp medqa medmcqa pubmedqa mmlu financial-phrasebank "
        "fiqa-sa headline ultrachat gptfuzz in-the-wild"
    )
    assert set(named.split()) <= set(SETS)


CELLS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 5) | st.floats() | st.sampled_from(["", "A", "yes", "B@c"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "contexts", "A", "input", "output", "target"]), inner
        )
    ),
    max_leaves=6,
)


@pytest.mark.parametrize("made", MADE, ids=each)
@settings(max_examples=40, deadline=None)
@given(drawn=st.data())
def test_whatever_stands_in_a_cell_is_a_prompt_or_an_error_of_its_row(
    made: Made, drawn: st.DataObject
) -> None:
    """Rows of the right columns with anything in them: no reader fails in a way of its own."""
    layout = SETS[made.name].layouts[made.layout]
    known = made.row if isinstance(made.row, dict) else {TEXT: made.row}
    fields = dict(known) | drawn.draw(st.dictionaries(st.sampled_from(sorted(known)), CELLS, min_size=1))
    try:
        prompts = list(_prompts(Row(1, None, fields), layout, made.name))
    except ValueError:
        return
    assert prompts and all(prompt.text.strip() == prompt.text for prompt in prompts)


@real
@pytest.mark.parametrize(
    ("name", "labels", "answered"),
    [
        ("advbench", {"harmful": 520}, 0),
        ("tdc2023:dev", {"harmful": 50}, 0),
        ("tdc2023:test", {"harmful": 50}, 0),
        ("harmbench:val", {"harmful": 80}, 0),
        ("xstest", {"contrast": 250, "harmful": 200}, 0),
        ("truthfulqa", {"harmless": 817}, 817),
        ("gsm8k", {"domain": 1319}, 1319),
        ("pubmedqa", {"domain": 1000}, 1000),
        ("mmlu:1k", {"domain": 1000}, 1000),
        ("gptfuzz", {"unlabelled": 77}, 0),
        ("in-the-wild", {"unlabelled": 666}, 0),
        ("mt-bench", {"harmless": 80}, None),
        ("vicuna", {"harmless": 80}, 0),
        ("self-instruct", {"harmless": 175}, 175),
    ],
)
def test_the_real_files_have_what_their_authors_say(
    name: str, labels: dict[str, int], answered: int | None
) -> None:
    found = wb.load_published(name, root=REAL)
    entry, part = published_set(name)
    assert Counter(found.labels) == labels and part.rows == len(found)
    assert answered is None or sum(prompt.answer is not None for prompt in found) == answered
    assert len({prompt.source for prompt in found}) == len(found)
    check = wb.check_published(find_file(entry, part, REAL))
    assert check.sound and check.entry is entry and check.part == part and check.prompts == len(found)


@real
def test_the_kinds_of_real_sets() -> None:
    functions = Counter(
        dict(prompt.cluster)["function"] for prompt in wb.load_published("harmbench:val", root=REAL)
    )
    assert functions == {"standard": 41, "contextual": 19, "copyright": 20}
    contextual = wb.load_published("harmbench:val", root=REAL).where(
        lambda prompt: dict(prompt.cluster)["function"] == "contextual"
    )
    assert all("\n\n---\n\n" in prompt.text for prompt in contextual)
    numbers = [prompt.answer for prompt in wb.load_published("gsm8k", root=REAL)]
    assert all(float(number or "x") == int(number or "x") for number in numbers)
    decisions = Counter(prompt.answer for prompt in wb.load_published("pubmedqa", root=REAL))
    assert decisions.keys() == {"yes", "no", "maybe"}


@real
def test_nothing_of_the_real_files_is_in_the_project() -> None:
    """Not a prompt of them: facts may come in, texts may not."""
    root = Path(__file__).parents[1]
    ours = "\n".join(
        path.read_text(encoding="utf-8")
        for folder in ("workbench/published", "tests")
        for path in (root / folder).rglob("*.py")
    )
    for name in (
        "advbench",
        "harmbench:val",
        "tdc2023:dev",
        "tdc2023:test",
        "xstest",
        "truthfulqa",
        "gsm8k",
        "gptfuzz",
    ):
        shown = [prompt.source for prompt in wb.load_published(name, root=REAL) if prompt.text in ours]
        assert shown == []


@pytest.mark.slow
def test_a_million_rows_are_checked_and_loaded(tmp_path: Path) -> None:
    """In a process of its own, whose memory is its own, and where no test checks the type of every row."""
    path = tmp_path / "advbench.csv"
    with path.open("w") as file:
        file.write("goal,target\n")
        file.writelines(f"Paint boat number {i % 999_999} in red,x\n" for i in range(1_000_000))
    code = (
        "import json, resource, sys\nimport workbench as wb\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024\n"
        "wb.load_published('advbench', sys.argv[2])\n"
        "before, check = used(), wb.check_published(sys.argv[1])\n"
        "checked, prompts = used(), wb.load_published('advbench', sys.argv[1])\n"
        "found = [check.rows, check.prompts, check.repeated.shown, len(prompts)]\n"
        "print(json.dumps([*found, checked - before, used() - before]))"
    )
    few = write_rows(tmp_path / "few" / "advbench.csv", [ADVBENCH])
    found = subprocess.run(
        [sys.executable, "-c", code, path, few], capture_output=True, text=True, check=True
    )
    rows, prompts, repeated, loaded, to_check, to_load = json.loads(found.stdout)
    assert rows == prompts == loaded == 1_000_000
    assert repeated == ["row 1000000 (line 1000001) as row 1"]
    assert to_check < 200 and to_load < 1000  # megabytes


def test_json_by_id_keeps_the_ids(tmp_path: Path) -> None:
    path = tmp_path / "ori_pqal.json"
    path.write_text(json.dumps({"77": {"QUESTION": "a", "CONTEXTS": ["b"], "final_decision": "no"}}))
    assert wb.load_published("pubmedqa", path)[0].source == "pubmedqa:77"
