"""Tiny random checkpoints in the layouts that the hub has as remote code alone, written as it has them."""

import dataclasses
import json
from collections.abc import Callable, Sequence
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
    forward: Callable[..., Tensor],
    settings: dict[str, Any],
    *,
    outside: tuple[str, str, str, str],
    inside: dict[str, tuple[int, ...]],
    biased: Sequence[str] = (),
) -> Checkpoint:
    """Weights drawn for the modules `inside` each layer, and those `outside`: embedding, layers, norm, output."""
    embedding, layers, norm, output = outside
    shapes = {f"{embedding}.weight": (VOCABULARY, HIDDEN)}
    for layer in range(settings["num_hidden_layers"]):
        shapes |= {f"{layers}.{layer}.{module}.weight": shape for module, shape in inside.items()}
        shapes |= {f"{layers}.{layer}.{module}.bias": inside[module][:1] for module in biased}
    shapes |= {f"{norm}.weight": (HIDDEN,), f"{output}.weight": (VOCABULARY, HIDDEN)}
    torch.manual_seed(3 + len(shapes))
    drawn = {}
    for name, shape in shapes.items():
        if "norm" in name or ".ln_" in name:
            drawn[name] = 1 + 0.3 * torch.randn(shape)
        else:
            std = 0.5 if name.endswith("bias") else 1.0 if shape[0] == VOCABULARY else 1.5 / shape[-1] ** 0.5
            drawn[name] = std * torch.randn(shape)
    return Checkpoint(settings, drawn, forward)


def settings_of(architecture: str, model_type: str, *, layers: int, **own: Any) -> dict[str, Any]:
    """What the three have in common, and a family's `own`."""
    return {
        "architectures": [architecture],
        "auto_map": {"AutoModelForCausalLM": f"modeling_theirs.{architecture}"},
        "hidden_size": HIDDEN,
        "initializer_range": 0.02,
        "model_type": model_type,
        "num_attention_heads": HEADS,
        "num_hidden_layers": layers,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": VOCABULARY,
        **own,
    }


INTERN = {
    "bos_token_id": 0,
    "eos_token_id": 1,
    "hidden_act": "silu",
    "intermediate_size": INNER,
    "max_position_embeddings": CONTEXT,
    "pad_token_id": 2,
}


def internlm2(
    *, groups: int = 2, bias: bool = False, scaling: dict[str, Any] | None = None, layers: int = LAYERS
) -> Checkpoint:
    inside: dict[str, tuple[int, ...]] = {
        "attention.wqkv": ((HEADS + 2 * groups) * HIDDEN // HEADS, HIDDEN),
        "attention.wo": (HIDDEN, HIDDEN),
        "feed_forward.w1": (INNER, HIDDEN),
        "feed_forward.w3": (INNER, HIDDEN),
        "feed_forward.w2": (HIDDEN, INNER),
        "attention_norm": (HIDDEN,),
        "ffn_norm": (HIDDEN,),
    }
    own = {
        "attn_implementation": "eager",
        "bias": bias,
        "num_key_value_heads": groups,
        "pretraining_tp": 1,
        "rms_norm_eps": 1e-05,
        "rope_scaling": scaling,
        "rope_theta": 1000000,
        "torch_dtype": "float32",
        "transformers_version": "4.41.0",
    }
    return checkpoint(
        published.internlm2,
        settings_of("InternLM2ForCausalLM", "internlm2", layers=layers, **INTERN, **own),
        outside=("model.tok_embeddings", "model.layers", "model.norm", "output"),
        inside=inside,
        biased=("attention.wqkv", "attention.wo") if bias else (),
    )


def internlm(*, bias: bool = True, layers: int = LAYERS) -> Checkpoint:
    projections = [f"self_attn.{name}_proj" for name in "qkvo"]
    inside: dict[str, tuple[int, ...]] = {
        **dict.fromkeys(projections, (HIDDEN, HIDDEN)),
        "mlp.gate_proj": (INNER, HIDDEN),
        "mlp.up_proj": (INNER, HIDDEN),
        "mlp.down_proj": (HIDDEN, INNER),
        "input_layernorm": (HIDDEN,),
        "post_attention_layernorm": (HIDDEN,),
    }
    own = {
        "bias": bias,
        "num_key_value_heads": HEADS,
        "rms_norm_eps": 1e-06,
        "rotary": {"base": 20000, "type": "dynamic"},
        "torch_dtype": "float16",
    }
    return checkpoint(
        published.internlm,
        settings_of("InternLMForCausalLM", "internlm", layers=layers, **INTERN, **own),
        outside=("model.embed_tokens", "model.layers", "model.norm", "lm_head"),
        inside=inside,
        biased=projections if bias else (),
    )


def qwen(*, trained: int = CONTEXT, base: int = 10000, layers: int = LAYERS) -> Checkpoint:
    inside: dict[str, tuple[int, ...]] = {
        "attn.c_attn": (3 * HIDDEN, HIDDEN),
        "attn.c_proj": (HIDDEN, HIDDEN),
        "mlp.w1": (INNER, HIDDEN),
        "mlp.w2": (INNER, HIDDEN),
        "mlp.c_proj": (HIDDEN, INNER),
        "ln_1": (HIDDEN,),
        "ln_2": (HIDDEN,),
    }
    own = {
        "attn_dropout_prob": 0.0,
        "bf16": False,
        "emb_dropout_prob": 0.0,
        "fp16": False,
        "fp32": False,
        "intermediate_size": 2 * INNER,
        "kv_channels": HIDDEN // HEADS,
        "layer_norm_epsilon": 1e-06,
        "max_position_embeddings": 8 * CONTEXT,
        "no_bias": True,
        "onnx_safe": None,
        "rotary_emb_base": base,
        "rotary_pct": 1.0,
        "scale_attn_weights": True,
        "seq_length": trained,
        "tokenizer_class": "QWenTokenizer",
        "use_dynamic_ntk": True,
        "use_flash_attn": "auto",
        "use_logn_attn": True,
    }
    return checkpoint(
        published.qwen,
        settings_of("QWenLMHeadModel", "qwen", layers=layers, **own),
        outside=("transformer.wte", "transformer.h", "transformer.ln_f", "lm_head"),
        inside=inside,
        biased=("attn.c_attn",),
    )


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
