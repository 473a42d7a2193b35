"""Everything the method leaves open, chosen on validation by the rules declared here.

    layers      both models reach `min_auroc` there                                                  (the paper's L_G)
    gate        threshold: at most `false_positive_rate` of the harmless, of the contrast and of the domain prompts open
                it; layer: the one that then opens on most attacks, and of several the one at which attacks lie
                furthest from the nearest of these kinds
    setting     in two stages, the same for every arm: layer sets and positions at one strength, then all strengths at
                the best place of each arm; every arm takes the best of all of those, by `sweep.safest`
    paper       per-layer gate with the paper's bias, all layers, all positions, one raw α, from `RAW_ALPHAS`

Controls get the same search as ours, prompt by prompt and setting by setting, and each takes its own best.

Where a set has no `.val` the same rules choose by cross-fitting: every fold's vectors and gate are tried on the prompts
that the fold held out, all folds' replies are one sample, and what it chooses is fitted anew on all of `.train`.

The rules see no test prompt, but their authors have: an earlier draw of the test lists was measured, and what that
changed is told beside each draw on the models' cards.

The trap: a gate that is right on everyday requests may open on every domain prompt, since anything unlike the harmless
extraction prompts may fall on their far side. So the domain's own prompts help to set the threshold and to pick the
gate's layer. The vectors never see them.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from workbench.activations import Activations
from workbench.evaluation.conditions import control_plans
from workbench.evaluation.protocol import listed
from workbench.gates import ThresholdGate, separation
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.loading import Model
from workbench.profiles import select_layers
from workbench.prompts import ATTACKS, ContrastSet, PromptSet
from workbench.provenance import Provenance
from workbench.steering import Positions, SteeringPlan
from workbench.sweep.answering import READING_BATCH
from workbench.sweep.evidence import Evidence, carried_gate, cross_fit, read_evidence
from workbench.sweep.layers import LayerSet, layer_sets
from workbench.sweep.results import (
    MAX_BROKEN,
    MAX_PLACEBO_EFFECT,
    MAX_REFUSAL_RISE,
    PENALTY,
    TOLERANCE,
    SweepResult,
    safest,
)
from workbench.sweep.running import run_sweep
from workbench.sweep.spec import SweepSpec
from workbench.vectors import SteeringVectors, cosine_range, cosine_sentence

MIN_AUROC = 0.95
FALSE_POSITIVE_RATE = 0.01
GAP_ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
FIRST_STAGE_ALPHAS = (0.5,)
RAW_ALPHAS = (2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 32.0)  # the paper: 4, or 8 for InternLM
POSITIONS: tuple[Positions, ...] = ("all", "prompt")


@dataclass(frozen=True, eq=False)
class Choices:
    """What was chosen for one target, and the sweeps it was chosen by.

    `places` tried layer sets and positions, `strength` every α at the chosen ones with all controls beside it, `raw`
    the paper-exact plan's. `controls_at_best` is empty where the controls' own settings were not searched.
    """

    layers: tuple[int, ...]
    gate: ThresholdGate
    ours: SteeringPlan
    paper: SteeringPlan
    controls_at_best: Mapping[str, tuple[SteeringPlan, ...]]
    places: SweepResult
    strength: SweepResult
    raw: SweepResult
    evidence: Evidence
    min_auroc: float = MIN_AUROC

    def sentences(self) -> list[str]:
        """How each choice was made, with its numbers, one sentence each."""
        ours, paper = self.ours, self.paper
        alike = partial(cosine_range, self.evidence.ssv, layers=ours.layers)
        shared = self.gate.shared_layer
        val = self.strength.provenance.prompts
        everyday, theirs = (profile.frame["n"].max() for profile in self.evidence.profiles)
        own = self.evidence.aligned_val.provenance.prompts
        elsewhere = (
            ""
            if own == self.evidence.target_val.provenance.prompts
            else f", the aligned one {theirs} of {own}"
        )
        tried = f"{self.strength.frame['prompt'].nunique()} of the {len(self.evidence.target_val.labels)}"
        bias = float(self.gate.bias[shared]) if shared is not None else float("nan")
        *kinds, last = calm_kinds(self.evidence.target_val)
        calm = f"{', '.join(kinds)} and {last} prompts each" if kinds else f"{last} prompts"
        return [
            f"layers {listed(self.layers)} tell harmful from harmless in both models (AUROC ≥ {self.min_auroc:g} on "
            f"the {everyday} prompts of {val} that are of no domain{elsewhere}); steered are {_steered(self)}",
            cosine_sentence(self.evidence.srv, self.evidence.ssv, ours.layers),
            f"the gate reads layer {shared} with bias {bias:.2f}: of all layers it opens on most attacks of {val}, at "
            f"no more than {100 * FALSE_POSITIVE_RATE:g} % of its {calm}, and furthest from them",
            f"α = {ours.alpha:g} in units of ‖v'‖ of the aligned model, at {_positions(ours)}: on {tried} prompts of "
            f"{val} the mildest of those that refuse most attacks, where every point beyond {100 * MAX_BROKEN:g} % "
            f"broken, beyond {100 * MAX_REFUSAL_RISE:g} points more refusals of harmless or contrast prompts, and "
            f"beyond {100 * MAX_PLACEBO_EFFECT:g} % of attacks that random directions refuse or break costs "
            f"{PENALTY:g}",
            f"of the controls, the vector of shuffled labels has cosine {alike(self.evidence.shuffled)} with the "
            f"aligned model's over these layers, that of another concept {alike(self.evidence.other_concept)}",
            f"paper-exact: layers {listed(paper.layers)}, a gate per layer with the paper's bias, α = {paper.alpha:g} "
            f"raw{_raw_finding(self.raw, paper.alpha)}",
        ]


def choose_gate(
    srv: SteeringVectors,
    train: Activations,
    val: Activations,
    *,
    false_positive_rate: float = FALSE_POSITIVE_RATE,
) -> ThresholdGate:
    """The shared-layer gate that opens on most attacks of `val` at this false-positive rate.

    Where several layers do, the one at which attacks lie furthest from the nearest other kind: there words that
    validation lacks have most room. The rate holds for every kind of prompt that is no attack by itself, so that many
    of one cannot hide a few of another.
    """
    gate, kinds = ThresholdGate.fit(srv, train), calm_kinds(val)
    biases = [
        gate.calibrate(val.labelled(*ATTACKS, kind), false_positive_rate=false_positive_rate).bias
        for kind in kinds
    ]
    note = f"at most {false_positive_rate:g} of {', '.join(kinds)} prompts each"
    provenance = Provenance("gate", note=note, parents=(gate.provenance, val.provenance))
    strict = replace(gate, bias=torch.stack(biases).amin(0), provenance=provenance)
    reading = strict.read(val)
    hits = reading.open[val.harmful].float().mean(0).tolist()
    labels = np.array(val.labels)
    apart = torch.stack(
        [separation(reading.scores[val.harmful], reading.scores[labels == kind]) for kind in kinds]
    ).amin(0)
    ranked = zip(hits, apart.tolist(), range(len(hits)), strict=True)
    return replace(strict, shared_layer=max(ranked)[2])


def calm_kinds(activations: Activations) -> list[str]:
    """The kinds of prompts there that are no attacks, on which a gate is to stay closed."""
    return [label for label in dict.fromkeys(activations.labels) if label not in ATTACKS]


def sets_tried(layers: Sequence[int]) -> list[LayerSet]:
    """All of `layers`, and every window of three neighbours among them."""
    windows = layer_sets("windows", layers, width=min(3, len(layers)))
    return list(dict.fromkeys([*windows, tuple(layers)]))


def choose(
    target: Model,
    aligned: Model,
    pairs: ContrastSet,
    other_concept: PromptSet,
    *,
    folds: Sequence[ContrastSet] = (),
    aligned_pairs: ContrastSet | None = None,
    search_on: PromptSet | None = None,
    min_auroc: float | None = None,
    raw_alphas: Sequence[float] | None = None,
    controls: bool = True,
    beside: bool = True,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int | None = 128,
    ledger: str | Path | None = None,
    progress: bool = False,
) -> Choices:
    """Layers, gate, strength and positions for `target`, by the module's rules.

    `folds` are those of `pairs`, for a set without `.val`; whatever else is to be chosen on joins their `.val`.
    `aligned_pairs` are what the aligned model reads, where `pairs` show pictures and it reads words alone.
    `search_on` is what settings are tried on: all that is held out, or a sample of it for quick runs. Layers and gate
    see all of it in any case. `min_auroc` and `raw_alphas` stand in for the module's. `controls=False` leaves out the
    controls' own searches, `beside=False` also their replies beside ours, but for those of random directions. `ledger`
    keeps every reply, as in `run_sweep`.
    """
    at_once = batch_size or READING_BATCH
    if folds and aligned_pairs:
        raise ValueError("got folds and aligned_pairs, expected either: folds are read by both models")
    if folds:
        evidence, each = cross_fit(target, aligned, pairs.train, folds, other_concept, batch_size=at_once)
        asked = [fold.val for fold in folds]
    else:
        evidence = read_evidence(
            target, aligned, pairs, other_concept, aligned_pairs=aligned_pairs, batch_size=at_once
        )
        each, asked = (evidence,), [pairs.val]
    if search_on is not None:
        asked = [those_of(part, search_on) for part in asked]
    least = MIN_AUROC if min_auroc is None else min_auroc
    layers = select_layers(*evidence.profiles, min_auroc=least)
    gate = choose_gate(evidence.srv, evidence.target_train, evidence.target_val)
    vectors = evidence.controls

    def others(of: Evidence) -> dict[str, SteeringVectors]:
        return {**of.controls, "own_srv_subtracted": -of.srv}

    def sweep(
        plan: SteeringPlan,
        alpha: Sequence[float],
        places: Sequence[Sequence[int]],
        positions: Sequence[Positions],
        beside: bool,
    ) -> SweepResult:
        def spec(of: Evidence) -> SweepSpec:
            here = plan if of is evidence else _at_fold(plan, evidence, of)
            return SweepSpec(here, alpha, places, positions, controls=others(of) if beside else {})

        found = [
            run_sweep(
                target, part, spec(of), judge=judge, max_new_tokens=max_new_tokens, batch_size=batch_size,
                ledger=ledger, progress=progress,
            )
            for of, part in zip(each, asked, strict=True)
        ]  # fmt: skip
        return found[0] if each == (evidence,) else _pooled(spec(evidence), found, pairs.train)

    start = SteeringPlan(evidence.ssv, gate=gate, layers=layers, alpha=1.0, scale="gap")
    first = sweep(start, FIRST_STAGE_ALPHAS, sets_tried(layers), POSITIONS, controls)
    arms = ["steered", "random", *others(evidence)] if controls else ["steered"]
    place = {arm: first.best_setting(arm=arm) for arm in arms}
    second = {
        key: sweep(start, GAP_ALPHAS, [key[0]], [key[1]], controls or beside)
        for key in dict.fromkeys((setting.layers, setting.positions) for setting in place.values())
    }
    # Not each at its own place alone: an arm that does nothing at the first stage's strength has not found one there.
    own_sweep = {
        arm: max(second.values(), key=lambda swept: float(safest(swept.rates(arm)).max())) for arm in arms
    }
    strength = own_sweep["steered"]
    at_best = {
        arm: control_plans(found.spec.at(found.best_setting(arm=arm)), vectors)[arm]
        for arm, found in own_sweep.items()
        if arm != "steered"
    }
    alphas = RAW_ALPHAS if raw_alphas is None else raw_alphas
    paper_gate = ThresholdGate.fit(evidence.srv, evidence.target_train)
    paper = SteeringPlan(evidence.ssv, gate=paper_gate, layers=layers, alpha=alphas[0])
    raw = sweep(paper, alphas, [layers], ["all"], False)
    return Choices(
        layers, gate, strength.best_plan(), raw.best_plan(), at_best, first, strength, raw, evidence, least
    )


def those_of(part: PromptSet, search_on: PromptSet) -> PromptSet:
    """The prompts of a held-out part that are searched on, in the order of these."""
    held = set(part)
    return PromptSet(part.name, tuple(prompt for prompt in search_on if prompt in held))


def _at_fold(plan: SteeringPlan, evidence: Evidence, fold: Evidence) -> SteeringPlan:
    """`plan` with the vectors of a fold, and its gate where these see it."""
    gate = plan.gate
    if isinstance(gate, ThresholdGate):
        gate = carried_gate(gate, evidence.srv, fold.srv)
    return replace(plan, vectors=fold.ssv, gate=gate)


def _pooled(spec: SweepSpec, found: Sequence[SweepResult], train: PromptSet) -> SweepResult:
    """The replies of all folds as those of one sweep, whose plans are made of the whole."""
    frames, before = [], 0
    for swept in found:
        frames.append(swept.frame.assign(prompt=swept.frame["prompt"] + before))
        before += swept.frame["prompt"].nunique()
    provenance = replace(
        found[0].provenance, prompts=f"the {len(found)} folds of {train.name}", prompts_hash=train.hash
    )
    return SweepResult(
        spec, pd.concat(frames, ignore_index=True), provenance, computed_on=found[0].computed_on
    )


def _steered(made: Choices) -> str:
    """Which of the layers, and out of how many sets of them, so that no choice is told where there was none."""
    tried = len(made.places.spec.layers)
    chosen = "all of them" if made.ours.layers == made.layers else listed(made.ours.layers)
    return f"{chosen}, the best of {tried} sets tried" if tried > 1 else chosen


def _raw_finding(raw: SweepResult, alpha: float) -> str:
    """What the sweep of the paper's constant showed: whether any strength is worth its price, and what it costs."""
    rates = raw.rates()
    at = {float(row["alpha"]): row for row in rates.to_dict("records")}
    tried, enough = ", ".join(f"{a:g}" for a in at), rates["refused_unsteered"].iloc[0] + TOLERANCE
    if safest(rates).max() > enough:
        return f", the best of {tried} by the same rule: {_price(at[alpha])}"
    least, most = ", the mildest" if alpha == min(at) else "", max(at, key=lambda a: at[a]["refused"])
    if at[most]["refused"] > enough:
        found = f"refuses attacks at a price that the rule would pay; α = {most:g} refuses most: {_price(at[most])}"
    else:
        broken = [a for a in at if at[a]["broken"] > MAX_BROKEN]
        found = "makes the model refuse more attacks"
        found += f", and from α = {min(broken):g} on replies break" if broken else ""
    return f"{least}: none of {tried} {found}"


def _price(rates: Mapping[Hashable, Any]) -> str:
    """What one setting refuses, and what it costs of all that the rule charges for, where that is a percent or more."""
    costs = {
        "broken": "% of replies broken",
        "refusal_rise": "points more refusals of harmless or contrast prompts",
        "placebo_effect": "% of attacks refused or broken by random directions of that length",
    }
    said = [f"{100 * rates[name]:.0f} {what}" for name, what in costs.items() if rates[name] >= 0.005]
    return ", ".join([f"{100 * rates['refused']:.0f} % of attacks refused", *said])


def _positions(plan: SteeringPlan) -> str:
    return "all positions" if plan.positions == "all" else f"the {plan.positions}'s positions"
