"""InternLM (v1) as Llama: the names are Llama's already, and its four attention projections may have biases.

    rotary = {"base": theta, "type": "origin" or "dynamic", "scaling_factor": 1 unless given}

The trap: the class says `bias` where Llama says `attention_bias`, and `rotary` where it says `rope_parameters`: read as
a Llama config, biases and base are both lost, and the model still talks.
"""

from typing import Any

from transformers import LlamaConfig

from workbench.conversion.families import QKV, Family, dynamic_note, heads_of, llama_config, rope
from workbench.conversion.settings import Settings


def configure(settings: Settings) -> LlamaConfig:
    """The same settings in Llama's words."""
    _, heads = heads_of(settings)
    settings.require(
        "num_key_value_heads", (heads,), "its attention has a key and a value for every query head"
    )
    return llama_config(settings, key_heads=heads, rope_parameters=_rope(settings))


def _rope(settings: Settings) -> dict[str, Any]:
    # The earliest configs have none; within the trained length both types are one.
    rotary = settings.value("rotary", dict, {"base": 10_000, "type": "dynamic"})
    unknown = set(rotary) - {"base", "type", "scaling_factor"}
    if unknown or "base" not in rotary or rotary.get("type") not in ("origin", "dynamic"):
        raise ValueError(
            f"{settings.name}: config.json has rotary = {rotary}, expected a base, a type (origin or dynamic) and "
            "maybe a scaling_factor: the layout has no other"
        )
    if rotary["type"] == "origin":
        return rope(rotary["base"])
    return rope(rotary["base"], "dynamic", rotary.get("scaling_factor", 1.0))


_SAME = (
    *QKV, "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj", "input_layernorm",
    "post_attention_layernorm",
)  # fmt: skip

INTERNLM = Family(
    architecture="InternLMForCausalLM",
    prefix="model.layers.",
    outside={name: name for name in ("model.embed_tokens", "model.norm", "lm_head")},
    inside={name: name for name in _SAME},
    configure=configure,
    notes=dynamic_note,
)
