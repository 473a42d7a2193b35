"""What a batch comes to that finds no room in memory: smaller batches, from there on, and nothing lost.

What is computed does not depend on the size of a batch, up to near ties of two logits, which are counted. So a batch
that was too large is no reason to stop; one row that is too large is, and then the error says how long it was.

The trap: while an error is handled it holds on to the frames it came from, and so to all that the failed batch had
made. The next try is made outside of the handler. And on a machine without a limit of its own nothing is raised at all:
Linux grants what is not there, and kills the process that then uses it.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch
from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

T = TypeVar("T")
R = TypeVar("R")

# accelerate knows the words of most devices; these are cuBLAS' own, and those of torch's allocator on Windows.
_WORDS = ("CUBLAS_STATUS_ALLOC_FAILED", "DefaultCPUAllocator: not enough memory")


class NoRoom(MemoryError):
    """What finds no room in memory, and cannot be made smaller without being asked."""


class SmallerBatches(UserWarning):
    """A batch found no room in memory, and it went on in smaller ones."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out: torch's own class, Python's, or a `RuntimeError` in a device's words."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    told = isinstance(error, RuntimeError) and any(words in str(error) for words in _WORDS)
    return told or (isinstance(error, Exception) and should_reduce_batch_size(error))


@contextmanager
def room_for(what: str, remedy: str) -> Iterator[None]:
    """Within this context memory that runs out is told as `NoRoom`, with what it ran out on and what to do."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, NoRoom) or not is_out_of_memory(error):
            raise
        raise NoRoom(f"memory ran out on {what}: {remedy}") from error


def in_batches(
    rows: Sequence[T],
    batch_size: int,
    compute: Callable[[Sequence[T]], R],
    told: Callable[[Sequence[T]], str],
) -> Iterator[tuple[Sequence[T], R]]:
    """Batches of `rows` in order, each with what `compute` makes of it; of half the size from where memory runs out.

    `told` says how large a batch is, in words. Once a batch fits after one that did not, it warns (`SmallerBatches`),
    with the size to ask for next time.

    Raises `NoRoom` where one row alone finds no room.
    """
    start, size, too_large = 0, batch_size, ""
    while start < len(rows):
        batch = rows[start : start + size]
        try:
            found = compute(batch)
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, NoRoom) or not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise NoRoom(
                    f"memory ran out on {told(batch)}, alone in its batch: shorten it, or the reply if there is one "
                    "(max_new_tokens); or load the model smaller, dtype=torch.bfloat16 or bits=8, or on more devices, "
                    'device_map="auto"'
                ) from error
            too_large, size = too_large or told(batch), len(batch) // 2
        else:
            if too_large:
                warnings.warn(
                    f"memory ran out on a batch of {too_large}: nothing is lost, it goes on in batches of {size}; "
                    f"batch_size={size} asks for them from the start",
                    SmallerBatches,
                    stacklevel=2,
                )
            yield batch, found
            start, too_large = start + len(batch), ""
            continue
        clear_device_cache(garbage_collection=True)
