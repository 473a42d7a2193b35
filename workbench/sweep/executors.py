"""Where the batches of a sweep are computed: in this process, or wherever another executor takes them.

The trap: an executor may finish batches in any order, and may fail in the middle. Whoever asks it writes down each
batch as it comes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol, runtime_checkable

import torch

from workbench.decoding.replies import Reply, write_replies
from workbench.decoding.rows import Row
from workbench.decoding.sharing import shares_prompts
from workbench.loading import Model
from workbench.models import weights_hash
from workbench.sweep.packing import find_budget


@dataclass(frozen=True)
class Terms:
    """What all rows of a sweep are written under."""

    max_new_tokens: int
    stop_ids: tuple[int, ...]


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
    """The replies to a batch, in halves where a GPU has no room for the whole."""
    try:
        return write_replies(
            model, rows, max_new_tokens=terms.max_new_tokens, stop_ids=terms.stop_ids, share=share
        )
    except torch.OutOfMemoryError:
        if len(rows) == 1:
            raise
    half = len(rows) // 2  # outside of the handler, which holds on to what the failed batch had made
    torch.cuda.empty_cache()
    return [
        reply
        for part in (rows[:half], rows[half:])
        for reply in write_or_split(model, part, terms, share=share)
    ]
