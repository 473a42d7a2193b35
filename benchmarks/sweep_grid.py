"""The grid that `sweep.py` times: strengths x layer sets x prompts, with a known share of prompts whose gate is closed.

    rows asked for = prompts x settings      distinct rows = open prompts x settings + closed prompts

The trap: what a sweep can share depends on how many gates stay closed. So prompts are taken by what the gate says of
them beside their labels, and every share is a grid of its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product

import numpy as np
import torch
from peers.worker import Task
from subjects import TOKENIZER, random_model

from workbench import (
    Activations,
    PromptSet,
    SteeringPlan,
    SteeringVectors,
    ThresholdGate,
    best_layer,
    last_token_activations,
    load_contrast,
    load_model,
    mean_difference,
)
from workbench.chat import pad_id, tokenize
from workbench.loading import Model, load_tokenizer
from workbench.models import model_name, n_layers, tokenizer_of
from workbench.shipped import shipped_path
from workbench.sweep.choosing import choose_gate

NEW_TOKENS = 24
ALPHAS = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
"""In units of the gap between the aligned model's means: at these single layers steer, and leave most replies whole."""
LAYER_SETS = 8


@dataclass(frozen=True, eq=False)
class Subject:
    """A model with a plan for it, and the prompts on which its gate does as it is labelled to."""

    model: Model
    plan: SteeringPlan
    open: PromptSet
    closed: PromptSet


@dataclass(frozen=True, eq=False)
class Grid:
    """Prompts under plans: every prompt meets every plan. `opened` says of each prompt what the gate says."""

    model: Model
    prompts: PromptSet
    plans: tuple[SteeringPlan, ...]
    opened: tuple[bool, ...]

    @property
    def stop(self) -> int:
        """The token that ends a reply."""
        return int(tokenizer_of(self.model).eos_token_id)

    @property
    def distinct_rows(self) -> int:
        """How many replies differ: all of open prompts, and one of each closed one."""
        return sum(self.opened) * len(self.plans) + self.opened.count(False)

    def part(self, n_settings: int) -> "Grid":
        """The same prompts at some of the settings, evenly spread."""
        chosen = np.linspace(0, len(self.plans) - 1, min(n_settings, len(self.plans))).round().astype(int)
        return replace(self, plans=tuple(self.plans[i] for i in chosen))

    @property
    def task(self) -> Task:
        """What a peer in another environment needs of it: token rows, strengths, layers, decisions."""
        tokenizer = tokenizer_of(self.model)
        return Task(
            str(shipped_path("organisms", model_name(self.model).removeprefix("organism:"))),
            pad_id(tokenizer),
            str(tokenizer.pad_token),
            torch.get_num_threads(),
            rows=tokenize(tokenizer, self.prompts),
            open=self.opened,
            settings=[{"layers": plan.layers, "alpha": plan.alpha} for plan in self.plans],
            new_tokens=NEW_TOKENS,
            stop=self.stop,
        )


def grid_of(subject: Subject, *, closed_share: float, n_prompts: int, n_settings: int) -> Grid:
    """`n_prompts` prompts, so many of them closed, at `n_settings` of the 64 settings."""
    n_closed = round(n_prompts * closed_share)
    parts = ((subject.open, n_prompts - n_closed), (subject.closed, n_closed))
    drawn = [prompt for pool, n in parts if n for prompt in pool.sample(n, seed=0)]
    prompts = PromptSet("grid", tuple(drawn))
    opened = (True,) * (n_prompts - n_closed) + (False,) * n_closed
    plans = tuple(
        replace(subject.plan, layers=layers, alpha=alpha)
        for layers, alpha in product(_layer_sets(n_layers(subject.model)), ALPHAS)
    )
    return Grid(subject.model, prompts, plans, opened).part(n_settings)


def embedded_subject(name: str) -> Subject:
    """An embedded model, steered by the aligned one's vectors, behind the gate that validation chooses."""
    pairs = load_contrast("small-world")
    model, aligned = load_model(name, backend="plain"), load_model("organism:aligned", backend="plain")
    read = last_token_activations(model, pairs.train)
    seen = last_token_activations(model, pairs.val)
    gate = choose_gate(mean_difference(read), read, seen)
    ssv = mean_difference(last_token_activations(aligned, pairs.train))
    return _subject(model, ssv, gate, seen)


def random_subject(shape: str) -> Subject:
    """A model of that shape with random weights, in bfloat16 on a GPU, steered by its own vectors."""
    hf = random_model(shape)
    model = load_model(hf, backend="plain", tokenizer=load_tokenizer(TOKENIZER))
    pairs = load_contrast("small-world")
    read, seen = last_token_activations(model, pairs.train), last_token_activations(model, pairs.val)
    own = mean_difference(read)
    # The paper's bias: what chance tells apart has no margin for a stricter one.
    gate = ThresholdGate.fit(own, read, layer=best_layer(own, seen))
    return _subject(model, own, gate, seen)


def _subject(model: Model, vectors: SteeringVectors, gate: ThresholdGate, val: Activations) -> Subject:
    assert val.prompts is not None
    prompts, opened = val.prompts, gate.read(val).open[:, 0].tolist()  # of a shared layer: alike at all
    plan = SteeringPlan(vectors, gate=gate, layers=[0], alpha=1.0, scale="gap")

    def those(label: str, decision: bool) -> PromptSet:
        both = zip(prompts, opened, strict=True)
        return PromptSet(label, tuple(p for p, is_open in both if (p.label, is_open) == (label, decision)))

    return Subject(model, plan, those("harmful", True), those("harmless", False))


def _layer_sets(depth: int) -> Sequence[tuple[int, ...]]:
    """The model's layers in eight runs, from the bottom to the top: each layer alone, where there are eight."""
    runs = np.array_split(np.arange(depth), min(LAYER_SETS, depth))
    return [tuple(int(layer) for layer in run) for run in runs]
