"""An embedded text model with eyes: its words are its own, and its images noise.

A small LLaVA whose text part is an embedded model's, to the bit, behind a vision tower and a projector that nobody has
trained. On prompts in words it is that model; an image is so many tokens of nothing, which differ from image to image.
"""

from pathlib import Path

import torch
from transformers import (
    AddedToken,
    AutoModelForCausalLM,
    CLIPVisionConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
)
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

import workbench as wb
from workbench.shipped import shipped_path

SIDE, PATCH = 28, 14
FEATURES = (SIDE // PATCH) ** 2
QUIET = 0.02
"""Of the projector's weights: its features are of the size of the words' own embeddings."""


def save_sighted(folder: Path, name: str) -> Path:
    """The embedded model `name` with eyes, written as a LLaVA checkpoint is."""
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
    cut = CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE})
    LlavaProcessor(
        cut, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(folder)  # fmt: skip
    return folder
