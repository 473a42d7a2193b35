"""A reproduction, end to end: choose on what is held out, ask every condition the same prompts, judge, record.

Every reply, of choosing and of measuring alike, is in the folder's ledger as soon as its batch is done; whatever stops
the run, the same command goes on with it and comes to the same table.

The trap: the test prompts are asked once, when all is chosen. Nothing that they show leads back to a choice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from workbench.evaluation.conditions import Condition
from workbench.evaluation.guidance import learn_guide
from workbench.evaluation.protocol import listed
from workbench.loading import Model
from workbench.models import model_hash
from workbench.prompts import PromptSet
from workbench.records import Choice, RunRecord, UsedModel
from workbench.reproduction.arms import NAMES, conditions_of, require_harmless, require_runnable, wanted
from workbench.reproduction.checkpoints import Room, is_embedded, loaded, models_of, require_fitting
from workbench.reproduction.choices import of_a_guide, of_a_target
from workbench.reproduction.config import Experiment, Prompts, Target
from workbench.reproduction.cost import choices_of, cost_table, measure_cost, unsearched_plans
from workbench.reproduction.judging import Chosen, judge_named
from workbench.reproduction.material import (
    Material,
    deal_templates,
    find_templates,
    load_bench,
    load_pairs,
    prepare,
)
from workbench.reproduction.recording import comparisons_of, record_of, table_of
from workbench.reproduction.usefulness import Task, task_named
from workbench.sweep.answering import READING_BATCH, answer_arms
from workbench.sweep.choosing import Choices as Made
from workbench.sweep.choosing import choose
from workbench.sweep.evidence import cross_fit, read_evidence
from workbench.sweep.guiding import choose_guide

LEDGER = "ledger.sqlite"
Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run that was checked as far as it can be without a model: judge, tasks and prompts by target."""

    experiment: Experiment
    judge: Chosen
    tasks: Mapping[str, Task | None]
    material: Mapping[str, Material]


@dataclass(frozen=True, eq=False)
class _Found:
    """What a run has found so far."""

    models: dict[tuple[str, str], UsedModel] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    frames: list[pd.DataFrame] = field(default_factory=list)
    tables: list[pd.DataFrame] = field(default_factory=list)


def prepare_run(experiment: Experiment) -> Prepared:
    """Look at all that a file names, and load nothing: models, prompts, templates, tasks, the judge."""
    judge = judge_named(experiment.judge, experiment.judge_settings, pictures=experiment.kind == "mm")
    tasks = {
        target.name: None if target.utility is None else task_named(target.utility, seed=experiment.seed)
        for target in experiment.targets
    }
    require_fitting(experiment)
    require_harmless(experiment)
    require_runnable(experiment)
    require_searchable(experiment.prompts)
    seed, prompts = experiment.seed, experiment.prompts
    pairs, templates = load_pairs(prompts, seed), find_templates(prompts)
    bench, room = load_bench(prompts), Room(experiment, wanted(experiment))
    room.require_one_template(experiment)
    dealt = None
    if templates is not None:
        kept, left_out = room.fitting(templates, (pairs.train + pairs.test).labelled("harmful"))
        dealt = deal_templates(kept, prompts.n_templates, seed=seed, left_out=left_out)
    material = {
        name: prepare(prompts, pairs, dealt, task, seed=seed, bench=bench) for name, task in tasks.items()
    }
    for each in material.values():
        room.require(each.everything)
    return Prepared(experiment, judge, tasks, material)


def require_searchable(prompts: Prompts) -> None:
    """Refuse a search that leaves a fold without prompts of either kind: settings are tried in every fold."""
    if prompts.harmful is None or prompts.search is None:
        return
    if min(prompts.search.get(label, 0) for label in ("harmful", "harmless")) < prompts.folds:
        raise ValueError(
            f"got search = {dict(prompts.search)} for {prompts.folds} folds, expected as many harmful and as many "
            "harmless prompts as folds, or more: settings are tried in every fold"
        )


def reproduce(
    run: Prepared, folder: str | Path, *, command: str, say: Say, progress: bool = False
) -> RunRecord:
    """Choose, ask, judge: the record of all targets. `say` is told what is done, a line at a time."""
    experiment, found = run.experiment, _Found()
    for target in experiment.targets:
        if experiment.kind == "cost":
            _time_target(run, target, found, say)
        else:
            _run_target(run, target, Path(folder) / LEDGER, found, say, progress)
    verdicts = pd.concat(found.frames, ignore_index=True)
    timed = experiment.kind == "cost"
    tables = found.tables if timed else [table_of(verdicts, experiment), *found.tables]
    return record_of(
        experiment,
        run.material,
        command=command,
        judge="nobody: a run about cost judges nothing" if timed else f"{experiment.judge}: {run.judge.said}",
        models=list(found.models.values()),
        choices=found.choices,
        table=pd.concat(tables, ignore_index=True),
        comparisons=pd.DataFrame() if timed else comparisons_of(verdicts),
        verdicts=verdicts,
    )


def _run_target(run: Prepared, target: Target, ledger: Path, found: _Found, say: Say, progress: bool) -> None:
    """Choose for one target, then ask all its conditions; its models are held no longer than that takes."""
    experiment, material, names = run.experiment, run.material[target.name], models_of(run.experiment, target)
    with loaded(experiment, target.model) as model:
        with loaded(experiment, names["aligned"]) as aligned:
            for role, held in (("target", model), ("aligned", aligned)):
                _note_model(found, target, role, names[role], held)
            made = choose(
                model,
                aligned,
                material.pairs,
                material.other_concept,
                folds=material.folds,
                search_on=material.search_on,
                min_auroc=experiment.min_auroc,
                raw_alphas=None if target.paper_alpha is None else (target.paper_alpha,),
                controls=False,
                beside=False,
                judge=run.judge.judge,
                max_new_tokens=experiment.max_new_tokens,
                batch_size=experiment.batch_size,
                ledger=ledger,
                progress=progress,
            )
            found.choices.extend(of_a_target(experiment, target, made))
            weighed = None
            if "guided" in wanted(experiment):
                weighed = choose_guide(
                    model,
                    aligned,
                    material.pairs,
                    folds=material.folds,
                    search_on=material.search_on,
                    judge=run.judge.judge,
                    max_new_tokens=experiment.max_new_tokens,
                    batch_size=experiment.batch_size,
                    ledger=ledger,
                    progress=progress,
                )
                found.choices.append(of_a_guide(target, made, weighed))
            del aligned, held
        guide = None if weighed is None else weighed.guide
        rows = conditions_of(experiment, target, made.ours, made.paper, made.evidence, guide)
        n_conditions = len(rows)
        say(f"{target.name}: chosen. {_chosen(made)}")
        _ask(run, target, "target", model, rows, ledger, found, progress)
        if experiment.timed is not None:
            some = material.test.sample(min(experiment.timed, len(material.test)), seed=experiment.seed)
            _time(experiment, target, model, some, rows, found, say)
        # A guide reads the target: whoever holds one, or a condition that has it, holds the model.
        rows = [row for row in rows if row.who != "target"]
        del model, guide, weighed
    for who in dict.fromkeys(row.who for row in rows):
        with loaded(experiment, names[who]) as companion:
            _note_model(found, target, who, names[who], companion)
            _ask(run, target, who, companion, rows, ledger, found, progress)
            del companion
    say(f"{target.name}: {n_conditions} conditions answered, {len(material.test)} prompts each.")


def _ask(
    run: Prepared,
    target: Target,
    who: str,
    model: Model,
    rows: Sequence[Condition],
    ledger: Path,
    found: _Found,
    progress: bool,
) -> None:
    """The replies of one model to the test prompts, under all the conditions that run on it."""
    experiment, test = run.experiment, run.material[target.name].test
    answered = answer_arms(
        model,
        test,
        [row.arm for row in rows if row.who == who],
        judge=run.judge.judge,
        max_new_tokens=experiment.max_new_tokens,
        batch_size=experiment.batch_size,
        ledger=ledger,
        progress=progress,
    )
    frame = _recorded(answered.frame, target, test)
    task = run.tasks[target.name]
    found.frames.append(frame if task is None else _read_by(task, frame, test))


def _time_target(run: Prepared, target: Target, found: _Found, say: Say) -> None:
    """Time the conditions of one target: only those that run on it, since its companions are as large."""
    experiment, material, names = run.experiment, run.material[target.name], models_of(run.experiment, target)
    batch = experiment.batch_size or READING_BATCH
    with loaded(experiment, target.model) as model:
        with loaded(experiment, names["aligned"]) as aligned:
            for role, held in (("target", model), ("aligned", aligned)):
                _note_model(found, target, role, names[role], held)
            if material.folds:
                evidence, _ = cross_fit(
                    model,
                    aligned,
                    material.pairs.train,
                    material.folds,
                    material.other_concept,
                    batch_size=batch,
                )
            else:
                evidence = read_evidence(
                    model, aligned, material.pairs, material.other_concept, batch_size=batch
                )
            guide = None
            if "guided" in wanted(experiment):
                guide = learn_guide(
                    model, aligned, material.pairs.train, judge=run.judge.judge,
                    max_new_tokens=experiment.max_new_tokens, batch_size=batch,
                )  # fmt: skip
            del aligned, held
        ours, paper = unsearched_plans(evidence, min_auroc=experiment.min_auroc)
        rows = conditions_of(experiment, target, ours, paper, evidence, guide)
        replies = _time(experiment, target, model, material.test, rows, found, say)
        del model
    found.choices.extend(choices_of(target.name, ours, experiment.rounds))
    found.frames.append(_recorded(replies, target, material.test))


def _time(
    experiment: Experiment,
    target: Target,
    model: Model,
    prompts: PromptSet,
    rows: Sequence[Condition],
    found: _Found,
    say: Say,
) -> pd.DataFrame:
    """The replies of the conditions that run on the target, whose seconds go into a table."""
    own = [row for row in rows if row.who == "target"]
    say(
        f"{target.name}: {len(own)} conditions take turns on {len(prompts)} prompts, {experiment.rounds} rounds and "
        "one before."
    )
    timed, replies = measure_cost(
        model, prompts, own, rounds=experiment.rounds, max_new_tokens=experiment.max_new_tokens,
        batch_size=experiment.batch_size or READING_BATCH,
    )  # fmt: skip
    found.tables.append(cost_table(timed, target.name, NAMES, target.paper))
    return replies


def _recorded(frame: pd.DataFrame, target: Target, test: PromptSet) -> pd.DataFrame:
    """Judged replies with the columns that a record adds: whose, and to what."""
    frame = frame.rename(columns={"arm": "condition"})
    frame.insert(0, "target", target.name)
    frame.insert(list(frame.columns).index("source") + 1, "text", [test[i].text for i in frame["prompt"]])
    if any(prompt.images for prompt in test):
        # By name: the pictures themselves stay where they are.
        frame["images"] = [
            ", ".join(Path(image.source).name for image in test[i].images) for i in frame["prompt"]
        ]
    return frame


def _read_by(task: Task, frame: pd.DataFrame, test: PromptSet) -> pd.DataFrame:
    """Whether replies to the task's prompts are right, as the task reads them."""
    rows = zip(
        frame["prompt"], frame["label"], frame["reply"], frame["finished"], frame["correct"], strict=True
    )
    return frame.assign(
        correct=[
            task.right(test[i], reply, finished) if label == "domain" else before
            for i, label, reply, finished, before in rows
        ]
    )


def _note_model(found: _Found, target: Target, role: str, name: str, model: Model) -> None:
    found.models[target.name, role] = UsedModel(
        f"{role} of {target.name}", name, model_hash(model), is_embedded(name)
    )


def _chosen(made: Made) -> str:
    return (
        f"Steered are layers {listed(made.ours.layers)} at α = {made.ours.alpha:g} of ‖v'‖; the gate reads layer "
        f"{made.gate.shared_layer}; paper-exact: layers {listed(made.paper.layers)} at α = {made.paper.alpha:g} raw."
    )
