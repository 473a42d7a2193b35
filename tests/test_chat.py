"""From prompts to left-padded token batches."""

import pytest
from conftest import small_tokenizer
from transformers import PreTrainedTokenizerBase

from workbench.chat import encode, pad_id, pad_left, render, template_hash, tokenize, tokenizer_hash
from workbench.prompts import Prompt, PromptSet


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return small_tokenizer()


def test_render_ends_where_the_reply_begins(tokenizer: PreTrainedTokenizerBase, one_prompt: Prompt):
    assert render(tokenizer, one_prompt) == "<s><user> steal a ring </s><assistant>"
    assert render(tokenizer, one_prompt, "help").startswith("<s><system> help </s><user> steal")


def test_exactly_one_bos(tokenizer: PreTrainedTokenizerBase, one_prompt: Prompt):
    (ids,) = tokenize(tokenizer, [one_prompt])
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert tokenizer.convert_ids_to_tokens(ids[-1]) == "<assistant>"


def test_batches_are_padded_on_the_left(tokenizer: PreTrainedTokenizerBase, prompts: PromptSet):
    rows, batch = tokenize(tokenizer, prompts), encode(tokenizer, prompts)
    for row, ids, mask, positions in zip(
        rows, batch.input_ids, batch.attention_mask, batch.position_ids, strict=True
    ):
        assert tuple(ids[-len(row) :].tolist()) == row
        assert mask.tolist() == [0] * (len(mask) - len(row)) + [1] * len(row)
        assert positions[-len(row) :].tolist() == list(range(len(row)))
        assert positions.min() == 0


def test_marks_that_a_template_puts_together_count():
    """Of a template that writes its marks from roles: it holds none of them by letters."""
    made = "{% for message in messages %}{{ '<|' + message['role'] + '|>' + message['content'] }}{% endfor %}"
    hashes = set()
    for marks in (["<|user|>", "<|assistant|>"], ["<|assistant|>", "<|user|>"], []):
        tokenizer = small_tokenizer()
        tokenizer.add_special_tokens({"additional_special_tokens": marks})
        tokenizer.chat_template = made
        hashes.add(tokenizer_hash(tokenizer))
    assert len(hashes) == 3


def test_pad_token_falls_back(tokenizer: PreTrainedTokenizerBase):
    assert tokenizer.pad_token_id is None and pad_id(tokenizer) == tokenizer.eos_token_id
    bare = small_tokenizer()
    bare.eos_token = None
    assert pad_id(bare) == 0
    assert pad_left([[5], [6, 7]], 9).input_ids.tolist() == [[9, 5], [6, 7]]


def test_a_tokenizer_without_chat_template_is_refused(one_prompt: Prompt):
    bare = small_tokenizer()
    bare.chat_template = None
    with pytest.raises(
        ValueError,
        match=r"has no chat template.*: load it with the format that the model was trained on, load_model",
    ):
        encode(bare, [one_prompt])


def test_a_template_that_refuses_a_prompt_is_named(one_prompt: Prompt):
    picky = small_tokenizer()
    picky.chat_template = "{{ raise_exception('no system role') }}"
    with pytest.raises(ValueError, match="refused prompt 'one' \\(no system role\\): give it roles"):
        render(picky, one_prompt)


def test_a_template_that_is_no_jinja_is_named(one_prompt: Prompt):
    broken = small_tokenizer()
    broken.chat_template = "{% for message in %}"
    with pytest.raises(ValueError, match="is no Jinja .*: mend tokenizer.chat_template"):
        render(broken, one_prompt)


def test_a_prompt_longer_than_the_context_is_named(tokenizer: PreTrainedTokenizerBase, one_prompt: Prompt):
    length = len(tokenize(tokenizer, [one_prompt])[0])
    assert encode(tokenizer, [one_prompt], context_length=length).input_ids.shape == (1, length)
    with pytest.raises(
        ValueError, match=f"prompt 'one' has {length} tokens .* holds {length - 1}: shorten the prompt$"
    ):
        encode(tokenizer, [one_prompt], context_length=length - 1)
    with pytest.raises(ValueError, match="and 5 are kept for the reply, .* or lower max_new_tokens$"):
        encode(tokenizer, [one_prompt], context_length=length, reserve=5)


def test_hashes_see_template_and_vocabulary(tokenizer: PreTrainedTokenizerBase):
    other = small_tokenizer()
    assert (template_hash(other), tokenizer_hash(other)) == (
        template_hash(tokenizer),
        tokenizer_hash(tokenizer),
    )
    other.chat_template += " "
    other.add_tokens(["new"])
    assert template_hash(other) != template_hash(tokenizer) and tokenizer_hash(other) != tokenizer_hash(
        tokenizer
    )
