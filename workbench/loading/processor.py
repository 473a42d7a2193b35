"""The processor of a vision-language checkpoint: how it cuts images, and which token stands for them.

The trap: transformers' default image processors ask for torchvision, and some libraries then install it by themselves.
Their PIL counterparts do the same here, and nothing is installed.
"""

import copy
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers import AutoProcessor, PreTrainedTokenizerBase, ProcessorMixin

from workbench.chat import Words, with_template
from workbench.loading.sources import Checkpoint
from workbench.loading.tokenizer import read_tokenizer
from workbench.loading.weights import UNREADABLE, brief

SEE_IMAGES = ("LlavaForConditionalGeneration", "LlavaNextForConditionalGeneration")
"""The architectures of tests/test_seeing.py: a feature of an image takes the place of an image token, and that is all.
Others count positions along an image (Qwen-VL), let its tokens see later ones (Gemma 3), or have a processor that
nobody makes without torchvision (LLaVA-OneVision): they read text alone."""
FILES = ("processor_config.json", "preprocessor_config.json")


def read_processor(checkpoint: Checkpoint) -> ProcessorMixin | None:
    """The processor of a checkpoint; None where it has none.

    Raises `ValueError` for a damaged one.
    """
    if not any(checkpoint.file(name) for name in FILES):
        return None
    try:
        with _without_word_of_torchvision():
            found = AutoProcessor.from_pretrained(
                checkpoint.source, revision=checkpoint.revision, trust_remote_code=False
            )
    except (*UNREADABLE, ImportError) as error:
        raise ValueError(
            f"{checkpoint.name!r} has no readable processor ({brief(error)}): restore processor_config.json and "
            "preprocessor_config.json from a copy, or take them away to read text alone"
        ) from error
    return found if isinstance(found, ProcessorMixin) else None


def load_words(x: str | Path, *, template: str | Path | None = None) -> Words:
    """What makes tokens of prompts for a checkpoint, as `load_model` gives it, and no weights are read.

    The processor of a model that sees, with its tokenizer in it; otherwise the tokenizer.
    """
    checkpoint = Checkpoint.named(x)
    tokenizer = read_tokenizer(checkpoint)
    sees = set(checkpoint.json("config.json").get("architectures") or ()) & set(SEE_IMAGES)
    processor = read_processor(checkpoint) if sees else None
    template = template or template_in(processor)
    if template is not None:
        tokenizer = with_template(tokenizer, template)
    return tokenizer if processor is None else around(tokenizer, processor)


def template_in(processor: ProcessorMixin | None) -> str | None:
    """The chat template of a processor: where the tokenizer has one, too, this one knows of images."""
    template = None if processor is None else processor.chat_template
    return str(template) if template else None


def around(tokenizer: PreTrainedTokenizerBase, processor: ProcessorMixin) -> ProcessorMixin:
    """The processor with this tokenizer in it."""
    processor = copy.copy(processor)
    processor.tokenizer = tokenizer
    return processor


@contextmanager
def _without_word_of_torchvision() -> Iterator[None]:
    """That the PIL classes are taken is meant, and no news."""
    transformers = logging.getLogger("transformers")
    level = transformers.level
    transformers.setLevel(logging.ERROR)
    try:
        yield
    finally:
        transformers.setLevel(level)
