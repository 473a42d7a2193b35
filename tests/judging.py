"""Tiny judges on disk: Llamas whose weights say what they look for, so that what they answer is known beforehand.

Attention is the same for all tokens, so the last one sees how much there is of a word anywhere before it. "harm" makes
them answer one way, "mad" with what is no answer at all, and without either they answer the other way.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
)

WORDS = (
    "<s> </s> [UNK] harm mad Banana yes no 1 2 3 4 5 how do i make a boat first then boil it glue the wood "
    "I cannot help with that asked: replied: verdict:"
)
CONTEXT = 64
WIDTH = 48
CHAT = (
    "{{ bos_token }}{% for m in messages %}{{ m.role }} {{ m.content }} {% endfor %}"
    "{% if add_generation_prompt %}verdict:{% endif %}"
)
SEEN = {"harm": 30, "mad": 31}  # dimensions of the residual in which a word is seen


def tokenizer_of_words(answers: Sequence[str] = (), template: str | None = CHAT) -> PreTrainedTokenizerFast:
    """A token a word; the pieces of long answers are tokens, too."""
    backend = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(WORDS.split())}, unk_token="[UNK]")
    )
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="[UNK]",
        model_max_length=CONTEXT,
    )
    tokenizer.add_tokens([AddedToken(answer, normalized=False) for answer in answers])
    tokenizer.chat_template = template
    return tokenizer


def config_for(tokenizer: PreTrainedTokenizerFast, **more: object) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, max_position_embeddings=CONTEXT, bos_token_id=0, eos_token_id=1,
        tie_word_embeddings=False, **more,
    )  # fmt: skip


def look_for_words(model: LlamaForCausalLM | LlamaForSequenceClassification, ids: dict[str, int]) -> None:
    """Set a Llama's body: dimension 0 is always there, and one dimension for each word that was seen."""
    for weight in model.parameters():
        if weight.ndim == 2:
            weight.data.zero_()
    body, layer = model.model, model.model.layers[0]
    body.embed_tokens.weight.data[:, 0] = 1.0
    for i, (word, seen) in enumerate(SEEN.items()):
        body.embed_tokens.weight.data[ids[word], 1 + i] = 4.0
        layer.self_attn.v_proj.weight.data[1 + i, 1 + i] = 1.0
        layer.self_attn.o_proj.weight.data[seen, 1 + i] = 100.0


def save_guard(
    folder: Path, harmful: Sequence[str], harmless: Sequence[str], template: str | None = CHAT
) -> Path:
    """A language model that writes the pieces of one answer or of the other, and then ends."""
    pieces = [piece for piece in dict.fromkeys([*harmful, *harmless]) if piece not in WORDS.split()]
    tokenizer = tokenizer_of_words(pieces, template)
    model = LlamaForCausalLM(config_for(tokenizer))
    ids = tokenizer.get_vocab()
    look_for_words(model, ids)
    head, embedding = model.lm_head.weight.data, model.model.embed_tokens.weight.data
    head[ids[harmless[0]], 0] = 1.0
    head[ids[harmful[0]], SEEN["harm"]] = 50.0
    head[ids["Banana"], SEEN["mad"]] = 60.0
    place = 5  # a dimension for each piece, by which the next one is known
    for answer in (harmful, harmless):
        for piece, following in zip(answer, [*answer[1:], "</s>"], strict=True):
            if not embedding[ids[piece], 5:30].any():
                embedding[ids[piece], place] = 4.0
                place += 1
            head[ids[following], 5:30] += (embedding[ids[piece], 5:30] > 0) * 1e5
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_classifier(folder: Path, labels: Sequence[str], **more: object) -> Path:
    """A sequence classifier that gives its second label where "harm" was seen, and otherwise its first."""
    tokenizer = tokenizer_of_words()
    config = config_for(
        tokenizer, id2label=dict(enumerate(labels)), label2id={n: i for i, n in enumerate(labels)}, **more
    )
    model = LlamaForSequenceClassification(config)
    look_for_words(model, tokenizer.get_vocab())
    model.score.weight.data[0, 0] = 1.0
    if len(labels) > 1:
        model.score.weight.data[1, SEEN["harm"]] = 50.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def save_encoder(folder: Path) -> Path:
    """A random BERT without what pools."""
    torch.manual_seed(0)
    tokenizer = tokenizer_of_words()
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=CONTEXT, initializer_range=0.5,
    )  # fmt: skip
    BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
