"""A language model as the judge, over any OpenAI-compatible address: a rubric in, a label out.

    verdict = rubric(answer of model(rubric, what was asked, reply))

What was asked and replied leaves this machine, and may be harmful: nothing goes anywhere but here without consent.

The trap: a judge that does not answer has not judged. A time-out after all tries, a content filter, an answer off the
rubric: each is unscored with its reason, and counted.
"""

import json
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from tqdm.auto import tqdm

from workbench.judges.calls import Address, Answer, Caller
from workbench.judges.kept import Kept, open_kept
from workbench.judges.rubrics import Rubric, load_rubric
from workbench.judges.verdicts import Exchange, Score
from workbench.provenance import content_hash

MAX_TOKENS = 512
"""Of an answer, where `options` do not say: a label, and room to think aloud before it."""


@dataclass
class Bill:
    """What a judge has asked so far, in this process, and what it took."""

    prices: tuple[float | int, float | int] | None = None
    calls: int = 0
    kept: int = 0
    unanswered: int = 0
    tokens_in: int = 0
    tokens_out: int = 0

    @property
    def cost(self) -> float | None:
        """Tokens times `prices`, which are for a million of them, in and out; None without prices."""
        if self.prices is None:
            return None
        return (self.tokens_in * self.prices[0] + self.tokens_out * self.prices[1]) / 1e6

    def __str__(self) -> str:
        money = "" if self.cost is None else f", {self.cost:,.4f} at the prices given"
        return (
            f"{self.calls:,} calls ({self.unanswered:,} unanswered), {self.kept:,} answers kept from before, "
            f"{self.tokens_in:,} tokens in and {self.tokens_out:,} out{money}"
        )

    def add(self, answer: Answer) -> None:
        """Count one answer that was called for."""
        self.calls += 1
        self.unanswered += answer.text is None
        self.tokens_in += answer.tokens_in
        self.tokens_out += answer.tokens_out


@dataclass(frozen=True, eq=False)
class LlmJudge:
    """A language model with a rubric. Made by `llm_judge`; `bill` says what it has cost."""

    address: Address
    rubric: Rubric
    cache: Path | None
    concurrency: int
    progress: bool
    bill: Bill = field(default_factory=Bill)

    reads_prompt: ClassVar[bool] = True

    @property
    def id(self) -> str:
        """A hash of the rubric, the model's name and its settings; where it is served does not count."""
        return content_hash(
            self.rubric.id, self.address.model, json.dumps(dict(self.address.options), sort_keys=True)
        )

    def judge(self, exchanges: Sequence[Exchange]) -> list[Score]:
        """One score per exchange, in order; those that were answered before are not asked again.

        Raises `CallError` where the address is of no use. Whatever stops it, what was answered is kept.
        """
        asked = [self._messages(exchange) for exchange in exchanges]
        keys = [content_hash(self.id, json.dumps(messages)) for messages in asked]
        with open_kept(self.cache) as kept:
            answers = kept.answers(keys)
            self.bill.kept += len(answers)
            new = {key: messages for key, messages in zip(keys, asked, strict=True) if key not in answers}
            try:
                answers |= self._called(new, kept)
            except BaseException as error:
                if self.cache is not None:
                    error.add_note(
                        f"what was answered is kept in {self.cache}: the same call goes on from there"
                    )
                raise
        return [self._score(answers[key]) for key in keys]

    def _messages(self, exchange: Exchange) -> list[dict[str, str]]:
        # As JSON, so that a reply that plays the judge's part is seen to be a quotation.
        told = {
            "asked": [{"role": role, "content": text} for role, text in exchange.prompt.messages],
            "reply": exchange.reply,
        }
        shown = json.dumps(told, ensure_ascii=False, indent=1).encode(errors="replace").decode()
        return [{"role": "system", "content": self.rubric.text}, {"role": "user", "content": shown}]

    def _called(self, new: Mapping[str, list[dict[str, str]]], kept: Kept) -> dict[str, Answer]:
        """The answers to what was not asked before, each written down as it comes."""
        found: dict[str, Answer] = {}
        if not new:
            return found
        caller = Caller(self.address, self.concurrency)
        waiting: dict[Future[Answer], str] = {}
        bar = tqdm(total=len(new), desc=self.address.model, unit="reply", disable=not self.progress)

        def take(done: Future[Answer]) -> None:
            answer = found[waiting.pop(done)] = done.result()
            self.bill.add(answer)
            bar.set_postfix_str(f"{self.bill.tokens_in + self.bill.tokens_out:,} tokens", refresh=False)
            bar.update()

        with bar, ThreadPoolExecutor(self.concurrency) as pool:
            try:
                waiting |= {pool.submit(caller.call, messages): key for key, messages in new.items()}
                for done in as_completed(list(waiting)):
                    key = waiting[done]
                    take(done)
                    _keep(kept, key, found[key])
            except BaseException:
                caller.stop.set()
                pool.shutdown(cancel_futures=True)
                # Those under way have come to an end meanwhile, and are paid for.
                for done, key in list(waiting.items()):
                    if not done.cancelled() and done.exception() is None:
                        take(done)
                        _keep(kept, key, found[key])
                raise
            finally:
                caller.close()
        return found

    def _score(self, answer: Answer) -> Score:
        if answer.text is None:
            return Score(None, answer.why)
        found = self.rubric.score(answer.text)
        if found.verdict is None and answer.why:
            return Score(None, f"{found.reason}; {answer.why}: allow more, options={{'max_tokens': ...}}")
        return found


def llm_judge(
    model: str,
    url: str,
    *,
    rubric: str | Path | Rubric = "refusal",
    send_replies_away: bool = False,
    key_env: str | None = None,
    temperature: float | int | None = 0.0,
    options: Mapping[str, Any] | None = None,
    cache: str | Path | None = None,
    prices: tuple[float | int, float | int] | None = None,
    concurrency: int = 4,
    per_minute: float | int | None = None,
    timeout: float | int = 60.0,
    retries: int = 5,
    backoff: float | int = 1.0,
    patience: float | int = 300.0,
    progress: bool = False,
) -> LlmJudge:
    """The language model that an OpenAI-compatible address serves under the name `model`, judging by a rubric.

    `url` is the address up to `/chat/completions`, "http://127.0.0.1:8000/v1". Prompts and replies are sent there:
    `send_replies_away=True` consents to it, and is needed for any address but this machine's own. `key_env` names the
    environment variable of the key, which is read when it is used and written nowhere.

    - `rubric` is "refusal", "refusal-in-part", "complied" or a .toml file; `temperature` None is the server's own, and
      `options` are further fields of the request ({"max_tokens": 512} unless given).
    - `cache` is a file that keeps every answer, readable by its owner alone: what stopped goes on from there, and costs
      nothing twice. `prices` are for a million tokens, in and out, and are counted in `judge.bill`.
    - `concurrency` calls at a time, `per_minute` at most. 429, 5xx, time-outs (`timeout` seconds) and broken
      connections are tried again `retries` times, after `backoff` · 2^n seconds or as long as the server asks for, up
      to `patience`.
    """
    if not model:
        raise ValueError(f"got no model for {url}: expected the name that it is served under")
    settings = dict({"max_tokens": MAX_TOKENS} if options is None else options)
    if taken := sorted({"model", "messages", "temperature", "stream", "n"} & settings.keys()):
        raise ValueError(
            f"got options with {', '.join(taken)}: temperature= is an argument, the others are the judge's"
        )
    if temperature is not None:
        settings["temperature"] = float(temperature)  # 0 and 0.0 are one judge
    if concurrency < 1:
        raise ValueError(f"got concurrency={concurrency}: expected 1 or more calls at a time")
    address = Address(url, model, key_env, settings, timeout, retries, backoff, patience, per_minute)
    if not address.is_here and send_replies_away is not True:
        raise ValueError(
            f"judging with {model!r} would send every prompt and every reply, harmful ones too, to {address.host}: "
            "consent with send_replies_away=True (in the shell --send-replies-to), or serve a model on this machine"
        )
    address.key()  # a key that is missing is told before anything is computed
    read = rubric if isinstance(rubric, Rubric) else load_rubric(rubric)
    kept = None if cache is None else Path(cache)
    return LlmJudge(address, read, kept, concurrency, progress, Bill(prices))


def _keep(kept: Kept, key: str, answer: Answer) -> None:
    if answer.text is not None:  # a failure is asked again next time
        kept.keep(key, answer)
