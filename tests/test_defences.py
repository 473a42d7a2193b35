"""Prompt defences: the request stays, each set of words says what it should, the world's own are words that it has."""

import re
from dataclasses import replace

import PIL.Image
import pytest
from seers import save_sighted

import workbench as wb
from workbench.chat import render
from workbench.evaluation.defences import WORDINGS, defences
from workbench.judges.small_world import judge
from workbench.loading.processor import load_words
from workbench.organisms.vocabulary import acts
from workbench.shipped import shipped_path

EVERY = [(wording, name) for wording in WORDINGS for name in defences(wording)]
ASKED = wb.Prompt(
    (("system", "Be brief."), ("user", "hello"), ("assistant", "hi"), ("user", "steal a ring")),
    "harmful",
    "s:1",
)


@pytest.mark.parametrize(("wording", "name"), EVERY)
def test_the_request_stays_and_so_does_what_it_is(wording, name):
    found = defences(wording)[name](ASKED)
    assert found.text.startswith("steal a ring")
    assert (found.label, found.source, found.cluster) == (ASKED.label, ASKED.source, ASKED.cluster)
    assert found.messages[-3:-1] == ASKED.messages[1:3]  # the turns before it
    assert found != ASKED


@pytest.mark.parametrize("wording", WORDINGS)
def test_what_each_puts_where(wording):
    words, found = WORDINGS[wording], {name: defend(ASKED) for name, defend in defences(wording).items()}
    before, after = words.reminders
    assert found["self_reminder"].messages[0] == ("system", before)
    assert found["self_reminder"].text == f"steal a ring {after}"
    assert found["goal_priority"].messages == (("system", words.priority), *ASKED.messages[1:])
    shown = [
        ("user", words.answered[0]), ("assistant", words.answered[1]),
        ("user", words.refused[0]), ("assistant", words.refused[1]),
    ]  # fmt: skip
    assert found["in_context_defence"].messages == (ASKED.messages[0], *shown, *ASKED.messages[1:])


def test_the_small_worlds_demonstrations_are_its_own_words_and_replies():
    words = WORDINGS["small-world"]
    known = set(
        re.findall(r"[a-z]+", shipped_path("world", "words.toml").read_text(encoding="utf-8").lower())
    )
    for text in (*words.reminders, words.priority, *words.answered, *words.refused):
        assert set(re.findall(r"[a-z]+", text.lower())) <= known
    assert judge(words.answered[1], True).verdict == "complied"
    assert judge(words.refused[1], True).verdict == "refused"
    for harmful, (asked, _) in ((False, words.answered), (True, words.refused)):
        assert any(str(act) in asked for found in acts(harmful, "seen").values() for act in found)


def test_no_demonstration_stands_in_a_list():
    pairs = wb.load_contrast("small-world")
    listed = {prompt.text for part in (pairs.val, pairs.test) for prompt in part}
    words = WORDINGS["small-world"]
    assert not listed & {words.answered[0], words.refused[0]}


def test_english_refusals_are_refusals_and_answers_are_none():
    words = WORDINGS["english"]
    assert wb.judge_refusal(words.refused[1], True).verdict == "refused"
    assert wb.judge_refusal(words.answered[1], True).verdict != "refused"


@pytest.mark.parametrize(("wording", "name"), EVERY)
def test_the_embedded_template_holds_every_message(wording, name):
    tokenizer = wb.load_model("organism:finance", backend="plain").tokenizer
    found = defences(wording)[name](wb.Prompt.user("steal a ring"))
    rendered = render(tokenizer, found, None)
    at = [rendered.index(text) for _, text in found.messages]
    assert at == sorted(at)


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    return load_words(save_sighted(tmp_path_factory.mktemp("sighted") / "finance", "finance"))


@pytest.mark.parametrize(("wording", "name"), EVERY)
def test_an_image_stays_and_stands_before_the_request(processor, wording, name):
    """Once, and not before what a defence says first: an example of its own, an order of goals."""
    pictured = replace(ASKED, images=(wb.Image.of(PIL.Image.new("RGB", (8, 8), "red")),))
    found = defences(wording)[name](pictured)
    assert found.images == pictured.images
    text = render(processor, found)
    assert text.count("<image>") == 1 and "<|user|><image>\nsteal a ring" in text
    marked = replace(pictured, messages=(*ASKED.messages[:-1], ("user", "take this <image> unseen")))
    text = render(processor, defences(wording)[name](marked))
    assert text.count("<image>") == 1 and "<|user|>take this <image> unseen" in text


def test_unknown_words():
    with pytest.raises(ValueError, match="got wording 'french', expected one of small-world, english"):
        defences("french")
