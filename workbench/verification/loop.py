"""The steered model by the shortest way there is: one row, its whole text at every step, no padding and no cache.

    x_l = x'_l + alpha * g_l * theta_l      added by a torch hook on each decoder block      (equation 4)

It is what every other way is compared with, and shares nothing with them but the model: lengths, decisions, positions
and the addition itself are worked out here once more.

The trap: a hook on a block whose output nobody takes changes nothing, and says nothing. This loop would not notice;
`watching` does.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from workbench.activations import Activations
from workbench.chat import Tokens
from workbench.forward import image_inputs
from workbench.gates import GateReading
from workbench.loading import Model
from workbench.models import UnseenBlocks, blocks, device_of, n_layers, transformers_model
from workbench.prompts import Prompt, PromptSet
from workbench.provenance import Provenance
from workbench.steering import SteeringPlan


@dataclass(frozen=True, eq=False)
class Walked:
    """One row: what its gate decided, the tokens it wrote, and the logits before each of them, in float32.

    `margin` is the least distance from a threshold that the decisions rest on, as a share of the residual's norm;
    infinite without a threshold.
    """

    opened: Bool[Tensor, "layer"]
    margin: float
    tokens: tuple[int, ...]
    logits: Float[Tensor, "step d_vocab"]


def walk(
    model: Model,
    prompt: Prompt,
    ids: Tokens,
    plan: SteeringPlan | None,
    *,
    n_steps: int,
    stop_ids: Sequence[int],
) -> Walked:
    """The greedy reply to one prompt under one plan, up to and with a stop token, or of `n_steps` tokens.

    Raises `ValueError` for logits that are no numbers.
    """
    opened, margin = decide(model, prompt, ids, plan)
    added = {} if plan is None else {layer: shift_at(plan, layer) for layer in plan.layers if opened[layer]}
    tokens: list[int] = []
    steps: list[Tensor] = []
    while len(tokens) < n_steps and not (tokens and tokens[-1] in stop_ids):
        where = _shifted(plan, len(ids), len(tokens))
        logits, _ = _run(model, ids.followed_by(tokens), added, where)
        if not logits.isfinite().all():
            raise ValueError(
                f"prompt {prompt.source or prompt.text!r}: the {'steered ' if added else ''}model's logits are NaN or "
                f"infinite at token {len(tokens)} of the reply: load the model in float32 or bfloat16, take a smaller "
                "alpha, or look at its weights"
            )
        steps.append(logits)
        tokens.append(int(logits.argmax()))
    return Walked(opened, margin, tuple(tokens), torch.stack(steps))


def decide(
    model: Model, prompt: Prompt, ids: Tokens, plan: SteeringPlan | None
) -> tuple[Bool[Tensor, "layer"], float]:
    """What the plan's gate makes of one prompt, from passes of its own, and by what margin; all closed without one."""
    opened = torch.zeros(n_layers(model), dtype=torch.bool)
    if plan is None:
        return opened, math.inf
    if not plan.gate.reads:
        nothing = torch.zeros(plan.vectors.directions.shape)
        return _read(plan, prompt, nothing).open[0], math.inf
    if not plan.reads_layer_by_layer:
        _, residuals = _run(model, ids, {}, [False] * len(ids))
        reading = _read(plan, prompt, residuals)
        return reading.open[0], _margin(reading, residuals, plan.reads)
    # Online: every layer in a pass that is steered by what was decided below it.
    margins = []
    for layer in plan.layers:
        below = {lower: shift_at(plan, lower) for lower in plan.layers if lower < layer and opened[lower]}
        _, residuals = _run(model, ids, below, _shifted(plan, len(ids), 0))
        reading = _read(plan, prompt, residuals)
        opened[layer] = reading.open[0, layer]
        margins.append(_margin(reading, residuals, [layer]))
    return opened, min(margins)


def shift_at(plan: SteeringPlan, layer: int) -> Float[Tensor, "d_model"]:
    """The shift alpha * theta_l in residual units: what an open gate adds at a layer."""
    unit = {
        "raw": 1.0,
        "residual": float(plan.vectors.residual_norms[layer]),
        "gap": float(plan.vectors.norms[layer]),
    }
    return plan.alpha * unit[plan.scale] * plan.vectors.directions[layer]


def _shifted(plan: SteeringPlan | None, n_prompt: int, n_reply: int) -> list[bool]:
    positions = "" if plan is None else plan.positions
    return [positions in ("all", "prompt")] * n_prompt + [positions in ("all", "reply")] * n_reply


def _read(plan: SteeringPlan, prompt: Prompt, residuals: Float[Tensor, "layer d_model"]) -> GateReading:
    prompts = PromptSet("one", (prompt,))
    space = plan.gate.space or plan.vectors.space
    read = Activations(residuals[None], prompts.labels, prompts, space, Provenance("activations"))
    return plan.gate.read(read)


def _margin(reading: GateReading, residuals: Float[Tensor, "layer d_model"], layers: Sequence[int]) -> float:
    shares = reading.scores[0].abs() / residuals.norm(dim=-1)
    return float(shares[list(layers)].min())


@torch.no_grad()
def _run(
    model: Model, ids: Tokens, added: Mapping[int, Tensor], shifted: Sequence[bool]
) -> tuple[Float[Tensor, "d_vocab"], Float[Tensor, "layer d_model"]]:
    """The last position's logits, and its residual after every block, before that block's own shift."""
    tokens = torch.tensor([list(ids)], device=device_of(model))
    where = torch.tensor(list(shifted), device=tokens.device)[None, :, None]
    # Images go in by the model's own door: elsewhere their features are put where the tokens are.
    seen = image_inputs(model, ids.images) if ids.images else {}
    last: dict[int, Tensor] = {}

    def hook(layer: int) -> Any:
        def take(module: torch.nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            residual = output[0] if isinstance(output, tuple) else output
            last[layer] = residual[0, -1].float().cpu()
            if layer not in added:
                return None
            moved = torch.where(where.to(residual.device), residual + added[layer].to(residual), residual)
            return (moved, *output[1:]) if isinstance(output, tuple) else moved

        return take

    handles = [block.register_forward_hook(hook(layer)) for layer, block in enumerate(blocks(model))]
    try:
        output = (
            model(tokens) if transformers_model(model) is None else model(tokens, use_cache=False, **seen)
        )
    finally:
        for handle in handles:
            handle.remove()
    if unseen := [layer for layer in range(len(handles)) if layer not in last]:
        raise UnseenBlocks(model, unseen)
    logits = getattr(output, "logits", output)[0, -1].float().cpu()
    return logits, torch.stack([last[layer] for layer in range(len(handles))])
