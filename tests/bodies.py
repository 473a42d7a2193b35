"""How a text goes through a plain transformers model, block by block, spelled out for each architecture.

    logits = leave(block_L(... block_1(enter(ids))))

Masks are written here and not asked of transformers: a token sees itself and what came before it, and in a layer with a
sliding window the last so many of these alone. What an architecture does to the embedding or to the logits stands here
too; what happens inside a block is its own affair.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from types import SimpleNamespace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Body:
    """The way of one text of a given length: residuals are [1 pos d_model]."""

    depth: int
    enter: Callable[..., Tensor]
    block: Callable[[int, Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]


def body_of(model, length: int = 1) -> Body:
    """The body of a plain transformers model, for texts of `length` tokens."""
    return BODIES[model.config.model_type](model, length)


def mask(length: int, window: int | None = None) -> Tensor:
    """Additive mask [1 1 query key]: a token sees itself and the tokens before it, `window` of them in all."""
    seen = torch.ones(length, length).tril().bool()
    if window is not None:
        seen &= torch.ones(length, length).triu(1 - window).bool()
    return torch.zeros(length, length).masked_fill(~seen, -inf)[None, None]


def alibi(heads: int, length: int) -> Tensor:
    """What each head adds to the score of a token [1 head 1 key], before scores are divided by the root of its width.

        slope_h * position,  slope_h = 2^(-8 h / heads)  for h = 1 .. heads, a power of two        (arXiv 2108.12409)

    Falcon multiplies in bfloat16.
    """
    slopes = torch.tensor([2 ** (-8 * head / heads) for head in range(1, heads + 1)])
    return (slopes.bfloat16()[:, None] * torch.arange(length)).float()[None, :, None]


def window_at(config, layer: int) -> int | None:
    """The sliding window of a layer: of every layer, where the config has no kinds of layers."""
    kinds = getattr(config, "layer_types", None)
    sliding = kinds is None or kinds[layer] == "sliding_attention"
    return getattr(config, "sliding_window", None) if sliding else None


def llama(model, length: int) -> Body:
    """Llama, Mistral, Qwen, Phi-3, OLMo 2: embeddings, blocks with rotary positions, a norm, the head."""
    body, positions = model.model, torch.arange(length)[None]

    def block(layer: int, residual: Tensor) -> Tensor:
        return body.layers[layer](
            residual,
            attention_mask=mask(length, window_at(model.config, layer)),
            position_embeddings=body.rotary_emb(residual, positions),
        )

    return Body(
        len(body.layers), body.embed_tokens, block, lambda residual: model.lm_head(body.norm(residual))
    )


def granite(model, length: int) -> Body:
    """As Llama, with the embedding multiplied and the logits divided."""
    like, config = llama(model, length), model.config
    return Body(
        like.depth,
        lambda ids: like.enter(ids) * config.embedding_multiplier,
        like.block,
        lambda residual: like.leave(residual) / config.logits_scaling,
    )


def gemma2(model, length: int) -> Body:
    """As Llama, with logits bent below a cap; its embedding module multiplies by itself."""
    like, cap = llama(model, length), model.config.final_logit_softcapping
    return Body(
        like.depth,
        like.enter,
        like.block,
        lambda residual: torch.tanh(like.leave(residual) / cap) * cap,
    )


def gemma3(model, length: int) -> Body:
    """As Llama, with rotary positions of two kinds: for layers that see all, and for those with a window."""
    like, body, config = llama(model, length), model.model, model.config
    positions = torch.arange(length)[None]

    def block(layer: int, residual: Tensor) -> Tensor:
        return body.layers[layer](
            residual,
            attention_mask=mask(length, window_at(config, layer)),
            position_embeddings=body.rotary_emb(residual, positions, config.layer_types[layer]),
        )

    return Body(like.depth, like.enter, block, like.leave)


def neox(model, length: int) -> Body:
    """GPT-NeoX: attention and MLP side by side."""
    body, positions = model.gpt_neox, torch.arange(length)[None]

    def block(layer: int, residual: Tensor) -> Tensor:
        rotation = body.rotary_emb(residual, positions)
        return body.layers[layer](residual, attention_mask=mask(length), position_embeddings=rotation)

    def leave(residual: Tensor) -> Tensor:
        return model.get_output_embeddings()(body.final_layer_norm(residual))

    return Body(len(body.layers), body.embed_in, block, leave)


def gpt2(model, length: int) -> Body:
    """GPT-2: positions are added to the embedding."""
    body = model.transformer

    def enter(ids: Tensor) -> Tensor:
        return body.wte(ids) + body.wpe(torch.arange(length)[None])

    def block(layer: int, residual: Tensor) -> Tensor:
        return body.h[layer](residual, attention_mask=mask(length))

    return Body(len(body.h), enter, block, lambda residual: model.lm_head(body.ln_f(residual)))


def falcon(model, length: int) -> Body:
    """Falcon: attention and MLP side by side, with one norm or two; positions by rotation, or by `alibi`."""
    body, positions, config = model.transformer, torch.arange(length)[None], model.config
    bias = alibi(config.num_attention_heads, length) if config.alibi else None
    seen = mask(length) if bias is None else mask(length) + bias / config.head_dim**0.5

    def block(layer: int, residual: Tensor) -> Tensor:
        rotation = body.rotary_emb(residual, positions)
        return body.h[layer](residual, alibi=bias, attention_mask=seen, position_embeddings=rotation)[0]

    return Body(len(body.h), body.word_embeddings, block, lambda residual: model.lm_head(body.ln_f(residual)))


def llava(model, length: int) -> Body:
    """A Llama into whose embeddings features of images are written, in their order, where the image tokens stand.

    features = projector(vision tower up to `vision_feature_layer`, without the token that stands for the whole)
    """
    inner, config = model.model, model.config
    text = SimpleNamespace(model=inner.language_model, lm_head=model.lm_head, config=config.text_config)
    like = llama(text, length)

    def enter(ids: Tensor, pixels: Tensor | None = None) -> Tensor:
        embedded = like.enter(ids).clone()
        if pixels is not None:
            layers = inner.vision_tower(pixels, output_hidden_states=True).hidden_states
            features = inner.multi_modal_projector(layers[config.vision_feature_layer][:, 1:])
            embedded[ids == config.image_token_id] = features.flatten(0, 1)
        return embedded

    return Body(like.depth, enter, like.block, like.leave)


BODIES: dict[str, Callable[..., Body]] = {
    "llama": llama,
    "llava": llava,
    "mistral": llama,
    "qwen2": llama,
    "qwen3": llama,
    "phi3": llama,
    "olmo2": llama,
    "granite": granite,
    "gemma2": gemma2,
    "gemma3_text": gemma3,
    "gpt_neox": neox,
    "gpt2": gpt2,
    "falcon": falcon,
}
