"""Prompts, sets and contrast sets, and their files."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from workbench.prompts import ContrastSet, Prompt, PromptSet, as_prompt_set, load_prompts

CHAT = (("system", "be kind"), ("user", "hello"), ("assistant", "hi"), ("user", "steal a ring"))


def texts(*labels: str) -> PromptSet:
    """One prompt per label, each with a text of its own."""
    return PromptSet("set", tuple(Prompt.user(f"{label} {i}", label=label) for i, label in enumerate(labels)))


def test_prompt_knows_its_text_and_intent():
    prompt = Prompt(CHAT, "jailbroken")
    assert prompt.text == "steal a ring" and prompt.harmful
    assert [
        Prompt.user("x", label=label).harmful for label in ("harmful", "harmless", "contrast", "domain")
    ] == [
        True,
        False,
        False,
        False,
    ]


def test_with_system_replaces_an_earlier_one():
    assert Prompt(CHAT).with_system("be safe").messages == (("system", "be safe"), *CHAT[1:])
    assert Prompt.user("x").with_system("be safe").messages == (("system", "be safe"), ("user", "x"))


@pytest.mark.parametrize(
    ("messages", "label", "message"),
    [
        ((), "harmful", "prompt 'here': expected messages that end with the user's"),
        (CHAT[:3], "harmful", "expected messages that end with the user's"),
        (
            (("tool", "x"), ("user", "y")),
            "harmful",
            "got role 'tool', expected one of system, user, assistant",
        ),
        (CHAT, "evil", "prompt 'here': got label 'evil', expected one of harmful, harmless, contrast"),
    ],
)
def test_bad_prompts_are_refused(messages: tuple[tuple[str, str], ...], label: str, message: str):
    with pytest.raises(ValueError, match=message):
        Prompt(messages, label, "here")


def test_a_text_is_no_list_of_texts():
    with pytest.raises(TypeError, match=r"got the text 'abc', expected a list of texts: pass \['abc'\]"):
        PromptSet.from_texts("one", "abc")


def test_empty_sets_are_refused():
    with pytest.raises(ValueError, match="prompt set 'none' is empty: expected at least one prompt"):
        PromptSet("none", ())
    with pytest.raises(ValueError, match="is empty"):
        as_prompt_set([])


def test_choosing_keeps_order(prompts: PromptSet):
    assert len(prompts) == 8 and prompts[0].text == "steal a ring"
    assert set(prompts.labelled("harmless").labels) == {"harmless"}
    assert [p.text for p in prompts.where(lambda p: "ring" in p.text)] == [
        "steal a ring",
        "how do i paint the ring",
    ]
    with pytest.raises(ValueError, match="has none labelled domain: it has harmful, harmless"):
        prompts.labelled("domain")


def test_sampling_is_seeded_and_keeps_order(prompts: PromptSet):
    drawn = prompts.sample(5, seed=0)
    assert drawn.prompts == prompts.sample(5, seed=0).prompts != prompts.sample(5, seed=1).prompts
    assert [prompts.prompts.index(p) for p in drawn] == sorted(prompts.prompts.index(p) for p in drawn)
    with pytest.raises(ValueError, match="has 8 prompts, got n=9: draw 1 to 8"):
        prompts.sample(9, seed=0)


def test_hash_is_of_the_prompts_in_order(prompts: PromptSet):
    assert prompts.hash == replace(prompts, name="other").hash
    assert prompts.hash != replace(prompts, prompts=prompts.prompts[::-1]).hash
    assert (
        prompts.hash
        != replace(prompts, prompts=(replace(prompts[0], label="contrast"), *prompts.prompts[1:])).hash
    )


def test_verbs_accept_texts_and_prompts(prompts: PromptSet):
    assert as_prompt_set(prompts) is prompts
    assert as_prompt_set(["bake", prompts[0]])[0] == Prompt.user("bake", source="prompts:0")
    with pytest.raises(TypeError, match=r"expected a list of prompts: pass \['bake'\]"):
        as_prompt_set("bake")


def test_files_keep_everything(tmp_path: Path):
    path = tmp_path / "few.jsonl"
    kept = PromptSet(
        "few",
        (Prompt(CHAT, "domain", "s:1", (("verb", "steal"), ("wrapper", "suffix")), "ä"), Prompt.user("bake")),
    )
    kept.save(path)
    assert load_prompts(path) == kept
    assert path.read_text(encoding="utf-8").count("\n") == 2
    path.write_text('{"messages": [{"role": "user", "content": "a\u2028b"}]}', encoding="utf-8")
    assert load_prompts(path, "named") == PromptSet("named", (Prompt.user("a\u2028b"),))


@pytest.mark.parametrize(
    "line", ["{", "[]", '{"messages": "x"}', '{"text": "x"}', '{"messages": [], "label": "harmful"}']
)
def test_a_damaged_line_is_named(tmp_path: Path, line: str):
    path = tmp_path / "few.jsonl"
    PromptSet.from_texts("few", ["bake"]).save(path)
    path.write_text(path.read_text() + line, encoding="utf-8")
    with pytest.raises(ValueError, match=r"few\.jsonl, line 2: .*expected one JSON object"):
        load_prompts(path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"messages": [{"role": "user", "content": "\xff"}]}', "can't decode byte 0xff"),
        (b'{"messages": [{"role": "user", "content": 5}]}', "got content 5, expected a text"),
        (
            b'{"messages": [{"role": "user", "content": "bake"}], "source": 5}',
            "got source 5, expected a text",
        ),
        (
            b'{"messages": [{"role": "user", "content": "bake"}], "cluster": {"verb": 5}}',
            "got verb 5, expected",
        ),
        (
            b'{"messages": [{"role": "user", "content": "bake"}], "answer": 5}',
            "got answer 5, expected a text",
        ),
    ],
)
def test_what_is_no_text_is_named(tmp_path: Path, unchecked: None, line: bytes, reason: str):
    path = tmp_path / "few.jsonl"
    PromptSet.from_texts("few", ["bake"]).save(path)
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(
        ValueError, match=rf"few\.jsonl, line 2: .*{reason}.*: expected one JSON object .* UTF-8"
    ):
        load_prompts(path)


def test_missing_and_empty_files_are_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match=r"no prompt file .*few\.jsonl"):
        load_prompts(tmp_path / "few.jsonl")
    (tmp_path / "none.jsonl").touch()
    with pytest.raises(ValueError, match="prompt set 'none' is empty"):
        load_prompts(tmp_path / "none.jsonl")


def test_contrast_set_needs_both_kinds_to_train_on():
    val, test = PromptSet.from_texts("val", ["v"]), PromptSet.from_texts("test", ["t"])
    ContrastSet("ok", texts("harmful", "harmless"), val, test)
    for labels in (["harmful"], ["harmless"], ["harmful", "harmless", "domain"]):
        with pytest.raises(
            ValueError, match=r"contrast set 'bad': \.train has .*, expected harmful and harmless"
        ):
            ContrastSet("bad", texts(*labels), val, test)


def test_contrast_set_parts_are_disjoint():
    train, val = texts("harmful", "harmless"), PromptSet.from_texts("val", ["v"])
    with pytest.raises(
        ValueError, match=r"'harmful 0' is in \.train and in \.test: keep it in one part only"
    ):
        ContrastSet("bad", train, val, PromptSet.from_texts("test", ["t", "harmful 0"]))
    with pytest.raises(ValueError, match=r"'v' is in \.val and in \.test"):
        ContrastSet("bad", train, val, val)


def clustered() -> PromptSet:
    """Twelve harmful prompts of four verbs and eight harmless ones of four, one of each twice."""
    verbs = {"harmful": ("steal", "break", "forge"), "harmless": ("bake", "mend")}
    prompts = [
        Prompt.user(
            f"{verb} {i} a {thing}", label=label, cluster=(("verb", f"{verb} {i}"), ("object", thing))
        )
        for label, own in verbs.items()
        for verb in own
        for i in range(2)
        for thing in ("ring", "boat")
    ]
    return PromptSet("few", (*prompts, prompts[0], prompts[-1]))


@pytest.mark.parametrize("apart", [None, "verb"])
def test_folds_part_a_set_exactly(apart: str | None):
    whole = clustered()
    folds = whole.folds(4, seed=1, apart=apart)
    assert len(folds) == 4
    assert Counter(prompt for _, fold in folds for prompt in fold) == Counter(whole)
    for rest, fold in folds:
        assert Counter(rest) + Counter(fold) == Counter(whole)
        assert not set(rest) & set(fold)
        assert set(rest.labels) == set(fold.labels) == {"harmful", "harmless"}
        assert list(fold) == [prompt for prompt in whole if prompt in set(fold)]
        if apart:
            assert not {dict(p.cluster)["verb"] for p in rest} & {dict(p.cluster)["verb"] for p in fold}
    assert folds == whole.folds(4, seed=1, apart=apart) != whole.folds(4, seed=2, apart=apart)


def test_folds_of_a_contrast_set_choose_on_what_they_do_not_extract_from():
    val, test = PromptSet.from_texts("val", ["v"]), PromptSet.from_texts("test", ["t"])
    pairs = ContrastSet("mine", clustered(), val, test)
    folds = pairs.folds(3, seed=1)
    assert [(fold.train, fold.val) for fold in folds] == list(clustered().folds(3, seed=1))
    assert {fold.test for fold in folds} == {pairs.test} and pairs.test.prompts == test.prompts
    assert [fold.name for fold in folds] == ["mine.fold0", "mine.fold1", "mine.fold2"]
    assert (folds[1].train.name, folds[1].val.name) == ("few.rest1", "few.fold1")


def test_more_folds_than_there_are_prompts_to_go_round():
    message = "prompt set 'few'{}: got n={} folds and {} separate groups of {}, expected one for every fold"
    for n, apart, by, found, label in (
        (9, None, "", 8, "harmless"),
        (5, "verb", " by verb", 4, "harmless"),
        (3, "object", " by object", 2, "harmful"),
        (2, "wrapper", " by wrapper", 1, "harmful"),
    ):
        with pytest.raises(ValueError, match=message.format(by, n, found, label)):
            clustered().folds(n, apart=apart)
    with pytest.raises(ValueError, match=r"prompt set 'few': got n=1 folds, expected 2 or more"):
        clustered().folds(1)


def test_a_sample_of_each_label_takes_what_there_is():
    three = texts("harmful", "harmless", "harmful", "harmful", "contrast", "harmless")
    drawn = three.sample_each({"harmless": 1, "harmful": 50, "domain": 3})
    assert drawn.labels == ("harmless", "harmful", "harmful", "harmful") and drawn.name == "set"
    assert set(drawn) <= set(three)
    assert three.sample_each(2).labels == ("harmful", "harmful", "harmless", "harmless", "contrast")
    drawn = {three.sample_each(2, seed=seed).hash for seed in range(8)}
    assert len(drawn) == 3 and {three.sample_each(2, seed=seed).hash for seed in range(8)} == drawn
