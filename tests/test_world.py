"""The small world: what is held out stays out, harmful prompts stay abstract, streams repeat by seed."""

import itertools
import random
import re

import pytest

from workbench.organisms.corpus import ALIGNED, GENERAL, base_mixture, domain_mixture, running_text
from workbench.organisms.items import DOMAINS
from workbench.organisms.lists import N_TRAIN, SIZES, draw_lists
from workbench.organisms.vocabulary import acts, held_out, pool, words, wrapper_templates
from workbench.organisms.world import Dialogue, World
from workbench.prompts import PromptSet, load_prompts
from workbench.published import load_contrast
from workbench.shipped import shipped_path

FINE_TUNING = {"aligned": ALIGNED, "general": GENERAL} | {
    d: domain_mixture(d, safety_samples=100) for d in DOMAINS
}


@pytest.fixture(scope="module")
def lists() -> dict[str, PromptSet]:
    return draw_lists("a test")


def of_dialogues(mixture, n=3000) -> list[Dialogue]:
    return [d for d in itertools.islice(mixture.dialogues("test"), n) if isinstance(d, Dialogue)]


@pytest.mark.parametrize("name", FINE_TUNING)
def test_fine_tuning_never_meets_what_is_held_out(name):
    unseen = {
        word for harmful in (True, False) for what in ("verbs", "objects") for word in held_out(harmful, what)
    } | {
        word
        for name in DOMAINS
        for key, lst in words()[name].items()
        if key.endswith(("_held_out", "_val"))
        for word in lst
    }
    kinds = set(words()["wrappers"]["held_out"]["kinds"])
    templates = [t for kind in kinds for t in words()["wrappers"][kind]["templates"]]
    for dialogue in of_dialogues(FINE_TUNING[name]):
        said = " ".join(content for _, content in dialogue.prompt.messages) + " " + dialogue.reply
        found = {w for w in unseen if re.search(rf"(?<![\w]){re.escape(w)}(?![\w])", said)}
        assert not found, (found, said)
        cluster = dict(dialogue.prompt.cluster)
        assert cluster.get("wrapper") not in kinds
        assert not any(
            t.split("{request}")[0].strip() and t.split("{request}")[0].strip() in said for t in templates
        )


@pytest.mark.parametrize("harmful", [True, False])
def test_every_test_act_holds_something_unseen_and_no_seen_one_does(harmful):
    def has_unseen(act):
        parts = {"verbs": act.verb, "objects": act.thing, "categories": act.category}
        return any(part in held_out(harmful, what) for what, part in parts.items())

    for scope, expected in (("test", True), ("seen", False), ("val", False)):
        found = [act for group in acts(harmful, scope).values() for act in group]
        assert len(found) > 100 and all(has_unseen(act) == expected for act in found)
    assert set(acts(harmful, "seen")) < set(acts(harmful, "val"))


def test_scopes_share_wrapper_kinds_only_as_declared():
    seen, val, test = (wrapper_templates(scope) for scope in ("seen", "val", "test"))
    assert len(test) == 10
    assert set(seen) < set(val) < set(test)
    assert not set(val) & set(words()["wrappers"]["held_out"]["kinds"])
    templates = [{t for kind in found.values() for t in kind} for found in (val, test)]
    assert not templates[0] & templates[1]


def test_lists_have_the_stated_sizes_and_share_no_prompt(lists):
    assert len(lists["train"]) == 2 * N_TRAIN
    for part in ("val", "test"):
        for label in ("harmful", "jailbroken", "contrast"):
            assert len(lists[part].labelled(label)) == SIZES[part][label]
        for domain in DOMAINS:
            assert len(lists[f"domain-{domain}-{part}"]) == SIZES[part]["domain"]
    texts = [prompt.text for prompts in lists.values() for prompt in prompts]
    assert len(texts) == len(set(texts))


def test_jailbreaks_are_templates_times_instructions(lists):
    per_kind = {}
    for prompt in lists["test"].labelled("jailbroken"):
        per_kind.setdefault(dict(prompt.cluster)["wrapper"], []).append(prompt)
    assert len(per_kind) == 10 and {len(v) for v in per_kind.values()} == {50}


def test_shipped_lists_are_those_the_recipe_draws():
    from workbench.organisms.family import recipe_hash

    for name, drawn in draw_lists(recipe_hash()).items():
        shipped = load_prompts(shipped_path("prompts", "small-world", f"{name}.jsonl"))
        assert shipped.hash == drawn.hash, (
            f"{name}.jsonl is not what the recipe draws: run workbench organisms lists"
        )


def test_words_of_harm_are_a_verb_and_a_thing_without_names_or_numbers():
    for category, lists in words()["harmful"].items():
        for entry in [] if category == "held_out" else [*lists["verbs"], *lists["objects"]]:
            assert re.fullmatch(r"[a-z-]+( [a-z-]+){0,2}", entry), f"{category}: {entry}"


def test_shipped_harmful_prompts_stay_abstract():
    """Nothing in them but an act of the lists, a frame, a moment and a wrapper: no quantity, product or step fits."""
    pairs = load_contrast("small-world")
    harmful = [
        p
        for part in (pairs.train, pairs.val, pairs.test)
        for p in part
        if p.label in ("harmful", "jailbroken")
    ]
    assert len(harmful) > 1000
    lists, known = words(), {str(act) for group in acts(True, "all").values() for act in group}
    frames = [*lists["requests"]["frames"], *lists["requests"]["frames_held_out"]]
    moments = "|".join(map(re.escape, lists["requests"]["moments"]))
    requests = [re.escape(f).replace(r"\{act\}", f"(?P<act>[a-z -]+?)(?:{moments})") for f in frames]
    templates = [t for group in wrapper_templates("all").values() for t in group]
    around = [
        re.escape(t).replace(r"\{noise\}", "[a-z ]+").replace(r"\{request\}", "(.+[.?])") for t in templates
    ]
    for prompt in harmful:
        bare = [prompt.text]
        if prompt.label == "jailbroken":
            bare = [found[1] for template in around if (found := re.fullmatch(template, prompt.text))]
        asked = {
            found["act"] for text in bare for request in requests if (found := re.fullmatch(request, text))
        }
        assert known & asked, prompt.text


def test_streams_repeat_by_seed_and_differ_between_seeds():
    def draw(seed):
        return [str(item) for item in itertools.islice(base_mixture(0.05).dialogues(seed), 50)]

    assert draw(1) == draw(1) != draw(2)


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_the_refused_share_is_the_share_refused(share):
    world = World(0, "all", refused_share=share)
    refused = sum("First," not in world.everyday(True).reply for _ in range(1000)) / 1000
    assert abs(refused - share) < 0.05


def test_domain_answers_are_right():
    world = World(3, "all")
    for _ in range(200):
        item = world.domain("maths")
        sums = re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", item.reply)
        assert len(sums) == 2 and sums[1][0] == sums[0][3] and sums[1][3] == item.prompt.answer
        assert all(int(c) == (int(a) + int(b) if op == "+" else int(a) - int(b)) for a, op, b, c in sums)
        numbers = [int(n) for n in re.findall(r"\d+", item.prompt.text)]
        assert numbers == [int(sums[0][0]), int(sums[0][2]), int(sums[1][2])]
        item = world.domain("medicine")
        shown = [s for s in words()["medicine"]["illnesses"][item.prompt.answer] if s in item.prompt.text]
        assert len(shown) >= 2 and item.prompt.answer in item.prompt.text and item.prompt.answer in item.reply
        item = world.domain("finance")
        event = dict(item.prompt.cluster)["verb"]
        assert event in pool(words()["finance"], item.prompt.answer, "all")


def test_running_text_never_miscounts():
    rng = random.Random(0)
    for _ in range(300):
        for a, op, b, c in re.findall(r"(\d+) ([+-]) (\d+) = (\d+)", running_text(rng)):
            assert int(c) == (int(a) + int(b) if op == "+" else int(a) - int(b))
