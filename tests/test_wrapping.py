"""Jailbreak wrappers: placeholders of several kinds, none at all, and whose result is whose."""

from collections import Counter
from pathlib import Path

import pytest
from published_rows import write_rows

import workbench as wb

REAL = Path(__file__).parents[2] / "shared" / "data"
HARMFUL = wb.PromptSet("few", tuple(
    wb.Prompt.user(f"steal the {thing}", label="harmful", source=f"few:{thing}",
                   cluster=(("object", thing), ("wrapper", "none")))
    for thing in ("boat", "ring")
))  # fmt: skip


def test_every_prompt_is_in_every_template() -> None:
    templates = wb.PromptSet.from_texts("fox", ["Be a fox. [INSERT PROMPT HERE] Now!", "Be {a} fox."])
    found = wb.wrap(HARMFUL, templates)
    assert [prompt.text for prompt in found] == [
        "Be a fox. steal the boat Now!",
        "Be {a} fox.\n\nsteal the boat",
        "Be a fox. steal the ring Now!",
        "Be {a} fox.\n\nsteal the ring",
    ]
    assert found.name == "jailbroken" and found.labels == ("jailbroken",) * 4
    assert found[2].cluster == (("object", "ring"), ("wrapper", "fox:0"), ("prompt", "few:ring"))
    assert found[2].source == "few:ring in fox:0"


@pytest.mark.parametrize(
    "placeholder", ["[insert prompt here]", "[PROMPT]", "{prompt}", "{request}", "{goal}", "{Query}"]
)
def test_placeholders_are_known_in_any_case_and_all_of_them_are_filled(placeholder: str) -> None:
    [found] = wb.wrap(["paint {prompt} \\1"], [f"{placeholder} and again {placeholder}"])
    assert found.text == "paint {prompt} \\1 and again paint {prompt} \\1"


def test_another_placeholder_is_named_and_must_be_in_every_template() -> None:
    templates = ["Say <<Q>> {prompt}", "Say <<q>>"]
    assert [p.text for p in wb.wrap(["bake"], templates, placeholder="<<Q>>")] == [
        "Say bake {prompt}",
        "Say bake",
    ]
    with pytest.raises(
        ValueError, match="template 'template:1' has no '<<Q>>': take it out, or leave placeholder="
    ):
        wb.wrap(["bake"], ["Say <<Q>>", "Say it"], placeholder="<<Q>>")


def test_labels_that_ask_for_no_harm_stay_and_only_the_last_message_is_wrapped() -> None:
    chat = wb.Prompt(
        (("system", "be kind"), ("user", "hi"), ("assistant", "hello"), ("user", "paint")), "harmless"
    )
    [found] = wb.wrap([chat], ["Be a fox. {prompt}"])
    assert found.messages == (*chat.messages[:-1], ("user", "Be a fox. paint")) and found.label == "harmless"


def test_no_template_is_no_wrapping() -> None:
    with pytest.raises(ValueError, match="prompt set 'template' is empty: expected at least one prompt"):
        wb.wrap(HARMFUL, [])
    with pytest.raises(
        TypeError, match=r"got the text 'Be a fox', expected a list of prompts: pass \['Be a fox'\]"
    ):
        wb.wrap(HARMFUL, "Be a fox")


def test_the_projects_own_kinds_are_templates_too() -> None:
    own = wb.small_world_templates()
    assert len(own) == 10 and own == wb.small_world_templates() != wb.small_world_templates(seed=1)
    found = wb.wrap(HARMFUL, own, placeholder="{request}")
    kinds = Counter(dict(prompt.cluster)["wrapper"] for prompt in found)
    assert len(kinds) == 10 and set(kinds.values()) == {2} and "suffix" in kinds
    assert not any("{" in prompt.text for prompt in found)
    assert len(wb.small_world_templates("seen")) > 10


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".json"])
def test_templates_are_in_the_column_that_has_placeholders(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"id": "a7", "name": "fox", "text": "Be a fox. {prompt}"},
        {"id": "b8", "name": "owl", "text": "Be an owl."},
    ]
    found = wb.load_templates(write_rows(tmp_path / f"mine{suffix}", rows))
    assert [(p.text, p.source) for p in found] == [
        ("Be a fox. {prompt}", "mine:a7"),
        ("Be an owl.", "mine:b8"),
    ]


def test_templates_one_a_line(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.txt", ["Be a fox. <<Q>>", "", "Be an owl: <<q>>"])
    assert [p.source for p in wb.load_templates(path, placeholder="<<Q>>")] == ["mine:1", "mine:3"]
    with pytest.raises(
        ValueError, match=r"mine\.txt: got a placeholder in no column, expected it in one: \[INSERT"
    ):
        wb.load_templates(path)


def test_templates_that_cannot_be_told_are_refused(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "mine.csv", [{"one": "{prompt}", "two": "say {prompt}"}])
    with pytest.raises(ValueError, match=r"mine\.csv: got a placeholder in one, two, expected it in one: "):
        wb.load_templates(path)
    path.write_text("one\n{prompt}\na,b\n")
    with pytest.raises(ValueError, match=r"mine\.csv, row 2 \(line 3\): got 2 cells, expected 1"):
        wb.load_templates(path)


@pytest.mark.skipif(not REAL.is_dir(), reason="the published files are not here")
def test_ten_templates_and_fifty_prompts_are_the_papers_five_hundred() -> None:
    harmful = (
        wb.load_contrast("advbench", "truthfulqa", root=REAL).test.labelled("harmful").sample(50, seed=0)
    )
    fuzz = wb.load_published("gptfuzz", root=REAL)
    assert wb.load_templates(REAL / "jailbreak" / "GPTFuzzer.csv").labels == fuzz.labels
    found = wb.wrap(harmful, fuzz.sample(10, seed=0), placeholder="[INSERT PROMPT HERE]")
    assert Counter(found.labels) == {"jailbroken": 500} and len({p.source for p in found}) == 500
    for kind, n in (("wrapper", 10), ("prompt", 50)):
        assert len({dict(prompt.cluster)[kind] for prompt in found}) == n
    assert all(
        prompt.text in one.text
        for one, prompt in zip(found, (p for p in harmful for _ in range(10)), strict=True)
    )
    wild = wb.wrap(harmful, wb.load_published("in-the-wild", root=REAL).sample(10, seed=0))
    assert (
        len(wild) == 500 and sum(p.text.split("\n\n")[-1] in {h.text for h in harmful} for p in wild) >= 250
    )
