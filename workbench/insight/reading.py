"""Residuals of every token at every layer, on all backends, and the texts that stand for the tokens.

    x[prompt, layer, pos] = resid_post of layer l at every token of the chat-templated prompt, and of a reply if given

The trap: a batch is padded on the left, and padding has residuals too. `positions` says which columns
of a row are text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase, ProcessorMixin

from workbench.chat import EncodedBatch, Tokens, Words, features_of, image_token, pad_id, pad_left, tokenize
from workbench.decoding.asking import Prompts
from workbench.forward import run_body
from workbench.loading import Model
from workbench.memory import room_for
from workbench.models import (
    UnseenBlocks,
    context_length,
    model_name,
    n_layers,
    residual_hooks,
    tokenizer_of,
    transformers_model,
    words_of,
)
from workbench.prompts import PromptSet, as_prompt_set

ALONG = "prompt layer pos d_model, layer d_model -> prompt layer pos"
"""Every token's residual on its layer's direction, for `einops.einsum`."""


@dataclass(frozen=True, eq=False)
class Texts:
    """Prompts, each with the beginning of a reply if there is one, as one left-padded batch.

    `shows` says of every token which of its prompt's images it is a part of, −1 for a word.
    """

    prompts: PromptSet
    rows: tuple[Tokens, ...]
    shows: tuple[tuple[int, ...], ...]
    batch: EncodedBatch
    tokenizer: PreTrainedTokenizerBase
    prompt_width: int

    def positions(self, row: int) -> range:
        """The columns of the batch that hold this row's text; the others are padding."""
        width = self.batch.input_ids.shape[1]
        return range(width - len(self.rows[row]), width)

    def words(self, row: int) -> list[str]:
        """The text of each token of this row, white space included."""
        return [token_text(self.tokenizer, token) for token in self.rows[row]]


def token_text(tokenizer: PreTrainedTokenizerBase, token: int) -> str:
    """The text of one token; of one that is a piece of a character, and no text by itself, the tokenizer's name."""
    text = str(tokenizer.decode([token]))
    return str(tokenizer.convert_ids_to_tokens(token)) if "\ufffd" in text else text


def texts_of(model: Model, prompts: Prompts, *, reply: str = "") -> Texts:
    """The prompts through the model's chat template, followed by `reply`, the same for all of them.

    Raises `ValueError` for a text longer than the context, and for a model whose weights are not all in one place.
    """
    require_there(model)
    prompts, tokenizer, words = as_prompt_set(prompts), tokenizer_of(model), words_of(model)
    said = list(tokenizer(reply, add_special_tokens=False)["input_ids"]) if reply else []
    asked = tokenize(words, prompts, context_length=context_length(model), reserve=len(said))
    rows = tuple(row.followed_by(said) for row in asked)
    shows = tuple(_shows(words, row) for row in rows)
    return Texts(prompts, rows, shows, pad_left(rows, pad_id(tokenizer)), tokenizer, max(map(len, asked)))


def _shows(words: Words, row: Tokens) -> tuple[int, ...]:
    if not isinstance(words, ProcessorMixin):
        return (-1,) * len(row)
    token = words.tokenizer.convert_tokens_to_ids(image_token(words))
    counts = features_of(words, row.images)
    of_each = iter([number for number, count in enumerate(counts) for _ in range(count)])
    return tuple(next(of_each) if id_ == token else -1 for id_ in row)


@torch.no_grad()
def read_texts(
    model: Model, texts: Texts, *, site: str = "resid_post"
) -> Float[Tensor, "prompt layer pos d_model"]:
    """The residual of every position at every layer, in float32 on the CPU, whatever other hooks do to it before."""
    kept: dict[int, Tensor] = {}

    def keep(layer: int, residual: Tensor) -> None:
        kept[layer] = residual.float().cpu().clone()

    depth = n_layers(model)
    n_texts, width = texts.batch.input_ids.shape
    with (
        residual_hooks(model, site, {layer: partial(keep, layer) for layer in range(depth)}),
        room_for(
            f"every position of {n_texts:,} texts of up to {width:,} tokens", "look into fewer at a time"
        ),
    ):
        run_body(model, texts.batch)
    if unseen := [layer for layer in range(depth) if layer not in kept]:
        raise UnseenBlocks(model, unseen)
    return rearrange([kept[layer] for layer in range(depth)], "layer prompt pos d -> prompt layer pos d")


def chosen_layers(model: Model, layers: Sequence[int] | None) -> list[int]:
    """`layers` in order, or all of the model's; `ValueError` for one that it has not."""
    depth = n_layers(model)
    chosen = list(range(depth)) if layers is None else sorted(set(layers))
    outside = [layer for layer in chosen if not 0 <= layer < depth]
    if outside or not chosen:
        raise ValueError(
            f"got {f'layers {outside}' if outside else 'no layers'}: {model_name(model)!r} has layers 0 to {depth - 1}"
        )
    return chosen


def require_there(model: Model) -> None:
    """Refuse a model whose weights are on no device, or on several."""
    weights: Any = transformers_model(model) or model
    devices = {str(weight.device) for weight in chain(weights.parameters(), weights.buffers())}
    if "meta" in devices or len({device.split(":")[0] for device in devices}) > 1:
        raise ValueError(
            f"{model_name(model)!r} has weights on {' and '.join(sorted(devices))}, expected one device that holds "
            "numbers: load the model again, or move it whole with model.to(...)"
        )


def require_hooked(model: Model, what: str) -> None:
    """Refuse a model that is no HookedTransformer, where single heads are asked for."""
    if transformers_model(model) is not None or not hasattr(model, "W_O"):
        raise ValueError(
            f"got a {type(model).__name__}, and {what} needs a HookedTransformer (of transformer-lens 3.9), which "
            "keeps what every head writes: "
            f'load it with load_model(..., backend="hooked"), here load_model({model_name(model)!r}, backend="hooked")'
        )
