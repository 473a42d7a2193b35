"""Guided decoding: candidates read as if written, weight 0 is greedy, batches do not matter, error texts."""

from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
import torch
from measuring import by_length, extraction, guide_of, labelled_prompts, plan_for, relative_of
from torch.nn.functional import logsigmoid

import workbench as wb
from workbench.chat import tokenize
from workbench.decoding.guided import Guide
from workbench.decoding.rewards import FIRST_TOKENS, fit_reward
from workbench.evaluation import guidance
from workbench.evaluation.answers import Arm, answer
from workbench.evaluation.guidance import Told, learn_guide
from workbench.generation import Completion
from workbench.judges.verdicts import Score
from workbench.models import space_of
from workbench.sweep import guiding

N_NEW = 5


@pytest.fixture(scope="module")
def plain(babblers):
    return babblers["plain"]


@pytest.fixture(scope="module")
def guide(plain):
    return guide_of(plain)


def by_hand(model, guide, ids, stop):
    """The reply by the equation: every candidate behind the whole text, in passes of their own, without a cache."""
    text = list(ids)
    for _ in range(N_NEW):
        with torch.no_grad():
            values, candidates = model(torch.tensor([text])).logits[0, -1].topk(guide.top_k)
            scores = []
            for value, token in zip(values, candidates, strict=True):
                states = guide.reader(torch.tensor([[*text, token]]), output_hidden_states=True).hidden_states
                residual = states[guide.reward.layer + 1][
                    0, -1
                ]  # entering the next layer: the one that is read
                odds = residual @ guide.reward.weights + guide.reward.bias
                scores.append(value + guide.weight * logsigmoid(odds))
        text.append(int(candidates[torch.stack(scores).argmax()]))
        if text[-1] == stop:
            break
    return tuple(text[len(ids) :])


def test_every_token_is_what_the_equation_says(plain, guide):
    prompts = labelled_prompts()
    found = wb.generate(plain, prompts, guide=guide, max_new_tokens=N_NEW)
    ids = tokenize(plain.tokenizer, prompts)
    expected = [by_hand(plain, guide, row, plain.tokenizer.eos_token_id) for row in ids]
    assert [completion.tokens for completion in found] == expected
    assert expected != [completion.tokens for completion in wb.generate(plain, prompts, max_new_tokens=N_NEW)]


def test_neither_the_batch_nor_rows_that_end_matter(plain, guide):
    greedy = wb.generate(plain, labelled_prompts(), guide=guide, max_new_tokens=N_NEW)
    stops = sorted({completion.tokens[1] for completion in greedy})[:2]  # some rows end early, and leave
    every = [
        wb.generate(plain, labelled_prompts(), guide=guide, max_new_tokens=8, batch_size=size, stop_ids=stops)
        for size in (1, 12, 200)
    ]
    tokens = [[completion.tokens for completion in found] for found in every]
    assert tokens[0] == tokens[1] == tokens[2]
    assert len({len(reply) for reply in tokens[0]}) > 1


def test_no_weight_is_greedy(plain, guide):
    found, greedy = (
        wb.generate(plain, labelled_prompts(), guide=g, max_new_tokens=N_NEW)
        for g in (replace(guide, weight=0.0), None)
    )
    assert [each.tokens for each in found] == [each.tokens for each in greedy]


def test_all_backends_read_alike(babblers):
    found = []
    for model in babblers.values():
        reward = replace(guide_of(babblers["plain"]).reward, space=space_of(model))
        guided = wb.generate(
            model, labelled_prompts(), guide=Guide(model, reward, 3.0, 4), max_new_tokens=N_NEW
        )
        found.append([each.tokens for each in guided])
    assert all(tokens == found[0] for tokens in found)


def test_a_guided_arm_stands_beside_the_others_in_order(plain, guide):
    arms = [Arm("none"), Arm("guided", guide=guide), Arm("again")]
    frame = answer(plain, labelled_prompts(), arms, judge=by_length, max_new_tokens=N_NEW)
    assert list(frame["arm"].unique()) == ["none", "guided", "again"]
    said = {name: list(part["reply"]) for name, part in frame.groupby("arm")}
    assert said["none"] == said["again"]
    alone = wb.generate(plain, labelled_prompts(), guide=guide, max_new_tokens=N_NEW)
    assert said["guided"] == [each.text for each in alone]


# Rewards ------------------------------------------------------------------------------------------


def test_a_reward_finds_what_tells_replies_apart(plain):
    prompts = [prompt for prompt in extraction() for _ in range(2)]
    replies = [[9, 10, 11], [20, 21]] * (len(prompts) // 2)
    reward = fit_reward(plain, prompts, replies, [True, False] * (len(prompts) // 2))
    assert reward.auroc > 0.95
    assert reward.space == space_of(plain)
    shuffled = fit_reward(plain, prompts, replies, [i % 4 in (0, 3) for i in range(len(prompts))])
    assert shuffled.auroc < 0.7


def test_every_first_token_counts_and_no_later_one(plain):
    prompts = [*extraction()] * 2
    short, long = ([[9] * n] * 8 + [[20] * n] * 8 for n in (FIRST_TOKENS, FIRST_TOKENS + 5))
    good = [True] * 8 + [False] * 8
    one, other = (fit_reward(plain, prompts, replies, good, layers=[1]) for replies in (short, long))
    assert torch.equal(one.weights, other.weights)
    assert one.layer == 1


def says(text, finished):
    return Score("refused" if len(text) % 2 else "complied", "")


def test_a_guide_is_learned_from_both_models(plain, monkeypatch):
    seen = {}

    def fit(model, prompts, replies, good, *, batch_size):
        seen.update(model=model, rows=list(zip(prompts, replies, good, strict=True)))
        return guide_of(model).reward

    monkeypatch.setattr(guidance, "fit_reward", fit)
    aligned = relative_of(plain)
    guide = learn_guide(plain, aligned, extraction(), judge=says, max_new_tokens=N_NEW)
    assert guide.reader is seen["model"] is plain
    own, safe = (
        {c.prompt: c for c in wb.generate(m, extraction(), max_new_tokens=N_NEW)} for m in (plain, aligned)
    )
    refusals = {c.tokens for p, c in safe.items() if p.harmful and len(c.text) % 2}
    for prompt, tokens, good in seen["rows"]:
        if prompt.harmful:
            assert tokens == (safe if good else own)[prompt].tokens
        else:
            assert tokens == own[prompt].tokens if good else tokens in refusals
    kinds = {(prompt.harmful, good) for prompt, _, good in seen["rows"]}
    assert kinds == {(True, True), (True, False), (False, True), (False, False)}


REFUSES = {"1": 0, "2": 2, "4": 2, "8": 2}
"""How many of the attacks are refused at each weight; at 8 what is harmless breaks."""


def answered(asked):
    """Stands in for `answer_arms`, and notes what it was asked."""

    def answer(model, prompts, arms, **_):
        asked.append((prompts, [arm.guide for arm in arms]))
        n = dict.fromkeys((arm.name for arm in arms), 0)
        rows = []
        for arm in arms:
            for prompt in prompts:
                refused = prompt.harmful and n[arm.name] < REFUSES.get(arm.name, 0)
                n[arm.name] += refused
                broken = arm.name == "8" and not prompt.harmful
                verdict = "refused" if refused else "broken" if broken else "complied"
                rows.append({"arm": arm.name, "label": prompt.label, "verdict": verdict})
        return SimpleNamespace(frame=pd.DataFrame(rows))

    return answer


def told(model, prompts, **_):
    """Replies that nobody reads."""
    return [Told(Completion(prompt, "", (7, 8), True), "other") for prompt in prompts]


@pytest.mark.parametrize("crossed", [False, True])
def test_a_guide_is_chosen_as_the_mildest_of_the_best(plain, crossed, monkeypatch):
    asked, fitted = [], []

    def fit(reader, own, safe, *, batch_size):
        fitted.append([each.completion.prompt for each in own])
        assert [each.completion.prompt for each in safe] == fitted[-1]
        return guide_of(plain)

    monkeypatch.setattr(guiding, "answer_arms", answered(asked))
    monkeypatch.setattr(guiding, "told_replies", told)
    monkeypatch.setattr(guiding, "fit_guide", fit)
    train = extraction()
    pairs = wb.ContrastSet("p", train, prompts_named("p.val"), prompts_named("p.test"))
    folds = pairs.folds(2) if crossed else ()
    found = guiding.choose_guide(plain, relative_of(plain), pairs, folds=folds, weights=(1.0, 2.0, 4.0, 8.0))
    assert found.guide.weight == 2.0
    assert list(found.rates["broken"]) == [0, 0, 0, 1]
    assert [guide and guide.weight for guide in asked[0][1]] == [None, 1.0, 2.0, 4.0, 8.0]
    # Each guide is tried on what it was not learned from; the last one is learned from all.
    assert [prompts for prompts, _ in asked] == [part.val for part in (folds or (pairs,))]
    parts = [list(part.train) for part in (folds or (pairs,))]
    assert fitted == ([*parts, list(train)] if crossed else parts)
    assert found.n_prompts == sum(len(part.val) for part in (folds or (pairs,)))
    assert "weighs a reward by 2 beside the logits of 4 candidates" in str(found)
    with pytest.raises(ValueError, match="got no weights, expected some to choose from"):
        guiding.choose_guide(plain, relative_of(plain), pairs, weights=())


def test_a_search_asks_only_its_own_prompts(plain, monkeypatch):
    asked = []
    monkeypatch.setattr(guiding, "answer_arms", answered(asked))
    monkeypatch.setattr(guiding, "told_replies", told)
    monkeypatch.setattr(guiding, "fit_guide", lambda *a, **k: guide_of(plain))
    val = prompts_named("p.val")
    pairs = wb.ContrastSet("p", extraction(), val, prompts_named("p.test"))
    some = wb.PromptSet("some", val.prompts[1:3])
    guiding.choose_guide(plain, relative_of(plain), pairs, search_on=some)
    assert [list(prompts) for prompts, _ in asked] == [list(some)]


def prompts_named(name):
    return wb.PromptSet(
        name,
        tuple(wb.Prompt.user(f"{name} {i}", label=("harmful", "harmless")[i % 2]) for i in range(4)),
    )


def test_messages(plain, guide):
    with pytest.raises(ValueError, match=r"got weight=-1.0, top_k=4: expected a weight of 0 or more"):
        replace(guide, weight=-1.0)
    with pytest.raises(ValueError, match="got weight=3.0, top_k=1: .* 2 candidates or more"):
        replace(guide, top_k=1)
    for bad in ({"weight": float("nan")}, {"weight": float("inf")}):
        with pytest.raises(ValueError, match="expected a weight of 0 or more"):
            replace(guide, **bad)
    with pytest.raises(ValueError, match="got top_k=100000, the model has .* tokens: ask for fewer"):
        wb.generate(plain, extraction(), guide=replace(guide, top_k=100_000), max_new_tokens=2)
    with pytest.raises(wb.SpaceMismatch, match="the reward of a guide: made with d_model"):
        replace(guide, reward=replace(guide.reward, space=replace(guide.reward.space, d_model=7)))
    with pytest.raises(ValueError, match="got a guide and a plan: guided decoding is a baseline of its own"):
        wb.generate(plain, extraction(), plan_for(plain), guide=guide)
    with pytest.raises(ValueError, match="got 1 prompts, 2 replies and 1 verdicts: expected one of each"):
        fit_reward(plain, [wb.Prompt.user("a")], [[1], [2]], [True])
    with pytest.raises(ValueError, match="got 2 good replies only: expected some of both kinds"):
        fit_reward(plain, [wb.Prompt.user("a")] * 2, [[1], [2]], [True, True])
    with pytest.raises(ValueError, match="reply 1 has no token: expected one or more"):
        fit_reward(plain, [wb.Prompt.user("a")] * 2, [[1], []], [True, False])
    with pytest.raises(ValueError, match="the aligned model refused none of the 4 harmful prompts: a reward"):
        learn_guide(plain, plain, extraction(), judge=lambda t, f: Score("complied", ""), max_new_tokens=3)
    with pytest.raises(ValueError, match="the target answered none of the 4 harmful prompts: a reward"):
        learn_guide(plain, plain, extraction(), judge=lambda t, f: Score("refused", ""), max_new_tokens=3)


def test_other_words_are_refused(plain, guide, monkeypatch):
    own = space_of(plain)
    monkeypatch.setattr(
        "workbench.decoding.guided.space_of",
        lambda model: replace(own, tokenizer_hash="other") if model is plain else own,
    )
    with pytest.raises(ValueError, match="whose tokens or chat template are not those of"):
        wb.generate(plain, extraction(), guide=guide)
