"""Arms in, judged replies out: every arm answers the same prompts, in a few large batches.

A row is (prompt, plan). All arms of one model go through `generate` together, which computes the rows that no shift
reaches once, however many arms ask for them.

The trap: arms that are generated apart differ by more than their plans where two logits are nearly tied. One call, one
order, one batch size for all of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import pandas as pd

from workbench.decoding.asking import Prompts
from workbench.evaluation.utility import answers_correctly
from workbench.evaluation.verdicts import Score
from workbench.generation import Completion, generate
from workbench.loading import Model
from workbench.prompts import Prompt, PromptSet, as_prompt_set
from workbench.steering import SteeringPlan

Judge: TypeAlias = Callable[[str, bool], Score]


@dataclass(frozen=True, eq=False)
class Arm:
    """One way of answering: the model as it is, under a plan, under several plans that are averaged, or reworded.

    `dealt` gives every prompt one of several plans, in turn, and costs no more than one plan; otherwise every prompt is
    answered under each of them. `rewrite` changes the prompt before it is rendered, as prompt defences do. `tags` are
    columns that all rows of the arm carry.
    """

    name: str
    plans: tuple[SteeringPlan, ...] = ()
    dealt: bool = False
    rewrite: Callable[[Prompt], Prompt] | None = None
    tags: tuple[tuple[str, object], ...] = ()

    def rows(self, prompts: PromptSet) -> list[tuple[int, int, SteeringPlan | None]]:
        """(prompt, number of the plan, plan) for every row of the arm."""
        if not self.plans:
            return [(i, 0, None) for i in range(len(prompts))]
        if self.dealt:
            turns = [i % len(self.plans) for i in range(len(prompts))]
            return [(i, turn, self.plans[turn]) for i, turn in enumerate(turns)]
        return [(i, turn, plan) for turn, plan in enumerate(self.plans) for i in range(len(prompts))]


def labelled(prompts: Prompts) -> PromptSet:
    """`prompts` as a set. What a reply is worth depends on what was asked, so some label is needed."""
    found = as_prompt_set(prompts)
    if set(found.labels) == {"unlabelled"}:
        raise ValueError(
            f"got {len(found)} prompts without a label, expected some that are harmful, jailbroken, harmless, contrast "
            "or domain: PromptSet.from_texts(name, texts, label)"
        )
    return found


def answer(
    model: Model,
    prompts: PromptSet,
    arms: Sequence[Arm],
    *,
    judge: Judge,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    progress: bool = False,
) -> pd.DataFrame:
    """One judged row per arm, plan and prompt.

    Columns: arm, the arms' tags, prompt (its number), plan (its number within the arm), label, source, a `cluster_…`
    column per kind, reply, finished, verdict, reason, correct (1, 0, NaN without an answer), open (the gate, at any
    steered layer) and near_ties.
    """
    if not arms:
        raise ValueError("got no arm, expected at least one: Arm('unsteered') is the model as it is")
    chosen = [(arm, *row) for arm in arms for row in arm.rows(prompts)]
    asked = [arm.rewrite(prompts[i]) if arm.rewrite else prompts[i] for arm, i, _, _ in chosen]
    completions = generate(
        model,
        PromptSet(prompts.name, tuple(asked)),
        [plan for _, _, _, plan in chosen],
        max_new_tokens=max_new_tokens,
        batch_size=batch_size,
        progress=progress,
    )
    scores = {reply: judge(*reply) for reply in {(c.text, c.finished) for c in completions}}
    records = []
    for (arm, i, turn, plan), completion in zip(chosen, completions, strict=True):
        score = scores[completion.text, completion.finished]
        records.append(
            {
                "arm": arm.name,
                **dict(arm.tags),
                "prompt": i,
                "plan": turn,
                "label": prompts[i].label,
                "source": prompts[i].source,
                **{f"cluster_{kind}": value for kind, value in prompts[i].cluster},
                "reply": completion.text,
                "finished": completion.finished,
                "verdict": score.verdict,
                "reason": score.reason,
                "correct": answers_correctly(prompts[i], completion.text, completion.finished),
                "open": _opened(completion, plan),
                "near_ties": completion.near_ties,
            }
        )
    return pd.DataFrame(records)


def _opened(completion: Completion, plan: SteeringPlan | None) -> bool:
    if plan is None or completion.gate_open is None:
        return False
    return any(completion.gate_open[layer] for layer in plan.layers)
