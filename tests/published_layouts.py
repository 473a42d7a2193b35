"""Three published checkpoints' forward passes in plain loops: the yardstick that conversions are held against.

Written from the modeling files that the checkpoints come with on the hub (modeling_internlm2.py, modeling_internlm.py,
modeling_qwen.py): the names of their weights, how their rows are laid out, and what is computed of them.

    rms(x) = w * x / sqrt(mean x^2 + eps)
    rope   : components i and i + d/2 of a head turn by position * theta^(-2i/d)
    head   : softmax over the tokens so far of (q . k / sqrt d), times v

    InternLM2       wqkv rows in groups, one per key/value head: its n query heads, its key, its value
                    x += wo [heads];  x += w2( silu(w1 y) * w3 y )
    InternLM (v1)   q_proj, k_proj, v_proj, o_proj with biases; x += down_proj( silu(gate_proj y) * up_proj y )
    Qwen (v1)       c_attn rows: all queries, all keys, all values, with biases
                    x += c_proj [heads];  x += c_proj( w1 y * silu(w2 y) )
                    beyond seq_length: the base grows (dynamic NTK), query i is multiplied by log i / log seq_length

Nothing here batches, pads or caches, and nothing imports the library.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Weights = Mapping[str, Tensor]
Settings = Mapping[str, Any]


def internlm2(weights: Weights, settings: Settings, ids: Sequence[int]) -> Tensor:
    """Logits [pos d_vocab]."""
    heads, groups = settings["num_attention_heads"], settings["num_key_value_heads"]
    width, per_group = settings["hidden_size"] // heads, heads // groups
    scaling = settings["rope_scaling"] or {"type": None}
    stretched = scaling["factor"] if scaling["type"] == "linear" else 1.0
    turn = turning(settings["rope_theta"], width, [place / stretched for place in range(len(ids))])
    x = weights["model.tok_embeddings.weight"][list(ids)]
    for layer in range(settings["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        y = rms(x, weights[f"{at}.attention_norm.weight"], settings["rms_norm_eps"])
        rows = linear(y, weights, f"{at}.attention.wqkv").split(width, dim=-1)
        read = []
        for head in range(heads):
            group, place = divmod(head, per_group)
            first = group * (per_group + 2)
            query, key, value = rows[first + place], rows[first + per_group], rows[first + per_group + 1]
            read.append(attended(turn(query), turn(key), value))
        x = x + linear(torch.cat(read, dim=-1), weights, f"{at}.attention.wo")
        y = rms(x, weights[f"{at}.ffn_norm.weight"], settings["rms_norm_eps"])
        gate, up = (linear(y, weights, f"{at}.feed_forward.{name}") for name in ("w1", "w3"))
        x = x + linear(silu(gate) * up, weights, f"{at}.feed_forward.w2")
    return linear(rms(x, weights["model.norm.weight"], settings["rms_norm_eps"]), weights, "output")


def internlm(weights: Weights, settings: Settings, ids: Sequence[int]) -> Tensor:
    """Logits [pos d_vocab]."""
    width = settings["hidden_size"] // settings["num_attention_heads"]
    turn = turning(settings["rotary"]["base"], width, range(len(ids)))
    x = weights["model.embed_tokens.weight"][list(ids)]
    for layer in range(settings["num_hidden_layers"]):
        at = f"model.layers.{layer}"
        y = rms(x, weights[f"{at}.input_layernorm.weight"], settings["rms_norm_eps"])
        parts = [linear(y, weights, f"{at}.self_attn.{name}_proj").split(width, dim=-1) for name in "qkv"]
        read = [attended(turn(query), turn(key), value) for query, key, value in zip(*parts, strict=True)]
        x = x + linear(torch.cat(read, dim=-1), weights, f"{at}.self_attn.o_proj")
        y = rms(x, weights[f"{at}.post_attention_layernorm.weight"], settings["rms_norm_eps"])
        gate, up = (linear(y, weights, f"{at}.mlp.{name}_proj") for name in ("gate", "up"))
        x = x + linear(silu(gate) * up, weights, f"{at}.mlp.down_proj")
    return linear(rms(x, weights["model.norm.weight"], settings["rms_norm_eps"]), weights, "lm_head")


def qwen(weights: Weights, settings: Settings, ids: Sequence[int]) -> Tensor:
    """Logits [pos d_vocab]."""
    width, trained = settings["kv_channels"], settings["seq_length"]
    theta, scales = settings["rotary_emb_base"], torch.ones(len(ids), 1)
    if len(ids) > trained and settings["use_dynamic_ntk"]:
        alpha = 2 ** math.ceil(math.log2(len(ids) / trained) + 1) - 1
        theta = theta * alpha ** (width / (width - 2))
    if len(ids) > trained and settings["use_logn_attn"]:
        for place in range(trained, len(ids)):
            scales[place] = math.log(place + 1) / math.log(trained)
    turn = turning(theta, width, range(len(ids)))
    x = weights["transformer.wte.weight"][list(ids)]
    for layer in range(settings["num_hidden_layers"]):
        at = f"transformer.h.{layer}"
        y = rms(x, weights[f"{at}.ln_1.weight"], settings["layer_norm_epsilon"])
        blocks = linear(y, weights, f"{at}.attn.c_attn").split(settings["hidden_size"], dim=-1)
        parts = [block.split(width, dim=-1) for block in blocks]
        read = [
            attended(turn(query) * scales, turn(key), value) for query, key, value in zip(*parts, strict=True)
        ]
        x = x + linear(torch.cat(read, dim=-1), weights, f"{at}.attn.c_proj")
        y = rms(x, weights[f"{at}.ln_2.weight"], settings["layer_norm_epsilon"])
        first, second = (linear(y, weights, f"{at}.mlp.{name}") for name in ("w1", "w2"))
        x = x + linear(first * silu(second), weights, f"{at}.mlp.c_proj")
    return linear(
        rms(x, weights["transformer.ln_f.weight"], settings["layer_norm_epsilon"]), weights, "lm_head"
    )


def linear(x: Tensor, weights: Weights, name: str) -> Tensor:
    """Rows of the weight are outputs; a bias is added where there is one."""
    out = x @ weights[f"{name}.weight"].T
    return out + weights[f"{name}.bias"] if f"{name}.bias" in weights else out


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt()


def silu(x: Tensor) -> Tensor:
    return x / (1 + (-x).exp())


def turning(theta: float, width: int, places: Sequence[float]) -> Callable[[Tensor], Tensor]:
    """The rotation of a head's vectors [pos width] by their places."""
    angles = torch.tensor(
        [[place * theta ** (-2 * i / width) for i in range(width // 2)] for place in places]
    )
    cos, sin = angles.cos(), angles.sin()

    def turn(vectors: Tensor) -> Tensor:
        low, high = vectors.chunk(2, dim=-1)
        return torch.cat([low * cos - high * sin, high * cos + low * sin], dim=-1)

    return turn


def attended(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What one head reads at every position."""
    read = []
    for place, query in enumerate(queries):
        scores = keys[: place + 1] @ query / math.sqrt(len(query))
        read.append(scores.softmax(0) @ values[: place + 1])
    return torch.stack(read)


def greedy(
    forward: Callable[[Weights, Settings, Sequence[int]], Tensor],
    weights: Weights,
    settings: Settings,
    ids: Sequence[int],
    n_tokens: int,
) -> list[int]:
    """The most likely token, again and again, every step a fresh pass over the whole text."""
    reply: list[int] = []
    while len(reply) < n_tokens:
        reply.append(int(forward(weights, settings, [*ids, *reply])[-1].argmax()))
    return reply
