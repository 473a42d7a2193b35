"""A judge from the hub or a folder: one that writes its verdict, or a sequence classifier.

    verdict = family.weigh(softmax of the logits of its answer words)      one pass, where the next token tells
    verdict = family.read(a short greedy reply)                            otherwise

The trap: a long reply has to be cut for a short context, and cut anywhere else than at its end it takes the question
along. What was asked is never cut: where it alone is too long, the exchange is unscored.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from jinja2 import TemplateError
from transformers import PreTrainedModel

from workbench.chat import pad_id, pad_left, tokenizer_hash
from workbench.decoding.replies import stop_tokens, write_replies
from workbench.decoding.rows import Row
from workbench.judges.classifiers import ClassifierJudge, load_classifier
from workbench.judges.families import FAMILIES, Family, filled, off_form, read_prompt, where_it_is
from workbench.judges.verdicts import Exchange, Score, Verdict
from workbench.loading import load_model
from workbench.loading.holding import DeviceMap
from workbench.loading.sources import Checkpoint
from workbench.memory import in_batches
from workbench.models import context_length, device_of, tokenizer_of, weights_hash
from workbench.prompts import Prompt
from workbench.provenance import content_hash


@dataclass(frozen=True, eq=False)
class GuardJudge:
    """A language model that was trained to judge, and writes what it finds. Made by `load_judge`."""

    model: PreTrainedModel
    family: Family
    template: str | None
    parts: bool
    threshold: float
    reply_tokens: int | None
    batch_size: int

    reads_prompt: ClassVar[bool] = True

    @cached_property
    def id(self) -> str:
        """A hash of its weights, its vocabulary and chat template, how it is asked, and where its verdict turns."""
        return content_hash(
            weights_hash(self.model), tokenizer_hash(self._tokenizer), self.family.name, self.template,
            float(self.threshold), self.reply_tokens,
        )  # fmt: skip

    def judge(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One score per exchange, in order. The end of a reply is cut where the context is too short, and that is said.

        Unscored is what was asked where it alone finds no room, and an answer off the family's form.
        """
        found: list[Score | None] = [None] * len(exchanges)
        rows: list[tuple[int, Row, str]] = []
        for i, exchange in enumerate(exchanges):
            if not exchange.reply.strip():
                found[i] = Score("broken", "empty reply")
                continue
            try:
                ids, note = self._asked(exchange)
            except TemplateError as error:  # roles that it does not know, or in another order
                ids, note = None, f"the judge's chat template refused it: {error}"
            if ids is None:
                found[i] = Score(None, note)
            else:
                rows.append((i, Row(exchange.prompt, tuple(ids), None, None), note))
        rows.sort(key=lambda row: len(row[1].ids))  # of one length, they need no padding
        for batch, scores in in_batches(rows, self.batch_size, self._scores, _size_of):
            for (i, _, note), score in zip(batch, scores, strict=True):
                found[i] = Score(score.verdict, f"{score.reason}{note}")
        return [score for score in found if score is not None]

    def rendered(self, prompt: Prompt, reply: str) -> str:
        """The text that the judge is given."""
        if self.template is not None:
            text = filled(self.template, self.family, prompt, reply)
            begins = self._tokenizer.bos_token
            adds = begins is not None and self._tokenizer("")["input_ids"][:1] == [
                self._tokenizer.bos_token_id
            ]
            return f"{begins}{text}" if adds and not text.startswith(str(begins)) else text
        return _through_template(self._tokenizer, prompt, reply, parts=self.parts)

    @property
    def _tokenizer(self) -> Any:
        return tokenizer_of(self.model)

    def _asked(self, exchange: Exchange) -> tuple[list[int] | None, str]:
        """The tokens that the judge is given, and what was cut; None and the reason where nothing could be."""
        room = context_length(self.model) - self.family.longest
        whole = list(self._tokenizer(exchange.reply, add_special_tokens=False)["input_ids"])
        kept = len(whole) if self.reply_tokens is None else min(self.reply_tokens, len(whole))
        while kept > 0:
            reply = exchange.reply if kept == len(whole) else self._tokenizer.decode(whole[:kept])
            ids = list(
                self._tokenizer(self.rendered(exchange.prompt, reply), add_special_tokens=False)["input_ids"]
            )
            if len(ids) <= room:
                cut = (
                    ""
                    if kept == len(whole)
                    else f" (of the first {kept} of {len(whole)} tokens of the reply)"
                )
                return ids, cut
            kept -= len(ids) - room
        return (
            None,
            f"no room for a token of the reply: with what was asked the judge's context of {room:,} is full",
        )

    def _scores(self, rows: Sequence[tuple[int, Row, str]]) -> list[Score]:
        batch = [row for _, row, _ in rows]
        if self.family.read is not None:
            replies = write_replies(
                self.model, batch, max_new_tokens=self.family.longest, stop_ids=stop_tokens(self.model)
            )
            return [self.family.read(reply.text) for reply in replies]
        encoded = pad_left([list(row.ids) for row in batch], pad_id(self._tokenizer)).to(
            device_of(self.model)
        )
        with torch.no_grad():
            logits = self.model(
                input_ids=encoded.input_ids,
                attention_mask=encoded.attention_mask,
                position_ids=encoded.position_ids,
                use_cache=False,
                logits_to_keep=1,
            ).logits[:, -1]
        return [self._weighed(row) for row in logits.float().cpu()]

    def _weighed(self, logits: torch.Tensor) -> Score:
        """The verdict of the next token; unscored where the likeliest one is no answer at all."""
        words, top = self._words, int(logits.argmax())
        if not torch.isfinite(logits).all():
            return Score(None, "its logits are no numbers")
        if not any(top in ids for ids in words.values()):
            return off_form(str(self._tokenizer.decode([top])), " or ".join(words))
        likely = torch.stack([logits[ids].logsumexp(0) for ids in words.values()]).softmax(0)
        assert self.family.weigh is not None
        return self.family.weigh(dict(zip(words, likely.tolist(), strict=True)), self.threshold)

    @cached_property
    def _words(self) -> dict[str, list[int]]:
        """The tokens that say each of the family's answers, with a blank before or a capital, too."""
        found = {}
        for word in self.family.words:
            ways = {word, f" {word}", word.capitalize(), f" {word.capitalize()}"}
            encoded = [self._tokenizer(way, add_special_tokens=False)["input_ids"] for way in sorted(ways)]
            unknown = self._tokenizer.unk_token_id
            found[word] = sorted({ids[0] for ids in encoded if len(ids) == 1 and ids[0] != unknown})
            if not found[word]:
                raise ValueError(
                    f"the tokenizer of {self.model.config.name_or_path!r} has no one token for {word!r}, with which "
                    f"{self.family.name} answers: name the checkpoint's own family, family="
                )
        return found


def _through_template(tokenizer: Any, prompt: Prompt, reply: str, *, parts: bool) -> str:
    """The exchange through the chat template of a judge whose format that is; without system messages."""
    turns = [(role, text) for role, text in prompt.messages if role != "system"] + [("assistant", reply)]
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if parts else text} for role, text in turns
    ]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def _takes_parts(tokenizer: Any) -> bool:
    """Whether a chat template wants a message's content as a list of parts: those of one family differ in it."""
    for parts in (False, True):
        try:
            text = _through_template(
                tokenizer, Prompt.user("what was asked"), "what was replied", parts=parts
            )
        except (TemplateError, TypeError):
            continue
        if "what was asked" in text and "what was replied" in text and "'text':" not in text:
            return parts
    raise ValueError(
        f"the chat template of {tokenizer.name_or_path!r} shows not all of an exchange: expected one that takes a "
        "user's message and an assistant's reply, as that of Llama Guard"
    )


def load_judge(
    x: str | Path,
    *,
    family: Literal["harmbench", "strongreject", "wildguard", "llama-guard", "classifier"] | None = None,
    template: str | Path | None = None,
    means: Mapping[str, Verdict] | None = None,
    pair: bool = False,
    threshold: float | int = 0.5,
    reply_tokens: int | None = None,
    revision: str | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    bits: Literal[4, 8] | None = None,
    batch_size: int = 16,
) -> GuardJudge | ClassifierJudge:
    """A judge by its folder or hub id, batched: HarmBench's, Llama Guard 3, WildGuard, StrongREJECT's, or a classifier.

    `family` is told by the config (a sequence classifier) or the name where it is plain.

    - `template` is a file with the prompt that the judge was trained with, as its authors publish it; Llama Guard
      brings its own. `threshold` is where HarmBench's yes and StrongREJECT's score count as *complied*; `reply_tokens`
      cuts every reply there (HarmBench's own protocol does, at 512).
    - of a classifier, `means` says which label is which verdict, {"LABEL_1": "refused", "LABEL_0": "complied"}, where
      its labels do not say it; `pair=True` shows it the prompt, too.

    The rest is `load_model`'s: weights are whole, of safetensors, and no code of a checkpoint runs.
    """
    checkpoint = Checkpoint.named(x, revision)
    declared = str((checkpoint.json("config.json").get("architectures") or [""])[0])
    if family is None and declared.endswith("ForSequenceClassification"):
        family = "classifier"
    name: str | None = family or next(
        (known.name for known in FAMILIES.values() if any(mark in str(x).lower() for mark in known.marks)),
        None,
    )
    if name not in (*FAMILIES, "classifier"):
        raise ValueError(
            f"{checkpoint.name!r} does not say what kind of judge it is (got family={family!r}, architecture "
            f"{declared or 'unknown'}): name it, family= one of {', '.join(FAMILIES)}, classifier"
        )
    if not 0 <= threshold <= 1:
        raise ValueError(f"got threshold={threshold}, expected 0 to 1")
    if batch_size < 1 or (reply_tokens is not None and reply_tokens < 1):
        raise ValueError(f"got batch_size={batch_size}, reply_tokens={reply_tokens}: expected 1 or more")
    if name == "classifier":
        if template is not None or reply_tokens is not None or threshold != 0.5 or device_map or bits:
            raise ValueError(
                "got template=, reply_tokens=, threshold=, device_map= or bits= with a sequence classifier, which "
                "takes none of them"
            )
        return load_classifier(
            checkpoint, means=means, pair=pair, dtype=dtype, device=device, batch_size=batch_size
        )
    known = FAMILIES[name]
    if means is not None or pair:
        raise ValueError(
            f"got means= or pair= with {name}, whose answers are known and which reads both: leave them out"
        )
    if known.asked and template is None:
        raise ValueError(f"got no template= for {checkpoint.name!r}: {where_it_is(known)}")
    if not known.asked and template is not None:
        raise ValueError(f"got template= with {name}, whose chat template is its prompt: leave it out")
    text = None if template is None else read_prompt(template, known)
    model = load_model(
        x, backend="plain", revision=revision, dtype=dtype, device=device, device_map=device_map, bits=bits
    )
    if not isinstance(model, PreTrainedModel):
        raise TypeError(f"{checkpoint.name!r} is no model of transformers")
    if text is None and not tokenizer_of(model).chat_template:
        raise ValueError(
            f"{checkpoint.name!r} brings no chat template, and {name} is asked by it: take it from {known.published}"
        )
    parts = text is None and _takes_parts(tokenizer_of(model))
    judge = GuardJudge(model, known, text, parts, threshold, reply_tokens, batch_size)
    _ = judge._words  # told now, not after hours of replies
    return judge


def _size_of(rows: Sequence[tuple[int, Row, str]]) -> str:
    return f"{len(rows)} exchanges of up to {max(len(row.ids) for _, row, _ in rows):,} tokens"
