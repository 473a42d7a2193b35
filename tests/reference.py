"""InferAligner (arXiv 2401.11206) written from its equations: the yardstick that the library is held against.

    1.  v'_l = mean of a_l over harmful prompts - mean of a_l over harmless prompts
    2.  v_l  = v'_l / |v'_l|         theta_l: v_l of the aligned model; s_l: v_l of the target model
    3.  g_l  = 1 if a_l(P) . s_l + b_l > 0 else 0,     b_l = -(mean of a_l . s_l over all extraction prompts)
        online: a_l(P) of the pass that the open gates below l have steered already
    4.  x_l  = x'_l + alpha * g_l * theta_l            for the layers l of L_G, at every token

Nothing here batches, pads, caches or hooks, and nothing imports the library: a forward pass is a loop over the
decoder blocks of a plain transformers model, run on the whole text of one prompt at every step (`bodies.py` says how
each architecture's blocks are called). It is slow, and meant to be: what it says can be read off the page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from bodies import body_of
from torch import Tensor

Messages = Sequence[tuple[str, str]]


def chat_ids(tokenizer, messages: Messages) -> list[int]:
    """Token ids of the conversation, up to and with the generation prompt."""
    turns = [{"role": role, "content": content} for role, content in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@torch.no_grad()
def forward(
    model,
    ids: Sequence[int],
    shifts: Mapping[int, Tensor],
    shifted: Sequence[bool],
    pixels: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """Logits [pos d_vocab], and the residual [pos d_model] after every block, before that block's own shift.

    `shifts` maps a layer to the vector that equation 4 adds there; `shifted` says to which positions. `pixels` are
    those of the text's images, where it has some.
    """
    body = body_of(model, len(ids))
    text = torch.tensor([list(ids)])
    residual = body.enter(text) if pixels is None else body.enter(text, pixels)
    where = torch.tensor(list(shifted))[None, :, None]
    residuals = []
    for layer in range(body.depth):
        residual = body.block(layer, residual)
        residuals.append(residual[0])
        if layer in shifts:
            residual = torch.where(where, residual + shifts[layer], residual)
    return body.leave(residual)[0], residuals


def last_token_residuals(model, tokenizer, messages: Messages, pixels: Tensor | None = None) -> list[Tensor]:
    """a_l(P) of every layer: the residual after each block at the last token of the chat-templated prompt."""
    ids = chat_ids(tokenizer, messages)
    _, residuals = forward(model, ids, {}, [False] * len(ids), pixels)
    return [residual[-1] for residual in residuals]


@dataclass
class Directions:
    """What one model tells, per layer: v_l, |v'_l|, b_l, and the mean length of a_l over the extraction prompts."""

    unit: list[Tensor]
    length: list[float]
    bias: list[float]
    residual_norm: list[float]


def directions(bad: Sequence[Sequence[Tensor]], good: Sequence[Sequence[Tensor]]) -> Directions:
    """Equations 1 and 2, and the bias of equation 3, from the residuals of harmful and of harmless prompts."""
    found = Directions([], [], [], [])
    for layer in range(len(bad[0])):
        mean_bad = sum(residuals[layer] for residuals in bad) / len(bad)
        mean_good = sum(residuals[layer] for residuals in good) / len(good)
        difference = mean_bad - mean_good
        direction = difference / difference.norm()
        projections = [float(residuals[layer] @ direction) for residuals in bad + good]
        found.unit.append(direction)
        found.length.append(float(difference.norm()))
        found.bias.append(-sum(projections) / len(projections))
        found.residual_norm.append(
            sum(float(residuals[layer].norm()) for residuals in bad + good) / len(bad + good)
        )
    return found


def gate(residuals: Sequence[Tensor], intent: Directions, *, shared_layer: int | None = None) -> list[bool]:
    """Equation 3 for every layer, or the decision of one layer for all of them."""
    own = [
        float(residual @ direction) + bias > 0
        for residual, direction, bias in zip(residuals, intent.unit, intent.bias, strict=True)
    ]
    return own if shared_layer is None else [own[shared_layer]] * len(own)


def gate_online(
    model,
    ids: Sequence[int],
    intent: Directions,
    shifts: Mapping[int, Tensor],
    shifted: Sequence[bool],
    pixels: Tensor | None = None,
) -> list[bool]:
    """Equation 3 at every layer of `shifts`, from the lowest up, each in a pass steered by what is decided below it."""
    decided = [False] * body_of(model).depth
    for layer in sorted(shifts):
        below = {lower: shifts[lower] for lower in shifts if lower < layer and decided[lower]}
        _, residuals = forward(model, ids, below, shifted, pixels)
        decided[layer] = gate([residual[-1] for residual in residuals], intent)[layer]
    return decided


def shifted_positions(n_prompt: int, n_reply: int, positions: str) -> list[bool]:
    """Which tokens equation 4 touches: all of them, the prompt's, or the reply's."""
    return [positions in ("all", "prompt")] * n_prompt + [positions in ("all", "reply")] * n_reply


def step_logits(
    model,
    ids: Sequence[int],
    reply: Sequence[int],
    shifts: Mapping[int, Tensor],
    positions: str,
    pixels: Tensor | None = None,
) -> Tensor:
    """Logits [step d_vocab] before each token of `reply`, every step a fresh pass over the whole text."""
    steps = []
    for n_reply in range(len(reply)):
        text = list(ids) + list(reply[:n_reply])
        logits, _ = forward(model, text, shifts, shifted_positions(len(ids), n_reply, positions), pixels)
        steps.append(logits[-1])
    return torch.stack(steps)


def greedy(
    model,
    ids: Sequence[int],
    shifts: Mapping[int, Tensor],
    positions: str,
    n_tokens: int,
    stop: int,
    pixels: Tensor | None = None,
) -> list[int]:
    """The most likely token, again and again, until `stop` (kept) or `n_tokens`."""
    reply: list[int] = []
    while len(reply) < n_tokens and stop not in reply:
        text = list(ids) + reply
        logits, _ = forward(model, text, shifts, shifted_positions(len(ids), len(reply), positions), pixels)
        reply.append(int(logits[-1].argmax()))
    return reply
