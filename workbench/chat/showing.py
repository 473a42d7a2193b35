"""A prompt as the model meets it: the rendered text, its tokens with their ids, and where the reply begins.

The trap: a template that belongs to another model renders without complaint. Its marks fall apart into ordinary tokens,
which is seen at once where tokens are shown one by one.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase

from workbench.chat.rendering import render
from workbench.chat.templates import begins_with_bos
from workbench.prompts import Prompt


@dataclass(frozen=True)
class ShownToken:
    """A token's id, the piece it stands for in the vocabulary's own spelling, and whether it is a special one."""

    id: int
    piece: str
    special: bool


@dataclass(frozen=True)
class ShownPrompt:
    """A rendered prompt and its tokens; the reply begins after the last one, which is the one that the method reads.

    `n_bos` counts BOS tokens; `warning` says what is wrong with them, where something is.
    """

    text: str
    tokens: tuple[ShownToken, ...]
    n_bos: int
    warning: str | None

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
    return ShownPrompt(text, tokens, ids.count(tokenizer.bos_token_id), _warning(tokenizer, prompt, ids))


def _warning(tokenizer: PreTrainedTokenizerBase, prompt: Prompt, ids: list[int]) -> str | None:
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
