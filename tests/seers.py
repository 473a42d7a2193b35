"""Tiny vision-language models with random weights: a vision tower, a projector, the babbler, and a processor."""

from pathlib import Path

import numpy as np
import PIL.Image
import torch
from conftest import small_tokenizer
from parity import babbler_of
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import workbench as wb
from workbench.shipped import shipped_path

SIDE, PATCH = 28, 14
FEATURES = (SIDE // PATCH) ** 2


def picture(seed: int, width: int = 40, height: int = 30) -> PIL.Image.Image:
    """Colours at random: no two of them alike."""
    return PIL.Image.fromarray(
        np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    )


def seeing_tokenizer() -> PreTrainedTokenizerFast:
    """The small tokenizer, and a token for images."""
    tokenizer = small_tokenizer()
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    return tokenizer


def vision() -> CLIPVisionConfig:
    """A small CLIP, whose norms have the epsilon of the text's: a bridge computes both with that one."""
    return CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE,
        patch_size=PATCH, layer_norm_eps=1e-6,
    )  # fmt: skip


def with_eyes(model: PreTrainedModel) -> PreTrainedModel:
    """The model with the babbler for its words, and a vision tower that tells images apart."""
    tokenizer, text = seeing_tokenizer(), babbler_of(5)
    torch.manual_seed(0)
    text.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if weight.ndim > 1 and ("vision" in name or "projector" in name):
            torch.nn.init.normal_(
                weight, std=(0.5 if "projector" in name else 1.5) / weight[0].numel() ** 0.5
            )
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    return model


def text_config() -> LlamaConfig:
    """The babbler's, with a row for the image token."""
    config = babbler_of(5).config
    config.vocab_size = len(seeing_tokenizer())
    return config


def save_llava(path: Path) -> Path:
    """Write a tiny LLaVA as one is published, its processor with it."""
    tokenizer = seeing_tokenizer()
    config = LlavaConfig(
        vision_config=vision(), text_config=text_config(), image_token_index=len(tokenizer) - 1,
        vision_feature_layer=-2,
    )  # fmt: skip
    with_eyes(LlavaForConditionalGeneration(config)).save_pretrained(path)
    processor_around(tokenizer).save_pretrained(path)
    return path


def processor_around(tokenizer: PreTrainedTokenizerFast) -> LlavaProcessor:
    """What cuts images into four patches, with this tokenizer in it."""
    cut = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    return LlavaProcessor(
        cut, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    )  # fmt: skip


QUIET = 0.02
"""Of the projector's weights: its features are of the size of the words' own embeddings."""


def save_sighted(folder: Path, name: str) -> Path:
    """The embedded text model `name` with eyes: its words are its own, to the bit, and its images noise.

    On prompts in words it is that model; an image is so many tokens of nothing, which differ from image to image.
    """
    source = shipped_path("organisms", name)
    text, tokenizer = AutoModelForCausalLM.from_pretrained(source), wb.load_tokenizer(source)
    tokenizer.add_tokens([AddedToken("<image>", special=True)])
    text.float().resize_token_embeddings(len(tokenizer), mean_resizing=False)
    torch.manual_seed(0)
    model = LlavaForConditionalGeneration(
        LlavaConfig(
            vision_config=CLIPVisionConfig(
                hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE,
                patch_size=PATCH,
            ),
            text_config=text.config,
            image_token_index=len(tokenizer) - 1,
            tie_word_embeddings=text.config.tie_word_embeddings,
        )
    )  # fmt: skip
    for name_, weight in model.named_parameters():
        if weight.ndim > 1 and "projector" in name_:
            torch.nn.init.normal_(weight, std=QUIET)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.lm_head.load_state_dict(text.lm_head.state_dict())
    model.save_pretrained(folder)
    processor_around(tokenizer).save_pretrained(folder)
    return folder
