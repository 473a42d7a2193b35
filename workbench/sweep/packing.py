"""How the rows of a sweep become batches: in one order that depends on the grid alone, up to a budget of tokens.

    tokens of a batch = its rows · (its longest prompt + `max_new_tokens`) ≤ budget

Rows of one prompt lie side by side, so that they can share its lower layers; prompts of one length do, so that little
is padding.

The trap: two logits that nearly tie may change places with the batch they are computed in. So batches are made of the
whole grid, computed or not: what resumes is packed as it was.
"""

import time
from collections.abc import Iterator, Sequence

import psutil
import torch
from torch import Tensor, nn

from workbench.chat import EncodedBatch
from workbench.decoding.guided import Guide
from workbench.decoding.passes import Passes, passes_over
from workbench.decoding.rows import Row
from workbench.loading import Model
from workbench.memory import is_out_of_memory
from workbench.models import d_model, device_of, n_layers
from workbench.provenance import content_hash

SIZES = (512, 256, 128)
FEW = 128
"""Rows of a batch where a sweep has too few to find out more."""
TIMES = 8
"""A size is tried where the sweep fills it so often: finding out may not cost more than it gains."""
NEAR_BEST = 1.05
"""Of sizes whose rows cost as good as the same the smallest is taken: it holds less memory."""
STEPS, CONTEXT = 4, 8
MEMORY_SHARE = 0.25
"""Of what is free, for the keys and values of one batch."""


def in_order(rows: Sequence[Row]) -> list[Row]:
    """The rows sorted for packing: by length, by prompt, then by what is added, so that any order gives one order."""
    return sorted(rows, key=lambda row: (len(row.ids), tuple(row.ids), *map(repr, row.key)))


def pack(rows: Sequence[Row], budget: int, max_new_tokens: int) -> Iterator[list[Row]]:
    """Batches of `in_order` rows, each as large as `budget` tokens allow; a row that exceeds it alone is a batch."""
    batch: list[Row] = []
    for row in in_order(rows):
        # The last one is the longest.
        if batch and (len(batch) + 1) * (len(row.ids) + max_new_tokens) > budget:
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def row_key(
    row: Row, weights: str, max_new_tokens: int, stop_ids: Sequence[int], guide: Guide | None = None
) -> str:
    """A hash of all that a row's reply depends on: weights, tokens, shift, length, stop tokens, and any guide."""
    key = content_hash(weights, repr((row.key, max_new_tokens, sorted(stop_ids))))
    return key if guide is None else content_hash(key, guide.key)


@torch.no_grad()
def find_budget(model: Model, width: int, n_rows: int) -> int:
    """The token budget at which this machine writes fastest with this model: a few steps of several sizes, timed.

    `width` is how many tokens a row will have in the end. The budget is that of the smallest batch whose rows cost as
    little as at the best size, within a share of the memory that is free. More rows are not always better: keys and
    values that outgrow a processor's cache cost more than the fixed part of a step.
    """
    most = _tokens_in_memory(model) // width
    sizes = [size for size in sizes_worth_trying(n_rows) if size <= most]
    while sizes:
        try:
            cost = _costs(model, width, sizes)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            sizes = sizes[1:]  # from the largest down
        else:
            return width * min(size for size in sizes if cost[size] <= NEAR_BEST * min(cost.values()))
    return max(1, min(FEW, most)) * width


def _costs(model: Model, width: int, sizes: Sequence[int]) -> dict[int, float]:
    """The seconds of a step by row, in batches of these sizes, the largest of them first."""
    batch = EncodedBatch(
        *torch.ones(2, sizes[0], min(CONTEXT, width), dtype=torch.long, device=device_of(model))
    )
    passes = passes_over(model, batch, len(sizes) * STEPS)
    passes.next_logits(batch.input_ids)
    cost = {}
    for size in sizes:
        passes.keep(torch.arange(size, device=device_of(model)))
        cost[size] = min(_seconds(passes, batch.input_ids[:size, :1]) for _ in range(STEPS)) / size
    return cost


def sizes_worth_trying(n_rows: int) -> tuple[int, ...]:
    """The batch sizes that so many rows fill often enough."""
    return tuple(size for size in SIZES if TIMES * size <= n_rows)


def _seconds(passes: Passes, ids: Tensor) -> float:
    start = time.perf_counter()
    passes.next_logits(ids)
    if ids.is_cuda:
        torch.cuda.synchronize(ids.device)
    return time.perf_counter() - start


def _tokens_in_memory(model: Model) -> int:
    """The tokens whose keys and values, at full width in every layer, fill the share of the memory that is free."""
    device, weight = device_of(model), next(nn.Module.parameters(model))
    on_gpu = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else psutil.virtual_memory().available
    return int(MEMORY_SHARE * free / (2 * n_layers(model) * d_model(model) * weight.element_size()))
