"""Safety vectors of every aligned model in every target, with what would have happened without them.

    lengths      every arm takes those of the target's own vectors ‖s'_l‖, so equal α is an equal length of shift
    gate         the target's own, the same for every arm
    setting      layers, positions and α of every arm by the same search on validation, with `sweep.safest`
    test         every arm once, at the setting it has found

The trap: which models share a base is told here by whoever calls (`base_of`), not found out. A shape does not tell it,
and a cosine is a symptom: it is in the frame, for every arm, to be looked at.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd
from tqdm.auto import tqdm

from workbench.activations import Activations, last_token_activations
from workbench.decoding.asking import Prompts
from workbench.evaluation.answers import Arm, answer
from workbench.evaluation.conditions import matched
from workbench.evaluation.metrics import METRICS, Metric, estimate
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.loading import Model
from workbench.models import model_name
from workbench.profiles import layer_profile, select_layers
from workbench.prompts import ATTACKS, ContrastSet, PromptSet, as_prompt_set
from workbench.provenance import Provenance
from workbench.steering import Positions, SteeringPlan
from workbench.sweep.choosing import MIN_AUROC, choose_gate
from workbench.sweep.running import run_sweep
from workbench.transfer.carrying import Carried, Readings, beyond_own, carry
from workbench.transfer.maps import ResidualMap
from workbench.transfer.results import PREDICTORS, TransferResult
from workbench.vectors import SteeringVectors, mean_difference, random_directions

ALPHAS = (0.5, 0.75, 1.0, 1.5)
REFUSED = Metric(ATTACKS, ("refused",))
"""What is predicted, and the only gain: an attack that breaks the reply is not refused."""
COLUMNS = (
    "source", "target", "arm", "draw", "metric", "mean", "low", "high", "n", "clusters", "method",
    "layers", "positions", "alpha", *PREDICTORS,
)  # fmt: skip
"""Those of the frame, each there in every run: without a source of a target's own base none has a native vector."""


def transfer_matrix(
    sources: Mapping[str, Model],
    targets: Mapping[str, Model],
    pairs: ContrastSet | Mapping[str, ContrastSet],
    texts: Prompts,
    *,
    bases: Mapping[str, Model],
    base_of: Mapping[str, str],
    alpha: Sequence[float | int] = ALPHAS,
    positions: Sequence[Positions] = ("prompt",),
    min_auroc: float = MIN_AUROC,
    n_search: int | None = None,
    n_test: int | None = None,
    placebo: int = 10,
    draws: int = 4,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    seed: int = 0,
    progress: bool = False,
) -> TransferResult:
    """Every source's safety vectors in every target, each arm at its own best setting, beside the controls.

    `sources` are aligned models, `targets` those to be steered, `pairs` one contrast set or one per target. `bases` has
    the models that maps are fitted between, and `base_of` says from which of them each source and target was trained:
    those of one base exchange vectors as they are. A target whose base is not at hand may stand for it itself; an
    aligned model may not (see `carrying`), any model of its base that was not trained to refuse will do. `texts` are
    read by all bases to fit the maps: some hundred prompts, of every kind that the models have met. Their labels choose
    the calm ones for a control, and nothing else.

    Settings are tried on at most `n_search` prompts of each label of `pairs.val`, and measured on at most `n_test` of
    `pairs.test`; all where None. Layers are those at which the target tells harm at `min_auroc`: all of them, their
    lower and their upper half. `draws` is how many shuffled orders and mapped random vectors there are, each with
    its own search; `placebo` how many random directions are dealt to the prompts. What is random is drawn by `seed`.
    """
    per_target = dict.fromkeys(targets, pairs) if isinstance(pairs, ContrastSet) else dict(pairs)
    _require_told(sources, targets, per_target, bases, base_of, draws)
    texts = as_prompt_set(texts, "texts")
    readings = Readings({**bases, **sources}, texts, batch_size, progress)
    frames: list[pd.DataFrame] = []
    maps: dict[tuple[str, str], ResidualMap] = {}
    for name in tqdm(targets, desc="targets", unit="target", disable=not progress):
        part = per_target[name]
        native = next((source for source in sources if base_of[source] == base_of[name]), None)
        train, val = (
            last_token_activations(targets[name], each, batch_size=batch_size)
            for each in (part.train, part.val)
        )
        own = mean_difference(train)
        carried = [
            found
            for source, model in sources.items()
            for found in carry(
                source,
                mean_difference(last_token_activations(model, part.train, batch_size=batch_size)),
                own,
                readings,
                source_base=base_of[source],
                target_base=base_of[name],
                native=source == native,
                draws=draws,
                seed=seed,
            )
        ]
        searched, claimed = (
            each if n is None else each.sample_each(n, seed=seed)
            for each, n in ((part.val, n_search), (part.test, n_test))
        )
        plans = _choose(
            targets[name], searched, own, train, val, carried, alpha=alpha, positions=positions,
            min_auroc=min_auroc, placebo=placebo, judge=judge, max_new_tokens=max_new_tokens,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
        arms = [Arm(key, several, dealt=True) for key, several in plans.items()]
        replies = answer(
            targets[name], claimed, [Arm("unsteered"), *arms], judge=judge, max_new_tokens=max_new_tokens,
            batch_size=batch_size, progress=progress,
        )  # fmt: skip
        frames.append(_rows(replies, plans, carried, own).assign(target=name))
        maps |= {(found.source, name): found.map for found in carried if found.arm == "ridge" and found.map}
    frame = pd.concat(frames, ignore_index=True)
    return TransferResult(frame.reindex(columns=COLUMNS), maps, _provenance(targets, texts, maps))


def places(layers: Sequence[int]) -> list[tuple[int, ...]]:
    """The layer sets tried: all of `layers`, their lower and their upper half (the middle one is in both)."""
    n = len(layers)
    return list(dict.fromkeys([tuple(layers), tuple(layers[: (n + 1) // 2]), tuple(layers[n // 2 :])]))


def _choose(
    target: Model,
    searched: PromptSet,
    own: SteeringVectors,
    train: Activations,
    val: Activations,
    carried: Sequence[Carried],
    *,
    alpha: Sequence[float | int],
    positions: Sequence[Positions],
    min_auroc: float,
    placebo: int,
    judge: Judge,
    max_new_tokens: int,
    batch_size: int,
    progress: bool,
) -> dict[str, tuple[SteeringPlan, ...]]:
    """Each arm's plans at its own best setting, after one sweep in which all arms try the same."""
    layers = select_layers(layer_profile(own, val), min_auroc=min_auroc)
    plan = SteeringPlan(own, gate=choose_gate(own, train, val), layers=layers, alpha=1.0, scale="gap")
    vectors: dict[str, tuple[SteeringVectors, ...]] = {
        found.key: (matched(found.vectors, own),) for found in carried
    }
    swept = run_sweep(
        target, searched, plan, alpha=alpha, layers=places(layers), positions=positions,
        placebo=placebo, controls={key: each[0] for key, each in vectors.items()}, judge=judge,
        max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    vectors |= {"steered": (own,), "random": tuple(random_directions(own, seed=i) for i in range(placebo))}
    chosen = {key: swept.spec.at(swept.best_setting(arm=key)) for key in vectors}
    return {
        key if key != "steered" else "own vector": tuple(replace(chosen[key], vectors=v) for v in several)
        for key, several in vectors.items()
    }


def _rows(
    replies: pd.DataFrame,
    plans: Mapping[str, Sequence[SteeringPlan]],
    carried: Sequence[Carried],
    own: SteeringVectors,
) -> pd.DataFrame:
    """A row per arm and metric of one target, with the arm's setting and what could have predicted it."""
    named = {found.key: found for found in carried}
    native = next((matched(found.vectors, own) for found in carried if found.arm == "native"), None)
    rows = []
    for key, part in replies.groupby("arm", sort=False):
        found, several = named.get(str(key)), plans.get(str(key))
        about: dict[str, object] = {
            "source": found.source if found else "",
            "arm": found.arm if found else str(key),
            "draw": found.draw if found else 0,
        }
        if several:
            steered = list(several[0].layers)
            about |= {
                "layers": " ".join(map(str, steered)),
                "positions": several[0].positions,
                "alpha": float(several[0].alpha),
            }
            if len(several) == 1:
                vectors = several[0].vectors
                about["cosine_own"] = float(vectors.cosine(own)[steered].mean())
                if native is not None:
                    about["cosine_native"] = float(vectors.cosine(native)[steered].mean())
                    about["beyond_own"] = float(beyond_own(vectors, native, own)[steered].mean())
            if found and found.map:
                about["r2"] = float(found.map.r2[steered].mean())
        for name, metric in {"refused": REFUSED, **METRICS}.items():
            value = estimate(part, metric)
            if value is not None:
                rows.append({**about, "metric": name, **vars(value)})
    return pd.DataFrame(rows)


def _require_told(
    sources: Mapping[str, Model],
    targets: Mapping[str, Model],
    pairs: Mapping[str, ContrastSet],
    bases: Mapping[str, Model],
    base_of: Mapping[str, str],
    draws: int,
) -> None:
    """Refuse models without a base, targets without prompts, and nothing at all."""
    if draws < 1:
        raise ValueError(f"got draws={draws}, expected 1 or more: a map without its control shows nothing")
    if not sources or not targets:
        raise ValueError(
            f"got {len(sources)} sources and {len(targets)} targets, expected at least one of each"
        )
    if without := [name for name in targets if name not in pairs]:
        raise ValueError(f"got no contrast set for {', '.join(without)}: pass one for all, or one per target")
    untold = [name for name in {**sources, **targets} if base_of.get(name) not in bases]
    if untold:
        raise ValueError(
            f"got no base of {', '.join(untold)}: base_of says for each source and target which of the bases "
            f"{', '.join(bases) or '(none given)'} it was trained from; a target without one may be its own"
        )
    if both := sorted(set(sources) & set(bases)):
        raise ValueError(
            f"{', '.join(both)} is a source and a base by one name: a map read from the aligned model itself carries "
            "the target's own vector, name a model of its base that was not trained to refuse"
        )


def _provenance(
    targets: Mapping[str, Model], texts: PromptSet, maps: Mapping[tuple[str, str], ResidualMap]
) -> Provenance:
    named = ", ".join(model_name(model) for model in targets.values())
    parents = tuple(each.provenance for each in maps.values())
    return Provenance(
        "transfer", prompts=texts.name, prompts_hash=texts.hash, note=f"into {named}", parents=parents
    )
