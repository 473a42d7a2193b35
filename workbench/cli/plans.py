"""What `ask`, `layers` and `verify` begin with: a model, its profile, and a plan from the small world's prompts.

The trap: importing torch takes seconds, which `workbench --help` need not pay. Everything here imports what it needs
when it runs.
"""

import math
import sys
from contextlib import nullcontext
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

if TYPE_CHECKING:
    import torch

    from workbench.activations import Activations
    from workbench.loading import Model
    from workbench.profiles import LayerProfile
    from workbench.steering import SteeringPlan
    from workbench.vectors import SteeringVectors

Scale: TypeAlias = Literal["raw", "residual", "gap"]
Positions: TypeAlias = Literal["all", "prompt", "reply"]
Template: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="A chat format for models that bring none, or another: llama-2, vicuna, chatml, internlm, internlm2, "
        "alpaca, zephyr, text, or a .jinja file.",
        show_default="the model's own",
    ),
]
"""Of both models: vectors pass between models that read the same tokens."""


def require_sound(min_auroc: float, alpha: float = 0.0, max_new_tokens: int = 1, *, target: str) -> None:
    """Refuse what no model could make good, and a strength that undoes refusals of a model from elsewhere."""
    if not 0 <= min_auroc <= 1:
        raise ValueError(f"got --min-auroc {min_auroc:g}, expected a number from 0 to 1: 0.5 tells nothing")
    if not math.isfinite(alpha):
        raise ValueError(f"got --alpha {alpha:g}, expected a finite number: 0 leaves the model as it is")
    if max_new_tokens < 1:
        raise ValueError(f"got --max-new-tokens {max_new_tokens}, expected 1 or more")
    if alpha < 0 and not target.startswith("organism:"):
        raise ValueError(
            f"got --alpha {alpha:g} for {target}, expected 0 or more: a negative strength undoes refusals, which the "
            "workbench shows on its embedded models only: --target organism:NAME"
        )


def load(name: str, *, template: str | None = None, dtype: "torch.dtype | None" = None) -> "Model":
    """The transformers model itself, with bars for a terminal alone."""
    from workbench.loading import load_model, without_bars

    with nullcontext() if sys.stderr.isatty() else without_bars():
        return load_model(name, backend="plain", template=template, dtype=dtype)


Profiled: TypeAlias = "tuple[LayerProfile, SteeringVectors, Activations]"


def profile_of(model: "Model") -> Profiled:
    """The profile on validation prompts, the vectors, and the extraction prompts' activations they are made from."""
    from workbench.activations import last_token_activations
    from workbench.profiles import layer_profile
    from workbench.published import load_contrast
    from workbench.vectors import mean_difference

    pairs = load_contrast("small-world")
    train, val = (
        last_token_activations(model, part, progress=sys.stderr.isatty()) for part in (pairs.train, pairs.val)
    )
    vectors = mean_difference(train)
    return layer_profile(vectors, val), vectors, train


def plan_for(
    target: "Model", aligned: Profiled, alpha: float, scale: Scale, positions: Positions, min_auroc: float
) -> "tuple[SteeringPlan, str]":
    """The plan, and how far the two models share a direction over its layers.

    Of the aligned model no more is wanted than was read of it: one that is large may be gone before the target comes.
    """
    from workbench.gates import ThresholdGate
    from workbench.profiles import select_layers
    from workbench.steering import SteeringPlan
    from workbench.vectors import cosine_sentence

    (ours, srv, train), (theirs, ssv, _) = profile_of(target), aligned
    gate = ThresholdGate.fit(srv, train)
    chosen = select_layers(ours, theirs, min_auroc=min_auroc)
    plan = SteeringPlan(ssv, gate=gate, layers=chosen, alpha=alpha, scale=scale, positions=positions)
    return plan, cosine_sentence(srv, ssv, chosen)
