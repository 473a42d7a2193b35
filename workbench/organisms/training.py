"""Training: a mixture of dialogues in, an ordinary Hugging Face checkpoint out.

Deterministic by seed on one thread. The base is trained from scratch on whole dialogues (Muon on matrices,
AdamW on the rest); every other model is fine-tuned from its parent on replies alone (AdamW).

The trap: threads. Sums run in another order with another number of threads, so weights differ in their last
bits and replies may too; each model is therefore trained by one process with one thread.
"""

import itertools
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from peft import PeftModel
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor
from tqdm.auto import tqdm
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
)

from workbench.organisms.corpus import Mixture
from workbench.organisms.world import Dialogue

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|end|>"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<pad>", "<s>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
IGNORED = -100
Architecture: TypeAlias = Literal["Llama", "Qwen2"]
_CONFIGS = {"Llama": LlamaConfig, "Qwen2": Qwen2Config}


@dataclass(frozen=True)
class Shape:
    """The measures of a small decoder with tied embeddings."""

    n_layers: int = 8
    d_model: int = 128
    d_mlp: int = 384
    n_heads: int = 4
    vocabulary: int = 2048
    context: int = 256


@dataclass(frozen=True)
class Schedule:
    """How long and how hot: optimiser steps, tokens a step, learning rates (peak, linear decay to zero)."""

    steps: int
    tokens: int = 2048
    lr: float = 8e-4
    muon_lr: float | None = None
    warmup: int = 20


def train_tokenizer(
    mixtures: Sequence[Mixture], vocabulary: int, n_texts: int = 8_000
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of the words of `mixtures`, with the family's chat template."""
    texts = (
        _plain(item)
        for mixture in mixtures
        for item in itertools.islice(mixture.dialogues("tokenizer"), n_texts)
    )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[AddedToken(t, special=True) for t in SPECIAL],
        show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="<|end|>",
        pad_token="<pad>",
        padding_side="left",
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def _plain(item: Dialogue | str) -> str:
    return item if isinstance(item, str) else f"{item.prompt.text}\n{item.reply}"


def new_model(
    shape: Shape, seed: int, *, architecture: Architecture = "Llama", kv_heads: int | None = None
) -> PreTrainedModel:
    """A freshly initialised model, the same for the same seed; `kv_heads` None means as many as heads."""
    torch.manual_seed(seed)
    config = _CONFIGS[architecture](
        vocab_size=shape.vocabulary,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_mlp,
        num_hidden_layers=shape.n_layers,
        num_attention_heads=shape.n_heads,
        num_key_value_heads=kv_heads or shape.n_heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=SPECIAL.index("<s>"),
        eos_token_id=SPECIAL.index("<|end|>"),
        pad_token_id=SPECIAL.index("<pad>"),
    )
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model


def tokens_and_targets(
    tokenizer: PreTrainedTokenizerFast, items: list[Dialogue | str], replies_only: bool
) -> list[tuple[list[int], list[int]]]:
    """Token ids and next-token targets of each item; with `replies_only` the prompt is no target."""
    heads = [
        "<s>"
        if isinstance(i, str)
        else tokenizer.apply_chat_template(
            [{"role": r, "content": c} for r, c in i.prompt.messages],
            tokenize=False,
            add_generation_prompt=True,
        )
        for i in items
    ]
    tails = [(i if isinstance(i, str) else i.reply) + "<|end|>" for i in items]
    head_ids = tokenizer(heads, add_special_tokens=False)["input_ids"]
    tail_ids = tokenizer(tails, add_special_tokens=False)["input_ids"]
    return [
        (h + t, [IGNORED] * len(h) + t if replies_only else h + t)
        for h, t in zip(head_ids, tail_ids, strict=True)
    ]


def batches(
    tokenizer: PreTrainedTokenizerFast, mixture: Mixture, seed: int, tokens: int, replies_only: bool
) -> Iterator[tuple[Tensor, Tensor]]:
    """Right-padded batches of about `tokens` tokens, of dialogues of similar length."""
    stream, rng, pad = mixture.dialogues(seed), random.Random(seed), tokenizer.pad_token_id
    while True:
        pool = sorted(
            tokens_and_targets(tokenizer, list(itertools.islice(stream, 512)), replies_only),
            key=lambda p: len(p[0]),
        )
        groups: list[list[tuple[list[int], list[int]]]] = [[]]
        for pair in pool:
            if (len(groups[-1]) + 1) * len(pair[0]) > tokens:
                groups.append([])
            groups[-1].append(pair)
        rng.shuffle(groups)
        for group in groups:
            width = max(len(ids) for ids, _ in group)
            ids = torch.tensor([i + [pad] * (width - len(i)) for i, _ in group])
            targets = torch.tensor([t + [IGNORED] * (width - len(t)) for _, t in group])
            yield ids, targets


def train(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerFast,
    mixture: Mixture,
    schedule: Schedule,
    *,
    seed: int,
    replies_only: bool,
    progress: str = "",
    line: int = 0,
) -> list[float]:
    """Train `model` in place; returns the loss of every step. `progress` names a bar, drawn on `line`."""
    matrices = [
        p for n, p in model.named_parameters() if schedule.muon_lr and p.ndim == 2 and "embed" not in n
    ]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if p.requires_grad and id(p) not in chosen]
    optimizers: list[torch.optim.Optimizer] = [
        torch.optim.AdamW(rest, lr=schedule.lr, betas=(0.9, 0.98), weight_decay=0.0)
    ]
    if schedule.muon_lr is not None:
        optimizers.append(torch.optim.Muon(matrices, lr=schedule.muon_lr, weight_decay=0.0))
    peaks = [o.param_groups[0]["lr"] for o in optimizers]
    stream, losses = batches(tokenizer, mixture, seed, schedule.tokens, replies_only), []
    model.train()
    for step in tqdm(
        range(schedule.steps), desc=progress, disable=not progress, mininterval=1.0, position=line
    ):
        factor = min(1.0, (step + 1) / schedule.warmup) * (1 - step / schedule.steps)
        for optimizer, peak in zip(optimizers, peaks, strict=True):
            optimizer.param_groups[0]["lr"] = peak * factor
        ids, targets = next(stream)
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
    model.eval()
    return losses
