"""What a family is: how its settings read, and which weights of the target each of its own becomes.

A weight is `PREFIX N . MODULE . weight` within layer N, `MODULE . weight` outside; most are renamed, one module of each
layer may hold queries, keys and values together.

The trap: fused rows look alike whatever their order. Each family says how to part them.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, PreTrainedConfig

from workbench.conversion.settings import Settings

QKV = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")


@dataclass(frozen=True)
class Family:
    """One published layout, and the transformers class that computes the same.

    `outside` and `inside` rename modules, outside the layers and in each; `fused` names the module of a layer that
    `part` takes apart, its rows (of weight or bias) to those of queries, keys and values. `constants` are buffers that
    older checkpoints hold, and that no layer needs.
    """

    architecture: str
    prefix: str
    outside: Mapping[str, str]
    inside: Mapping[str, str]
    configure: Callable[[Settings], PreTrainedConfig]
    fused: str = ""
    part: Callable[[Tensor, Any], tuple[Tensor, ...]] = lambda rows, config: (rows,)
    constants: tuple[str, ...] = ()
    notes: Callable[[Any], tuple[str, ...]] = field(default=lambda config: ())

    def targets(self, name: str) -> tuple[str, ...] | None:
        """The target's weights that this one becomes; empty for a buffer, None for a name that the layout lacks."""
        if name.endswith((".rotary_emb.inv_freq", *self.constants)):
            return ()
        module, _, kind = name.rpartition(".")
        if module in self.outside:
            return (f"{self.outside[module]}.{kind}",)
        found = re.fullmatch(rf"{re.escape(self.prefix)}(\d+)\.(.+)", module)
        if found is None:
            return None
        layer, module = f"model.layers.{found[1]}", found[2]
        if module == self.fused:
            return tuple(f"{layer}.{projection}.{kind}" for projection in QKV)
        return (f"{layer}.{self.inside[module]}.{kind}",) if module in self.inside else None

    def convert(self, name: str, tensor: Tensor, config: Any) -> list[tuple[str, Tensor]]:
        """The target's weights, by name, that `tensor` becomes.

        Raises `ValueError` for rows or rotary frequencies that are not those of the config.
        """
        targets = self.targets(name) or ()
        if name.endswith(".rotary_emb.inv_freq"):
            _require_frequencies(name, tensor, config)
        if len(targets) < len(QKV):
            return [(target, tensor) for target in targets]
        width = config.hidden_size // config.num_attention_heads
        expected = (config.num_attention_heads + 2 * config.num_key_value_heads) * width
        if len(tensor) != expected:
            raise ValueError(
                f"{name} has {len(tensor)} rows, expected {expected} by the heads of config.json: restore both from "
                "one copy"
            )
        return list(zip(targets, self.part(tensor, config), strict=True))


def heads_of(settings: Settings) -> tuple[int, int]:
    """The residual stream's width, and the number of query heads that share it."""
    width, heads = settings.value("hidden_size", int), settings.value("num_attention_heads", int)
    if heads < 1 or width < 1 or width % heads:
        raise ValueError(
            f"{settings.name}: config.json has hidden_size = {width} for {heads} heads, expected a multiple: restore "
            "it from a copy"
        )
    return width, heads


def rope(theta: float | int, kind: str = "default", factor: float | int | None = None) -> dict[str, Any]:
    """Rotary positions as transformers writes them down."""
    told: dict[str, Any] = {"rope_type": kind, "rope_theta": float(theta)}
    return told if factor is None else {**told, "factor": float(factor)}


def llama_config(settings: Settings, *, key_heads: int, rope_parameters: dict[str, Any]) -> LlamaConfig:
    """What the two InternLMs say alike, in Llama's words."""
    width, heads = heads_of(settings)
    settings.require("hidden_act", ("silu",), "the layout has no other")
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        vocab_size=settings.value("vocab_size", int),
        hidden_size=width,
        intermediate_size=settings.value("intermediate_size", int),
        num_hidden_layers=settings.value("num_hidden_layers", int),
        num_attention_heads=heads,
        num_key_value_heads=key_heads,
        hidden_act="silu",
        max_position_embeddings=settings.value("max_position_embeddings", int),
        rms_norm_eps=settings.value("rms_norm_eps", float),
        rope_parameters=rope_parameters,
        attention_bias=settings.value("bias", bool),
        tie_word_embeddings=settings.value("tie_word_embeddings", bool, False),
        initializer_range=settings.value("initializer_range", float, 0.02),
        use_cache=settings.value("use_cache", bool, True),
        bos_token_id=settings.value("bos_token_id", (int, type(None)), 1),
        eos_token_id=settings.value("eos_token_id", (int, list, type(None)), 2),
        pad_token_id=settings.value("pad_token_id", (int, type(None)), 0),
    )


def dynamic_note(config: Any) -> tuple[str, ...]:
    """What to say of rotary positions that are stretched beyond the trained length."""
    if config.rope_parameters["rope_type"] != "dynamic":
        return ()
    length = config.max_position_embeddings
    return (
        f"dynamic NTK acts beyond {length:,} tokens alone, and the workbench refuses contexts beyond them",
    )


def _require_frequencies(name: str, stored: Tensor, config: Any) -> None:
    """Older checkpoints hold the frequencies that any model computes from its base: they had better agree."""
    width = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    computed = 1 / theta ** (torch.arange(0, width, 2) / width)
    if stored.shape != computed.shape or not torch.allclose(stored.float(), computed, rtol=1e-2):
        raise ValueError(
            f"{name} is not what a rotary base of {theta:g} gives: config.json and weights are of two models; restore "
            "both from one copy"
        )
