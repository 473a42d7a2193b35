"""Answering many arms at once: rows of a few large batches, each written down as soon as it is done.

    point = (prompt, arm)      row = (tokens, shift)      many points, fewer rows

A point whose gate is closed, or whose shift is that of another arm, has a row in common with it. Every row is computed
once, or taken from the ledger, in which several models may lie beside each other.

The trap: two arms may word a prompt alike and mean another answer. Rows are told apart by their tokens, verdicts by
what was asked.
"""

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import pandas as pd
from tqdm.auto import tqdm

from workbench.decoding.asking import Prompts, rows_of
from workbench.decoding.replies import Reply, stop_tokens
from workbench.decoding.rows import Row
from workbench.evaluation.answers import Arm, Asked, Scored, ask, judge_all, labelled
from workbench.evaluation.readings import answers_correctly
from workbench.generation import Completion, completions
from workbench.judges.identity import judge_id
from workbench.judges.verdicts import Exchange, ExchangeJudge, Judge, Score, Verdict, scores
from workbench.loading import Model, twin_or_itself
from workbench.models import carries_hooks, tokenizer_of, weights_hash
from workbench.provenance import content_hash
from workbench.sweep.executors import Executor, InProcess, Terms
from workbench.sweep.ledger import Entry, Ledger, open_ledger
from workbench.sweep.packing import pack, row_key, sizes_worth_trying
from workbench.sweep.results import Sharing

Entries: TypeAlias = dict[Hashable, Entry]
Judged: TypeAlias = tuple[Verdict | None, float] | None
READING_BATCH = 64
NOT_KEPT = "its text was not kept"


@dataclass(frozen=True, eq=False)
class Answered:
    """The judged replies of several arms, a row each as `answers.answer` tells; what they shared, what wrote them."""

    frame: pd.DataFrame
    sharing: Sharing
    computed_on: str


def answer_arms(
    model: Model,
    prompts: Prompts,
    arms: Sequence[Arm],
    *,
    judge: Judge,
    max_new_tokens: int = 64,
    batch_size: int | None = None,
    ledger: str | Path | None = None,
    keep_text: bool = True,
    executor: Executor | None = None,
    twin: bool = True,
    progress: bool = False,
) -> Answered:
    """What `answers.answer` gives, of any arms, each batch kept in `ledger` as soon as it is done.

    A model's weights are part of a reply's key: several models may share a ledger. The rest is as in `run_sweep`. What
    an arm rewords is judged as it was asked before, so its text has to be kept. Arms with a guide have batches of their
    own, in this process, where the guide's model is.
    """
    prompts = labelled(prompts)
    _require_terms(model, max_new_tokens, executor, judge, ledger)
    _require_guides(model, arms, executor)
    if not keep_text and (worded := [arm.name for arm in arms if arm.rewrite is not None]):
        raise ValueError(
            f"got keep_text=False with the rewording arms {', '.join(worded)}: a verdict is on the prompt before that, "
            "keep the texts"
        )
    asked = ask(prompts, arms)
    computing, computed_on = twin_or_itself(model, twin=twin and executor is None)
    rows = rows_of(computing, asked.prompts, asked.plans, None, max_new_tokens, READING_BATCH)
    stop_ids, guides = tuple(stop_tokens(model)), [arm.guide for arm, *_ in asked.rows]
    scorer, weights = None if keep_text else judge, weights_hash(model)
    if executor is not None:
        _require_weights(executor, weights)
        computed_on = f"the {type(executor).__name__} that was given"
    with open_ledger(ledger) if ledger is not None else nullcontext() as book:
        found, kept, shared = dict[int, Completion](), dict[int, Judged](), list[Sharing]()
        for guide in dict.fromkeys(guides):
            chosen = [i for i in range(len(rows)) if guides[i] is guide]
            own, terms = [rows[i] for i in chosen], Terms(max_new_tokens, stop_ids, guide)
            run = _Run(executor or InProcess(computing), weights, terms, book, scorer, batch_size, progress)
            entries, sharing = run.all(own)
            replies = {row.key: entries[run.key(row)].reply for row in own if row.refusal is None}
            found |= zip(chosen, completions(own, tokenizer_of(model), replies), strict=True)
            kept |= {i: entries[run.key(rows[i])].judged for i in chosen if rows[i].refusal is None}
            shared.append(sharing)
        everything = Sharing.of(shared)
        with told_what_is_kept(book, everything.rows):
            said = [found[i] for i in range(len(rows))]
            scored = _scored(asked, said, [kept.get(i) for i in range(len(rows))], judge)
    return Answered(asked.frame(said, scored), everything, computed_on)


def _require_terms(
    model: Model, max_new_tokens: int, executor: Executor | None, judge: Judge, ledger: str | Path | None
) -> None:
    """Refuse what would be found out in the middle of the work."""
    if type(max_new_tokens) is not int or max_new_tokens < 1:
        raise ValueError(f"got max_new_tokens={max_new_tokens}, expected 1 or more")
    if not isinstance(executor, Executor | None):
        raise ValueError(f"got executor={executor!r}, expected an InProcess or a RayCluster")
    _require_score(judge)
    if (ledger is not None or executor is not None) and carries_hooks(model):
        raise ValueError(
            "the model carries hooks of yours, which neither a ledger nor another process can tell apart: take them "
            "off, or sweep without ledger= and executor="
        )


@dataclass(frozen=True, eq=False)
class _Run:
    """One sweep's rows on their way through an executor and a ledger."""

    executor: Executor
    weights: str
    terms: Terms
    book: Ledger | None
    scorer: Judge | None
    batch_size: int | None
    progress: bool

    def all(self, rows: Sequence[Row]) -> tuple[Entries, Sharing]:
        """The entry of every distinct row, by its key, and what was shared."""
        distinct = list({self.key(row): row for row in rows if row.refusal is None}.values())
        names = {self.key(row): self._name(row) for row in distinct}
        known = self.book.entries(list(names.values())) if self.book is not None else {}
        entries = {key: known[name] for key, name in names.items() if name in known}
        served = Counter(self.key(row) for row in rows if row.refusal is None)
        sharing = Sharing(len(rows), len(distinct), len(entries))
        batches = [
            left
            for batch in pack(distinct, self._budget(distinct), self.terms.max_new_tokens)
            if (left := [row for row in batch if self.key(row) not in entries])
        ]
        bar = tqdm(
            total=served.total(),
            initial=sum(served[key] for key in entries),
            desc=f"sweep, {sharing.saved:.0%} shared",
            unit="point",
            disable=not self.progress,
        )
        with bar, told_what_is_kept(self.book, len(distinct)):
            for number, replies in self.executor.write(batches, self.terms) if batches else ():
                batch = batches[number]
                done = dict(zip(map(self.key, batch), self._entries(batch, replies), strict=True))
                if self.book is not None:
                    self.book.commit({names[key]: entry for key, entry in done.items()})
                entries |= done
                bar.update(sum(served[key] for key in done))
        return entries, sharing

    def key(self, row: Row) -> Hashable:
        """Rows of one key have one entry: one reply and, where only verdicts are kept, one right answer."""
        return row.key if self.scorer is None else (row.key, row.prompt.answer)

    def _name(self, row: Row) -> str:
        """The row's key in the ledger. Where verdicts stand for texts, the judge and the right answer count too."""
        terms = self.terms
        key = row_key(row, self.weights, terms.max_new_tokens, terms.stop_ids, terms.guide)
        if self.scorer is None:
            return key
        return content_hash(key, self._judge_id, row.prompt.answer)

    @cached_property
    def _judge_id(self) -> str:
        """The judge's name and all that it says by, in place of the texts it has seen."""
        told = "" if self.scorer is None else judge_id(self.scorer)
        if told is not None or self.book is None:
            return told or ""
        raise ValueError(
            f"got a judge without a name of its own ({self.scorer!r}) for a ledger that keeps verdicts and no texts: "
            "define it as a function of a module, or keep the texts"
        )

    def _entries(self, batch: Sequence[Row], replies: Sequence[Reply]) -> list[Entry]:
        """What is kept of a batch: its replies, or what the judge says of all of them at once."""
        if self.scorer is None:
            return [Entry(reply) for reply in replies]
        exchanges = [
            Exchange(row.prompt, reply.text, reply.finished)
            for row, reply in zip(batch, replies, strict=True)
        ]
        right = [answers_correctly(e.prompt, e.reply, e.finished) for e in exchanges]
        return [
            Entry(replace(reply, text="", tokens=()), (score.verdict, correct))
            for reply, score, correct in zip(replies, scores(self.scorer, exchanges), right, strict=True)
        ]

    def _budget(self, rows: Sequence[Row]) -> int:
        """The tokens of a batch: room for `batch_size` of the longest rows, what the ledger says, or what is found.

        Under a guide its share: the guide's reader has so many rows for each.
        """
        share = 1 if self.terms.guide is None else self.terms.guide.top_k
        width = max((len(row.ids) for row in rows), default=0) + self.terms.max_new_tokens
        if self.batch_size is not None:
            if self.batch_size < 1:
                raise ValueError(f"got batch_size={self.batch_size}: expected 1 or more")
            return self.batch_size * width // share
        # Few rows are no measure of what many could fill.
        name = content_hash("budget", self.weights, width, len(sizes_worth_trying(len(rows))))
        budget = self.book.budget(name) if self.book is not None else None
        if budget is None:
            budget = self.executor.find_budget(width, len(rows))
            if self.book is not None:
                self.book.keep_budget(name, budget)
        return budget // share


@contextmanager
def told_what_is_kept(book: Ledger | None, n_rows: int) -> Iterator[None]:
    """Whatever stops a sweep leaves with a note that says what is safe, and how to go on."""
    try:
        yield
    except BaseException as error:
        if book is None:
            error.add_note("nothing of this sweep is kept: run_sweep(..., ledger=PATH) keeps what is done")
        else:
            with suppress(OSError):
                error.add_note(
                    f"{len(book):,} replies are kept in {book.path}, of {n_rows:,} rows that this sweep needs: the "
                    "same call goes on from there"
                )
        raise


def _require_guides(model: Model, arms: Sequence[Arm], executor: Executor | None) -> None:
    """Refuse guides that read other words, and those that would have to be where their model is not."""
    for arm in arms:
        if arm.guide is None:
            continue
        arm.guide.require_words_of(model)
        if executor is not None and not isinstance(executor, InProcess):
            raise ValueError(
                f"got the guided arm {arm.name!r} for a {type(executor).__name__}: a guide's model is in this process "
                "alone, sweep guided arms without executor="
            )


def _require_weights(executor: Executor, weights: str) -> None:
    """Refuse an executor with another model than the sweep's."""
    there = executor.weights_hash()
    if there != weights:
        raise ValueError(
            f"the executor's model has other weights (hash {there}) than the one given (hash {weights}): "
            "load both from one checkpoint, on one backend, in one dtype"
        )


def _require_score(judge: Judge) -> None:
    """Refuse, before hours of work for it, a judge that gives no score."""
    if isinstance(judge, ExchangeJudge):
        return  # asked for nothing, it may cost a model's load or money
    given = judge("", True) if callable(judge) else judge
    if not isinstance(given, Score):
        raise ValueError(
            f"got a judge that makes {given!r} of an empty reply, expected a function of text and finished that gives "
            "a wb.Score"
        )


def _scored(
    asked: Asked,
    found: Sequence[Completion],
    kept: Sequence[Judged],
    judge: Judge,
) -> list[Scored]:
    """The verdict on every point: the judge's now, or the one that was kept in its text's place."""
    prompts = [asked.of[i] for _, i, _, _ in asked.rows]
    there = [i for i, judged in enumerate(kept) if judged is None]
    now = iter(judge_all([found[i] for i in there], [prompts[i] for i in there], judge))
    return [next(now) if then is None else (Score(then[0], NOT_KEPT), then[1]) for then in kept]
