"""What writes the direction: the share of every head and MLP in a projection of the last token, by direct attribution.

    x_l = embedding + sum of heads z_h W_O + sum of MLPs + biases      so      x_l · s = the sum of their projections
    logit difference = sum of component · (w * (W_U[refusal] − W_U[compliance])) / sigma + what no component writes

(direct logit attribution: Elhage et al. 2021, "A Mathematical Framework for Transformer Circuits"). sigma is the final
norm's own divisor in that very run, held fixed. The sum is checked at every call: a model that writes to its residual
in another way (a norm after attention, say) is refused.

The trap: this is what is *written*, not what matters. A head that moves intent to the last token, where an MLP turns it
into the direction, shows as that MLP.
"""

from collections.abc import Sequence
from typing import Any

import pandas as pd
import torch
from einops import einsum
from jaxtyping import Float
from torch import Tensor

from workbench.decoding.asking import Prompts
from workbench.insight.lens import opening_tokens, unembedding_of
from workbench.insight.reading import Texts, chosen_layers, require_hooked, require_there, texts_of
from workbench.loading import Model
from workbench.models import device_of, hook_name, model_name, n_layers, space_of
from workbench.vectors import SteeringVectors

Component = tuple[str, int, int]
"""Kind ("embedding", "head", "bias", "mlp"), layer and head; −1 where there is none."""
_COLUMNS = ["prompt", "label", "of", "at", "kind", "layer", "head", "contribution"]


def direction_attribution(
    model: Model, prompts: Prompts, vectors: SteeringVectors, *, layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """What every component writes along the direction of layer `at`, at the last token, per prompt.

    Columns: prompt, label, of ("direction"), at, kind ("embedding", "head", "mlp", "bias" of attention), layer and head
    of the writer (−1: none), contribution. They sum to the projection x_at · s_at. A HookedTransformer is needed.
    """
    require_hooked(model, "attribution")
    require_there(model)
    if vectors.space.site != "resid_post":
        raise ValueError(
            f"got vectors made at {vectors.space.site}, expected resid_post: make them with last_token_activations(...)"
        )
    vectors.space.require(space_of(model), "vectors")
    chosen, texts = chosen_layers(model, layers), texts_of(model, prompts)
    names, written, _ = _written(model, texts)
    rows: list[tuple[Any, ...]] = []
    for at in chosen:
        below = [i for i, (_, layer, _) in enumerate(names) if layer <= at]
        rows += _rows(texts, names, written @ vectors.directions[at], below, "direction", at)
    return pd.DataFrame(rows, columns=_COLUMNS)


def refusal_attribution(
    model: Model, prompts: Prompts, *, refusal: Sequence[str], compliance: Sequence[str], reply: str = ""
) -> pd.DataFrame:
    """What every component writes towards refusing: mean logit of refusal tokens minus that of compliance tokens.

    Columns as in `direction_attribution`, `of` "refusal logit", `at` the last layer. Tokens are the first ones of the
    sentences, after `reply` if given. The rows of kind "bias" at layer −1 hold the biases of final norm and
    unembedding; all together sum to the difference of the model's own logits. A HookedTransformer is needed.
    """
    require_hooked(model, "attribution")
    no, yes = opening_tokens(model, refusal, compliance, reply=reply)
    texts, head = texts_of(model, prompts, reply=reply), unembedding_of(model)
    names, written, sigma = _written(model, texts)
    towards = head.weight[:, no].mean(-1) - head.weight[:, yes].mean(-1)
    if head.centres:
        written = written - written.mean(-1, keepdim=True)
    contributions = written @ (head.norm_weight * towards) / sigma
    constant = float(head.norm_bias @ towards + head.bias[no].mean() - head.bias[yes].mean())
    names = [*names, ("bias", -1, -1)]
    contributions = torch.cat([contributions, torch.full((1, contributions.shape[1]), constant)])
    at = n_layers(model) - 1
    rows = _rows(texts, names, contributions, range(len(names)), "refusal logit", at)
    return pd.DataFrame(rows, columns=_COLUMNS)


def attribution_gap(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean contribution on harmful prompts minus that on harmless ones, a row per component.

    On the extraction prompts, those of layer `at` sum to ‖v'_at‖: they are what the vector is made of.
    """
    labels = set(frame["label"])
    if not {"harmful", "harmless"} <= labels:
        raise ValueError(
            f"got prompts labelled {', '.join(sorted(labels))}: a gap needs some that are harmful and some harmless"
        )
    means = frame.pivot_table(
        index=["of", "at", "kind", "layer", "head"], columns="label", values="contribution", aggfunc="mean"
    )
    return (means["harmful"] - means["harmless"]).rename("contribution").reset_index()


def _rows(
    texts: Texts,
    names: Sequence[Component],
    contributions: Float[Tensor, "component prompt"],
    chosen: Sequence[int],
    of: str,
    at: int,
) -> list[tuple[Any, ...]]:
    return [
        (number, prompt.label, of, at, *names[i], float(contributions[i, number]))
        for number, prompt in enumerate(texts.prompts)
        for i in chosen
    ]


@torch.no_grad()
def _written(
    model: Any, texts: Texts
) -> tuple[list[Component], Float[Tensor, "component prompt d_model"], Float[Tensor, "prompt"]]:
    """What every component adds to the last token's residual, and the final norm's divisor there."""
    depth = n_layers(model)
    wanted = {"hook_embed", "hook_pos_embed", "ln_final.hook_scale", hook_name(depth - 1)}
    wanted |= {f"blocks.{layer}.{end}" for layer in range(depth) for end in ("attn.hook_z", "hook_mlp_out")}
    batch = texts.batch.to(device_of(model))
    _, cache = model.run_with_cache(
        batch.input_ids,
        attention_mask=batch.attention_mask,
        return_type=None,
        names_filter=lambda name: name in wanted,
    )
    last = {name: value[:, -1].float().cpu() for name, value in cache.items()}
    embedding = last["hook_embed"]
    if "hook_pos_embed" in last:
        embedding = embedding + last["hook_pos_embed"]
    names: list[Component] = [("embedding", -1, -1)]
    parts = [embedding]
    for layer in range(depth):
        heads = einsum(
            last[f"blocks.{layer}.attn.hook_z"],
            model.W_O[layer].float().cpu(),
            "prompt head d_head, head d_head d_model -> head prompt d_model",
        )
        names += [("head", layer, head) for head in range(len(heads))]
        parts += list(heads)
        bias = model.b_O[layer].float().cpu()
        if bias.any():
            names.append(("bias", layer, -1))
            parts.append(bias.expand_as(embedding))
        if f"blocks.{layer}.hook_mlp_out" in last:
            names.append(("mlp", layer, -1))
            parts.append(last[f"blocks.{layer}.hook_mlp_out"])
    written = torch.stack(parts)
    residual = last[hook_name(depth - 1)]
    error = float((written.sum(0) - residual).abs().max() / residual.abs().max())
    if not error < (1e-4 if next(model.parameters()).dtype == torch.float32 else 3e-2):
        raise ValueError(
            f"what heads and MLPs of {model_name(model)!r} write does not add up to its residual (off by {error:.1%}): "
            "it scales or norms them on the way, and direct attribution would be wrong for it"
        )
    return names, written, last["ln_final.hook_scale"][:, 0]
