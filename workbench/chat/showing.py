"""A prompt as the model meets it: the rendered text, its tokens with their ids, and where the reply begins.

The trap: a template that belongs to another model renders without complaint. Its marks fall apart into ordinary tokens,
which is seen at once where tokens are shown one by one. And one that reads a key which no message has leaves the prompt
out, or opens no reply: what is left reads well.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from workbench.chat.rendering import render
from workbench.chat.templates import begins_with_bos
from workbench.prompts import Prompt

_REPLY = "A reply to look for."


@dataclass(frozen=True)
class ShownToken:
    """A token's id, the piece it stands for in the vocabulary's own spelling, and whether it is a special one."""

    id: int
    piece: str
    special: bool


@dataclass(frozen=True)
class ShownPrompt:
    """A rendered prompt and its tokens; the reply begins after the last one, which is the one that the method reads.

    `n_bos` counts BOS tokens; `warnings` say what is wrong with them, with the words or with the end, where something
    is.
    """

    text: str
    tokens: tuple[ShownToken, ...]
    n_bos: int
    warnings: tuple[str, ...]

    @property
    def last(self) -> ShownToken:
        """The token after which the reply begins."""
        return self.tokens[-1]


def show_prompt(
    tokenizer: PreTrainedTokenizerBase, prompt: str | Prompt, *, system: str | None = None
) -> ShownPrompt:
    """What a prompt becomes, text and tokens, with nothing added that a model would not be given.

    Unlike `tokenize` it takes a prompt with two BOS tokens, and warns of them.
    """
    prompt = Prompt.user(prompt, source="prompt") if isinstance(prompt, str) else prompt
    text = render(tokenizer, prompt, system)
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    added = tokenizer.added_tokens_decoder
    tokens = tuple(
        ShownToken(
            number,
            str(piece),
            number in tokenizer.all_special_ids or (number in added and added[number].special),
        )
        for number, piece in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True)
    )
    if system is not None:
        prompt = prompt.with_system(system)
    found = (
        _about_bos(tokenizer, prompt, ids),
        *_about_words(prompt, text),
        _about_the_end(tokenizer, prompt, text),
    )
    return ShownPrompt(text, tokens, ids.count(tokenizer.bos_token_id), tuple(filter(None, found)))


def _about_words(prompt: Prompt, text: str) -> Iterator[str]:
    """What was said to the model and is not in the text; of earlier replies many templates leave out some."""
    for role in ("system", "user"):
        if any(said == role and content.strip() not in text for said, content in prompt.messages):
            yield (
                f"the text lacks the {role}'s words: the chat template leaves them out or changes them, expected one "
                "that writes each message['content']"
            )


def _about_the_end(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, text: str) -> str | None:
    """Whether the template writes something before a reply that it does not write at the end of a prompt.

    That add_generation_prompt changes nothing is no fault by itself: Llama 2's [/INST] ends a turn and opens the reply.
    """
    messages = [{"role": role, "content": content} for role, content in prompt.messages]
    try:
        closed, replied = (
            str(tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=False))
            for talk in (messages, [*messages, {"role": "assistant", "content": _REPLY}])
        )
    except TemplateError:  # it takes no reply: then it does not tell what comes before one
        return None
    before, found, _ = replied.rpartition(_REPLY)
    opening = before.removeprefix(text).strip()
    if text != closed or not found or not before.startswith(text) or not opening:
        return None
    return (
        f"it ends with the user's turn: the chat template ignores add_generation_prompt, and writes {opening!r} before "
        "a reply, so the last token is not where one begins; have it write that where add_generation_prompt is set"
    )


def _about_bos(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int]) -> str | None:
    bos, name = tokenizer.bos_token_id, tokenizer.bos_token
    if bos is None:
        return None
    if ids[:2] == [bos, bos]:
        return f"it begins with {name!r} twice: take one out of the chat template or of the prompt"
    # Some formats begin every turn with BOS, and a text may begin with what ends others (GPT-2's <|endoftext|>).
    turns = sum(role == "user" for role, _ in prompt.messages)
    if ids.count(bos) > turns:
        return (
            f"it has {name!r} {ids.count(bos)} times in {turns} turn{'s' * (turns > 1)}: look into the prompt"
        )
    if begins_with_bos(tokenizer) and ids[:1] != [bos]:
        return f"it lacks {name!r}, with which this tokenizer begins a text: write it into the chat template"
    return None
