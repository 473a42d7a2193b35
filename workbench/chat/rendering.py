"""Prompts as text through the tokenizer's chat template, and as token ids.

The trap: the template already writes the BOS token. Tokenising its text with special tokens added gives two
of them and moves every activation; `tokenize` never adds any, and refuses a text that begins with two.
"""

import json
from collections.abc import Sequence

from jinja2 import TemplateError, TemplateSyntaxError
from transformers import PreTrainedTokenizerBase

from workbench.chat.seeing import Words, contents, expanded, tokenizer_in
from workbench.chat.templates import TEMPLATES
from workbench.chat.tokens import EncodedBatch, Tokens, pad_left
from workbench.prompts import SLOT, Prompt, PromptSet
from workbench.provenance import content_hash

_PROBE = "Don't mend 1234 boats,\n\nthe user's: 7.5%  café\tÄ\n"
"""What tokenizers split by rules of their own: a beginning, numbers, apostrophes, lines, letters with accents."""


def render(words: Words, prompt: Prompt, system: str | None = None) -> str:
    """The prompt's text through the chat template, generation prompt included, an image token for each image.

    `system` puts the prompt under that system message first.
    """
    tokenizer = tokenizer_in(words)
    require_template(tokenizer)
    if system is not None:
        prompt = prompt.with_system(system)
    messages = contents(words, prompt)
    try:
        text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    except TemplateSyntaxError as error:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} is no Jinja ({error}): mend tokenizer.chat_template"
        ) from error
    except TemplateError as error:
        raise ValueError(
            f"the chat template of {tokenizer.name_or_path!r} refused prompt {prompt.source!r} ({error}): "
            "give it roles that the template knows"
        ) from error
    return str(text)


def require_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer without a chat template."""
    if not tokenizer.chat_template:
        raise ValueError(
            f"tokenizer {tokenizer.name_or_path!r} has no chat template, and the method reads the last token of the "
            "chat-templated prompt: load it with the format that the model was trained on, "
            f"load_model(..., template=...) or --template, one of {', '.join(TEMPLATES)}, or a .jinja file; "
            '"text" is for a base model, which was trained on none'
        )


def tokenize(
    words: Words,
    prompts: Sequence[Prompt] | PromptSet,
    *,
    system: str | None = None,
    context_length: int | None = None,
    reserve: int = 0,
) -> list[Tokens]:
    """The token ids of every rendered prompt, unpadded, in order, with its images.

    Raises `ValueError` for a prompt longer than `context_length` less the `reserve` tokens kept for the
    reply.
    """
    tokenizer = tokenizer_in(words)
    texts = [expanded(words, prompt, render(words, prompt, system)) for prompt in prompts]
    # One call for all costs less than one for each. The template has written BOS and every other special token.
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"] if texts else []
    for prompt, ids in zip(prompts, rows, strict=True):
        if tokenizer.bos_token_id is not None and ids[:2] == [tokenizer.bos_token_id] * 2:
            raise ValueError(
                f"prompt {prompt.source!r} begins with {tokenizer.bos_token!r} twice: take one out of the chat "
                "template or of the prompt, workbench show-prompt shows both"
            )
        if context_length is not None and len(ids) + reserve > context_length:
            seen = len(ids) - len(tokenizer(prompt.text, add_special_tokens=False)["input_ids"])
            raise ValueError(
                f"prompt {prompt.source or prompt.text!r} has {len(ids)} tokens"
                + (
                    f", {seen} of them beside its words, for the most part of images,"
                    if prompt.images
                    else ""
                )
                + f" and {reserve} are kept for the reply, the context holds {context_length}: shorten the prompt"
                + (" or lower max_new_tokens" if reserve > 1 else "")
            )
    return [Tokens(ids, prompt.images) for prompt, ids in zip(prompts, rows, strict=True)]


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The token that fills a row on the left: pad, else end of text, else 0. It is masked, so any does."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if isinstance(token, int):
            return token
    return 0


def encode(
    words: Words,
    prompts: Sequence[Prompt] | PromptSet,
    *,
    system: str | None = None,
    context_length: int | None = None,
    reserve: int = 0,
) -> EncodedBatch:
    """`tokenize`, then `pad_left`: one left-padded batch of all the prompts."""
    rows = tokenize(words, prompts, system=system, context_length=context_length, reserve=reserve)
    return pad_left(rows, pad_id(tokenizer_in(words)))


def template_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the chat template, by which two models are seen to mark the last token alike."""
    return content_hash(str(tokenizer.chat_template))


def tokenizer_hash(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of the vocabulary, and of how a text and the chat template's own words are split into it.

    Two classes may split one vocabulary differently, and a mark that one tokenizer knows as a token of its own may fall
    apart in another that has it in its vocabulary all the same. Special-token settings count where the template writes
    them: TransformerLens fills in missing ones on tokenizers it is given. Two special tokens do not count, which are in
    no prompt's words: that for padding, and that for images, which a model that sees has beside its text model's.
    """
    # The template as it is written, not a prompt through it: some write the day's date.
    template = str(tokenizer.chat_template or "")
    split = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in (_PROBE, template)]
    written = [name for name in tokenizer.SPECIAL_TOKENS_ATTRIBUTES if name in template]
    special = {name: str(getattr(tokenizer, name)) for name in written}
    beside = {tokenizer.pad_token, getattr(tokenizer, "image_token", None), SLOT}
    unused = beside - {tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token, *special.values()}
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    vocabulary = {
        token: number for token, number in tokenizer.get_vocab().items() if token not in unused & added
    }
    return content_hash(json.dumps([vocabulary, split, special], sort_keys=True))
