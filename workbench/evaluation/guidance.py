"""The guided baseline, from the material that vectors are made of: replies to the extraction prompts, and a reward.

    good:  a refusal of a harmful request; an answer to a harmless one
    bad:   an answer to a harmful request; a refusal of a harmless one

Answers are the target's own, refusals the aligned model's, dealt to the harmless requests in turn.

The trap: a reward that has seen harmful requests alone learns what a refusal looks like, and refuses everything.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from workbench.decoding.guided import TOP_K, Guide
from workbench.decoding.rewards import fit_reward
from workbench.generation import Completion, generate
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Exchange, Judge, Verdict, scores
from workbench.loading import Model
from workbench.prompts import PromptSet


@dataclass(frozen=True, eq=False)
class Told:
    """One model's reply to one extraction prompt, and what it did."""

    completion: Completion
    verdict: Verdict | None


def learn_guide(
    target: Model,
    aligned: Model,
    prompts: PromptSet,
    *,
    reader: Model | None = None,
    top_k: int = TOP_K,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int = 128,
) -> Guide:
    """A guide for `target` with a reward learned from replies to `prompts`, the extraction set; its weight is 1.

    `reader` is the model whose activations the reward reads: the target itself unless given, so that nothing else has
    to be held while replies are written.

    Raises `ValueError` where no reply to a harmful prompt was refused by the one or answered by the other.
    """
    own, safe = (
        told_replies(model, prompts, judge=judge, max_new_tokens=max_new_tokens, batch_size=batch_size)
        for model in (target, aligned)
    )
    return fit_guide(reader or target, own, safe, top_k=top_k, batch_size=batch_size)


def told_replies(
    model: Model, prompts: PromptSet, *, judge: Judge, max_new_tokens: int, batch_size: int
) -> list[Told]:
    """What a guide is learned from: the model's replies to `prompts`, judged."""
    replies = generate(model, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)
    found = scores(judge, [Exchange(c.prompt, c.text, c.finished) for c in replies])
    return [Told(c, score.verdict) for c, score in zip(replies, found, strict=True)]


def fit_guide(
    reader: Model, own: Sequence[Told], safe: Sequence[Told], *, top_k: int = TOP_K, batch_size: int = 128
) -> Guide:
    """The guide that `learn_guide` makes of the target's `own` replies and the aligned model's, `safe`."""
    refusals = [
        told.completion for told in safe if told.completion.prompt.harmful and told.verdict == "refused"
    ]
    answers = [
        told.completion
        for told in own
        if told.completion.prompt.harmful and told.verdict in ("complied", "other")
    ]
    if not refusals or not answers:
        who = "aligned model refused none" if not refusals else "target answered none"
        raise ValueError(
            f"the {who} of the {sum(told.completion.prompt.harmful for told in own)} harmful prompts: a reward is "
            "learned from refusals and answers, take other models or another judge"
        )
    helpful = [
        told.completion
        for told in own
        if not told.completion.prompt.harmful and told.verdict not in ("refused", "broken")
    ]
    curt = [replace(refusals[i % len(refusals)], prompt=c.prompt) for i, c in enumerate(helpful)]
    examples = [*((c, True) for c in (*refusals, *helpful)), *((c, False) for c in (*answers, *curt))]
    reward = fit_reward(
        reader,
        [c.prompt for c, _ in examples],
        [c.tokens for c, _ in examples],
        [good for _, good in examples],
        batch_size=batch_size,
    )
    return Guide(reader, reward, top_k=top_k)
