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
from workbench.decoding.guided import Guide
from workbench.evaluation.readings import answers_correctly
from workbench.generation import Completion, reply_to
from workbench.judges.verdicts import Exchange, Judge, Score, scores
from workbench.loading import Model
from workbench.prompts import Prompt, PromptSet, as_prompt_set
from workbench.steering import SteeringPlan


@dataclass(frozen=True, eq=False)
class Arm:
    """One way of answering: the model as it is, under a plan or several that are averaged, reworded, or guided.

    `dealt` gives every prompt one of several plans, in turn, and costs no more than one plan; otherwise every prompt is
    answered under each of them. `rewrite` changes the prompt before it is rendered, as prompt defences do;
    `guide` has a say in every token, and goes with no plan. `tags` are columns that all rows of the arm carry.
    """

    name: str
    plans: tuple[SteeringPlan, ...] = ()
    dealt: bool = False
    rewrite: Callable[[Prompt], Prompt] | None = None
    guide: Guide | None = None
    tags: tuple[tuple[str, object], ...] = ()

    def __post_init__(self) -> None:
        if self.guide is not None and self.plans:
            raise ValueError(
                f"the arm {self.name!r} has a guide and a plan: guided decoding is a baseline of its own, compare the "
                "two"
            )

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


@dataclass(frozen=True, eq=False)
class Asked:
    """The rows that arms ask for, in order: (arm, number of the prompt, number of the plan, plan) of each.

    `prompts` are as the arms word them, `plans` beside them; `of` are the prompts before any rewording.
    """

    of: PromptSet
    rows: tuple[tuple[Arm, int, int, SteeringPlan | None], ...]

    @property
    def prompts(self) -> PromptSet:
        """The prompt of every row."""
        worded = (arm.rewrite(self.of[i]) if arm.rewrite else self.of[i] for arm, i, _, _ in self.rows)
        return PromptSet(self.of.name, tuple(worded))

    @property
    def plans(self) -> list[SteeringPlan | None]:
        """The plan of every row."""
        return [plan for _, _, _, plan in self.rows]

    def frame(self, completions: Sequence[Completion], scored: "Sequence[Scored]") -> pd.DataFrame:
        """One judged row per arm, plan and prompt, with the columns that `answer` tells."""
        records = []
        for (arm, i, turn, plan), completion, (score, correct) in zip(
            self.rows, completions, scored, strict=True
        ):
            prompt = self.of[i]
            records.append(
                {
                    "arm": arm.name,
                    **dict(arm.tags),
                    "prompt": i,
                    "plan": turn,
                    "label": prompt.label,
                    "source": prompt.source,
                    **{f"cluster_{kind}": value for kind, value in prompt.cluster},
                    "reply": completion.text,
                    "finished": completion.finished,
                    "verdict": score.verdict,
                    "reason": score.reason,
                    "correct": correct,
                    "open": gate_opened(completion, plan),
                    "near_ties": completion.near_ties,
                }
            )
        return pd.DataFrame(records)


Scored: TypeAlias = tuple[Score, float]
"""A judge's verdict, and 1 or 0 for a right or a wrong answer, NaN where there is none."""


def ask(prompts: PromptSet, arms: Sequence[Arm]) -> Asked:
    """Every row that `arms` ask of `prompts`."""
    if not arms:
        raise ValueError("got no arm, expected at least one: Arm('unsteered') is the model as it is")
    return Asked(prompts, tuple((arm, *row) for arm in arms for row in arm.rows(prompts)))


def judge_all(completions: Sequence[Completion], prompts: Sequence[Prompt], judge: Judge) -> list[Scored]:
    """What `judge` says of every reply, and whether it answers its prompt."""
    exchanges = [Exchange(p, c.text, c.finished) for c, p in zip(completions, prompts, strict=True)]
    right = (answers_correctly(e.prompt, e.reply, e.finished) for e in exchanges)
    return list(zip(scores(judge, exchanges), right, strict=True))


def answer(
    model: Model,
    prompts: PromptSet,
    arms: Sequence[Arm],
    *,
    judge: Judge,
    max_new_tokens: int | None = 64,
    batch_size: int = 128,
    progress: bool = False,
) -> pd.DataFrame:
    """One judged row per arm, plan and prompt.

    Columns: arm, the arms' tags, prompt (its number), plan (its number within the arm), label, source, a `cluster_…`
    column per kind, reply, finished, verdict, reason, correct (1, 0, NaN without an answer), open (the gate, at any
    steered layer) and near_ties.
    """
    asked = ask(prompts, arms)
    worded, plans, completions = asked.prompts, asked.plans, dict[int, Completion]()
    for guide in dict.fromkeys(arm.guide for arm, *_ in asked.rows):
        chosen = [i for i, (arm, *_) in enumerate(asked.rows) if arm.guide is guide]
        replies = reply_to(
            model,
            PromptSet(worded.name, tuple(worded[i] for i in chosen)),
            [plans[i] for i in chosen],
            max_new_tokens=max_new_tokens,
            batch_size=batch_size,
            guide=guide,
            progress=progress,
        )
        completions |= zip(chosen, replies, strict=True)
    said = [completions[i] for i in range(len(worded))]
    return asked.frame(said, judge_all(said, [prompts[i] for _, i, _, _ in asked.rows], judge))


def gate_opened(completion: Completion, plan: SteeringPlan | None) -> bool:
    """Whether the gate was open at any layer that the plan steers."""
    if plan is None or completion.gate_open is None:
        return False
    return any(completion.gate_open[layer] for layer in plan.layers)
