"""Tokenizers without their own code: a tokenizer.json, a sentencepiece model, or one that the user gives.

What is written is a tokenizer.json that says everything, for the class that adds nothing to it. A sentencepiece model
is rebuilt in it and asked the same texts as sentencepiece itself; a given tokenizer is held against qwen.tiktoken,
where there is one.

The trap: an id that means another token. InternLM2 names its chat tokens in tokenizer_config.json, at ids that its
sentencepiece model holds placeholders for; added as new tokens they would lie beyond the embedding.
"""

import base64
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import bytes_to_unicode, generate_merges

from workbench.loading import load_tokenizer

NORMAL, ADDED = 1, 4
"""Kinds of pieces in a sentencepiece model: those that merges make, and those found in any text as they are."""

CHAT_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""What Qwen (v1) appends to the byte strings of qwen.tiktoken, in this order."""

SAMPLES = (
    "The quick brown fox jumps over the lazy dog.",
    " a space before, two  within, one after ",
    "a line\n\n\tand a tab",
    "1234567 + 3.14 = 1,234,570.14",
    "def f(x):\n    return {x: [x ** 2]}  # <b>&amp;</b>",
    "naïve façade, Straße, 你好，世界。 Привет 🙂",
    "<|user|>:How do I …?<eoh>",
    "",
)
"""What a rebuilt tokenizer must split as sentencepiece does."""


def read_tokenizer(
    source: Path, given: str | Path | None, *, vocab_size: int, context_length: int
) -> tuple[PreTrainedTokenizerBase, tuple[str, ...]]:
    """A checkpoint's tokenizer, or the `given` one, and what to know of it.

    Raises `ValueError` where the checkpoint has none but code, or the one there is does not fit the embedding.
    """
    if given is not None:
        found = load_tokenizer(given)
        _require_same_ranks(found, source)
    elif (source / "tokenizer.json").is_file():
        found = _wrapped(Tokenizer.from_file(str(source / "tokenizer.json")), source, context_length, {})
    elif (source / "tokenizer.model").is_file():
        found = _from_sentencepiece(source, context_length)
    else:
        code = ", ".join(sorted(path.name for path in source.glob("*token*"))) or "nothing"
        raise ValueError(
            f"{source.resolve().name} has no tokenizer that works without its own code (it has {code}): give one, "
            "--tokenizer FOLDER (tokenizer=...), with the same tokens at the same ids; for Qwen (v1) that of a Qwen1.5 "
            "should do, and is compared with qwen.tiktoken"
        )
    if (last := max(found.get_vocab().values())) >= vocab_size:
        raise ValueError(
            f"the tokenizer has ids up to {last:,}, the model embeds {vocab_size:,}: give the model's own, "
            "--tokenizer FOLDER (tokenizer=...)"
        )
    remarks = () if found.chat_template else ("its tokenizer has no chat template: give it the model's own",)
    return found, remarks


def _wrapped(
    backend: Tokenizer, source: Path, context_length: int, defaults: Mapping[str, Any]
) -> PreTrainedTokenizerFast:
    """The general class around `backend`, with what tokenizer_config.json says of special tokens and the template."""
    told = dict(defaults) | _config(source)
    file = source / "chat_template.jinja"
    template = file.read_text(encoding="utf-8") if file.is_file() else told.get("chat_template")
    names = ("bos_token", "eos_token", "unk_token", "pad_token", "add_bos_token", "add_eos_token")
    options = {name: _content(told[name]) for name in names if told.get(name) is not None}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        additional_special_tokens=[_content(token) for token in told.get("additional_special_tokens") or ()],
        chat_template=template,
        model_max_length=context_length,
        clean_up_tokenization_spaces=False,
        **options,
    )


def _config(source: Path) -> dict[str, Any]:
    path = source / "tokenizer_config.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return dict(found)
    except ValueError as error:
        raise ValueError(
            f"{path.name} is damaged ({error}): restore it from a copy, or download it again"
        ) from error


def _content(token: Any) -> Any:
    return token["content"] if isinstance(token, dict) else token


def _from_sentencepiece(source: Path, context_length: int) -> PreTrainedTokenizerFast:
    # Here, because few checkpoints need it.
    from sentencepiece import SentencePieceProcessor, sentencepiece_model_pb2

    path = source / "tokenizer.model"
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    try:
        model.ParseFromString(path.read_bytes())
        theirs = SentencePieceProcessor(model_file=str(path))
    except Exception as error:  # protobuf's own errors, and a RuntimeError of sentencepiece
        raise ValueError(
            f"{path.name} is damaged ({error}): restore it from a copy, or download it again"
        ) from error
    listed = _config(source).get("added_tokens_decoder") or {}
    renamed = {int(number): str(_content(token)) for number, token in listed.items()}
    backend = _rebuilt(model, renamed)
    found = [f"mend {piece}\nthe boat" for piece in _added(model, renamed)]
    for text in (*SAMPLES, *found):
        expected, got = theirs.encode(text), backend.encode(text, add_special_tokens=False).ids
        if expected != got:
            raise ValueError(
                f"{path.name} cannot be had as a tokenizer.json: {text!r} would become {got}, and sentencepiece "
                f"makes it {expected}; give a tokenizer, --tokenizer FOLDER (tokenizer=...)"
            )
    for number, token in renamed.items():
        if (there := backend.token_to_id(token)) != number:
            raise ValueError(
                f"tokenizer_config.json has {token!r} at id {number}, the vocabulary has it at {there}: give a "
                "tokenizer, --tokenizer FOLDER (tokenizer=...)"
            )
    spec = model.trainer_spec
    named = {"bos_token": spec.bos_piece, "eos_token": spec.eos_piece, "unk_token": spec.unk_piece}
    # The families' own classes begin a text that no template has written with BOS.
    return _wrapped(
        backend, source, context_length, {**named, "pad_token": spec.eos_piece, "add_bos_token": True}
    )


def _rebuilt(model: Any, renamed: Mapping[int, str]) -> Tokenizer:
    """A sentencepiece model of the BPE kind as a `tokenizers` one, with other names for some of its ids."""
    if model.trainer_spec.model_type != model.trainer_spec.BPE:
        raise ValueError(
            "tokenizer.model is no BPE model, which these families have: give a tokenizer, --tokenizer FOLDER "
            "(tokenizer=...)"
        )
    pieces = list(enumerate(model.pieces))
    vocabulary = {renamed.get(number, piece.piece): number for number, piece in pieces}
    normal = {
        piece.piece: piece.score for number, piece in pieces if piece.type == NORMAL and number not in renamed
    }
    # By score, as sentencepiece merges.
    merges = generate_merges({piece: vocabulary[piece] for piece in normal}, vocab_scores=normal)
    marked, added = model.normalizer_spec.add_dummy_prefix, _added(model, renamed)
    # sentencepiece marks where a text starts, and nothing after a token that it finds in it. `tokenizers` would mark
    # what follows an added token, so where there are both, these are cut out of the text and taken whole instead.
    cut = marked and bool(added)
    backend = Tokenizer(
        BPE(
            vocab=vocabulary,
            merges=merges,
            unk_token=model.trainer_spec.unk_piece,
            fuse_unk=True,
            byte_fallback=model.trainer_spec.byte_fallback,
            ignore_merges=cut,
        )
    )
    steps: list[Any] = [normalizers.Prepend("▁")] if marked else []
    if model.normalizer_spec.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(model.normalizer_spec.precompiled_charsmap))
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    read: list[Any] = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    backend.decoder = decoders.Sequence([*read, decoders.Strip(" ", 1, 0)] if marked else read)
    if cut:
        pattern = "|".join(re.escape(piece) for piece in sorted(added, key=len, reverse=True))
        backend.pre_tokenizer = pre_tokenizers.Split(Regex(pattern), "isolated")
    else:
        backend.add_tokens([AddedToken(piece, normalized=False, special=False) for piece in added])
    backend.add_special_tokens(
        [AddedToken(token, normalized=False, special=True) for _, token in sorted(renamed.items())]
    )
    return backend


def _added(model: Any, renamed: Mapping[int, Any]) -> list[str]:
    """The pieces that are found in any text as they are, without those that have another name."""
    return [
        piece.piece
        for number, piece in enumerate(model.pieces)
        if piece.type == ADDED and number not in renamed
    ]


def _require_same_ranks(given: PreTrainedTokenizerBase, source: Path) -> None:
    """Where the checkpoint has qwen.tiktoken, its tokens must be at the same ids in the given tokenizer.

    The file has a byte string and its id in each line; the three tokens of text and chat follow after the last.
    """
    path = source / "qwen.tiktoken"
    if not path.is_file():
        return
    letters, expected = bytes_to_unicode(), {}
    try:
        for line in path.read_text(encoding="utf-8").splitlines():
            token, rank = line.split()
            expected["".join(letters[byte] for byte in base64.b64decode(token))] = int(rank)
    except ValueError as error:
        raise ValueError(
            f"{path.name} is damaged ({error}): restore it from a copy, or download it again"
        ) from error
    expected |= {token: len(expected) + number for number, token in enumerate(CHAT_TOKENS)}
    vocabulary = given.get_vocab()
    for token, number in expected.items():
        if vocabulary.get(token) != number:
            raise ValueError(
                f"the given tokenizer has {token!r} at id {vocabulary.get(token)}, {path.name} has it at {number}: "
                "give the tokenizer of this very model"
            )
