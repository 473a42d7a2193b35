"""Tiny random checkpoints of many architectures, each worth steering: layers matter, and replies vary.

The trap: a random model with tied embeddings says its last token again and again, whatever is added to it. Where
embeddings are tied they are drawn small beside what the blocks write.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from conftest import CONTEXT, small_tokenizer
from remote_code import internlm, internlm2, qwen
from transformers import (
    FalconConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Olmo2Config,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

import workbench as wb

N_LAYERS, D_MODEL, WINDOW = 6, 32, 4
"""Every prompt is longer than the window."""


@dataclass(frozen=True)
class Architecture:
    """A config class with what makes it special; `embedding` is how large embeddings are drawn, `gain` the weights."""

    config: type[PreTrainedConfig]
    settings: dict[str, Any] = field(default_factory=dict)
    embedding: float = 1.0
    gain: float = 1.5
    seed: int = 5


GROUPED = dict(num_key_value_heads=2)
UNTIED = dict(tie_word_embeddings=False)
TIED = dict(tie_word_embeddings=True)
WINDOWED = dict(sliding_window=WINDOW)

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(LlamaConfig, GROUPED | UNTIED),
    "llama-tied": Architecture(LlamaConfig, GROUPED | TIED, embedding=0.3),
    "mistral": Architecture(MistralConfig, GROUPED | UNTIED | WINDOWED),
    "qwen2": Architecture(Qwen2Config, GROUPED | TIED, embedding=0.3),
    # the layers from the third on have a window
    "qwen2-sliding": Architecture(
        Qwen2Config, GROUPED | UNTIED | WINDOWED | dict(use_sliding_window=True, max_window_layers=2)
    ),
    "qwen3": Architecture(Qwen3Config, GROUPED | UNTIED | dict(head_dim=8)),
    # caps low enough to bend what is drawn here; every other layer has a window
    "gemma2": Architecture(
        Gemma2Config,
        GROUPED
        | TIED
        | WINDOWED
        | dict(head_dim=8, query_pre_attn_scalar=8, attn_logit_softcapping=2.0, final_logit_softcapping=5.0),
        embedding=0.08,
        seed=6,
    ),
    # two of three layers have a window, and rotary positions of their own
    "gemma3": Architecture(
        Gemma3TextConfig,
        GROUPED | TIED | WINDOWED | dict(head_dim=8, query_pre_attn_scalar=8, sliding_window_pattern=3),
        embedding=0.08,
    ),
    "phi3": Architecture(Phi3Config, GROUPED | UNTIED),
    "phi3-sliding": Architecture(Phi3Config, GROUPED | UNTIED | WINDOWED),
    "gpt2": Architecture(GPT2Config, TIED, embedding=0.3),
    "neox": Architecture(GPTNeoXConfig, UNTIED | dict(use_parallel_residual=True)),
    "olmo2": Architecture(Olmo2Config, GROUPED | UNTIED),
    "granite": Architecture(
        GraniteConfig,
        GROUPED
        | UNTIED
        | dict(
            embedding_multiplier=3.0, residual_multiplier=0.6, attention_multiplier=0.3, logits_scaling=0.5
        ),
        embedding=0.3,
    ),
    # one norm for attention and MLP, one head of keys and values
    "falcon": Architecture(
        FalconConfig, UNTIED | dict(multi_query=True, parallel_attn=True, new_decoder_architecture=False)
    ),
    # no rotary positions: each head counts how far away a token is
    "falcon-alibi": Architecture(FalconConfig, UNTIED | dict(alibi=True, new_decoder_architecture=False)),
    # two norms, grouped heads
    "falcon-new": Architecture(FalconConfig, UNTIED | dict(new_decoder_architecture=True, num_kv_heads=2)),
}


CONVERTED = {"internlm2-converted": internlm2, "internlm-converted": internlm, "qwen-converted": qwen}
"""Checkpoints in layouts that exist as remote code alone, as `workbench convert` makes them: Llama and Qwen2."""
MATRIX = (*ARCHITECTURES, *CONVERTED)


def config_of(name: str) -> PreTrainedConfig:
    """The config of an architecture, for the small tokenizer."""
    asked = ARCHITECTURES[name]
    tokenizer = small_tokenizer()
    shape = dict(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    if asked.config is GPT2Config:
        shape |= dict(n_layer=N_LAYERS, n_embd=D_MODEL, n_head=4, n_positions=CONTEXT)
    else:
        shape |= dict(num_hidden_layers=N_LAYERS, hidden_size=D_MODEL, num_attention_heads=4)
        shape |= dict(max_position_embeddings=CONTEXT)
        shape |= dict(ffn_hidden_size=64) if asked.config is FalconConfig else dict(intermediate_size=64)
    return asked.config(**shape, **asked.settings)


def model_of(name: str, seed: int | None = None) -> PreTrainedModel:
    """The plain model, with every weight drawn: norms and biases, too, so that a forgotten one shows."""
    asked = ARCHITECTURES[name]
    model = AutoModelForCausalLM.from_config(config_of(name))
    generator = torch.Generator().manual_seed(asked.seed if seed is None else seed)
    transposed = {module.weight for module in model.modules() if isinstance(module, Conv1D)}
    embeddings = {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}
    with torch.no_grad():
        for weight in model.parameters():
            drawn = torch.randn(weight.shape, generator=generator)
            if weight.ndim == 1:
                weight.add_(0.1 * drawn)
            elif weight in embeddings:
                weight.copy_(asked.embedding * drawn)
            else:
                fan_in = weight.shape[0 if weight in transposed else -1]
                weight.copy_(asked.gain * drawn / fan_in**0.5)
    return model


def save_model(name: str, folder: Path) -> Path:
    """Write the checkpoint and its tokenizer; one in another layout is written beside it, and converted."""
    if name in CONVERTED:
        theirs = CONVERTED[name](layers=N_LAYERS).save(folder.with_name(f"{folder.name}-theirs"))
        return wb.convert_checkpoint(theirs, folder).folder
    model_of(name).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder
