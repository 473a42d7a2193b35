"""Token ids of one prompt, and batches of several, padded on the left.

On the left, because the method reads the last token: so every row has it in the last column.

The trap: two prompts of the same words and different images have the same token ids. A row is its ids *and* the images
that its image tokens stand for; whoever tells rows apart by ids alone gives one image's reply to another.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from workbench.images import Image


class Tokens(tuple[int, ...]):
    """The token ids of a row, with its `images` in order; two are equal where both are."""

    images: tuple[Image, ...]

    def __new__(cls, ids: Iterable[int] = (), images: Sequence[Image] = ()) -> "Tokens":
        """Ids, and the images of their image tokens."""
        row = super().__new__(cls, ids)
        row.images = tuple(images)
        return row

    def __getnewargs__(self) -> tuple[Any, ...]:  # for pickle, on the way to another process
        return tuple(self), self.images

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, tuple) and tuple.__eq__(self, other)
        return same and self.images == images_of(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((tuple(self), self.images)) if self.images else tuple.__hash__(self)

    def __repr__(self) -> str:
        """As a tuple's where there are no images: keys of stored replies are made of it."""
        shown = tuple.__repr__(self)
        return f"{shown} with {', '.join(image.hash for image in self.images)}" if self.images else shown

    def followed_by(self, ids: Iterable[int]) -> "Tokens":
        """The same row with more ids after it."""
        return Tokens((*self, *ids), self.images)


def images_of(row: object) -> tuple[Image, ...]:
    """The images of a row of token ids, which is a `Tokens` where it has some."""
    return row.images if isinstance(row, Tokens) else ()


@dataclass(frozen=True, eq=False)
class EncodedBatch:
    """Left-padded token ids with their mask: the last column is every prompt's last token. `images` are by row."""

    input_ids: Int[Tensor, "batch pos"]
    attention_mask: Int[Tensor, "batch pos"]
    images: tuple[tuple[Image, ...], ...] = ()

    @property
    def position_ids(self) -> Int[Tensor, "batch pos"]:
        """0, 1, 2, … from each prompt's first real token; padding counts as position 0."""
        return (self.attention_mask.cumsum(-1) - 1).clamp(min=0)

    def to(self, device: torch.device | str) -> "EncodedBatch":
        """The same batch on `device`."""
        return EncodedBatch(self.input_ids.to(device), self.attention_mask.to(device), self.images)

    def rows(self, index: Int[Tensor, "kept"]) -> "EncodedBatch":
        """These rows alone."""
        images = tuple(self.images[i] for i in index.tolist()) if self.images else ()
        return EncodedBatch(self.input_ids[index], self.attention_mask[index], images)


def pad_left(rows: Sequence[Sequence[int]], pad_id: int) -> EncodedBatch:
    """Token rows padded on the left to the longest, with their mask and their images."""
    width = max(len(row) for row in rows)
    input_ids = torch.full((len(rows), width), pad_id)
    attention_mask = torch.zeros(len(rows), width, dtype=torch.long)
    for i, row in enumerate(rows):
        input_ids[i, width - len(row) :] = torch.tensor(row)
        attention_mask[i, width - len(row) :] = 1
    images = tuple(images_of(row) for row in rows)
    return EncodedBatch(input_ids, attention_mask, images if any(images) else ())
