"""Tiny random checkpoints in the layouts that the hub has as remote code alone, written as it has them."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import published_layouts as published
import pytest
import torch
from conftest import CONTEXT, small_tokenizer
from safetensors.torch import save_file
from torch import Tensor

import workbench as wb

HIDDEN, HEADS, INNER, LAYERS = 32, 4, 48, 3
VOCABULARY = len(small_tokenizer()) + 8

CLOSE = 1e-4
"""The largest difference of logits between a conversion and its layout."""


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """A tiny random checkpoint in its family's own layout."""

    settings: dict[str, Any]
    weights: dict[str, Tensor]
    forward: Callable[..., Tensor]

    def logits(self, ids: list[int]) -> Tensor:
        return self.forward(self.weights, self.settings, ids)

    def save(self, folder: Path, *, files: int = 3, pickled: bool = False, tokenizer: bool = True) -> Path:
        """Write it as the hub has it: shards with an index, a tokenizer, and code, which fails if it ever runs."""
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(self.settings))
        (folder / "modeling_theirs.py").write_text("raise SystemExit('remote code ran')")
        if tokenizer:
            small_tokenizer().save_pretrained(folder)
            theirs = {
                "tokenizer_class": "TheirTokenizer",
                "auto_map": {"AutoTokenizer": ["modeling_theirs.T", None]},
            }
            told = json.loads((folder / "tokenizer_config.json").read_text())
            (folder / "tokenizer_config.json").write_text(json.dumps(told | theirs))
        stem, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
        write = torch.save if pickled else save_file
        if files == 1:
            write(self.weights, folder / f"{stem}.{suffix}")
            return folder
        listed = {}
        for number in range(files):
            file = f"{stem}-{number + 1:05}-of-{files:05}.{suffix}"
            part = dict(list(self.weights.items())[number::files])
            write(part, folder / file)
            listed |= dict.fromkeys(part, file)
        (folder / f"{stem}.{suffix}.index.json").write_text(json.dumps({"weight_map": listed}))
        return folder


def checkpoint(
    forward: Callable[..., Tensor], shapes: dict[str, tuple[int, ...]], settings: dict[str, Any]
) -> Checkpoint:
    torch.manual_seed(len(shapes))
    drawn = {}
    for name, shape in shapes.items():
        if "norm" in name or ".ln_" in name:
            drawn[name] = 1 + 0.3 * torch.randn(shape)
        else:
            std = 0.5 if name.endswith("bias") else 1.0 if shape[0] == VOCABULARY else 1.5 / shape[-1] ** 0.5
            drawn[name] = std * torch.randn(shape)
    return Checkpoint(settings, drawn, forward)


def in_layers(prefix: str, shapes: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    return {f"{prefix}.{layer}.{name}": shape for layer in range(LAYERS) for name, shape in shapes.items()}


def internlm2(*, groups: int = 2, bias: bool = False, scaling: dict[str, Any] | None = None) -> Checkpoint:
    fused = (HEADS + 2 * groups) * HIDDEN // HEADS
    inside: dict[str, tuple[int, ...]] = {
        "attention.wqkv.weight": (fused, HIDDEN),
        "attention.wo.weight": (HIDDEN, HIDDEN),
        "feed_forward.w1.weight": (INNER, HIDDEN),
        "feed_forward.w3.weight": (INNER, HIDDEN),
        "feed_forward.w2.weight": (HIDDEN, INNER),
        "attention_norm.weight": (HIDDEN,),
        "ffn_norm.weight": (HIDDEN,),
    }
    if bias:
        inside |= {"attention.wqkv.bias": (fused,), "attention.wo.bias": (HIDDEN,)}
    shapes = {
        "model.tok_embeddings.weight": (VOCABULARY, HIDDEN),
        **in_layers("model.layers", inside),
        "model.norm.weight": (HIDDEN,),
        "output.weight": (VOCABULARY, HIDDEN),
    }
    settings = {
        "architectures": ["InternLM2ForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_theirs.InternLM2ForCausalLM"},
        "attn_implementation": "eager",
        "bias": bias,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": CONTEXT,
        "model_type": "internlm2",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": groups,
        "pad_token_id": 2,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": scaling,
        "rope_theta": 1000000,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformers_version": "4.41.0",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    return checkpoint(published.internlm2, shapes, settings)


def internlm(*, bias: bool = True) -> Checkpoint:
    inside: dict[str, tuple[int, ...]] = {
        **{f"self_attn.{name}_proj.weight": (HIDDEN, HIDDEN) for name in "qkvo"},
        **({f"self_attn.{name}_proj.bias": (HIDDEN,) for name in "qkvo"} if bias else {}),
        "mlp.gate_proj.weight": (INNER, HIDDEN),
        "mlp.up_proj.weight": (INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
    }
    shapes = {
        "model.embed_tokens.weight": (VOCABULARY, HIDDEN),
        **in_layers("model.layers", inside),
        "model.norm.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    settings = {
        "architectures": ["InternLMForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_theirs.InternLMForCausalLM"},
        "bias": bias,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": INNER,
        "max_position_embeddings": CONTEXT,
        "model_type": "internlm",
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": HEADS,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-06,
        "rotary": {"base": 20000, "type": "dynamic"},
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "use_cache": True,
        "vocab_size": VOCABULARY,
    }
    return checkpoint(published.internlm, shapes, settings)


def qwen(*, trained: int = CONTEXT, base: int = 10000) -> Checkpoint:
    inside: dict[str, tuple[int, ...]] = {
        "attn.c_attn.weight": (3 * HIDDEN, HIDDEN),
        "attn.c_attn.bias": (3 * HIDDEN,),
        "attn.c_proj.weight": (HIDDEN, HIDDEN),
        "mlp.w1.weight": (INNER, HIDDEN),
        "mlp.w2.weight": (INNER, HIDDEN),
        "mlp.c_proj.weight": (HIDDEN, INNER),
        "ln_1.weight": (HIDDEN,),
        "ln_2.weight": (HIDDEN,),
    }
    shapes = {
        "transformer.wte.weight": (VOCABULARY, HIDDEN),
        **in_layers("transformer.h", inside),
        "transformer.ln_f.weight": (HIDDEN,),
        "lm_head.weight": (VOCABULARY, HIDDEN),
    }
    settings = {
        "architectures": ["QWenLMHeadModel"],
        "attn_dropout_prob": 0.0,
        "auto_map": {"AutoModelForCausalLM": "modeling_theirs.QWenLMHeadModel"},
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "intermediate_size": 2 * INNER,
        "kv_channels": HIDDEN // HEADS,
        "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": 8 * CONTEXT,
        "model_type": "qwen",
        "no_bias": True,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "onnx_safe": None,
        "rotary_emb_base": base,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": trained,
        "tie_word_embeddings": False,
        "tokenizer_class": "QWenTokenizer",
        "use_cache": True,
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
        "vocab_size": VOCABULARY,
    }
    return checkpoint(published.qwen, shapes, settings)


KINDS: dict[str, Callable[[], Checkpoint]] = {
    "internlm2, grouped": internlm2,
    "internlm2, one key for all": lambda: internlm2(groups=1),
    "internlm2, a key each, biases": lambda: internlm2(groups=HEADS, bias=True),
    "internlm2, linear scaling": lambda: internlm2(scaling={"type": "linear", "factor": 4.0}),
    "internlm2, dynamic NTK": lambda: internlm2(scaling={"type": "dynamic", "factor": 2.0}),
    "internlm": internlm,
    "internlm without biases": lambda: internlm(bias=False),
    "qwen": qwen,
    "qwen, another base": lambda: qwen(base=1000),
}

THREE = {"internlm2": internlm2, "internlm": internlm, "qwen": qwen}


def plain_logits(model: Any, ids: list[int]) -> Tensor:
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0]


def difference(folder: Path, theirs: Checkpoint, *, length: int = 40) -> float:
    """The largest difference of logits, at any of `length` positions."""
    ids = [(7 * place * place + 3) % VOCABULARY for place in range(length)]
    return float((plain_logits(wb.load_model(folder, backend="plain"), ids) - theirs.logits(ids)).abs().max())


def refused(folder: Path, told: str, error: type[Exception] = ValueError, **given: Any) -> None:
    """The conversion is refused, and nothing is left beside the checkpoint."""
    beside = sorted(folder.parent.iterdir())
    with pytest.raises(error, match=told):
        wb.convert_checkpoint(folder, folder.parent / "never", **given)
    assert sorted(folder.parent.iterdir()) == beside
