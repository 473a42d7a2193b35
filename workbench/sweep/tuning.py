"""Strength, layers and bias by multi-objective search: ask for some settings, answer them as one batch, tell, repeat.

    minimise (unrefused, utility_loss, unanswered) over α ≥ 0, layer sets, bias, positions      (`sweep.objectives`)
    where broken, refusal_rise and placebo_effect keep to their limits                             (`sweep.results`)

NSGA-II (Deb et al. 2002) or TPE (Bergstra et al. 2011), both Optuna's. The directions are given and stay; strength is
never negative, so nothing is subtracted; attack success is there to be made small and cannot be turned round. From the
front one setting is picked by a declared rule, `safest` unless another is given. Random directions of equal length are
answered at every setting that is tried: they have as many to take their best of.

The trap: a search looks at its validation prompts as often as it has trials, and fits their noise. What it reports of
its own pick is flattered; the claim is the one measurement on test.
"""

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, Literal, TypeAlias, get_args
from warnings import catch_warnings, simplefilter

import pandas as pd

from workbench.evaluation.answers import labelled
from workbench.evaluation.report import evaluate
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.loading import Model
from workbench.prompts import ContrastSet, PromptSet
from workbench.steering import Positions, SteeringPlan
from workbench.sweep.choosing import sets_tried
from workbench.sweep.executors import Executor
from workbench.sweep.layers import LayerSets
from workbench.sweep.objectives import LIMITS, require_objectives, score_settings
from workbench.sweep.results import Rule, Sharing, SweepResult, safest
from workbench.sweep.running import run_sweep
from workbench.sweep.space import Range, SearchSpace, expand_sets, list_settings
from workbench.sweep.spec import SETTING, Setting, SweepSpec
from workbench.sweep.tuned import Tuned

Sampler: TypeAlias = Literal["nsga2", "tpe"]
EVALUATED_AT_ONCE = 128


def tune(
    target: Model,
    pairs: ContrastSet,
    plan: SteeringPlan,
    *,
    alpha: Range,
    layers: Sequence[LayerSets | Sequence[int]] | None = None,
    bias: Range | None = None,
    positions: Sequence[Positions] | None = None,
    sampler: Sampler = "nsga2",
    trials: int = 64,
    at_once: int = 16,
    seed: int = 0,
    placebo: int = 10,
    rule: Rule = safest,
    search_on: PromptSet | None = None,
    measure: bool = True,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    ledger: str | Path | None = None,
    executor: Executor | None = None,
    twin: bool = True,
    progress: bool = False,
) -> Tuned:
    """Search α, layers, bias and positions on `pairs.val`, pick one setting, and measure it once on `pairs.test`.

    `alpha` are the bounds of the strength, in the plan's scale. `layers` lists sets, or kinds of them made of the
    plan's own layers (`layer_sets`); by default all of these and every window of three. `bias` are bounds for making a
    `ThresholdGate` laxer or stricter, in units of its projection; without them it stays. `at_once` settings are asked,
    answered in one call, and told; with NSGA-II they are a generation. `placebo` counts the random directions, dealt to
    the prompts in turn. `search_on` is a sample of `pairs.val` for quick runs. `rule` scores the front's settings, and
    the mildest of the best is picked. `measure=False` leaves the test prompts alone. `ledger`, `executor`,
    `twin` and `batch_size` are those of `run_sweep`: with a ledger the same call goes on where it stopped.

    The same seed gives the same trials. Needs Optuna: pip install 'inferaligner-workbench[search]'.
    """
    optuna = require_search(sampler, trials, at_once)
    sets = expand_sets(sets_tried(plan.layers) if layers is None else layers, plan.layers)
    space = SearchSpace(plan, alpha, sets, bias, tuple([plan.positions] if positions is None else positions))
    prompts = labelled(pairs.val if search_on is None else search_on)
    _require_apart(prompts, pairs)
    names = require_objectives(prompts)
    # Without a ledger of the user's own one holds what the batches have in common: the unsteered rows, most of all.
    with _quiet(optuna), TemporaryDirectory() as folder:
        study = _study(optuna, sampler, at_once, seed, len(names))
        run = partial(
            run_sweep, target, prompts, judge=judge, max_new_tokens=max_new_tokens, batch_size=batch_size,
            ledger=ledger or Path(folder, "ledger.sqlite"), executor=executor, twin=twin, progress=progress,
        )  # fmt: skip
        sizes = [min(at_once, trials - start) for start in range(0, trials, at_once)]
        found = _search(study, sizes, space, names, run, placebo)
    picked = _only(found.sweep, found.front()).best_setting(rule)
    report = None
    if measure:
        report = evaluate(
            target, pairs.test, found.sweep.spec.at(picked), placebo=placebo, judge=judge,
            max_new_tokens=max_new_tokens, batch_size=batch_size or EVALUATED_AT_ONCE, twin=twin,
            progress=progress,
        )  # fmt: skip
    return replace(found, picked=picked, report=report)


def _search(
    study: Any,
    sizes: Sequence[int],
    space: SearchSpace,
    names: Sequence[str],
    run: Callable[[SweepSpec], SweepResult],
    placebo: int,
) -> Tuned:
    """Everything but the choice: the first setting tried stands in for it."""
    asked: list[tuple[int, int, Setting]] = []
    parts: list[tuple[SweepResult, pd.DataFrame]] = []
    for batch, size in enumerate(sizes):
        trials = [study.ask() for _ in range(size)]
        wanted = [space.ask(trial) for trial in trials]
        before = {setting for _, _, setting in asked}
        if new := [setting for setting in dict.fromkeys(wanted) if setting not in before]:
            swept = run(list_settings(space.plan, new, placebo=placebo))
            parts.append((swept, score_settings(swept)))
        scores = _by_setting(pd.concat([scored for _, scored in parts]))
        for trial, setting in zip(trials, wanted, strict=True):
            score = scores[_key(dict(setting.tags))]
            for name, limit in LIMITS.items():
                trial.set_constraint(name, score[name] - limit)
            study.tell(trial, [score[name] for name in names])
            asked.append((batch, trial.number, setting))
    sweep, scored = _joined(space.plan, placebo, parts)
    rows = [
        {"arm": arm, "number": number, "batch": batch, **dict(setting.tags)}
        for arm in ("steered", "random")
        for batch, number, setting in asked
    ]
    trials_frame = pd.DataFrame(rows).merge(scored, on=["arm", *SETTING], how="left")
    return Tuned(sweep, scored, trials_frame, asked[0][2], None)


def _joined(
    plan: SteeringPlan, placebo: int, parts: Sequence[tuple[SweepResult, pd.DataFrame]]
) -> tuple[SweepResult, pd.DataFrame]:
    """All batches as one sweep, and its scores; the unsteered arm, which is in every batch and the same, once."""
    frames, scores = zip(*((swept.frame, scored) for swept, scored in parts), strict=True)
    settings = [setting for swept, _ in parts for setting in swept.spec.settings]
    provenance = replace(parts[0][0].provenance, note=f"plan {plan.id}, {len(settings)} settings searched")
    frame, scored = (
        pd.concat([several[0], *(one[one["arm"] != "unsteered"] for one in several[1:])], ignore_index=True)
        for several in (frames, scores)
    )
    shared = [swept.sharing for swept, _ in parts]
    sharing = Sharing(*(sum(getattr(one, name) for one in shared) for name in ("points", "rows", "known")))
    spec = list_settings(plan, settings, placebo=placebo)
    return SweepResult(spec, frame, provenance, sharing, parts[0][0].computed_on), scored


def _only(sweep: SweepResult, trials: pd.DataFrame) -> SweepResult:
    """The sweep with the settings of `trials` alone, for the rule to choose from."""
    kept = set(trials[SETTING].itertuples(index=False, name=None))
    here = pd.Series(list(sweep.frame[SETTING].itertuples(index=False, name=None)), index=sweep.frame.index)
    return replace(sweep, frame=sweep.frame[here.isin(kept) | (sweep.frame["arm"] == "unsteered")])


def _by_setting(scored: pd.DataFrame) -> dict[tuple[object, ...], Any]:
    """The scores of ours by their setting."""
    steered = scored[scored["arm"] == "steered"]
    return {_key(row): row for row in steered.to_dict("records")}


def _key(row: Mapping[Any, object]) -> tuple[object, ...]:
    return tuple(row[column] for column in SETTING)


def _study(optuna: ModuleType, sampler: Sampler, at_once: int, seed: int, n: int) -> Any:
    samplers = optuna.samplers
    if sampler == "nsga2":
        # Optuna's own way of crossing copies strengths from parents, and so asks for the same settings again and again.
        blend = samplers.nsgaii.BLXAlphaCrossover()
        chosen = samplers.NSGAIISampler(population_size=max(2, at_once), crossover=blend, seed=seed)
    else:
        chosen = samplers.TPESampler(n_startup_trials=at_once, seed=seed)
    return optuna.create_study(directions=["minimize"] * n, sampler=chosen)


@contextmanager
def _quiet(optuna: ModuleType) -> Iterator[None]:
    """Optuna tells of every new study, and of what it calls experimental, on stderr; the library prints nothing."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with catch_warnings():
            simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def require_search(sampler: Sampler, trials: int, at_once: int) -> ModuleType:
    """Optuna, once these are sound: for whoever would rather know before models are loaded."""
    if sampler not in get_args(Sampler):
        raise ValueError(
            f"got sampler={sampler!r}, expected one of {', '.join(map(repr, get_args(Sampler)))}"
        )
    if not 1 <= at_once <= trials:
        raise ValueError(
            f"got trials={trials}, at_once={at_once}, expected 1 or more at once, and no more than there are trials"
        )
    try:
        return importlib.import_module("optuna")
    except ImportError as error:
        raise ImportError(
            "tuning needs Optuna, which is not installed here: pip install 'inferaligner-workbench[search]'"
        ) from error


def _require_apart(prompts: PromptSet, pairs: ContrastSet) -> None:
    """Refuse a search on prompts that the claim rests on."""
    test = {prompt.messages for prompt in pairs.test}
    shared = [prompt for prompt in prompts if prompt.messages in test]
    if shared:
        raise ValueError(
            f"got search_on with {len(shared)} prompts of {pairs.name!r}.test, {shared[0].text!r} say: search on "
            "pairs.val, or a sample of it, since what is picked is measured on test"
        )
