"""Qwen (v1) as Qwen2: fused queries, keys and values with biases come apart, the two halves of the MLP change names.

    c_attn rows: all queries, then all keys, then all values
    mlp: c_proj( w1 x * silu(w2 x) ),  w1 and w2 of intermediate_size / 2 rows each

Beyond `seq_length`, the trained length, two switches change attention: `use_dynamic_ntk` stretches the rotary base,
`use_logn_attn` multiplies each query at position i by log i / log seq_length. Up to it both do nothing, and Qwen2
computes the same; beyond it Qwen2 has neither, so the converted model's context ends there.

The traps: w2 is the gate, and not w1; config.json counts both halves as `intermediate_size`; its
`max_position_embeddings` may be several times the trained length, and the published code never reads it.
"""

from torch import Tensor
from transformers import Qwen2Config

from workbench.conversion.families import Family, heads_of, rope
from workbench.conversion.settings import Settings


def configure(settings: Settings) -> Qwen2Config:
    """The same settings in Qwen2's words, with a context as long as Qwen was trained on."""
    width, heads = heads_of(settings)
    halves = settings.value("intermediate_size", int)
    if halves % 2:
        raise ValueError(
            f"{settings.name}: config.json has intermediate_size = {halves}, expected twice a width"
        )
    settings.require("kv_channels", (width // heads,), "heads of another width than hidden_size / heads")
    settings.require("no_bias", (True,), "Qwen2 has biases for queries, keys and values alone")
    settings.require("rotary_pct", (1.0,), "Qwen2 rotates whole heads")
    settings.require("scale_attn_weights", (True,), "Qwen2 always scales")
    settings.require("use_cache_quantization", (False,), "keys and values would be rounded: set it to false")
    settings.require("use_cache_kernel", (False,), "it belongs to rounded keys and values: set it to false")
    # Precision and kernels, dropout that acts in training alone, a length that no line of the code reads, and the two
    # switches that act beyond seq_length.
    settings.pass_over(
        "bf16", "fp16", "fp32", "softmax_in_fp32", "use_flash_attn", "onnx_safe", "emb_dropout_prob",
        "max_position_embeddings", "use_dynamic_ntk", "use_logn_attn",
    )  # fmt: skip
    return Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        vocab_size=settings.value("vocab_size", int),
        hidden_size=width,
        intermediate_size=halves // 2,
        num_hidden_layers=settings.value("num_hidden_layers", int),
        num_attention_heads=heads,
        num_key_value_heads=heads,
        hidden_act="silu",
        max_position_embeddings=settings.value("seq_length", int),
        rms_norm_eps=settings.value("layer_norm_epsilon", float),
        rope_parameters=rope(settings.value("rotary_emb_base", (int, float))),
        attention_dropout=settings.value("attn_dropout_prob", (int, float), 0.0),
        tie_word_embeddings=settings.value("tie_word_embeddings", bool, False),
        initializer_range=settings.value("initializer_range", float, 0.02),
        use_cache=settings.value("use_cache", bool, True),
        bos_token_id=settings.value("bos_token_id", (int, type(None)), None),
        eos_token_id=settings.value("eos_token_id", (int, list, type(None)), None),
        pad_token_id=settings.value("pad_token_id", (int, type(None)), None),
    )


def part(rows: Tensor, config: Qwen2Config) -> tuple[Tensor, ...]:
    """Rows of c_attn, weight or bias, as those of queries, keys and values."""
    return rows.chunk(3)


def _note(config: Qwen2Config) -> tuple[str, ...]:
    return (
        f"trained on {config.max_position_embeddings:,} tokens: longer contexts, where Qwen has logn attention and "
        "dynamic NTK and Qwen2 has neither, are refused",
    )


QWEN = Family(
    architecture="QWenLMHeadModel",
    prefix="transformer.h.",
    outside={
        "transformer.wte": "model.embed_tokens",
        "transformer.ln_f": "model.norm",
        "lm_head": "lm_head",
    },
    inside={
        "attn.c_proj": "self_attn.o_proj",
        "mlp.w1": "mlp.up_proj",
        "mlp.w2": "mlp.gate_proj",
        "mlp.c_proj": "mlp.down_proj",
        "ln_1": "input_layernorm",
        "ln_2": "post_attention_layernorm",
    },
    configure=configure,
    fused="attn.c_attn",
    part=part,
    constants=(".attn.masked_bias",),
    notes=_note,
)
