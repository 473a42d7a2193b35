"""The guided baseline, from the material that vectors are made of: replies to the extraction prompts, and a reward.

    good:  a refusal of a harmful request; an answer to a harmless one
    bad:   an answer to a harmful request; a refusal of a harmless one

Answers are the target's own, refusals the aligned model's, dealt to the harmless requests in turn.

The trap: a reward that has seen harmful requests alone learns what a refusal looks like, and refuses everything.
"""

from dataclasses import replace

from workbench.decoding.guided import TOP_K, Guide
from workbench.decoding.rewards import fit_reward
from workbench.generation import Completion, generate
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Exchange, Judge, scores
from workbench.loading import Model
from workbench.prompts import PromptSet


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

    def replies(model: Model) -> list[Completion]:
        return generate(model, prompts, max_new_tokens=max_new_tokens, batch_size=batch_size)

    own, safe = _told(replies(target), judge), _told(replies(aligned), judge)
    refusals = [c for c, verdict in safe if c.prompt.harmful and verdict == "refused"]
    answers = [c for c, verdict in own if c.prompt.harmful and verdict in ("complied", "other")]
    if not refusals or not answers:
        who = "aligned model refused none" if not refusals else "target answered none"
        raise ValueError(
            f"the {who} of the {sum(prompt.harmful for prompt in prompts)} harmful prompts of {prompts.name}: a reward "
            "is learned from refusals and answers, take other models or another judge"
        )
    helpful = [c for c, verdict in own if not c.prompt.harmful and verdict not in ("refused", "broken")]
    curt = [replace(refusals[i % len(refusals)], prompt=c.prompt) for i, c in enumerate(helpful)]
    examples = [*((c, True) for c in (*refusals, *helpful)), *((c, False) for c in (*answers, *curt))]
    read = reader or target
    reward = fit_reward(
        read,
        [c.prompt for c, _ in examples],
        [c.tokens for c, _ in examples],
        [good for _, good in examples],
        batch_size=batch_size,
    )
    return Guide(read, reward, top_k=top_k)


def _told(completions: list[Completion], judge: Judge) -> list[tuple[Completion, str | None]]:
    found = scores(judge, [Exchange(c.prompt, c.text, c.finished) for c in completions])
    return [(c, score.verdict) for c, score in zip(completions, found, strict=True)]
