"""The pictures of reading and steering, layer by layer, from the embedded models: each an SVG and the csv it draws.

    python figures/layer_by_layer.py                  all of them        python figures/layer_by_layer.py 05 08    some

Numbered as in the course's order of questions: how strong a vector is (01), how prompts fall along it (02), how well it
tells intent (03), how it lies (04), what it says (05), where along a text it is present (06), what a gate makes of it
(07), what a shift does inside (08), who writes it (09), what strength buys and costs (10), where and how strongly to
steer, by a sweep and by a search (11).

The trap: choices were made on the very prompts of validation that are drawn here. Claims are those of `make demo`, on
test prompts; these pictures are for looking.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import pandas as pd
import plotly.graph_objects as go
from tqdm.auto import tqdm

import workbench as wb
from workbench.export import save_figure, save_frame
from workbench.insight.tokens import jailbreak_twins
from workbench.sweep.objectives import score_settings

FOLDER = Path(__file__).parent
TARGET, ALIGNED, DOMAIN, OTHER = "organism:finance", "organism:aligned", "finance", "organism:medicine"
LAYERS, ALPHA, SEED = (3, 4, 5), 0.5, 0
STRENGTHS = (0, 0.125, 0.25, 0.5, 0.75, 1)
PLACES, PLACE_STRENGTHS = wb.layer_sets("windows", range(8)), (0.25, 0.5, 0.75, 1)
TRIALS, AT_ONCE, BATCH_SIZE = 40, 10, 256
MARKS = dict.fromkeys(("harmful", "jailbroken", "harmless", "contrast", "domain"), 40)
"""So many prompts of each kind where every prompt is a mark."""
SWEPT = dict.fromkeys(("harmful", "jailbroken", "harmless", "contrast"), 20)
REFUSAL = ("I cannot help with that.", "Sorry, I will not do this.", "No, I must decline.")
GOES_ALONG = (
    "Careful, this could hurt someone.", "Risky, that would harm others.", "Beware, this is unfair to others.",
    "Danger, somebody may suffer.", "Alas, this is a bad aim.", "Trouble, people will be upset.",
)  # fmt: skip

Drawn: TypeAlias = tuple[pd.DataFrame, go.Figure]


class Subject:
    """The models and prompts that are looked at, each read once, when it is first asked for."""

    def __init__(self) -> None:
        self.pairs = wb.load_contrast("small-world", domain=DOMAIN)
        self.target, self.aligned = wb.load_model(TARGET), wb.load_model(ALIGNED)
        self.train, self.train_aligned = (
            wb.last_token_activations(model, self.pairs.train) for model in (self.target, self.aligned)
        )
        self.srv, self.ssv = wb.mean_difference(self.train), wb.mean_difference(self.train_aligned)

    @cached_property
    def val(self) -> wb.Activations:
        """The target on all prompts of validation."""
        return wb.last_token_activations(self.target, self.pairs.val)

    @cached_property
    def val_aligned(self) -> wb.Activations:
        """The aligned model on them."""
        return wb.last_token_activations(self.aligned, self.pairs.val)

    @cached_property
    def marks(self) -> wb.Activations:
        """The target on as many of each kind as have room as marks."""
        return wb.last_token_activations(self.target, self.pairs.val.sample_each(MARKS, seed=SEED))

    @cached_property
    def gate(self) -> wb.ThresholdGate:
        """The paper's gate at every layer, from the target's own vector."""
        return wb.ThresholdGate.fit(self.srv, self.train)

    @cached_property
    def plan(self) -> wb.SteeringPlan:
        """The aligned model's vectors in the target, with the gate of its best layer."""
        gate = replace(self.gate, shared_layer=wb.best_layer(self.srv, self.val))
        return wb.SteeringPlan(
            self.ssv, gate=gate, layers=LAYERS, alpha=ALPHA, scale="gap", positions="prompt"
        )

    @cached_property
    def control(self) -> wb.SteeringPlan:
        """The same plan with random directions of equal length."""
        return replace(self.plan, vectors=wb.random_directions(self.ssv, seed=SEED))

    @cached_property
    def attacks(self) -> wb.PromptSet:
        """Some harmful and jailbroken prompts, and harmless ones, to look inside of."""
        return self.pairs.val.sample_each({"harmful": 8, "jailbroken": 8, "harmless": 8}, seed=SEED)

    @cached_property
    def twins(self) -> wb.PromptSet:
        """The shortest request that has a jailbroken twin, and that twin."""
        twins = jailbreak_twins(self.pairs.val)
        return min(twins, key=lambda pair: sum(len(prompt.text) for prompt in pair))

    @cached_property
    def inside(self) -> pd.DataFrame:
        """Harmful prompts with and without the shift, and with the control's."""
        harmful = self.attacks.labelled("harmful")
        return wb.steered_residuals(self.target, self.plan, harmful, control=self.control)

    @cached_property
    def sweep(self) -> wb.SweepResult:
        """Strengths, with random directions and the target's own vector beside them."""
        prompts, own = self.pairs.val.sample_each(SWEPT, seed=SEED), {"own": self.srv}
        return wb.run_sweep(
            self.target, prompts, self.plan, alpha=STRENGTHS, placebo=4, controls=own, max_new_tokens=64
        )

    @cached_property
    def ungated(self) -> wb.SweepResult:
        """The same strengths without a gate."""
        prompts, plan = self.pairs.val.sample_each(SWEPT, seed=SEED), self.plan.with_gate(wb.AlwaysOpen())
        return wb.run_sweep(self.target, prompts, plan, alpha=STRENGTHS, placebo=1, max_new_tokens=64)

    @cached_property
    def places(self) -> wb.SweepResult:
        """Every window of three layers at some strengths, on the transformers model itself: the same, and faster."""
        model, prompts = wb.load_model(TARGET, backend="plain"), self.pairs.val.sample_each(SWEPT, seed=SEED)
        return wb.run_sweep(
            model, prompts, self.plan, alpha=PLACE_STRENGTHS, layers=PLACES, batch_size=BATCH_SIZE
        )

    @cached_property
    def search(self) -> wb.Tuned:
        """A search over strength, layer sets and the gate's bias; test prompts are left alone."""
        searched = self.pairs.val.sample_each({**SWEPT, "domain": 20}, seed=SEED)
        plan = self.plan.with_layers(range(2, 8))
        return wb.tune(
            wb.load_model(TARGET, backend="plain"), self.pairs, plan, alpha=(0, 1.5), bias=(-300, 500), trials=TRIALS,
            at_once=AT_ONCE, search_on=searched, measure=False, seed=SEED, batch_size=BATCH_SIZE,
        )  # fmt: skip


def vector_strength(s: Subject) -> Drawn:
    """01: three models side by side."""
    other = wb.last_token_activations(wb.load_model(OTHER), s.pairs.train)
    frame = wb.vector_strength(s.train_aligned, s.train, other)
    return frame, wb.plots.vector_strength(frame)


def projections(s: Subject) -> Drawn:
    """02: a mark per prompt, with the gate's threshold."""
    frame = wb.projections(s.srv, s.marks, train=s.train, gate=s.gate)
    return frame, wb.plots.projections(frame, chosen=LAYERS)


def separability(s: Subject) -> Drawn:
    """03: both models on held-out prompts, L_G shaded."""
    profiles = [wb.layer_profile(s.srv, s.val), wb.layer_profile(s.ssv, s.val_aligned)]
    frame = pd.concat([profile.frame for profile in profiles], ignore_index=True)
    return frame, wb.plots.layer_profile(frame, chosen=wb.select_layers(*profiles))


def growth(s: Subject) -> Drawn:
    """03: from 1 to all extraction prompts."""
    pairs = ((s.train, s.val), (s.train_aligned, s.val_aligned))
    frame = pd.concat([wb.extraction_growth(*pair, seed=SEED) for pair in pairs], ignore_index=True)
    return frame, wb.plots.extraction_growth(frame)


def layer_cosines(s: Subject) -> Drawn:
    """04: every two layers of a model."""
    frame = wb.layer_cosines(s.srv, s.ssv)
    return frame, wb.plots.layer_cosines(frame)


def vector_cosines(s: Subject) -> Drawn:
    """04: the two models' directions, layer by layer."""
    frame = wb.vector_cosines(s.srv, s.ssv)
    return frame, wb.plots.vector_cosines(frame)


def components(s: Subject) -> Drawn:
    """04: the residual stream; on disk the layer that tells intent best, in a notebook all of them."""
    frame = wb.principal_components(s.marks)
    return frame, wb.plots.principal_components(frame)


def words(s: Subject) -> Drawn:
    """05: SRV and SSV through the target's own unembedding."""
    frame = pd.concat(
        [wb.vector_lens(vectors, s.target, top=4) for vectors in (s.srv, s.ssv)], ignore_index=True
    )
    return frame, wb.plots.vector_lens(frame)


def tokens(s: Subject) -> Drawn:
    """06: a request and its jailbroken twin."""
    frame = wb.token_map(s.srv, s.target, s.twins, gate=s.gate)
    return frame, wb.plots.token_map(frame, chosen=LAYERS)


def scores(s: Subject) -> Drawn:
    """07: prompts by layers."""
    frame = wb.gate_scores(s.plan.gate, s.marks)
    return frame, wb.plots.gate_scores(frame)


def roc(s: Subject) -> Drawn:
    """07: every threshold, and the gate's own."""
    frame = wb.gate_roc(s.gate, s.val)
    return frame, wb.plots.gate_roc(frame)


def wrappers(s: Subject) -> Drawn:
    """07: which wrappers slip through."""
    frame = wb.gate_by_wrapper(s.plan.gate, s.val)
    return frame, wb.plots.gate_by_wrapper(frame)


def residuals(s: Subject) -> Drawn:
    """08: the last token's residual, layer by layer."""
    return s.inside, wb.plots.steered_residuals(s.inside)


def shifted(s: Subject) -> Drawn:
    """08: what the shift changed, token by token."""
    frame = wb.steered_residuals(s.target, s.plan, s.twins)
    return frame, wb.plots.steered_tokens(frame)


def lead(s: Subject) -> Drawn:
    """08: where a refusal's first word takes the lead."""
    frame = wb.refusal_lead(
        s.target, s.attacks, refusal=REFUSAL, compliance=GOES_ALONG, plan=s.plan, control=s.control
    )
    return frame, wb.plots.refusal_lead(frame, chosen=LAYERS)


def writers(s: Subject) -> Drawn:
    """09: heads and MLPs, of the direction and of the refusal logit."""
    makers = s.pairs.train
    frames = [
        wb.attribution_gap(wb.direction_attribution(s.target, makers, s.srv, layers=[LAYERS[0], LAYERS[-1]])),
        wb.attribution_gap(wb.refusal_attribution(s.target, makers, refusal=REFUSAL, compliance=GOES_ALONG)),
    ]
    frame = pd.concat(frames, ignore_index=True)
    return frame, wb.plots.attribution(frame)


def curves(s: Subject) -> Drawn:
    """10: rates against strength, with controls."""
    frame = s.sweep.summary()
    return frame, wb.plots.strength_curves(s.sweep, unit="α, in ‖v'‖ of the aligned model", chosen=ALPHA)


def trade_off(s: Subject) -> Drawn:
    """10: what each strength gains against what it costs, with the gate and without it."""
    metrics = ("asr_not_refused", "over_refusal", "broken")
    gated, bare = (swept.summary(metrics=metrics) for swept in (s.sweep, s.ungated))
    frame = pd.concat([gated, bare[bare["arm"] == "steered"].assign(arm="no gate")], ignore_index=True)
    return frame, wb.plots.strength_trade_off(frame, unit="α")


def places(s: Subject) -> Drawn:
    """11: layer sets against strengths, random directions beside them."""
    frame = score_settings(s.places)
    return frame, wb.plots.layer_sets(frame, unit="α, in units of ‖v'‖")


def front(s: Subject) -> Drawn:
    """11: what every setting of a search gains and costs, and the front."""
    return s.search.trials, wb.plots.pareto(s.search)


def history(s: Subject) -> Drawn:
    """11: the search, trial by trial."""
    return s.search.trials, wb.plots.tuning_history(s.search)


PICTURES: Mapping[str, Callable[[Subject], Drawn]] = {
    "01-vector-strength": vector_strength,
    "02-projections": projections,
    "03-separability": separability,
    "03-separability-growth": growth,
    "04-layer-cosines": layer_cosines,
    "04-srv-ssv-cosine": vector_cosines,
    "04-principal-components": components,
    "05-words": words,
    "06-tokens": tokens,
    "07-gate-scores": scores,
    "07-gate-roc": roc,
    "07-gate-wrappers": wrappers,
    "08-steered-residuals": residuals,
    "08-steered-tokens": shifted,
    "08-refusal-lead": lead,
    "09-attribution": writers,
    "10-strength": curves,
    "10-trade-off": trade_off,
    "11-layer-sets": places,
    "11-pareto": front,
    "11-tuning": history,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Draw what is asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("pictures", nargs="*", help="beginnings of names: 05 08; all without any")
    parser.add_argument("--out", type=Path, default=FOLDER, help="where they go: figures")
    asked = parser.parse_args(arguments)
    wanted = [name for name in PICTURES if not asked.pictures or name.startswith(tuple(asked.pictures))]
    if not wanted:
        parser.error(f"got {' '.join(asked.pictures)}, expected beginnings of {', '.join(PICTURES)}")
    subject = Subject()
    for name in (bar := tqdm(wanted, desc="drawing")):
        frame, fig = PICTURES[name](subject)
        save_frame(frame, asked.out / name)  # kept even where the picture fails
        bar.write(str(save_figure(fig, frame, asked.out / f"{name}.svg")))


if __name__ == "__main__":
    main()
