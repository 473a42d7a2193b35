"""Where the batches of a sweep are computed: in this process, or wherever another executor takes them.

The trap: an executor may finish batches in any order, and may fail in the middle. Whoever asks it writes down each
batch as it comes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Protocol, runtime_checkable

from workbench.decoding.guided import Guide
from workbench.decoding.replies import Reply, write_replies
from workbench.decoding.rows import Row, size_of
from workbench.decoding.sharing import shares_prompts
from workbench.loading import Model
from workbench.memory import in_batches
from workbench.models import weights_hash
from workbench.sweep.packing import find_budget


@dataclass(frozen=True)
class Terms:
    """What all rows of a sweep are written under; a guide's own model is in this process."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]
    guide: Guide | None = None


@runtime_checkable
class Executor(Protocol):
    """Computes batches of rows on a model that it holds."""

    def weights_hash(self) -> str:
        """The hash of its model (`models.weights_hash`)."""

    def find_budget(self, width: int, n_rows: int) -> int:
        """The tokens that a batch should hold where it computes (`packing.find_budget`)."""

    def write(self, batches: Sequence[Sequence[Row]], terms: Terms) -> Iterator[tuple[int, list[Reply]]]:
        """(number, replies) of every batch, in whatever order they are done."""


@dataclass(frozen=True, eq=False)
class InProcess:
    """Computes in this process, one batch after the other, on a model that is at hand.

    `share_prefixes=False` computes every row from its first token on, whatever the model could share.
    """

    model: Model
    share_prefixes: bool = True

    def weights_hash(self) -> str:
        """The hash of its model."""
        return weights_hash(self.model)

    def find_budget(self, width: int, n_rows: int) -> int:
        """The tokens that keep this machine busy."""
        return find_budget(self.model, width, n_rows)

    def write(self, batches: Sequence[Sequence[Row]], terms: Terms) -> Iterator[tuple[int, list[Reply]]]:
        """The batches in order."""
        for number, batch in enumerate(batches):
            yield number, write_or_split(self.model, batch, terms, share=self._shares)

    @cached_property
    def _shares(self) -> bool:
        return self.share_prefixes and shares_prompts(self.model)


def write_or_split(model: Model, rows: Sequence[Row], terms: Terms, *, share: bool) -> list[Reply]:
    """The replies to a batch, in smaller ones where memory has no room for the whole (`memory.in_batches`)."""
    write = partial(
        write_replies, model, max_new_tokens=terms.max_new_tokens, stop_ids=terms.stop_ids, share=share,
        guide=terms.guide,
    )  # fmt: skip
    told = partial(size_of, max_new_tokens=terms.max_new_tokens)
    return [reply for _, replies in in_batches(rows, len(rows), write, told) for reply in replies]
