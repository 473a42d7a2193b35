"""One target of the main job: choose on validation, measure on test, keep what the pictures and the table need.

The traps: the quick run is a sample of prompts, stated with every number. Its intervals are as wide as that makes them.
And a sample by label takes the blocks of the pictured lists apart: words or picture alone tell more of it than of all.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch

from workbench.activations import Activations, last_token_activations
from workbench.evaluation.comparing import compare, shortfalls
from workbench.evaluation.conditions import Who, conditions, control_plans
from workbench.evaluation.metrics import estimates
from workbench.evaluation.protocol import CHANGES, Measured, describe, measure
from workbench.loading import Model, load_model
from workbench.organisms.items import DOMAINS
from workbench.organisms.pictured_lists import load_pictured
from workbench.profiles import gate_map, projections
from workbench.prompts import ContrastSet, PromptSet, load_prompts
from workbench.published import load_contrast
from workbench.shipped import shipped_path
from workbench.sweep.choosing import Choices, choose
from workbench.sweep.guiding import ChosenGuide, choose_guide

PAIRS = "small-world"
SEER = "llava"
"""The target that sees: its requests and questions are about pictures, of which its aligned sibling knows nothing."""
QUICK_TEST = {"harmful": 40, "jailbroken": 40, "harmless": 20, "contrast": 20, "domain": 20}
QUICK_SEARCH = {"harmful": 12, "jailbroken": 14, "harmless": 8, "contrast": 8, "domain": 8}
FULL_SEARCH = {"harmful": 60, "jailbroken": 80, "harmless": 60, "contrast": 40, "domain": 40}
BATCH_SIZE = 256
MAX_NEW_TOKENS = 64
"""The longest honest reply of the embedded world has some forty tokens; a longer one has not ended."""
STRENGTH_METRICS = ("asr_not_refused", "jailbreak_not_refused", "over_refusal", "broken")


@dataclass(frozen=True)
class Outcome:
    """What one target's run found, in plain values that pass between processes.

    `numbers` is its part of demo.json, `frames` what the pictures draw, `sentences` how it was chosen, `examples` a
    (kind, prompt, before, after, whether the gate opened) for the first test prompt of three kinds.
    """

    name: str
    numbers: dict[str, Any]
    frames: Mapping[str, pd.DataFrame]
    sentences: tuple[str, ...]
    examples: tuple[tuple[str, str, str, str, bool], ...]
    seconds: dict[str, float]


def load_embedded(name: str) -> tuple[dict[Who, Model], Model]:
    """The target with the companions that ship for it, and the aligned model, as plain transformers models."""
    folders: dict[Who, str] = {"target": name}
    if name in DOMAINS:
        folders |= {"safety_sft": f"{name}-safety-sft", "dpo": f"{name}-dpo", "from_aligned": f"{name}-chat"}
    found = {who: load_model(f"organism:{folder}", backend="plain") for who, folder in folders.items()}
    return found, load_model("organism:aligned", backend="plain")


def prompts_for(name: str) -> tuple[ContrastSet, PromptSet]:
    """The target's contrast set, with its own domain's prompts if it has one, and those of another concept."""
    own = name if name in DOMAINS else None
    pairs = load_pictured() if name == SEER else load_contrast(PAIRS, domain=own)
    return pairs, load_prompts(shipped_path("prompts", PAIRS, "other-concept.jsonl"))


def run_target(name: str, full: bool, *, threads: int | None = None) -> Outcome:
    """The whole job for one embedded target: a domain's, `general`, which has none, or `llava`, which sees."""
    if threads is not None:
        torch.set_num_threads(threads)
    models, aligned = load_embedded(name)
    worded = load_contrast(PAIRS) if name == SEER else None
    return run_models(name, models, aligned, *prompts_for(name), aligned_pairs=worded, full=full)


def run_models(
    name: str,
    models: Mapping[Who, Model],
    aligned: Model,
    pairs: ContrastSet,
    other_concept: PromptSet,
    *,
    aligned_pairs: ContrastSet | None = None,
    full: bool,
) -> Outcome:
    """Choose on `pairs.val`, measure every condition on `pairs.test`.

    `aligned_pairs` are what the aligned model reads, where `pairs` show pictures and it sees none.
    """
    start = time.perf_counter()
    searched = pairs.val.sample_each(FULL_SEARCH if full else QUICK_SEARCH)
    made = choose(
        models["target"],
        aligned,
        pairs,
        other_concept,
        aligned_pairs=aligned_pairs,
        search_on=searched,
        controls=full,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=BATCH_SIZE,
    )
    # Every candidate of every token is read: too slow for a first look. And the aligned model, which teaches its reward
    # what is harmful, cannot be shown what the target is asked.
    guide = None
    if full and aligned_pairs is None:
        guide = choose_guide(
            models["target"], aligned, pairs, search_on=searched, max_new_tokens=MAX_NEW_TOKENS,
            batch_size=BATCH_SIZE,
        )  # fmt: skip
    chosen_at = time.perf_counter()
    test = pairs.test if full else pairs.test.sample_each(QUICK_TEST)
    rows = conditions(
        made.ours,
        made.paper,
        control_plans(made.ours, made.evidence.controls),
        companions=[who for who in models if who != "target"],
        deal_random=not full,
        guide=None if guide is None else guide.guide,
    )
    measured = measure(
        models,
        test,
        rows,
        at_best=made.controls_at_best,
        max_new_tokens=MAX_NEW_TOKENS,
        batch_size=BATCH_SIZE,
    )
    seconds = {"choose": chosen_at - start, "measure": time.perf_counter() - chosen_at}
    numbers = _numbers(made, guide, measured, test)
    return Outcome(
        name=name,
        numbers=numbers,
        frames=_frames(made, measured, last_token_activations(models["target"], test, batch_size=BATCH_SIZE)),
        sentences=tuple(numbers["choices"]),
        examples=_examples(test, measured),
        seconds={key: round(value, 1) for key, value in seconds.items()},
    )


def _numbers(made: Choices, guide: ChosenGuide | None, measured: Measured, test: PromptSet) -> dict[str, Any]:
    opened = measured.gate_open()
    ours = describe(made.ours)
    cosine = made.evidence.srv.cosine(made.evidence.ssv)[list(made.ours.layers)]
    return {
        "layers": ours["layers"],
        "alpha": ours["alpha"],
        "scale": ours["scale"],
        "positions": ours["positions"],
        "gate_layer": made.gate.shared_layer,
        "qualified_layers": list(made.layers),
        "cosine_srv_ssv": [round(float(value), 3) for value in cosine],
        "gate_open": {label: round(found.mean, 4) for label, found in opened.items()},
        "gate_open_intervals": {
            k: [round(found.low, 4), round(found.high, 4)] for k, found in opened.items()
        },
        "choices": made.sentences() + ([] if guide is None else [str(guide)]),
        "prompts": {label: test.labels.count(label) for label in dict.fromkeys(test.labels)},
        "prompts_hash": test.hash,
        "conditions": measured.to_json(),
        "too_few": shortfalls(compare(measured.frame, "none", CHANGES, arms=measured.names[1:])),
    }


def _frames(made: Choices, measured: Measured, read: Activations) -> dict[str, pd.DataFrame]:
    """What the pictures draw. The gate's is of test prompts, `read`: its thresholds fit those of validation."""
    evidence = made.evidence
    return {
        "layer-profile": pd.concat([profile.frame for profile in evidence.profiles], ignore_index=True),
        "projections": projections(evidence.srv, evidence.target_val, train=evidence.target_train),
        "gate-map": gate_map(replace(made.gate, shared_layer=None), read),
        "strength": made.strength.summary(metrics=STRENGTH_METRICS),
        "trade-off": estimates(measured.frame),
    }


def _examples(test: PromptSet, measured: Measured) -> tuple[tuple[str, str, str, str, bool], ...]:
    """The first prompt of three kinds: the first, not the finest."""
    before, after = (measured.arm(name).set_index("prompt") for name in ("none", "inferaligner"))
    examples = []
    for label in ("harmful", "jailbroken", "domain" if "domain" in test.labels else "harmless"):
        i = test.labels.index(label)
        opened = bool(after.loc[i, "open"])
        examples.append(
            (label, test[i].text, str(before.loc[i, "reply"]), str(after.loc[i, "reply"]), opened)
        )
    return tuple(examples)
