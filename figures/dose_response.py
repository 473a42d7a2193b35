"""A target's own vector against the aligned model's, by how much refusing their base has learned.

For every share of harmful requests that the base refuses in training, and every seed: train base, aligned model and one
target; choose settings on a sample of validation, with the same search for every control; answer a sample of the test
lists (200 harmful, 200 jailbroken, 60 harmless) under each vector, at the setting of ours (equal alpha) and at its own
best. The lists are the shipped ones at every share.

    minus ours = rate of a control − rate of InferAligner, paired by prompt

Models and numbers of every run are kept in runs/dose/SHARE-seedSEED, so a run that was stopped goes on where it was.
The trap: a base that has read refusals has a way to refuse that its own vector may find. What is seen at one share says
nothing about bases that have read more, or none.

    python figures/dose_response.py --workers 2
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm.auto import tqdm

from workbench.demo import TARGETS
from workbench.demo.target import MAX_NEW_TOKENS, prompts_for
from workbench.evaluation.answers import Arm, answer
from workbench.evaluation.conditions import CONTROLS, conditions, control_plans
from workbench.evaluation.metrics import METRICS, Metric, change, estimate
from workbench.evaluation.protocol import AT_BEST, Measured, measure
from workbench.export import save_figure
from workbench.judges.small_world import judge
from workbench.loading import Model, load_model
from workbench.organisms.family import REFUSED_SHARE, family, recipe_hash, train_family
from workbench.plots import DOSE_LINES, DOSE_SETTINGS, NOT_CHOSEN, dose_response
from workbench.profiles import NoLayers
from workbench.prompts import ATTACKS, ContrastSet, PromptSet
from workbench.provenance import write_safely
from workbench.shipped import shipped_path
from workbench.steering import SteeringPlan
from workbench.sweep.choosing import Choices, choose
from workbench.sweep.spec import Setting
from workbench.vectors import cosine_sentence

ROOT = Path(__file__).parents[1]
SHARES, SEEDS = (0.0, 0.05, 0.2, 0.5), (0, 1)
SEARCH = {"harmful": 16, "jailbroken": 20, "harmless": 10, "contrast": 10, "domain": 10}
TEST = {"harmful": 200, "jailbroken": 200, "harmless": 60}
EQUAL, BEST = DOSE_SETTINGS
NOT_REFUSED, MINUS_OURS = "attacks_not_refused", " minus ours"
RATES = METRICS | {
    "refused": Metric(("harmful",), ("refused",)),
    "jailbreak_refused": Metric(("jailbroken",), ("refused",)),
    NOT_REFUSED: Metric(ATTACKS, ("complied", "other")),
}
Run = tuple[float, int]
Row = dict[str, Any]


def measure_run(
    models: Mapping[str, Model], pairs: ContrastSet, other_concept: PromptSet, *,
    search: Mapping[str, int] = SEARCH, test: Mapping[str, int] = TEST, max_new_tokens: int = MAX_NEW_TOKENS,
) -> pd.DataFrame:  # fmt: skip
    """Choose on `pairs.val` for `models["target"]`, measure on `pairs.test`: a row per condition, setting and metric.

    Base and aligned model answer unsteered. Where nothing can be chosen, a `NOT_CHOSEN` row says why in its note.
    """
    sample, n = pairs.test.sample_each(test), max_new_tokens
    target, aligned = models["target"], models["aligned"]
    rows: list[Row] = []
    for name, model in (("base", models["base"]), ("aligned", aligned)):
        rows += rates(answer(model, sample, [Arm(name)], judge=judge, max_new_tokens=n))
    tried = pairs.val.sample_each(search)
    try:
        made = choose(target, aligned, pairs, other_concept, search_on=tried, max_new_tokens=n)
    except NoLayers as error:  # a finding; any other error is one
        rows += rates(answer(target, sample, [Arm("none")], judge=judge, max_new_tokens=n))
        return pd.DataFrame([*rows, {"condition": NOT_CHOSEN, "note": str(error)}])
    controls = control_plans(made.ours, made.evidence.controls)
    table = conditions(made.ours, made.paper, controls, companions=(), deal_random=True)
    drawn = [row for row in table if row.name in DOSE_LINES]
    at_best = {name: plans for name, plans in made.controls_at_best.items() if name in DOSE_LINES}
    measured = measure({"target": target}, sample, drawn, at_best=at_best, max_new_tokens=n)
    return pd.DataFrame([*rows, *rates(measured.frame, measured.plans), *readings(made, measured)])


def rates(frame: pd.DataFrame, plans: Mapping[str, SteeringPlan] | None = None) -> list[Row]:
    """A row per arm, setting and metric of judged replies; of controls also what they differ from ours by.

    The target as it is and InferAligner are the same at both settings, and stand at both.
    """
    rows = []
    for arm, part in frame.groupby("arm", sort=False):
        name = str(arm).removesuffix(AT_BEST)
        settings = DOSE_SETTINGS if name in DOSE_LINES else ("",)
        found = {metric: estimate(part, counts) for metric, counts in RATES.items()}
        if name in CONTROLS:
            settings = (BEST,) if str(arm).endswith(AT_BEST) else (EQUAL,)
            ours = frame[frame["arm"] == "inferaligner"]
            found |= {metric + MINUS_OURS: change(part, ours, counts) for metric, counts in RATES.items()}
        where = _where(plans[str(arm)]) if plans and arm in plans else {}
        for setting, (metric, one) in product(settings, found.items()):
            if one is not None:
                rows.append({"condition": name, "setting": setting, "metric": metric, **vars(one), **where})
    return rows


def readings(made: Choices, measured: Measured) -> list[Row]:
    """How often the gate opened by label, and the cosine of the two vectors over the steered layers."""
    opened = measured.gate_open().items()
    rows: list[Row] = [{"condition": "gate", "metric": f"open on {label}", **vars(e)} for label, e in opened]
    cosine = made.evidence.srv.cosine(made.evidence.ssv)[list(made.ours.layers)]
    spread = {"mean": float(cosine.mean()), "low": float(cosine.min()), "high": float(cosine.max())}
    note = cosine_sentence(made.evidence.srv, made.evidence.ssv, made.ours.layers)
    how = {"n": len(cosine), "method": "mean, least and largest over the steered layers", "note": note}
    return [*rows, {"condition": "srv_ssv", "metric": "cosine", **spread, **how, **_where(made.ours)}]


def finding(frame: pd.DataFrame) -> str:
    """In how many runs the own vector is the worse one, and by how much at the least and the largest share."""
    runs = len(frame[["share", "seed"]].drop_duplicates())
    best = frame[(frame["setting"] == BEST) & frame["condition"].isin(("own_srv", "inferaligner"))]
    gap = best[best["metric"] == NOT_REFUSED + MINUS_OURS]
    if gap.empty:
        return f"In none of {runs} runs could a setting be chosen"
    points = 100 * gap.groupby("share")["mean"].mean()
    least, most = min(points.index), max(points.index)
    said = f"{points[least]:+.0f} points where the base refused {100 * least:g} % of harm"
    if most > least:
        said += f", {points[most]:+.0f} where it refused {100 * most:g} %"
        unsteered = frame[(frame["condition"] == "none") & (frame["metric"] == NOT_REFUSED)]
        left = unsteered[unsteered["share"] == most]["mean"].mean()
        # Where the target refuses by itself there is nothing left that a vector could be worse at.
        said += f" and the target, unsteered, leaves {100 * left:.0f} %" if left < 0.5 else ""
    broken = best[best["metric"] == "broken"].groupby(["share", "condition"])["mean"].mean().max()
    return (
        "At its best, the target's own vector leaves more attacks not refused than the aligned model's in "
        f"{(gap['low'] > 0).sum()} of {len(gap)} runs, fewer in {(gap['high'] < 0).sum()}: {said}"
        + (f"; up to {100 * broken:.0f} % broken" if broken > 0.02 else "")
        + (f"; in {runs - len(gap)} more nothing could be chosen" if runs > len(gap) else "")
    )


def method(frame: pd.DataFrame) -> str:
    """Who was asked what, and what the marks are."""
    n = frame[frame["condition"] == "inferaligner"].groupby("metric")["n"].max()
    return (
        f"{frame['target'].iloc[0]}: {n['refused']:.0f} harmful and {n['jailbreak_refused']:.0f} jailbroken test "
        "prompts; not refused = 1 − refused − broken; a mark per seed "
        f"({', '.join(map(str, frame['seed'].unique()))}) with its 95 % interval, lines through their means; equal α: "
        "α, layers and positions of ours; own best: each where it did best on validation, after equal search"
    )


def run_one(run: Run, *, target: str, folder: Path) -> pd.DataFrame:
    """Train, choose and measure one (share, seed) on one thread; what is in `folder` already is kept."""
    torch.set_num_threads(1)
    share, seed = run
    here, members = folder / f"{share:g}-seed{seed}", family(refused_share=share)
    csv = here / f"{target}.csv"
    _require_recipe(here / "recipe", recipe_hash(members))
    if not csv.is_file():
        who = {"base": "base", "aligned": "aligned", "target": target}
        home = shipped_path("organisms")
        if run != (REFUSED_SHARE, 0) or not all((home / name).is_dir() for name in who.values()):
            home = here
            train_family(home, seed=seed, members=[m for m in members if m.name in who.values()], processes=1)
        models = {key: load_model(home / name, backend="plain") for key, name in who.items()}
        frame = measure_run(models, *prompts_for(target)).assign(share=share, seed=seed, target=target)
        write_safely(csv, frame.to_csv(index=False).encode())
    return pd.read_csv(csv, dtype={"layers": str})


def _quietly() -> None:
    os.environ["TQDM_DISABLE"] = "1"  # the bars of trainings side by side would overwrite each other


def _where(plan: SteeringPlan) -> Row:
    return dict(Setting(tuple(plan.layers), plan.positions, plan.scale, plan.alpha).tags)


def _require_recipe(path: Path, recipe: str) -> None:
    """What an earlier recipe trained is not to be measured as today's."""
    kept = path.read_text(encoding="utf-8") if path.is_file() else recipe
    if kept != recipe:
        raise ValueError(
            f"{path.parent} is of recipe {kept}, the recipe now is {recipe}: move that folder away"
        )
    write_safely(path, recipe.encode())


def main(arguments: Sequence[str] | None = None) -> None:
    """Run what is missing, then write the csv and the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option, kept = parser.add_argument, ROOT / "runs" / "dose"
    option("--shares", nargs="+", type=float, default=SHARES, help="refused by the base: 0 .05 .2 .5")
    option("--seeds", nargs="+", type=int, default=SEEDS, help="of the trainings: 0 1")
    option("--target", choices=TARGETS, default="medicine", help="who is steered: medicine")
    option("--workers", type=int, default=os.cpu_count() or 1, help="runs side by side: as many as cores")
    option("--runs", type=Path, default=kept, help="where runs are kept: runs/dose")
    option("--out", type=Path, default=ROOT / "figures", help="where csv and picture go: figures")
    given = parser.parse_args(arguments)
    if wrong := [share for share in given.shares if not 0 <= share <= 1]:
        parser.error(f"got shares {wrong}, expected numbers from 0 to 1")
    runs = list(dict.fromkeys(product(given.shares, given.seeds)))
    do = partial(run_one, target=given.target, folder=given.runs)
    # Fresh interpreters, because a fork of a process in which torch has started threads can hang.
    with ProcessPoolExecutor(given.workers, get_context("spawn"), _quietly) as pool:
        found = pool.map(do, runs) if given.workers > 1 else map(do, runs)
        frame = pd.concat(tqdm(found, total=len(runs), desc="runs", position=1), ignore_index=True)
    for row in frame[frame["condition"] == NOT_CHOSEN].to_dict("records"):
        tqdm.write(f"{100 * row['share']:g} % refused, seed {row['seed']}: {row['note']}")
    picture, said = given.out / "dose-response.svg", finding(frame)
    if (frame["condition"] == "inferaligner").any():
        save_figure(dose_response(frame, finding=said, method=method(frame)), frame, picture)
    else:  # nothing to draw, but what is known is kept
        write_safely(picture.with_suffix(".csv"), frame.to_csv(index=False).encode())
    tqdm.write(f"{said}\n{picture.with_suffix('.csv')}")


if __name__ == "__main__":
    main()
