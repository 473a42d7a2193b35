"""One pass over a batch: its images put where their tokens are, then the blocks alone, or the logits.

    embedding of the i-th image token of a row = i-th feature of the row's images        (LLaVA, arXiv 2304.08485)
    features = projector(vision tower(pixels))

The images of a batch are seen once each, however many of its rows show them.

The trap: a model that is given image tokens and no image reads an embedding that means nothing, and says nothing. Here
every pass of a model that sees is counted: as many image tokens as features, or an error.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel, ProcessorMixin

from workbench.chat import EncodedBatch, image_tensors, image_token
from workbench.hooks import Hook, attached
from workbench.images import Image
from workbench.loading import Model
from workbench.models import device_of, model_name, transformers_model, words_of


class _Blind(ValueError):
    def __init__(self, model: Model) -> None:
        super().__init__(f"{model_name(model)!r} reads text alone: it has no processor, and sees no image")


def run_body(model: Model, batch: EncodedBatch) -> None:
    """One forward pass without LM head and without KV cache, for the hooks that see it."""
    batch = batch.to(device_of(model))
    hf = transformers_model(model)
    with torch.no_grad(), seeing(model, batch):
        if hf is None:
            model(batch.input_ids, attention_mask=batch.attention_mask, return_type=None)
        else:
            hf.get_decoder()(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            )


def next_token_logits(model: Model, batch: EncodedBatch, keep: int) -> Float[Tensor, "batch pos d_vocab"]:
    """The logits at the last `keep` positions of one pass without KV cache; rows may be padded on either side."""
    hf = transformers_model(model)
    with torch.no_grad(), seeing(model, batch):
        if hf is None:
            return model(batch.input_ids, attention_mask=batch.attention_mask)[:, -keep:]
        output = model(
            batch.input_ids,
            attention_mask=batch.attention_mask,
            position_ids=batch.position_ids,
            use_cache=False,
            logits_to_keep=keep,
        )
    return (output.logits if isinstance(model, PreTrainedModel) else output)[:, -keep:]


@contextmanager
def seeing(model: Model, batch: EncodedBatch) -> Iterator[None]:
    """Within this context a pass over `batch` finds its images where their tokens are; a batch of texts is left alone.

    Raises `ValueError` for image tokens without an image, and for images without their tokens.
    """
    hf, words = transformers_model(model), words_of(model)
    if hf is None or not isinstance(words, ProcessorMixin):
        if batch.images:
            raise _Blind(model)
        yield
        return
    token = words.tokenizer.convert_tokens_to_ids(image_token(words))
    there = batch.input_ids == token
    features = image_features(model, [image for row in batch.images for image in row])
    shown = [torch.cat([features[image] for image in row]) for row in batch.images if row]
    _require_one_for_each(model, batch, there, features)
    if not shown:
        yield
        return

    def put(module: nn.Module, args: Any, embedded: Tensor) -> Tensor:
        return embedded.masked_scatter(there[..., None].to(embedded.device), torch.cat(shown).to(embedded))

    embedding: Any = hf.get_input_embeddings()
    with attached([Hook(embedding, put)]):
        yield


@torch.no_grad()
def image_features(model: Model, images: Sequence[Image]) -> dict[Image, Float[Tensor, "patch d_model"]]:
    """What the model makes of each image, in the width of its residual stream: vision tower, then projector."""
    distinct = list(dict.fromkeys(images))
    if not distinct:
        return {}
    given = image_inputs(model, distinct)
    seer: Any = transformers_model(model)
    found = seer.get_image_features(**given, return_dict=True).pooler_output
    return dict(zip(distinct, found, strict=True))


def image_inputs(model: Model, images: Sequence[Image]) -> dict[str, Tensor]:
    """The pixels of images, and whatever else the model's vision tower takes, where and as it takes them."""
    hf, words = transformers_model(model), words_of(model)
    if hf is None or not isinstance(words, ProcessorMixin):
        raise _Blind(model)
    return {
        name: value.to(device_of(model), hf.dtype if value.is_floating_point() else None)
        for name, value in image_tensors(words, images).items()
    }


def _require_one_for_each(
    model: Model, batch: EncodedBatch, there: Bool[Tensor, "batch pos"], features: dict[Image, Tensor]
) -> None:
    """Refuse a row with more or fewer image tokens than its images have features."""
    images = batch.images or ((),) * len(batch.input_ids)
    for number, (row, count) in enumerate(zip(images, there.sum(-1).tolist(), strict=True)):
        expected = sum(len(features[image]) for image in row)
        if count != expected:
            raise ValueError(
                f"row {number} has {count} image tokens for {len(row)} images of {expected} features in all in "
                f"{model_name(model)!r}: make rows with tokenize(words_of(model), prompts), which keeps images by them"
            )
