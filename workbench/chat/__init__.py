"""How a prompt becomes tokens: through a chat template, the model's own or a named one, with nothing hidden.

The method reads the last token of exactly that text (InferAligner, arXiv 2401.11206).
"""

from workbench.chat.rendering import (
    encode,
    pad_id,
    render,
    require_template,
    template_hash,
    tokenize,
    tokenizer_hash,
)
from workbench.chat.seeing import Words, features_of, image_tensors, image_token, tokenizer_in
from workbench.chat.showing import ShownPrompt, ShownToken, show_prompt
from workbench.chat.templates import TEMPLATES, ChatTemplate, begins_with_bos, read_template, with_template
from workbench.chat.tokens import EncodedBatch, Tokens, images_of, pad_left

__all__ = [
    "TEMPLATES",
    "ChatTemplate",
    "EncodedBatch",
    "ShownPrompt",
    "ShownToken",
    "Tokens",
    "Words",
    "begins_with_bos",
    "encode",
    "features_of",
    "image_tensors",
    "image_token",
    "images_of",
    "pad_id",
    "pad_left",
    "read_template",
    "render",
    "require_template",
    "show_prompt",
    "template_hash",
    "tokenize",
    "tokenizer_hash",
    "tokenizer_in",
    "with_template",
]
