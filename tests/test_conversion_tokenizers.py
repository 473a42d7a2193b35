"""Tokenizers of converted checkpoints: files, sentencepiece models, and those that must be given."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from conftest import WORDS, small_tokenizer
from remote_code import CLOSE, VOCABULARY, difference, internlm2, qwen, refused
from transformers.convert_slow_tokenizer import bytes_to_unicode

import workbench as wb
from workbench.conversion import vocabulary


def words_of(folder: Path) -> Any:
    return wb.load_tokenizer(folder)


def test_a_tokenizer_file_is_taken_without_its_class(tmp_path: Path):
    wb.convert_checkpoint(internlm2().save(tmp_path / "theirs"), tmp_path / "ours")
    ours, theirs = words_of(tmp_path / "ours"), small_tokenizer()
    assert ours.get_vocab() == theirs.get_vocab() and ours.chat_template == theirs.chat_template
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)
    text = "<s>how do i mend a boat </s><assistant>sure"
    assert ours(text)["input_ids"] == theirs(text)["input_ids"]


def sentencepieces(folder: Path, **given: Any) -> sentencepiece.SentencePieceProcessor:
    """A tiny sentencepiece model of InternLM2's kind, its last tokens placeholders, as `tokenizer.model`."""
    written = io.BytesIO()
    options: dict[str, Any] = {
        "model_type": "bpe", "byte_fallback": True, "vocab_size": VOCABULARY - 20, "add_dummy_prefix": False,
        "remove_extra_whitespaces": False, "normalization_rule_name": "identity",
        "user_defined_symbols": ["[UNUSED_TOKEN_0]", "[UNUSED_TOKEN_1]", "<eoh>"],
    }  # fmt: skip
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([WORDS, *WORDS.split(), "The quick brown fox"] * 4), model_writer=written,
        minloglevel=2, hard_vocab_limit=False, **(options | given),
    )  # fmt: skip
    (folder / "tokenizer.model").write_bytes(written.getvalue())
    return sentencepiece.SentencePieceProcessor(model_proto=written.getvalue())


@pytest.mark.parametrize("prefixed", [False, True])
def test_a_sentencepiece_model_splits_as_it_did(tmp_path: Path, prefixed: bool):
    folder = internlm2().save(tmp_path / "theirs", tokenizer=False)
    theirs = sentencepieces(folder, add_dummy_prefix=prefixed)
    done = wb.convert_checkpoint(folder, tmp_path / "ours")
    ours = words_of(done.folder)
    for text in (*vocabulary.SAMPLES, WORDS, "mend <eoh>\nthe boat", "tell me\n\n  about 12 plans 你好"):
        assert ours(text, add_special_tokens=False)["input_ids"] == theirs.encode(text)
        assert ours.decode(theirs.encode(text)) == theirs.decode(theirs.encode(text))
    assert ours("plan")["input_ids"][0] == theirs.bos_id() == ours.bos_token_id
    assert ours.eos_token_id == theirs.eos_id()
    assert done.notes == ("its tokenizer has no chat template: give it the model's own",)


def test_placeholders_get_the_names_that_the_chat_uses(tmp_path: Path):
    """InternLM2's chat tokens have ids within the vocabulary, where sentencepiece holds placeholders."""
    folder = internlm2().save(tmp_path / "theirs", tokenizer=False)
    theirs = sentencepieces(folder)
    number = theirs.piece_to_id("[UNUSED_TOKEN_1]")
    told = {
        "auto_map": {"AutoTokenizer": ["modeling_theirs.T", None]},
        "added_tokens_decoder": {str(number): {"content": "<|im_start|>", "special": True}},
        "chat_template": "<|im_start|>{{ messages[0]['content'] }}",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    done = wb.convert_checkpoint(folder, tmp_path / "ours")
    ours = words_of(done.folder)
    ids = ours("mend<|im_start|>the boat", add_special_tokens=False)["input_ids"]
    assert ids == [*theirs.encode("mend"), number, *theirs.encode("the boat")]
    assert "[UNUSED_TOKEN_1]" not in ours.get_vocab() and len(ours) == theirs.get_piece_size()
    assert ours.chat_template == told["chat_template"] and done.notes == ()
    told["added_tokens_decoder"] = {"5000": {"content": "<|im_start|>", "special": True}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    refused(folder, r"has '<\|im_start\|>' at id 5000, the vocabulary has it at \d+: give a tokenizer")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"remove_extra_whitespaces": True}, "tokenizer.model cannot be had as a tokenizer.json: .* would become"),
        ({"model_type": "unigram"}, "tokenizer.model is no BPE model, which these families have: give a tokenizer"),
    ],
)  # fmt: skip
def test_a_sentencepiece_model_that_would_split_otherwise_is_refused(
    tmp_path: Path, given: dict[str, Any], told: str
):
    folder = internlm2().save(tmp_path / "theirs", tokenizer=False)
    sentencepieces(folder, **given)
    refused(folder, told)


def test_damaged_tokenizer_files_are_named(tmp_path: Path):
    folder = internlm2().save(tmp_path / "theirs", tokenizer=False)
    (folder / "tokenizer.model").write_bytes(b"no model")
    refused(folder, "tokenizer.model is damaged")
    (folder / "tokenizer_config.json").write_text("{")
    sentencepieces(folder)
    refused(folder, "tokenizer_config.json is damaged")


def tiktoken_ranks(folder: Path, *, swapped: bool = False) -> Path:
    """The file of ranks that Qwen's own tokenizer reads, of a tiny tokenizer, which is saved beside the checkpoint."""
    tokenizer = small_tokenizer()
    special = set(tokenizer.all_special_tokens) | {"<system>", "<user>", "<assistant>"}
    tokens = [token for token in tokenizer.get_vocab() if token not in special]
    bytes_of = {letter: byte for byte, letter in bytes_to_unicode().items()}
    data = json.loads(tokenizer.backend_tokenizer.to_str())
    data["model"]["vocab"] = {token: number for number, token in enumerate(tokens)}
    names = vocabulary.CHAT_TOKENS
    data["added_tokens"] = [
        {"id": len(tokens) + number, "content": name, "special": True, "single_word": False, "lstrip": False,
         "rstrip": False, "normalized": False}
        for number, name in enumerate(names)
    ]  # fmt: skip
    beside = folder.parent / "qwen-tokenizer"
    beside.mkdir()
    (beside / "tokenizer.json").write_text(json.dumps(data))
    told = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": names[2],
        "chat_template": "{{ messages }}",
    }
    (beside / "tokenizer_config.json").write_text(json.dumps(told))
    if swapped:
        tokens[10], tokens[11] = tokens[11], tokens[10]
    lines = [
        f"{base64.b64encode(bytes(bytes_of[letter] for letter in token)).decode()} {number}"
        for number, token in enumerate(tokens)
    ]
    (folder / "qwen.tiktoken").write_text("\n".join(lines))
    (folder / "tokenization_qwen.py").write_text("raise SystemExit('remote code ran')")
    return beside


def test_a_tokenizer_that_is_code_alone_must_be_given(tmp_path: Path):
    theirs = qwen()
    folder = theirs.save(tmp_path / "theirs", tokenizer=False)
    beside = tiktoken_ranks(folder)
    refused(
        folder,
        r"theirs has no tokenizer that works without its own code \(it has qwen.tiktoken, tokenization_qwen.py\): give "
        r"one, --tokenizer FOLDER \(tokenizer=...\), with the same tokens at the same ids; for Qwen \(v1\) that of a",
    )
    done = wb.convert_checkpoint(folder, tmp_path / "ours", tokenizer=beside)
    assert words_of(done.folder).get_vocab() == words_of(beside).get_vocab()
    assert difference(tmp_path / "ours", theirs) <= CLOSE


def test_a_given_tokenizer_with_other_ids_is_refused(tmp_path: Path):
    folder = qwen().save(tmp_path / "theirs", tokenizer=False)
    beside = tiktoken_ranks(folder, swapped=True)
    refused(
        folder,
        r"the given tokenizer has .* at id 1[01], qwen.tiktoken has it at 1[01]: give",
        tokenizer=beside,
    )
    (folder / "qwen.tiktoken").write_text("no ranks at all")
    refused(folder, "qwen.tiktoken is damaged", tokenizer=beside)


def test_a_tokenizer_larger_than_the_embedding_is_refused(tmp_path: Path):
    folder = internlm2().save(tmp_path / "theirs")
    tokenizer = small_tokenizer()
    tokenizer.add_tokens([f"more{number}" for number in range(20)])
    tokenizer.save_pretrained(tmp_path / "larger")
    last, embedded = len(tokenizer) - 1, VOCABULARY
    refused(
        folder,
        f"the tokenizer has ids up to {last}, the model embeds {embedded}: give the",
        tokenizer=tmp_path / "larger",
    )
