"""A task answered with and without a plan, side by side in the same batches.

    result = run_task(target, load_task("gsm8k", root="downloads"), plan)

The trap: 39.0 % with the plan and 39.0 % without it can be the same answers, or half of them others. The difference is
paired, prompt by prompt.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.decoding.asking import rows_of
from workbench.evaluation.answers import gate_opened
from workbench.evaluation.metrics import prompt_clusters
from workbench.evaluation.readings import same_answer
from workbench.generation import reply_to
from workbench.kinship import warn_if_unrelated
from workbench.likelihoods import likelihoods
from workbench.loading import Model, twin_or_itself
from workbench.models import model_hash, model_name, tokenizer_of
from workbench.provenance import Provenance
from workbench.stats import Estimate, cluster_bootstrap, paired_difference, resampled
from workbench.steering import SteeringPlan
from workbench.utility.tasks import Task

By = Literal["generation", "likelihood"]
READINGS = {"generation": ("strict", "lenient"), "likelihood": ("total", "per character")}
"""How each way of answering is read, the one that counts first."""


@dataclass(frozen=True, eq=False)
class TaskResult:
    """The answers to one task. `frame` has a row per arm, reading and prompt.

    Columns: arm (`unsteered`, `steered`), reading (see `READINGS`), prompt (its number), source, `cluster_...`, answer,
    said (None where unanswered), correct (1 or 0), reply (empty by likelihood), finished and open (the gate).
    """

    task: Task
    by: By
    frame: pd.DataFrame
    provenance: Provenance

    @property
    def readings(self) -> list[str]:
        """How the answers were read; the first is the one that counts."""
        return list(self.frame["reading"].unique())

    def accuracy(self, arm: str = "steered", *, reading: str | None = None) -> Estimate:
        """The share of prompts that are answered right; an unanswered one is not."""
        part = self._part(arm, reading)
        return cluster_bootstrap(part["correct"].to_numpy(float), prompt_clusters(part))

    def unanswered(self, arm: str = "steered", *, reading: str | None = None) -> int:
        """How many prompts have no answer that could be read."""
        return int(self._part(arm, reading)["said"].isna().sum())

    def change(self, *, reading: str | None = None) -> Estimate:
        """The accuracy with the plan minus that without it, paired by prompt."""
        steered, unsteered = (self._part(arm, reading) for arm in ("steered", "unsteered"))
        after, before = (part["correct"].to_numpy(float) for part in (steered, unsteered))
        return paired_difference(after, before, prompt_clusters(steered))

    def f1(self, arm: str = "steered", *, reading: str | None = None) -> Estimate:
        """The macro F1 over the task's classes, clusters resampled; an unanswered prompt is a miss of its class.

        Raises `ValueError` for a task whose answers are no classes.
        """
        from sklearn.metrics import f1_score  # a second that `--help` need not pay

        classes = self.task.form.classes
        if not classes:
            raise ValueError(
                f"task {self.task.name!r} asks for a {self.task.form.name}: F1 is for answers that are classes"
            )
        part = self._part(arm, reading)
        truth, said = part["answer"].str.lower(), part["said"].fillna("").str.lower()

        def macro(weights: NDArray[np.float64] | None) -> float:
            return float(
                f1_score(truth, said, labels=classes, average="macro", sample_weight=weights, zero_division=0)
            )

        low, high, k, column = resampled(macro, prompt_clusters(part))
        return Estimate(macro(None), low, high, len(part), k, f"bootstrap by {column}")

    def summary(self) -> pd.DataFrame:
        """A row per arm and reading: accuracy with its interval, unanswered, n; F1 where answers are classes."""
        return pd.DataFrame(
            [
                {
                    "task": self.task.name, "by": self.by, "arm": arm, "reading": reading,
                    "accuracy": found.mean, "low": found.low, "high": found.high, "n": found.n,
                    "clusters": found.clusters, "unanswered": self.unanswered(arm, reading=reading),
                    "f1": self.f1(arm, reading=reading).mean if self.task.form.classes else math.nan,
                }
                for arm in self.frame["arm"].unique()
                for reading in self.readings
                for found in [self.accuracy(arm, reading=reading)]
            ]
        )  # fmt: skip

    def _part(self, arm: str, reading: str | None) -> pd.DataFrame:
        part = self.frame[
            (self.frame["arm"] == arm) & (self.frame["reading"] == (reading or self.readings[0]))
        ]
        if part.empty:
            raise ValueError(
                f"the result has no arm {arm!r} read as {reading or self.readings[0]!r}: it has "
                f"{', '.join(self.frame['arm'].unique())}, read as {', '.join(self.readings)}"
            )
        return part


def run_task(
    model: Model,
    task: Task,
    plan: SteeringPlan | None = None,
    *,
    by: By = "generation",
    max_new_tokens: int | None = None,
    batch_size: int = 64,
    twin: bool = True,
    progress: bool = False,
) -> TaskResult:
    """Answer `task` without and, where there is one, with `plan`; both in the same batches.

    By generation, replies are greedy and as long as `generate` makes them, unless `max_new_tokens` says. By likelihood,
    every option is scored as the reply to the prompt, in all and per character of it. A gate is decided once per prompt
    either way.

    Raises `ValueError` for a task without options that is asked by likelihood.
    """
    if by not in READINGS:
        raise ValueError(f"got by={by!r}, expected generation or likelihood")
    warn_if_unrelated([plan] if plan is not None else [])
    computing, _ = twin_or_itself(model, twin=twin)
    arms: dict[str, SteeringPlan | None] = {"unsteered": None}
    if plan is not None:
        arms["steered"] = plan
    if by == "generation":
        records = _by_generation(computing, task, arms, max_new_tokens, batch_size, progress)
    else:
        records = _by_likelihood(computing, task, arms, batch_size, progress)
    frame = pd.DataFrame(records)
    note = f"{by}, form {task.form.name}" + ("" if plan is None else f", plan {plan.id}")
    parents = () if plan is None else (plan.vectors.provenance,)
    provenance = Provenance(
        "task", model_name(model), model_hash(model), task.prompts.name, task.prompts.hash, note, parents
    )
    return TaskResult(task, by, frame, provenance)


def _by_generation(
    model: Model,
    task: Task,
    arms: dict[str, SteeringPlan | None],
    max_new_tokens: int | None,
    batch_size: int,
    progress: bool,
) -> Iterator[dict[str, object]]:
    asked = list(task.asked)
    plans = [plan for plan in arms.values() for _ in asked]
    replies = reply_to(
        model, asked * len(arms), plans, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )  # fmt: skip
    strict, lenient = READINGS["generation"]
    readings = {strict: task.form.read} | ({lenient: task.form.lenient} if task.form.lenient else {})
    for i, (reply, plan) in enumerate(zip(replies, plans, strict=True)):
        arm, number = list(arms)[i // len(asked)], i % len(asked)
        for name, read in readings.items():
            yield {
                **_asked(task, arm, name, number, read(reply.text, reply.finished)),
                "reply": reply.text, "finished": reply.finished,
                "open": gate_opened(reply, plan),
            }  # fmt: skip


def _by_likelihood(
    model: Model, task: Task, arms: dict[str, SteeringPlan | None], batch_size: int, progress: bool
) -> Iterator[dict[str, object]]:
    if task.form.options is None:
        raise ValueError(
            f"task {task.name!r} asks for a {task.form.name}, which has no options to score: run it by generation"
        )
    asked, tokenizer = list(task.asked), tokenizer_of(model)
    options = [task.form.options(prompt) for prompt in task.prompts]
    each = [(arm, i, option) for arm in arms for i, several in enumerate(options) for option in several]
    tokens = {
        reply: tokenizer(reply, add_special_tokens=False)["input_ids"]
        for reply in {reply for several in options for reply in several.values()}
    }
    longest = max(map(len, tokens.values()))
    rows = rows_of(
        model, asked * len(arms), [plan for plan in arms.values() for _ in asked], None, longest, batch_size
    )
    of = {(arm, i): rows[a * len(asked) + i] for a, arm in enumerate(arms) for i in range(len(asked))}
    found = likelihoods(
        model, [of[arm, i] for arm, i, _ in each], [tokens[options[i][option]] for _, i, option in each],
        batch_size=batch_size, progress=progress,
    )  # fmt: skip
    scores: dict[tuple[str, int], list[tuple[str, float, int]]] = {}
    for (arm, i, option), likelihood in zip(each, found, strict=True):
        scores.setdefault((arm, i), []).append((option, likelihood.total, len(options[i][option])))
    total, per_character = READINGS["likelihood"]
    for (arm, i), several in scores.items():
        row = of[arm, i]
        likeliest = {
            total: max(several, key=lambda scored: scored[1]),
            per_character: max(several, key=lambda scored: scored[1] / scored[2]),
        }
        for name, best in likeliest.items():
            yield {
                **_asked(task, arm, name, i, best[0]),
                "reply": "", "finished": True, "open": row.acts,
            }  # fmt: skip


def _asked(task: Task, arm: str, reading: str, number: int, said: str | None) -> dict[str, object]:
    prompt, answer = task.prompts[number], task.answers[number]
    return {
        "arm": arm, "reading": reading, "prompt": number, "source": prompt.source,
        **{f"cluster_{kind}": value for kind, value in prompt.cluster},
        "answer": answer, "said": said, "correct": float(same_answer(said, answer)),
    }  # fmt: skip
