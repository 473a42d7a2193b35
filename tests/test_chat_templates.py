"""The named chat formats, each against its published form written out by hand, for one turn and for several."""

import re
from pathlib import Path

import pytest
from conftest import small_tokenizer
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerBase

from workbench.chat import TEMPLATES, begins_with_bos, render, require_template, tokenize, with_template
from workbench.prompts import Prompt

VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
ALPACA = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request."
)
ONE = {
    "llama-2": "<s>[INST] Mend it? [/INST]",
    "vicuna": f"<s>{VICUNA} USER: Mend it? ASSISTANT:",
    "chatml": "<s><|im_start|>user\nMend it?<|im_end|>\n<|im_start|>assistant\n",
    "internlm": "<s><|User|>:Mend it?\n<|Bot|>:",
    "internlm2": "<s><|im_start|>user\nMend it?<|im_end|>\n<|im_start|>assistant\n",
    "alpaca": f"<s>{ALPACA}\n\n### Instruction:\nMend it?\n\n### Response:",
    "zephyr": "<s><|user|>\nMend it?</s>\n<|assistant|>\n",
    "text": "<s>Mend it?",
}
SEVERAL = {
    "llama-2": "<s>[INST] Mend it? [/INST] With glue. </s><s>[INST] And then? [/INST]",
    "vicuna": f"<s>{VICUNA} USER: Mend it? ASSISTANT: With glue.</s>USER: And then? ASSISTANT:",
    "chatml": (
        "<s><|im_start|>user\nMend it?<|im_end|>\n<|im_start|>assistant\nWith glue.<|im_end|>\n"
        "<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "internlm": "<s><|User|>:Mend it?\n<|Bot|>:With glue.<eoa>\n<|User|>:And then?\n<|Bot|>:",
    "internlm2": (
        "<s><|im_start|>user\nMend it?<|im_end|>\n<|im_start|>assistant\nWith glue.<|im_end|>\n"
        "<|im_start|>user\nAnd then?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "alpaca": (
        f"<s>{ALPACA}\n\n### Instruction:\nMend it?\n\n### Response:With glue.</s>\n\n"
        "### Instruction:\nAnd then?\n\n### Response:"
    ),
    "zephyr": "<s><|user|>\nMend it?</s>\n<|assistant|>\nWith glue.</s>\n<|user|>\nAnd then?</s>\n<|assistant|>\n",
    "text": "<s>Mend it?\n\nWith glue.\n\nAnd then?",
}
SYSTEM = {
    "llama-2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nMend it? [/INST]",
    "vicuna": "<s>Be brief. USER: Mend it? ASSISTANT:",
    "chatml": (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nMend it?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "internlm": "<s><|System|>:Be brief.\n<|User|>:Mend it?\n<|Bot|>:",
    "internlm2": (
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nMend it?<|im_end|>\n<|im_start|>assistant\n"
    ),
    "zephyr": "<s><|system|>\nBe brief.</s>\n<|user|>\nMend it?</s>\n<|assistant|>\n",
    "text": "<s>Be brief.\n\nMend it?",
}
PROMPT = Prompt.user("Mend it?", source="one")
TALK = Prompt((("user", "Mend it?"), ("assistant", "With glue."), ("user", "And then?")), source="talk")


def beginning_with_bos() -> PreTrainedTokenizerBase:
    """As Llama's: it puts BOS before a text by itself, and brings no template."""
    tokenizer = small_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = None
    return tokenizer


@pytest.fixture(scope="module")
def llama_like() -> PreTrainedTokenizerBase:
    return beginning_with_bos()


def test_every_name_is_tried_here():
    assert set(ONE) == set(SEVERAL) == set(TEMPLATES) == {*SYSTEM, "alpaca"}


@pytest.mark.parametrize("name", ONE)
def test_one_turn(llama_like: PreTrainedTokenizerBase, name: str):
    assert render(with_template(llama_like, name), PROMPT) == ONE[name]


@pytest.mark.parametrize("name", SEVERAL)
def test_several_turns(llama_like: PreTrainedTokenizerBase, name: str):
    assert render(with_template(llama_like, name), TALK) == SEVERAL[name]


@pytest.mark.parametrize("name", SYSTEM)
def test_a_system_prompt(llama_like: PreTrainedTokenizerBase, name: str):
    assert render(with_template(llama_like, name), PROMPT, "Be brief.") == SYSTEM[name]


def test_a_family_without_a_system_prompt_is_named(llama_like: PreTrainedTokenizerBase):
    with pytest.raises(
        ValueError, match="refused prompt 'one' \\(alpaca has no system prompt: put it into the"
    ):
        render(with_template(llama_like, "alpaca"), PROMPT, "Be brief.")


@pytest.mark.parametrize("name", ONE)
def test_the_reply_begins_after_the_last_token_and_bos_is_there_once(
    llama_like: PreTrainedTokenizerBase, name: str
):
    tokenizer = with_template(llama_like, name)
    (ids,) = tokenize(tokenizer, [PROMPT])
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer.decode(ids) == ONE[name]
    # What a reply adds lies behind the prompt's last token, and changes nothing before it.
    replied = Prompt((*PROMPT.messages, ("assistant", "With glue."), ("user", "And then?")), source="more")
    if name not in ("llama-2", "text"):  # where a space, or nothing, lies between
        assert render(tokenizer, replied).startswith(f"{ONE[name]}{' ' * (name == 'vicuna')}With glue.")


@pytest.mark.parametrize("name", ONE)
def test_bos_is_left_out_where_neither_format_nor_tokenizer_has_one(name: str):
    """As Qwen's tokenizer, which has none, or one that does not use it."""
    idle, without = small_tokenizer(), small_tokenizer()
    without.bos_token = None
    assert not begins_with_bos(idle) and not begins_with_bos(without)
    expected = ONE[name] if name in ("llama-2", "internlm", "internlm2") else ONE[name].removeprefix("<s>")
    assert render(with_template(idle, name), PROMPT) == expected
    if name != "llama-2":
        assert render(with_template(without, name), PROMPT) == ONE[name].removeprefix("<s>")


def test_llama_2_trims_as_its_publisher_does(llama_like: PreTrainedTokenizerBase):
    spaced = Prompt((("user", " Mend it? "), ("assistant", " With glue. "), ("user", "And then?\n")))
    assert render(with_template(llama_like, "llama-2"), spaced) == SEVERAL["llama-2"]


def test_a_template_is_a_name_a_file_or_jinja(llama_like: PreTrainedTokenizerBase, tmp_path: Path):
    text = "{{ bos_token }}Q: {{ messages[0]['content'] }} A:"
    file = tmp_path / "mine.jinja"
    file.write_text(text, encoding="utf-8")
    for template in (text, file, str(file)):
        assert render(with_template(llama_like, template), PROMPT) == "<s>Q: Mend it? A:"
    assert llama_like.chat_template is None, "the tokenizer that was given stays as it is"
    for wrong in ("vicunna", tmp_path / "none.jinja", str(tmp_path)):
        with pytest.raises(
            ValueError,
            match=rf"got template .*, expected one of {', '.join(TEMPLATES)}, a \.jinja file that is",
        ):
            with_template(llama_like, wrong)


def test_without_a_template_the_error_lists_the_names(llama_like: PreTrainedTokenizerBase):
    names = re.escape(", ".join(TEMPLATES))
    with pytest.raises(
        ValueError,
        match=rf"has no chat template.*template=\.\.\.\) or --template, one of {names}, or a \.jinja",
    ):
        require_template(llama_like)


def test_two_bos_are_refused(llama_like: PreTrainedTokenizerBase):
    """The literal in a hand-written template, and the variable."""
    doubled = with_template(llama_like, "{{ bos_token }}<s>{{ messages[0]['content'] }}")
    with pytest.raises(
        ValueError, match="prompt 'one' begins with '<s>' twice: take one out of the chat template"
    ):
        tokenize(doubled, [PROMPT])
    written = Prompt.user("<s> mend it", source="typed")
    with pytest.raises(ValueError, match="prompt 'typed' begins with '<s>' twice"):
        tokenize(with_template(llama_like, "text"), [written])


@pytest.mark.parametrize("name", TEMPLATES)
def test_every_format_names_its_source(name: str):
    assert len(TEMPLATES[name].source) > 20
