"""What a processor knows of images: their token, how many of it stand for one, and what the model is given of it.

    "<image>" in the text  ->  as many image tokens as the image has features        (LLaVA-1.5: 24 x 24 for each)

The trap: a processor that is given a text and images expands, cuts and pads as it likes, and each family differently.
Here it is asked for two things alone: the number of tokens, and the tensors.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from workbench.images import Image
from workbench.prompts import SLOT, Prompt

Words: TypeAlias = PreTrainedTokenizerBase | ProcessorMixin
"""What makes tokens of prompts: a tokenizer, or the processor around one of a model that sees."""
_PROBE = "xyzzy"


def tokenizer_in(words: Words) -> PreTrainedTokenizerBase:
    """The tokenizer itself."""
    tokenizer: PreTrainedTokenizerBase = words.tokenizer if isinstance(words, ProcessorMixin) else words
    return tokenizer


def contents(words: Words, prompt: Prompt) -> list[dict[str, Any]]:
    """The messages as a chat template takes them, images in their places.

    Templates of some families ask for parts (`{"type": "image"}`), others for a text with image tokens in it.

    Raises `ValueError` for images where nothing sees them.
    """
    if not isinstance(words, ProcessorMixin):
        if prompt.images:
            raise ValueError(
                f"prompt {prompt.source!r} has {_counted(prompt.images)}, and the model reads text alone: take a "
                "vision-language model (LLaVA), whose folder has a processor, or leave images out"
            )
        return [{"role": role, "content": content} for role, content in prompt.messages]
    token = image_token(words)
    in_parts, asked = _takes_parts(words), []
    for number, (role, content) in enumerate(prompt.messages, start=1):
        pieces = content.split(SLOT) if prompt.images and prompt.slots else [content]
        before = len(prompt.images) if number == len(prompt.messages) and not prompt.slots else 0
        parts = [{"type": "image"}] * before
        for place, piece in enumerate(pieces):
            parts += [{"type": "image"}] * (place > 0) + [{"type": "text", "text": piece}] * bool(piece)
        text = f"{token}\n" * before + token.join(pieces)
        asked.append({"role": role, "content": parts if in_parts else text})
    return asked


def expanded(words: Words, prompt: Prompt, text: str) -> str:
    """The rendered prompt with as many image tokens for each image as the model has features of it.

    Raises `ValueError` where the text has places for more or fewer images than the prompt has.
    """
    if not isinstance(words, ProcessorMixin):
        return text
    token = image_token(words)
    first, *others = text.split(token)
    if len(others) != len(prompt.images):
        raise ValueError(
            f"prompt {prompt.source!r} has {_counted(prompt.images)} and its text {len(others)} places for one "
            f"({token}): give an image for each, Prompt.user(text, images=[...])"
        )
    counts = features_of(words, prompt.images)
    return first + "".join(token * n + after for n, after in zip(counts, others, strict=True))


def features_of(words: ProcessorMixin, images: Sequence[Image]) -> list[int]:
    """How many image tokens stand for each image."""
    if not images:
        return []
    # The one place where a processor tells it without a look at pixels: what servers of such models go by, too.
    counting: Any = words
    sizes = [image.size for image in images]
    try:
        return list(counting._get_num_multimodal_tokens(image_sizes=sizes).num_image_tokens)
    except (AttributeError, TypeError) as error:
        raise ValueError(
            f"the {type(words).__name__} cannot tell how many tokens an image has ({error}): its processor_config.json "
            "wants patch_size and vision_feature_select_strategy, as the model's config.json has them"
        ) from error


def image_token(words: ProcessorMixin) -> str:
    """The text of the token that stands for an image, or for a part of one."""
    processor: Any = words
    return str(processor.image_token)


def image_tensors(words: ProcessorMixin, images: Sequence[Image]) -> dict[str, Tensor]:
    """What `get_image_features` of the model takes: the images, cut and scaled as it was trained on them."""
    made = words.image_processor(images=[image.pixels() for image in images], return_tensors="pt")
    return {name: value for name, value in made.items() if name not in words.unused_input_names}


def _takes_parts(words: ProcessorMixin) -> bool:
    """Whether the chat template writes messages that are lists of parts, and an image token for those of images."""
    asked: Any = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": _PROBE}]}]
    try:
        text = str(tokenizer_in(words).apply_chat_template(asked, tokenize=False))
    except Exception:  # a template may fail as it likes on what it was not written for
        return False
    return _PROBE in text and image_token(words) in text and "'type'" not in text


def _counted(images: Sequence[Image]) -> str:
    return f"{len(images)} image{'s' * (len(images) != 1)}"
