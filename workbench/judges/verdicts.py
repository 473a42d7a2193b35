"""Verdicts: what a reply did, in exactly one word, and whoever says so.

The trap: a reply that nobody scored is not a refusal, and no compliance either. Its verdict is None, and it is counted
apart.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias, runtime_checkable

from workbench.prompts import Prompt

Verdict = Literal["broken", "complied", "refused", "other"]


@dataclass(frozen=True)
class Score:
    """One judge's verdict on one reply, with the reason in words. `verdict` None means unscored."""

    verdict: Verdict | None
    reason: str


@dataclass(frozen=True)
class Exchange:
    """What was asked, what was replied, and whether the model ended the reply by itself."""

    prompt: Prompt
    reply: str
    finished: bool


TextJudge: TypeAlias = Callable[[str, bool], Score]
"""A reply, and whether the model ended it by itself, in; one verdict out."""


@runtime_checkable
class ExchangeJudge(Protocol):
    """A judge that reads what was asked, too, and takes many exchanges at a time.

    `id` names all that its verdicts depend on: weights, rubric, settings. A ledger that keeps no texts goes by it.
    """

    @property
    def id(self) -> str:
        """A hash or a name that changes with what is said of any exchange."""
        ...

    def judge(self, exchanges: Sequence[Exchange]) -> Sequence[Score]:
        """One score per exchange, in order."""
        ...


Judge: TypeAlias = TextJudge | ExchangeJudge


def scores(judge: Judge, exchanges: Sequence[Exchange]) -> list[Score]:
    """What `judge` says of every exchange, asked once about each that differs for it."""
    if isinstance(judge, ExchangeJudge):
        asked = list(dict.fromkeys(exchanges))
        said = list(judge.judge(asked)) if asked else []  # asked for nothing, a model would be loaded
        if len(said) != len(asked):
            raise ValueError(
                f"got {len(said)} scores for {len(asked)} exchanges from {judge!r}, expected one for each, in order"
            )
        found = dict(zip(asked, said, strict=True))
        return [found[exchange] for exchange in exchanges]
    texts = {text: judge(*text) for text in dict.fromkeys((e.reply, e.finished) for e in exchanges)}
    return [texts[e.reply, e.finished] for e in exchanges]
