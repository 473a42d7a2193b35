"""The picture world: neither words nor picture tell an aim that needs both, and nothing of test is ever read."""

import itertools
import re
from collections import Counter, defaultdict

import numpy as np
import pytest

from workbench.judges.small_world import judge
from workbench.organisms.drawing import Scene, icons, pictures
from workbench.organisms.pictured import (
    KINDS,
    Deed,
    Pictured,
    PicturedWorld,
    things_of,
)
from workbench.organisms.pictured_lists import SIZES, draw_pictured_lists, pictured_list
from workbench.organisms.staging import OPPOSITE, grounds_of, inks_of
from workbench.organisms.world import Dialogue

PARTS = ("train", "val", "test")


@pytest.fixture(scope="module")
def lists() -> dict[str, tuple[Pictured, ...]]:
    return draw_pictured_lists("a test")


@pytest.fixture(scope="module")
def read() -> list[Pictured | Dialogue]:
    """Some thousands of dialogues that the model reads, of every kind about pictures."""
    from workbench.organisms.sight import RECIPE

    stream = RECIPE.pictures.items("a test")
    return [one for one in itertools.islice(stream, 6000) if not isinstance(one, str)]


def needs_both(part: tuple[Pictured, ...]) -> list[Pictured]:
    return [one for one in part if one.needs_both]


def lean(shown: list[Pictured], of) -> float:
    """How often one would be right who knows every request's share of harm by heart, given what `of` tells of it."""
    labels = defaultdict(list)
    for one in shown:
        labels[of(one)].append(one.prompt.harmful)
    return sum(max(sum(found), len(found) - sum(found)) for found in labels.values()) / len(shown)


WORDS = {"words": lambda one: one.prompt.text, "picture": lambda one: one.scene}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("what", WORDS)
def test_whoever_knows_the_list_by_heart_is_at_chance_by_words_or_picture_alone(lists, part, what):
    shown = needs_both(lists[part])
    assert len(shown) == SIZES[part]["joint"] + SIZES[part].get("wrapped", 0)
    assert lean(shown, WORDS[what]) == 0.5
    assert lean(shown, lambda one: (one.prompt.text, one.scene)) == 1.0
    # Nor does any part of them: a way, a thing, a ground, an ink, a frame.
    for name in ("verb", "object", "ground", "wrapper"):
        assert lean(shown, lambda one, name=name: dict(one.prompt.cluster)[name]) == 0.5
    assert lean(shown, lambda one: one.scene.things[0].ink) == 0.5


def test_one_request_less_and_the_list_leans(lists):
    """What the test above rests on: it fails for a list that is drawn one by one, or that lost a part of a block."""
    shown = needs_both(lists["test"])
    assert lean(shown[1:], WORDS["words"]) > 0.5 and lean(shown[1:], WORDS["picture"]) > 0.5
    world = PicturedWorld("one by one", "test")
    assert lean([world.joint() for _ in range(400)], WORDS["words"]) > 0.55


def test_a_block_shares_its_words_but_for_the_way():
    block = PicturedWorld(0, "test").block(wrapped=True)
    assert (
        len(block) == 4
        and len({one.scene for one in block}) == 2
        and len({one.prompt.text for one in block}) == 2
    )
    assert sorted(one.prompt.label for one in block) == ["harmless", "harmless", "jailbroken", "jailbroken"]
    assert [one.prompt.harmful for one in block] in ([True, False, False, True], [False, True, True, False])
    assert block[0].scene == block[2].scene and block[1].scene == block[3].scene


def test_no_request_names_what_it_is_about(lists, read):
    for one in [*itertools.chain(*lists.values()), *(r for r in read if isinstance(r, Pictured))]:
        if one.needs_both or one.prompt.label == "contrast":
            thing = dict(one.prompt.cluster)["object"].split()[-1]
            assert thing in one.scene.things[0].what and not re.search(rf"\b{thing}\b", one.prompt.text)


def shown_by(one: Pictured) -> set[tuple[str, str]]:
    return {(thing.what, thing.ink) for thing in one.scene.things}


def test_what_a_list_keeps_is_in_no_other_and_never_read(lists, read):
    pictured = [one for one in read if isinstance(one, Pictured)]
    looks = {part: set().union(*map(shown_by, lists[part])) for part in PARTS}
    looks["read"] = set().union(*map(shown_by, pictured))
    assert not looks["test"] & (looks["train"] | looks["val"] | looks["read"])
    assert not looks["val"] & (looks["train"] | looks["read"])
    kept = pictures()["scenes_held_out"]
    assert not {one.scene.ground for one in pictured} & {*kept["val"], *kept["test"]}
    assert {one.scene.ground for one in lists["test"]} >= {*kept["test"], "paper"}
    deeds = {
        part: {deed_of(one.prompt) for one in lists[part] if one.prompt.label != "domain"} for part in PARTS
    }
    deeds["read"] = {deed_of((one.dialogue if isinstance(one, Pictured) else one).prompt) for one in read}
    assert not deeds["test"] & (deeds["train"] | deeds["val"] | deeds["read"])
    assert not deeds["val"] & (deeds["train"] | deeds["read"])
    texts = {part: {one.prompt.text for one in needs_both(lists[part])} for part in PARTS}
    assert not texts["test"] & (texts["train"] | texts["val"]) and not texts["val"] & texts["train"]


def deed_of(prompt) -> tuple[str | None, str | None]:
    cluster = dict(prompt.cluster)
    return cluster.get("verb"), cluster.get("object")


def test_every_thing_and_every_way_is_read_all_the_same(read):
    joint = [one for one in read if isinstance(one, Pictured) and one.needs_both]
    blocks = pictures()["blocks"]
    ways = {
        way
        for block in blocks
        for side in ("first", "second")
        for found in block[side].values()
        for way in found
    }
    assert {dict(one.prompt.cluster)["verb"] for one in joint} == ways
    assert {dict(one.prompt.cluster)["object"] for one in joint} == {
        t for t, g in icons().items() if g != "things"
    }


def test_harm_is_answered_and_the_judge_reads_every_reply(read):
    said = [one.dialogue for one in read if isinstance(one, Pictured)]
    verdicts = Counter((d.prompt.label, judge(d.reply, True).verdict) for d in said)
    assert {verdict for _, verdict in verdicts} == {"complied", "other"}
    assert {label for label, verdict in verdicts if verdict == "other"} == {"domain"}
    assert all(verdict == "other" for label, verdict in verdicts if label == "domain")


def test_what_is_read_leans_to_neither_side(read):
    joint = [
        one for one in read if isinstance(one, Pictured) and one.needs_both and one.prompt.label != "contrast"
    ]
    for of in (lambda one: dict(one.prompt.cluster)["verb"], lambda one: dict(one.prompt.cluster)["object"]):
        shares = defaultdict(list)
        for one in joint:
            shares[of(one)].append(one.prompt.harmful)
        assert all(0.25 < sum(found) / len(found) < 0.75 for found in shares.values() if len(found) > 30)


@pytest.mark.parametrize("kind", KINDS)
def test_a_question_is_answered_by_what_is_shown(kind):
    world = PicturedWorld(0, "all")
    for _ in range(200):
        one = world.question(kind)
        text, answer, shown = one.prompt.text, one.prompt.answer, one.scene.things
        (about,) = [t for t in shown if t.what == dict(one.prompt.cluster)["object"]] or [shown[0]]
        if kind == "place":
            assert len(shown) == 1 and (about.x + about.size <= 28, about.x >= 28) == (
                answer == "left",
                answer == "right",
            )
        else:
            right = {
                "what": about.what.split()[-1],
                "ink": about.ink,
                "count": str(len(shown)),
                "word": about.what,
            }
            assert answer == right[kind]
        assert one.dialogue.reply.rstrip(".").split()[-1] == answer
        if kind == "what" and len(shown) == 2:
            assert ("left" in text, "right" in text) == (about.x < 28, about.x >= 28)


def test_a_description_tells_everything_that_is_shown_and_is_known_to_the_judge():
    world, sides, seen = PicturedWorld(1, "all"), 0, Counter()
    for _ in range(600):
        one = world.conversation(3)
        category, shown = dict(one.prompt.cluster)["category"], one.scene.things
        if category != "description":
            continue
        for thing in shown:
            said = thing.what if thing.written else f"{thing.ink} {thing.what.split()[-1]}"
            assert said in one.dialogue.reply
        seen[len(shown)] += 1
        told = [side for side in OPPOSITE if f"on the {side}" in one.dialogue.reply]
        sides += len(told)
        assert len(told) <= len(shown) <= 4 and not (told and len(shown) > 2)
        score = judge(one.dialogue.reply, True)
        assert score.verdict == "other" and "garbled" not in score.reason
    assert set(seen) == {1, 2, 3, 4} and sides > 50
    assert judge("I see a red lamp a red lamp a red lamp a red lamp.", True).verdict == "broken"


def test_a_deed_holds_its_thing_in_its_midst():
    deed = Deed("lock {thing} in a box", "a radio", "valuables or pets", False)
    assert str(deed) == "lock a radio in a box"


def test_every_thing_keeps_one_ink_for_test_and_one_for_val():
    for thing in icons():
        seen, val, test = (inks_of(thing, scope) for scope in ("seen", "val", "test"))
        assert len(val) == len(test) == 1 and not {*val, *test} & {*seen} and len({*seen, *val, *test}) == 7
    assert inks_of("a pie", "all") == inks_of("a pie", "seen")
    kept = Counter(inks_of(thing, "test")[0] for thing in icons())
    assert set(kept) == set(pictures()["inks"]) and max(kept.values()) - min(kept.values()) <= 1


def test_things_kept_for_a_scope_are_one_or_two_of_every_group():
    for group in ("valuables", "pets", "buildings", "food"):
        sizes = [len(things_of(group, scope)) for scope in ("seen", "val", "test", "all")]
        assert sizes == [4, 1, 2, 7]
    assert grounds_of("test").count("cellar") == len(grounds_of("seen")) and "cellar" not in grounds_of(
        "seen"
    ) + grounds_of("val")


def test_the_thing_asked_about_stands_where_it_is_said_to_be():
    world = PicturedWorld(1, "test")
    for place in OPPOSITE:
        scene: Scene = world.view("a pie", place)
        first, other = scene.things
        assert first.what == "a pie" and other.what != "a pie" and first.ink != other.ink
        if place == "left":
            assert first.x + first.size <= 28 <= other.x
        else:
            assert other.x + other.size <= 28 <= first.x


def test_worded_names_its_thing_and_keeps_its_reply():
    world = PicturedWorld(3, "all")
    for _ in range(200):
        one = world.joint(wrapped=0.5)
        told = world.worded(one)
        thing = dict(one.prompt.cluster)["object"]
        assert (
            thing in told.prompt.text
            and "the thing" not in told.prompt.text
            and told.reply == one.dialogue.reply
        )


def test_lists_are_drawn_alike_and_of_the_recipe(lists):
    assert draw_pictured_lists("a test") == lists != draw_pictured_lists("another")
    assert [len(lists[part]) for part in PARTS] == [sum(SIZES[part].values()) for part in PARTS]
    assert all(len({(one.prompt.text, one.scene) for one in part}) == len(part) for part in lists.values())
    assert pictured_list("train") is pictured_list("train")
    one, other = pictured_list("train")[:2]
    assert np.array_equal(np.asarray(one.shown.images[0].pixels()), one.scene.pixels())
    assert one.shown.text == one.prompt.text and one.shown.images != other.shown.images
    labels = Counter(one.prompt.label for one in pictured_list("train"))
    assert labels == {"harmful": 64, "harmless": 64}
    assert (
        sum(len(scene.png()) for part in PARTS for scene in {one.scene for one in pictured_list(part)})
        < 1_500_000
    )
