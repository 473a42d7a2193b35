"""The logit lens: what a direction says when it is read as the last layer's residual is, in tokens.

    lens_l = (w * theta_l) W_U      w: the weight of the final norm; W_U: the unembedding, not centred over the tokens
                                                              (logit lens: nostalgebraist, "interpreting GPT", 2020)

A direction has no length, so the final norm's division is left out: a value is the logit that one unit of the
*normalised* residual along theta adds. Where the final norm subtracts the mean (LayerNorm), so does the lens; its bias
and the unembedding's belong to no direction and are left out. Residuals, which have a length, go through the final norm
as they are (`lens_logits`): at the last layer these are the model's own logits.

The trap: early layers do not speak the last layer's language. Words there are a hint; that the same words come back
layer after layer is the finding.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from workbench.insight.reading import chosen_layers, require_there, token_text
from workbench.loading import Model
from workbench.models import d_model, device_of, model_name, space_of, tokenizer_of, transformers_model
from workbench.vectors import SteeringVectors


@dataclass(frozen=True, eq=False)
class Unembedding:
    """How the last residual becomes logits, apart from the division: the final norm's weight, and W_U."""

    norm_weight: Float[Tensor, "d_model"]
    norm_bias: Float[Tensor, "d_model"]
    centres: bool
    weight: Float[Tensor, "d_model d_vocab"]
    bias: Float[Tensor, "d_vocab"]

    def folded(self, directions: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
        """The logits that one unit of normalised residual along each direction adds."""
        if self.centres:
            directions = directions - directions.mean(-1, keepdim=True)
        return (directions * self.norm_weight) @ self.weight


def vector_lens(
    vectors: SteeringVectors,
    model: Model,
    *,
    name: str = "",
    top: int = 5,
    layers: Sequence[int] | None = None,
) -> pd.DataFrame:
    """The tokens that each layer's direction promotes and suppresses most, a row each, on every backend.

    Columns: vector (`name`, else the model that it was read from), layer, side, rank (from 1), token, token_id, logit.
    `model` is whose unembedding reads it: the target's, to see what steering says there. A layer without a direction
    (all zero) has no rows.
    """
    require_there(model)
    vectors.space.require(space_of(model, vectors.space.site), "vectors")
    head, tokenizer, chosen = unembedding_of(model), tokenizer_of(model), chosen_layers(model, layers)
    known = len(tokenizer)  # beyond it the matrix has rows that no text ever used
    if not 1 <= top <= known // 2:
        raise ValueError(f"got top={top}, expected 1 to {known // 2}: half of the {known} tokens")
    logits = head.folded(vectors.directions[chosen])[:, :known]
    rows = []
    for layer, row in zip(chosen, logits, strict=True):
        if not vectors.directions[layer].any():
            continue
        for side, largest in (("promoted", True), ("suppressed", False)):
            values, ids = row.topk(top, largest=largest)
            for rank, (value, token) in enumerate(zip(values.tolist(), ids.tolist(), strict=True), start=1):
                word = token_text(tokenizer, token)
                rows.append((name or vectors.provenance.model, layer, side, rank, word, token, value))
    if not rows:
        raise ValueError(f"no direction at layers {chosen}: they are all zero there, choose other layers")
    return pd.DataFrame(rows, columns=["vector", "layer", "side", "rank", "token", "token_id", "logit"])


@torch.no_grad()
def lens_logits(model: Model, residual: Float[Tensor, "row d_model"]) -> Float[Tensor, "row d_vocab"]:
    """The logits that the model would give, were this the residual after its last layer (any logit cap left out)."""
    norm, out = _final_norm(model), unembedding_of(model)
    weight = next(norm.parameters(), None)
    here = residual.to(device_of(model), None if weight is None else weight.dtype)
    return norm(here[None])[0].float().cpu() @ out.weight + out.bias


@torch.no_grad()
def unembedding_of(model: Model) -> Unembedding:
    """The final norm's weight and the unembedding, in float32 on the CPU, from any backend."""
    norm, width = _final_norm(model), d_model(model)
    # The norm is asked, not read, since architectures keep its weight differently (Gemma's is off by one). Vectors of
    # mean 0 and length sqrt(width) pass it undivided, but for its epsilon.
    sign = torch.ones(width)
    sign[1::2] = -1
    weight = next(norm.parameters(), None)
    probes = torch.stack([torch.zeros(width), 1e3 * sign, 1e3 * torch.ones(width)])
    bias, plus, ones = (
        norm(probes.to(device_of(model), None if weight is None else weight.dtype)[None])[0].float().cpu()
    )
    norm_weight = (plus - bias) * sign
    centres = bool((ones - bias).abs().max() < 1e-3 * norm_weight.abs().max())
    matrix, offset = _unembedding(model)
    return Unembedding(norm_weight, bias, centres, matrix, offset)


def opening_tokens(
    model: Model, refusal: Sequence[str], compliance: Sequence[str], *, reply: str = ""
) -> tuple[Int[Tensor, "token"], Int[Tensor, "other"]]:
    """First tokens of refusals and of compliance, as they go on from `reply`: after it, a word begins with its space.

    Tokens that open both tell nothing and are left out.
    """
    no = _first_tokens(model, refusal, "refusal", reply)
    yes = _first_tokens(model, compliance, "compliance", reply)
    if not no - yes or not yes - no:
        raise ValueError(
            "refusal and compliance open with the same tokens: give sentences that differ in their first token"
        )
    return torch.tensor(sorted(no - yes)), torch.tensor(sorted(yes - no))


def _first_tokens(model: Model, openings: Sequence[str], what: str, reply: str) -> set[int]:
    if isinstance(openings, str) or not openings:
        raise ValueError(
            f'got {what}={openings!r}, expected a list of sentences such as ["I cannot help with that."]'
        )
    tokenizer, found = tokenizer_of(model), set()
    said = tokenizer(reply, add_special_tokens=False)["input_ids"] if reply else []
    between = " " if reply and not reply[-1].isspace() else ""
    for text in openings:
        row = tokenizer(reply + between + text, add_special_tokens=False)["input_ids"]
        if not text.strip() or row[: len(said)] != said or len(row) == len(said):
            raise ValueError(
                f"{what} holds {text!r}, which adds no token of its own to reply={reply!r}: give it words, and let the "
                "reply end where a token does"
            )
        found.add(int(row[len(said)]))
    return found


def _final_norm(model: Model) -> nn.Module:
    hf = transformers_model(model)
    holders = (model,) if hf is None else (hf.get_decoder(),)
    for holder in holders:
        for name in ("ln_final", "norm", "ln_f", "final_layer_norm"):
            found = getattr(holder, name, None)
            if isinstance(found, nn.Module):
                return getattr(found, "original_component", None) or found
    raise ValueError(
        f'no final norm found in {model_name(model)!r}: load it with backend="hooked", or pass a HookedTransformer'
    )


def _unembedding(model: Model) -> tuple[Tensor, Tensor]:
    hf = transformers_model(model)
    if hf is None:
        lens: Any = model
        return lens.W_U.detach().float().cpu(), lens.b_U.detach().float().cpu()
    head: Any = hf.get_output_embeddings()
    if head is None:
        raise ValueError(f"{model_name(model)!r} has no unembedding: load a model that writes text")
    weight = head.weight.detach().float().cpu().T
    bias = getattr(head, "bias", None)
    return weight, torch.zeros(weight.shape[1]) if bias is None else bias.detach().float().cpu()
