"""Chat formats that were published for models whose tokenizers bring none, by name.

Each is written here in Jinja from its publisher's own description or code, for several turns. The last token of a
prompt is the one after which the published model begins its reply.

The trap: some formats write the BOS token, others leave it to the tokenizer, and whoever adds one in both places has
two. A template here writes it exactly where the published use has it; `tokenize` adds none.
"""

import copy
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class ChatTemplate:
    """A published chat format: its Jinja text, and where it is from.

    `writes_bos`: the format itself has BOS, whatever the tokenizer does by default; otherwise a text gets it where the
    tokenizer begins texts with one.
    """

    jinja: str
    source: str
    writes_bos: bool = False


_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

TEMPLATES: dict[str, ChatTemplate] = {
    "llama-2": ChatTemplate(
        # Every turn of user and assistant is a text of its own, from BOS to EOS.
        "{% set told = namespace(system='') %}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        "{% set told.system = '<<SYS>>\n' + message['content'] + '\n<</SYS>>\n\n' %}"
        "{% elif message['role'] == 'user' %}"
        "{{ bos_token + '[INST] ' + (told.system + message['content']) | trim + ' [/INST]' }}"
        "{% set told.system = '' %}"
        "{% else %}"
        "{{ ' ' + message['content'] | trim + ' ' + eos_token }}"
        "{% endif %}"
        "{% endfor %}",
        "chat_completion in the code that Meta published with Llama 2 (Touvron et al., arXiv 2307.09288)",
        writes_bos=True,
    ),
    "vicuna": ChatTemplate(
        "{% if messages[0]['role'] == 'system' %}{{ messages[0]['content'] }}"
        "{% else %}"
        "{{ 'A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, '"
        " + 'detailed, and polite answers to the user\\'s questions.' }}"
        "{% endif %}"
        "{{ ' ' }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'user' %}{{ 'USER: ' + message['content'] + ' ' }}"
        "{% elif message['role'] == 'assistant' %}{{ 'ASSISTANT: ' + message['content'] + eos_token }}"
        "{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}",
        "vicuna_v1.1 in FastChat's conversation.py, the format of Vicuna 1.1 to 1.5; a system prompt takes the place "
        "of its own",
    ),
    "chatml": ChatTemplate(
        _CHATML,
        "OpenAI's description of ChatML, which Qwen and others were trained on; without Qwen's default system prompt",
    ),
    "internlm": ChatTemplate(
        "{{ bos_token }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}{{ '<|System|>:' + message['content'] + '\n' }}"
        "{% elif message['role'] == 'user' %}{{ '<|User|>:' + message['content'] + '\n' }}"
        "{% else %}{{ '<|Bot|>:' + message['content'] + '<eoa>\n' }}"
        "{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|Bot|>:' }}{% endif %}",
        "build_inputs in the code published with internlm-chat-7b, at revision 739d369; earlier revisions ended a "
        "user's text with <eoh>",
        writes_bos=True,
    ),
    "internlm2": ChatTemplate(
        "{{ bos_token }}" + _CHATML,
        "build_inputs in the code published with internlm2-chat-7b (Cai et al., arXiv 2403.17297); without its default "
        "system prompt",
        writes_bos=True,
    ),
    "alpaca": ChatTemplate(
        "{{ 'Below is an instruction that describes a task. Write a response that appropriately completes the request.'"
        " + '\n\n' }}"
        "{% for message in messages %}"
        "{% if message['role'] == 'system' %}"
        "{{ raise_exception('alpaca has no system prompt: put it into the user\\'s text') }}"
        "{% elif message['role'] == 'user' %}{{ '### Instruction:\n' + message['content'] + '\n\n' }}"
        "{% else %}{{ '### Response:' + message['content'] + eos_token + '\n\n' }}"
        "{% endif %}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '### Response:' }}{% endif %}",
        "the prompt without input in Stanford Alpaca's train.py; it is of one turn, further ones follow on our account",
    ),
    "zephyr": ChatTemplate(
        "{% for message in messages %}"
        "{{ '<|' + message['role'] + '|>\n' + message['content'] + eos_token + '\n' }}"
        "{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}",
        "the chat template and the card of zephyr-7b-beta (Tunstall et al., arXiv 2310.16944)",
    ),
    "text": ChatTemplate(
        "{{ messages | map(attribute='content') | join('\n\n') }}",
        "none: the messages' own words and an empty line between, for a base model that knows no chat format",
    ),
}


def read_template(template: str | Path) -> ChatTemplate:
    """The chat template of a name in `TEMPLATES`, of a .jinja file, or of Jinja text.

    Raises `ValueError` listing the names for what is none of these.
    """
    if isinstance(template, str) and template in TEMPLATES:
        return TEMPLATES[template]
    if isinstance(template, str) and ("{{" in template or "{%" in template):
        return ChatTemplate(template, "the caller", writes_bos=True)
    path = Path(template)
    if path.suffix != ".jinja" or not path.is_file():
        raise ValueError(
            f"got template {str(template)!r}, expected one of {', '.join(TEMPLATES)}, a .jinja file that is there, or "
            "Jinja text"
        )
    return ChatTemplate(path.read_text(encoding="utf-8"), path.name, writes_bos=True)


def with_template(tokenizer: PreTrainedTokenizerBase, template: str | Path) -> PreTrainedTokenizerBase:
    """A copy of the tokenizer whose chat template is `template`, as `read_template` takes it."""
    found = read_template(template)
    left_to_it = not found.writes_bos and begins_with_bos(tokenizer)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = "{{ bos_token }}" * left_to_it + found.jinja
    return tokenizer


def begins_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    """Whether the tokenizer by itself puts BOS before a text."""
    if tokenizer.bos_token_id is None:
        return False
    with_it, without = (tokenizer("a", add_special_tokens=added)["input_ids"][:1] for added in (True, False))
    return bool(with_it == [tokenizer.bos_token_id] != without)
