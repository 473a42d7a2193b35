"""From what was found to a record: the table beside the paper's numbers, comparisons, prompts, notes, versions.

The trap: a reply that nobody scored is in no rate. How many there are stands beside each rate, in `unscored`.
"""

import platform
from collections.abc import Hashable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import version

import pandas as pd

from workbench.evaluation.comparing import compare
from workbench.evaluation.metrics import METRICS, estimates
from workbench.prompts import PromptSet
from workbench.published import SETS
from workbench.records import Choice, RunRecord, UsedModel
from workbench.reproduction.arms import NAMES
from workbench.reproduction.checkpoints import is_embedded
from workbench.reproduction.choices import of_the_protocol
from workbench.reproduction.config import Experiment, Kind
from workbench.reproduction.material import Material
from workbench.reproduction.paper import JUDGE, JUDGE_OF_PICTURES, paper_number
from workbench.stats import holm

AGAINST = ("none", "inferaligner")
"""What every condition is compared with on the same prompts."""
TITLES: Mapping[Kind, str] = {
    "table1": "The paper's table",
    "scale": "Sizes of models",
    "adaptability": "Families of models",
    "ablation": "Whose vectors, added and subtracted",
    "cost": "What steering costs",
    "mm": "Harmful questions about pictures",
}
ABOUT: Mapping[Kind, str] = {
    "scale": "The paper's numbers beside these are read off its charts: attack success alone, and that accuracy does "
    "not change.",
    "adaptability": "The paper's numbers beside these are read off its charts: attack success of Qwen-7B and "
    "InternLM-7B, each with the chat model of its own family, and that accuracy does not change.",
    "ablation": "The paper tells this in words: adding the target's own vector does not lower attack success, "
    "subtracting it does and answers turn vague; adding the aligned model's lowers it with clear refusals, "
    "subtracting that one raises harm.",
    "cost": "The paper tells seconds per 1,000 tokens of LLaVA-1.5, 7B and 13B: about 4 % more with InferAligner. "
    "Times are of this machine, in this run.",
    "mm": "The paper tells attack success of LLaVA-1.5 on MM-Harmful Bench, steered by vectors of LLaMA2-CHAT, which "
    "reads text alone, and seconds per 1,000 tokens. Such a bench asks for harm alone: what a setting costs on "
    "harmless pictures, one without a gate above all, is not in this table.",
}
"""What the sources tell of a kind beside the numbers in its table."""
LIBRARIES = ("inferaligner-workbench", "torch", "transformers", "transformer-lens", "numpy", "pandas")


def record_of(
    experiment: Experiment,
    material: Mapping[str, Material],
    *,
    command: str,
    judge: str,
    models: Sequence[UsedModel],
    choices: Sequence[Choice],
    table: pd.DataFrame,
    comparisons: pd.DataFrame,
    verdicts: pd.DataFrame,
) -> RunRecord:
    """All that is known of a run."""
    first = next(iter(material.values()))
    return RunRecord(
        kind=experiment.kind,
        title=TITLES[experiment.kind],
        command=command,
        config=experiment.text,
        created=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        judge=judge,
        models=tuple(models),
        prompts=tuple(_sets(material)),
        choices=(*of_the_protocol(experiment, first), *choices),
        notes=tuple(_notes(experiment, first)),
        seeds=(experiment.seed,),
        versions={"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}},
        table=table,
        comparisons=comparisons,
        verdicts=verdicts,
        claims=not _is_foreign(experiment, first),
    )


def table_of(verdicts: pd.DataFrame, experiment: Experiment) -> pd.DataFrame:
    """A row per target, condition and metric, with the paper's number beside it and the replies without a verdict."""
    papers = {target.name: target.paper for target in experiment.targets}
    rows: list[dict[Hashable, object]] = []
    # A target at a time: prompts of one number may be others for another target, and so are their clusters.
    found = [estimates(part, ("target", "condition")) for _, part in verdicts.groupby("target", sort=False)]
    for row in pd.concat(found, ignore_index=True).to_dict("records"):
        paper = paper_number(papers[row["target"]], row["condition"], row["metric"])
        metric = METRICS[row["metric"]]
        of_row = verdicts[
            (verdicts["target"] == row["target"])
            & (verdicts["condition"] == row["condition"])
            & verdicts["label"].isin(metric.labels)
        ]
        beside: dict[Hashable, object] = {
            "title": NAMES[row["condition"]],
            "paper": float("nan") if paper is None else paper,
            "unscored": 0 if metric.verdicts is None else int(of_row["verdict"].isna().sum()),
        }
        rows.append(row | beside)
    # The companions were asked last; the table has an order of its own.
    targets, names = [target.name for target in experiment.targets], list(NAMES)
    rows.sort(key=lambda row: (targets.index(str(row["target"])), names.index(str(row["condition"]))))
    return pd.DataFrame(rows)


def comparisons_of(verdicts: pd.DataFrame) -> pd.DataFrame:
    """Every condition against the model as it is and against ours, one family per target, baseline and metric.

    Holm's correction is for the conditions within a family. Over all families at once it could tell nothing: with ten
    wrappers the smallest p of whole clusters is 2/2¹⁰, which some two hundred comparisons take beyond any level.
    """
    found = []
    renamed = verdicts.rename(columns={"condition": "arm"})
    for target, of_target in renamed.groupby("target", sort=False):
        there = list(dict.fromkeys(of_target["arm"]))
        rows = [
            compare(of_target, against, arms=[name for name in there if name not in ("none", against)])
            for against in AGAINST
            if against in there and set(there) - {"none", against}
        ]
        if rows:
            table = pd.concat(rows, ignore_index=True)
            table["p_holm"] = table.groupby(["against", "metric"])["p_clusters"].transform(
                lambda p: holm(p.to_numpy(float))
            )
            table.insert(0, "target", target)
            found.append(table.rename(columns={"arm": "condition"}))
    return pd.concat(found, ignore_index=True) if found else pd.DataFrame()


def _is_foreign(experiment: Experiment, material: Material) -> bool:
    """Whether embedded models are asked what others have published, and their rates claim nothing."""
    published = bool(material.folds) or (experiment.prompts.bench or "").partition(":")[0] in SETS
    return published and all(is_embedded(target.model) for target in experiment.targets)


def _sets(material: Mapping[str, Material]) -> Iterator[dict[str, object]]:
    """Every set that was used, once: its name, its hash, and how many prompts of each label it has."""
    used: dict[str, PromptSet] = {}
    for each in material.values():
        for part in (each.pairs.train, each.held_out, each.search_on, each.test):
            used.setdefault(part.hash, part)
    for prompts in used.values():
        labels = {label: prompts.labels.count(label) for label in dict.fromkeys(prompts.labels)}
        yield {"name": prompts.name, "hash": prompts.hash, "labels": labels}


def _notes(experiment: Experiment, material: Material) -> Iterator[str]:
    if experiment.kind in ABOUT:
        yield ABOUT[experiment.kind]
    if experiment.kind != "cost" and any(target.paper for target in experiment.targets):
        judge = JUDGE_OF_PICTURES if experiment.kind == "mm" else JUDGE
        yield (
            f"The paper's attack success stands beside both of ours, complied and not refused: its judge, {judge}, had "
            "one. Its InferAligner stands beside paper-exact and ours."
        )
    if _is_foreign(experiment, material):
        yield (
            "The embedded models know the words of a small world alone, and its pictures: on published prompts they "
            "show that the protocol runs, and not what it does."
        )
    if experiment.prompts.bench is None and (summary := getattr(material.pairs, "summary", "")):
        yield summary
    if (sample := experiment.prompts.sample) is not None and experiment.kind != "cost":
        counts = ", ".join(f"{n} {label}" for label, n in sample.items())
        yield f"Measured on a sample, at most {counts} test prompts: the intervals are as wide as that makes them."
