"""Where the library is held against `reference.py`: a model worth steering, settings worth testing, and the check.

The model is a tiny random Llama that babbles: its replies vary from row to row and a mild shift changes them. (With
tied embeddings a random model repeats its last token whatever is added to it, and nothing would be tested.)
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import reference
import torch
from bodies import body_of
from conftest import CONTEXT, small_tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel

import workbench as wb
from workbench.loading import Model

N_LAYERS, D_MODEL = 6, 32


def babbler_of(seed: int) -> LlamaForCausalLM:
    """The model with weights of this seed."""
    tokenizer = small_tokenizer()
    torch.manual_seed(seed)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=D_MODEL,
            intermediate_size=64,
            num_hidden_layers=N_LAYERS,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=CONTEXT,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            tie_word_embeddings=False,
        )
    )
    for name, weight in model.named_parameters():
        if weight.ndim == 2:
            torch.nn.init.normal_(weight, std=1.0 if "embed" in name else 1.5 / weight.shape[-1] ** 0.5)
    return model


def save_babbler(folder: Path) -> Path:
    """Write the checkpoint and its tokenizer."""
    babbler_of(5).save_pretrained(folder)
    small_tokenizer().save_pretrained(folder)
    return folder


@cache
def aligned() -> PreTrainedModel:
    """A sibling of another seed: where theta comes from in the paper's form."""
    return wb.load_model(babbler_of(6), backend="plain", tokenizer=small_tokenizer())


def in_words(prompts: wb.PromptSet) -> wb.PromptSet:
    """The prompts without their images: what a text model can be asked."""
    return wb.PromptSet(prompts.name, tuple(replace(prompt, images=()) for prompt in prompts))


def extraction(prompts: wb.PromptSet) -> wb.PromptSet:
    """Every other prompt: the others were not fitted, so that some of them lie close to a gate's threshold."""
    return wb.PromptSet("extraction", prompts.prompts[::2])


@dataclass(frozen=True)
class Setting:
    """A plan that library and reference both understand; `gate` is a shared layer, "each" layer, or "open".

    `theta` is the model's "own", or the "aligned" model's; the gate is always the model's own.
    """

    alpha: float
    layers: tuple[int, ...]
    gate: int | str
    positions: str = "all"
    scale: str = "residual"
    theta: str = "own"
    deciding: str = "clean"

    def plan(self, model: Model, prompts: wb.PromptSet, *, site: str = "resid_post") -> wb.SteeringPlan:
        """The library's plan, read from `model` itself but for an aligned model's theta."""
        activations = wb.last_token_activations(model, extraction(prompts), site=site)
        vectors = wb.mean_difference(activations)
        if self.gate == "open":
            gate = wb.AlwaysOpen()
        else:
            gate = wb.ThresholdGate.fit(
                vectors, activations, layer=None if self.gate == "each" else self.gate
            )
        if self.theta == "aligned":
            said = wb.last_token_activations(aligned(), in_words(extraction(prompts)), site=site)
            vectors = wb.mean_difference(said)
        return wb.SteeringPlan(
            vectors,
            gate=gate,
            layers=self.layers,
            alpha=self.alpha,
            scale=self.scale,
            positions=self.positions,
            deciding=self.deciding,
        )


SETTINGS: dict[str, tuple[Setting | None, ...]] = {
    # one setting for all eight rows
    "read in the prefill": (Setting(0.15, (1, 2, 4), gate=1),) * 8,
    "read per layer": (Setting(0.15, (1, 2, 4), gate="each"),) * 8,
    "read above the shift": (Setting(0.2, (2, 3), gate=5),) * 8,
    "prompt only": (Setting(0.2, (0, 3), gate=0, positions="prompt"),) * 8,
    "reply only": (Setting(0.2, (1, 3), gate=0, positions="reply"),) * 8,
    # the paper's form: theta of another model, the target's own gate at each layer, alpha as it is
    "the paper's form": (Setting(3.0, (1, 2, 4), gate="each", scale="raw", theta="aligned"),) * 8,
    # every row its own; the first and last layer, both signs, no plan
    "a plan per row": (
        Setting(0.05, (1,), gate=0),
        Setting(0.2, (0, 1, 2, 3, 4, 5), gate=1),
        None,
        Setting(-0.1, (3, 4), gate="each", positions="prompt"),
        Setting(0.2, (5,), gate="open", positions="reply"),
        Setting(0.1, (2, 3), gate=5),
        Setting(0.2, (1, 2), gate=2),
        Setting(0.15, (0, 4), gate="open"),
    ),
    # every layer reads its own gate as it finds it, below its own shift and above those of lower layers
    "read online": (Setting(-0.15, (0, 1, 2, 3, 4, 5), gate="each", deciding="online"),) * 8,
    "online beside the prefill": (
        Setting(-0.2, (0, 2, 4), gate="each", deciding="online"),
        Setting(0.15, (1, 2, 4), gate=1),
        None,
        Setting(0.2, (0, 1, 2, 3, 4, 5), gate="each", deciding="online"),
        Setting(0.15, (2, 3), gate=1, deciding="online"),
        Setting(0.2, (1, 3), gate=0),
        Setting(0.1, (0, 4), gate="open", deciding="online"),
        Setting(-0.2, (1, 2, 4), gate="each", deciding="online", positions="prompt"),
    ),
    "online beside a clean pass": (
        Setting(-0.1, (0, 1, 2, 3, 4, 5), gate="each", deciding="online"),
        Setting(0.2, (2, 3), gate=5),
        Setting(-0.2, (0, 3, 5), gate="each"),
        Setting(-0.15, (2, 3, 4), gate="each", deciding="online"),
        None,
        Setting(0.15, (1, 2, 4), gate="each"),
        Setting(0.2, (1, 3), gate="each", deciding="online", positions="reply"),
        Setting(-0.15, (2, 3, 4), gate="each", deciding="online"),
    ),
}


@dataclass(frozen=True)
class Expected:
    """The reference's word on one row: the reply, the logits before each of its tokens, the gate at every layer."""

    tokens: tuple[int, ...]
    logits: Tensor
    gate_open: tuple[bool, ...] | None


N_TOKENS = 10


def asked(model: PreTrainedModel, prompt: wb.Prompt) -> tuple[reference.Messages, Tensor | None]:
    """The messages of a prompt with an image token for each feature of its images, and what the model sees of these."""
    if not prompt.images:
        return prompt.messages, None
    pixels = model.processor.image_processor(
        [image.pixels() for image in prompt.images], return_tensors="pt"
    )["pixel_values"]
    vision = model.config.vision_config
    mark = "<image>" * (vision.image_size // vision.patch_size) ** 2
    before = "" if prompt.slots else f"{mark}\n" * len(prompt.images)
    *others, (role, content) = [(role, content.replace("<image>", mark)) for role, content in prompt.messages]
    return (*others, (role, before + content)), pixels


@cache
def _directions(model: PreTrainedModel, prompts: wb.PromptSet) -> reference.Directions:
    read = [
        (prompt.harmful, reference.last_token_residuals(model, model.tokenizer, *asked(model, prompt)))
        for prompt in extraction(prompts)
    ]
    return reference.directions(
        [found for harmful, found in read if harmful], [found for harmful, found in read if not harmful]
    )


@cache
def expected(
    model: PreTrainedModel, prompts: wb.PromptSet, prompt: wb.Prompt, setting: Setting | None
) -> Expected:
    """What the reference makes of `prompt`; vectors and gate come from half of `prompts`."""
    messages, pixels = asked(model, prompt)
    ids = reference.chat_ids(model.tokenizer, messages)
    shifts, positions, gate_open = {}, "all", None
    if setting is not None:
        found = _directions(model, prompts)
        steered = _directions(aligned(), in_words(prompts)) if setting.theta == "aligned" else found
        positions = setting.positions
        shifts = {
            layer: setting.alpha
            * (steered.residual_norm[layer] if setting.scale == "residual" else 1)
            * steered.unit[layer]
            for layer in setting.layers
        }
        if setting.gate == "open":
            gate_open = (True,) * body_of(model).depth
        elif setting.gate == "each" and setting.deciding == "online":
            shifted = reference.shifted_positions(len(ids), 0, positions)
            gate_open = tuple(reference.gate_online(model, ids, found, shifts, shifted, pixels))
        else:
            residuals = reference.last_token_residuals(model, model.tokenizer, messages, pixels)
            shared = setting.gate if isinstance(setting.gate, int) else None
            gate_open = tuple(reference.gate(residuals, found, shared_layer=shared))
        shifts = {layer: shift for layer, shift in shifts.items() if gate_open[layer]}
    tokens = reference.greedy(model, ids, shifts, positions, N_TOKENS, model.tokenizer.eos_token_id, pixels)
    logits = reference.step_logits(model, ids, tokens, shifts, positions, pixels)
    return Expected(tuple(tokens), logits, gate_open)


@dataclass(frozen=True)
class Parity:
    """How far the library is from the reference."""

    logit_error: float
    same_tokens: bool
    same_gates: bool

    @property
    def holds(self) -> bool:
        """The promise: logits within 1e-4 at every step, the same tokens, the same decisions."""
        return self.logit_error <= 1e-4 and self.same_tokens and self.same_gates


def parity(
    model: Model, plain: PreTrainedModel, prompts: wb.PromptSet, settings: Sequence[Setting | None]
) -> Parity:
    """Hold `model`, on any backend, against the reference on `plain`, row by row and step by step."""
    rows = [expected(plain, prompts, *row) for row in zip(prompts, settings, strict=True)]
    plans = {setting: setting.plan(model, prompts) for setting in settings if setting is not None}
    own = [setting and plans[setting] for setting in settings]
    logits = wb.teacher_forced_logits(model, prompts, [row.tokens for row in rows], own)
    completions = wb.generate(model, prompts, own, max_new_tokens=N_TOKENS)
    return Parity(
        max(float((got - row.logits).abs().max()) for got, row in zip(logits, rows, strict=True)),
        all(got.tokens == row.tokens for got, row in zip(completions, rows, strict=True)),
        all(got.gate_open == row.gate_open for got, row in zip(completions, rows, strict=True)),
    )
