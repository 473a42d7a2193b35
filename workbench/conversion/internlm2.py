"""InternLM2 as Llama: queries, keys and values come apart, everything else changes its name.

    wqkv rows: for each key/value head g, its query heads, then its key, then its value
        [q_(g,1) .. q_(g,n)  k_g  v_g],  n = heads / key-value heads, each of head_dim rows
    mlp: w2( silu(w1 x) * w3 x )

The trap: the rows are grouped per key/value head. Cut into three blocks they have the right shapes, and are wrong.
"""

from typing import Any

from torch import Tensor
from transformers import LlamaConfig

from workbench.conversion.families import Family, dynamic_note, heads_of, llama_config, rope
from workbench.conversion.settings import Settings


def configure(settings: Settings) -> LlamaConfig:
    """The same settings in Llama's words."""
    _, heads = heads_of(settings)
    keys = settings.value("num_key_value_heads", (int, type(None)), None) or heads
    if keys < 1 or heads % keys:
        raise ValueError(
            f"{settings.name}: config.json has {heads} query heads for num_key_value_heads = {keys}, expected a "
            "multiple: restore it from a copy"
        )
    return llama_config(settings, key_heads=keys, rope_parameters=_rope(settings))


def _rope(settings: Settings) -> dict[str, Any]:
    theta = settings.value("rope_theta", (int, float), 10_000)
    scaling = settings.value("rope_scaling", (dict, type(None)), None)
    if scaling is None:
        return rope(theta)
    if set(scaling) != {"type", "factor"} or scaling["type"] not in ("linear", "dynamic"):
        raise ValueError(
            f"{settings.name}: config.json has rope_scaling = {scaling}, expected a type (linear or dynamic) and a "
            "factor: the layout has no other"
        )
    return rope(theta, scaling["type"], scaling["factor"])


def part(rows: Tensor, config: LlamaConfig) -> tuple[Tensor, ...]:
    """Rows of wqkv, weight or bias, as those of queries, keys and values."""
    keys, width = config.num_key_value_heads or 0, config.hidden_size // config.num_attention_heads
    groups = rows.reshape(keys, -1, width, *rows.shape[1:])
    return tuple(
        heads.reshape(-1, *rows.shape[1:]) for heads in (groups[:, :-2], groups[:, -2], groups[:, -1])
    )


INTERNLM2 = Family(
    architecture="InternLM2ForCausalLM",
    prefix="model.layers.",
    outside={"model.tok_embeddings": "model.embed_tokens", "model.norm": "model.norm", "output": "lm_head"},
    inside={
        "attention.wo": "self_attn.o_proj",
        "feed_forward.w1": "mlp.gate_proj",
        "feed_forward.w3": "mlp.up_proj",
        "feed_forward.w2": "mlp.down_proj",
        "attention_norm": "input_layernorm",
        "ffn_norm": "post_attention_layernorm",
    },
    configure=configure,
    fused="attention.wqkv",
    part=part,
    notes=dynamic_note,
)
