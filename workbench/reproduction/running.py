"""A reproduction, end to end: choose on what is held out, ask every condition the same prompts, judge, record.

Every reply, of choosing and of measuring alike, is in the folder's ledger as soon as its batch is done; whatever stops
the run, the same command goes on with it and comes to the same table.

The trap: the test prompts are asked once, when all is chosen. Nothing that they show leads back to a choice.
"""

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import cast

import pandas as pd

from workbench.evaluation.conditions import TITLES, Condition, Who, conditions, control_plans
from workbench.evaluation.metrics import METRICS, change, estimates
from workbench.evaluation.protocol import listed
from workbench.loading import Model
from workbench.models import model_hash
from workbench.prompts import PromptSet
from workbench.records import Choice, RunRecord, UsedModel
from workbench.reproduction.checkpoints import Room, is_embedded, loaded, models_of, require_fitting
from workbench.reproduction.choices import of_a_target, of_the_protocol
from workbench.reproduction.config import Experiment, Target
from workbench.reproduction.judging import Chosen, judge_named
from workbench.reproduction.material import Material, deal_templates, find_templates, load_pairs, prepare
from workbench.reproduction.paper import paper_number
from workbench.reproduction.usefulness import Task, task_named
from workbench.sweep.answering import answer_arms
from workbench.sweep.choosing import Choices as Made
from workbench.sweep.choosing import choose

LEDGER = "ledger.sqlite"
RAISES_HARM = ("own_srv_subtracted",)
"""Conditions that may raise harm: for the embedded models only."""
TITLES_OF_KINDS: Mapping[str, str] = {
    "table1": "The paper's table",
    "scale": "Model sizes",
    "adaptability": "Model families",
    "ablation": "Whose vectors, added and subtracted",
    "cost": "What steering costs",
}
AGAINST = ("none", "inferaligner")
"""What every condition is compared with on the same prompts."""
LIBRARIES = ("inferaligner-workbench", "torch", "transformers", "transformer-lens", "numpy", "pandas")

Say = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Prepared:
    """A run that was checked as far as it can be without a model: judge, tasks and prompts by target."""

    experiment: Experiment
    judge: Chosen
    tasks: Mapping[str, Task | None]
    material: Mapping[str, Material]


@dataclass(eq=False)
class _Found:
    """What a run has found so far."""

    models: dict[tuple[str, str], UsedModel] = field(default_factory=dict)
    choices: list[Choice] = field(default_factory=list)
    frames: list[pd.DataFrame] = field(default_factory=list)


def prepare_run(experiment: Experiment) -> Prepared:
    """Look at all that a file names, and load nothing: models, prompts, templates, tasks, the judge."""
    judge = judge_named(experiment.judge)
    tasks = {t.name: None if t.utility is None else task_named(t.utility) for t in experiment.targets}
    require_fitting(experiment)
    wanted = experiment.conditions or ()
    real = [m for t in experiment.targets for m in models_of(experiment, t).values() if not is_embedded(m)]
    if (harmful := sorted(set(wanted) & set(RAISES_HARM))) and real:
        raise ValueError(
            f"got the conditions {', '.join(harmful)} with {real[0]}: what may raise harm is run on the embedded "
            "models alone, whose replies harm nobody"
        )
    seed, prompts = experiment.seed, experiment.prompts
    pairs, templates, room = load_pairs(prompts, seed), find_templates(prompts), Room(experiment)
    dealt = None
    if templates is not None:
        kept, left_out = room.fitting(templates, (pairs.train + pairs.test).labelled("harmful"))
        dealt = deal_templates(kept, prompts.n_templates, seed=seed, left_out=left_out)
    material = {name: prepare(prompts, pairs, dealt, task, seed=seed) for name, task in tasks.items()}
    for each in material.values():
        room.require(each.everything)
    return Prepared(experiment, judge, tasks, material)


def reproduce(
    run: Prepared, folder: str | Path, *, command: str, say: Say, progress: bool = False
) -> RunRecord:
    """Choose, ask, judge: the record of all targets. `say` is told what is done, a line at a time."""
    experiment, found = run.experiment, _Found()
    ledger = Path(folder) / LEDGER
    for target in experiment.targets:
        _run_target(run, target, ledger, found, say, progress)
    verdicts = pd.concat(found.frames, ignore_index=True)
    first = next(iter(run.material.values()))
    return RunRecord(
        kind=experiment.kind,
        title=TITLES_OF_KINDS[experiment.kind],
        command=command,
        config=experiment.text,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        judge=f"{experiment.judge}: {run.judge.said}",
        models=tuple(found.models.values()),
        prompts=tuple(_sets(run.material)),
        choices=(*of_the_protocol(experiment, first), *found.choices),
        notes=tuple(_notes(run)),
        seeds=(experiment.seed,),
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        table=_table(verdicts, experiment),
        comparisons=_comparisons(verdicts),
        verdicts=verdicts,
    )


def _run_target(run: Prepared, target: Target, ledger: Path, found: _Found, say: Say, progress: bool) -> None:
    """Choose for one target, then ask all its conditions; its models are held no longer than that takes."""
    experiment, material = run.experiment, run.material[target.name]
    judge = run.judge.judge
    names = models_of(experiment, target)
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
                judge=judge,
                max_new_tokens=experiment.max_new_tokens,
                batch_size=experiment.batch_size,
                ledger=ledger,
                progress=progress,
            )
            del aligned
        found.choices += of_a_target(experiment, target, made)
        rows = conditions_of(experiment, target, made)
        say(f"{target.name}: chosen. " + _chosen(made))
        _ask(run, target, "target", model, rows, ledger, found, progress)
        del model
    for who in dict.fromkeys(row.who for row in rows if row.who != "target"):
        with loaded(experiment, names[who]) as companion:
            _note_model(found, target, who, names[who], companion)
            _ask(run, target, who, companion, rows, ledger, found, progress)
            del companion
    say(f"{target.name}: {len(rows)} conditions answered, {len(material.test)} prompts each.")


def conditions_of(experiment: Experiment, target: Target, made: Made) -> list[Condition]:
    """The conditions of a target that a file asks for: by default all that its models allow."""
    embedded = all(is_embedded(name) for name in models_of(experiment, target).values())
    controls = control_plans(made.ours, made.evidence.controls)
    every = conditions(
        made.ours,
        made.paper,
        controls,
        companions=cast(Sequence[Who], tuple(target.companions)),
        deal_random=True,
    )
    allowed = [c for c in every if embedded or c.name not in RAISES_HARM]
    if experiment.conditions is None:
        return allowed
    return [c for c in allowed if c.name in experiment.conditions]


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
    experiment, material = run.experiment, run.material[target.name]
    arms = [row.arm for row in rows if row.who == who]
    answered = answer_arms(
        model,
        material.test,
        arms,
        judge=run.judge.judge,
        max_new_tokens=experiment.max_new_tokens,
        batch_size=experiment.batch_size,
        ledger=ledger,
        progress=progress,
    )
    frame = answered.frame.rename(columns={"arm": "condition"})
    frame.insert(0, "target", target.name)
    frame.insert(5, "text", [material.test[i].text for i in frame["prompt"]])
    found.frames.append(_corrected(frame, material.test, run.tasks[target.name]))


def _corrected(frame: pd.DataFrame, test: PromptSet, task: Task | None) -> pd.DataFrame:
    """Whether replies to the task's prompts are right, as the task reads them."""
    if task is None:
        return frame
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


def _sets(material: Mapping[str, Material]) -> Iterator[dict[str, object]]:
    seen = set()
    for each in material.values():
        for prompts in (each.pairs.train, each.search_on, each.test):
            if prompts.hash not in seen:
                seen.add(prompts.hash)
                labels = {label: prompts.labels.count(label) for label in dict.fromkeys(prompts.labels)}
                yield {"name": prompts.name, "hash": prompts.hash, "labels": labels}


def _notes(run: Prepared) -> Iterator[str]:
    experiment = run.experiment
    if any(t.paper for t in experiment.targets):
        yield (
            "The paper's attack success stands beside both of ours, complied and not refused: its judge, GPT-3.5, saw "
            "one. Its InferAligner stands beside paper-exact and ours."
        )
    pairs = next(iter(run.material.values())).pairs
    if summary := getattr(pairs, "summary", ""):
        yield summary
    if (sample := experiment.prompts.sample) is not None:
        counts = ", ".join(f"{n} {label}" for label, n in sample.items())
        yield f"Measured on a sample, at most {counts} test prompts: the intervals are as wide as that makes them."


def _table(verdicts: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """A row per target, condition and metric, with the paper's number beside it and the replies without a verdict."""
    papers = {target.name: target.paper for target in experiment.targets}
    table = estimates(verdicts, ("target", "condition"))
    rows = []
    for row in table.to_dict("records"):
        name, condition, metric = row["target"], row["condition"], row["metric"]
        paper = paper_number(papers[name], condition, metric)
        part = verdicts[(verdicts["target"] == name) & (verdicts["condition"] == condition)]
        part = part[part["label"].isin(METRICS[metric].labels)]
        unscored = 0 if METRICS[metric].verdicts is None else int(part["verdict"].isna().sum())
        rows.append(
            {
                **row,
                "title": TITLES[condition],
                "paper": float("nan") if paper is None else paper,
                "unscored": unscored,
            }
        )
    return _in_order(pd.DataFrame(rows))


def _comparisons(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Every condition against the model as it is and against ours, paired by prompt."""
    rows = [
        {"target": target, "condition": condition, "against": against, "metric": metric, **vars(moved)}
        for target, of_target in verdicts.groupby("target", sort=False)
        for arms in [dict(iter(of_target.groupby("condition", sort=False)))]
        for against in AGAINST
        for condition in arms
        for metric in METRICS
        if against in arms and condition not in ("none", against)
        if (moved := change(arms[condition], arms[against], metric)) is not None
    ]
    return pd.DataFrame(rows)


def _in_order(table: pd.DataFrame) -> pd.DataFrame:
    place = {name: i for i, name in enumerate(TITLES)}
    order = table["condition"].map(place)
    targets = {name: i for i, name in enumerate(table["target"].unique())}
    return (
        table.assign(_t=table["target"].map(targets), _c=order)
        .sort_values(["_t", "_c"], kind="stable")
        .drop(columns=["_t", "_c"])
        .reset_index(drop=True)
    )
