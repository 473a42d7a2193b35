"""Everything the method leaves open, chosen on validation by the rules declared here.

    layers      both models reach `min_auroc` there                                                  (the paper's L_G)
    gate        threshold: at most `false_positive_rate` of the harmless, of the contrast and of the domain prompts open
                it; layer: the one that then opens on most attacks, and of several the one at which attacks lie
                furthest from the nearest of these kinds
    setting     in two stages, the same for every arm: layer sets and positions at one strength, then all strengths at
                the best place of each arm; every arm takes the best of all of those, by `sweep.safest`
    paper       per-layer gate with the paper's bias, all layers, all positions, one raw α, from `RAW_ALPHAS`

Controls get the same search as ours, prompt by prompt and setting by setting, and each takes its own best.

The rules see no test prompt, but their authors have: an earlier draw of the test lists was measured, and what that
changed is told beside each draw on the models' cards.

The trap: a gate that is right on everyday requests may open on every domain prompt, since anything unlike the harmless
extraction prompts may fall on their far side. So the domain's own prompts help to set the threshold and to pick the
gate's layer. The vectors never see them.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from workbench.activations import Activations, last_token_activations
from workbench.evaluation.conditions import control_plans
from workbench.evaluation.protocol import listed
from workbench.gates import ThresholdGate, separation
from workbench.judges.small_world import judge as judge_small_world
from workbench.judges.verdicts import Judge
from workbench.loading import Model
from workbench.profiles import LayerProfile, layer_profile, select_layers
from workbench.prompts import ATTACKS, ContrastSet, PromptSet
from workbench.provenance import Provenance
from workbench.steering import Positions, SteeringPlan
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
from workbench.vectors import SteeringVectors, cosine_range, cosine_sentence, mean_difference, shuffled_labels

MIN_AUROC = 0.95
FALSE_POSITIVE_RATE = 0.01
GAP_ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
FIRST_STAGE_ALPHAS = (0.5,)
RAW_ALPHAS = (2.0, 4.0, 8.0, 12.0, 16.0, 20.0, 24.0, 32.0)  # the paper: 4, or 8 for InternLM
POSITIONS: tuple[Positions, ...] = ("all", "prompt")


@dataclass(frozen=True, eq=False)
class Evidence:
    """What both models say about the extraction and the validation prompts, and the vectors made from it."""

    srv: SteeringVectors
    ssv: SteeringVectors
    shuffled: SteeringVectors
    other_concept: SteeringVectors
    target_train: Activations
    target_val: Activations
    profiles: tuple[LayerProfile, LayerProfile]

    @property
    def controls(self) -> dict[str, SteeringVectors]:
        """The vectors of the conditions that need one of their own."""
        return {"own_srv": self.srv, "shuffled": self.shuffled, "other_concept": self.other_concept}


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

    def sentences(self) -> list[str]:
        """How each choice was made, with its numbers, one sentence each."""
        ours, paper = self.ours, self.paper
        alike = partial(cosine_range, self.evidence.ssv, layers=ours.layers)
        shared = self.gate.shared_layer
        val, everyday = self.strength.provenance.prompts, self.evidence.profiles[0].frame["n"].max()
        tried = f"{self.strength.frame['prompt'].nunique()} of the {len(self.evidence.target_val.labels)}"
        bias = float(self.gate.bias[shared]) if shared is not None else float("nan")
        *kinds, last = calm_kinds(self.evidence.target_val)
        calm = f"{', '.join(kinds)} and {last} prompts each" if kinds else f"{last} prompts"
        return [
            f"layers {listed(self.layers)} tell harmful from harmless in both models (AUROC ≥ {MIN_AUROC:g} on the "
            f"{everyday} prompts of {val} that are of no domain); steered are {_steered(self)}",
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


def read_evidence(
    target: Model, aligned: Model, pairs: ContrastSet, other_concept: PromptSet, *, batch_size: int = 128
) -> Evidence:
    """Read both models once: vectors from `pairs.train`, profiles from `pairs.val`.

    The controls are read where ours is, from the aligned model.
    """
    target_train = last_token_activations(target, pairs.train, batch_size=batch_size)
    aligned_train = last_token_activations(aligned, pairs.train, batch_size=batch_size)
    target_val = last_token_activations(target, pairs.val, batch_size=batch_size)
    aligned_val = last_token_activations(aligned, pairs.val, batch_size=batch_size)
    srv, ssv = mean_difference(target_train), mean_difference(aligned_train)
    return Evidence(
        srv=srv,
        ssv=ssv,
        shuffled=shuffled_labels(aligned_train, seed=0),
        other_concept=mean_difference(last_token_activations(aligned, other_concept, batch_size=batch_size)),
        target_train=target_train,
        target_val=target_val,
        profiles=(layer_profile(srv, target_val), layer_profile(ssv, aligned_val)),
    )


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
    search_on: PromptSet | None = None,
    controls: bool = True,
    judge: Judge = judge_small_world,
    max_new_tokens: int = 64,
    batch_size: int = 128,
    progress: bool = False,
) -> Choices:
    """Layers, gate, strength and positions for `target`, by the module's rules.

    `search_on` is what settings are tried on: `pairs.val`, or a sample of it for quick runs. Layers and gate see all of
    `pairs.val` in any case. `controls=False` leaves out the controls' own searches.
    """
    evidence = read_evidence(target, aligned, pairs, other_concept, batch_size=batch_size)
    layers = select_layers(*evidence.profiles, min_auroc=MIN_AUROC)
    gate = choose_gate(evidence.srv, evidence.target_train, evidence.target_val)
    vectors = evidence.controls
    others = {**vectors, "own_srv_subtracted": -vectors["own_srv"]}

    def sweep(
        plan: SteeringPlan,
        alpha: Sequence[float],
        places: Sequence[Sequence[int]],
        positions: Sequence[Positions],
        beside: Mapping[str, SteeringVectors],
    ) -> SweepResult:
        return run_sweep(
            target, search_on or pairs.val, plan, alpha=alpha, layers=places, positions=positions, controls=beside,
            judge=judge, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress,
        )  # fmt: skip

    start = SteeringPlan(evidence.ssv, gate=gate, layers=layers, alpha=1.0, scale="gap")
    first = sweep(start, FIRST_STAGE_ALPHAS, sets_tried(layers), POSITIONS, others if controls else {})
    arms = ["steered", "random", *others] if controls else ["steered"]
    place = {arm: first.best_setting(arm=arm) for arm in arms}
    second = {
        key: sweep(start, GAP_ALPHAS, [key[0]], [key[1]], others)
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
    paper_gate = ThresholdGate.fit(evidence.srv, evidence.target_train)
    paper = SteeringPlan(evidence.ssv, gate=paper_gate, layers=layers, alpha=RAW_ALPHAS[0])
    raw = sweep(paper, RAW_ALPHAS, [layers], ["all"], {})
    return Choices(
        layers, gate, strength.best_plan(), raw.best_plan(), at_best, first, strength, raw, evidence
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
