"""How a sweep grows: its peak memory, and its seconds, against the number of its distinct rows.

    memory    peak resident memory of the sweep, less what was resident before it, in a process of its own for each size
    cost      seconds = a + b x rows, by least squares; the largest residual as a share of the line
    ledger    seconds of keeping 10,000 rows / (10,000 b)

The trap: caches warm up and machines drift, so the sizes are timed in turn, after a round that is not counted.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from memory import peak_of, tell_peak
from sweep_arms import rows_on, write_ours
from sweep_grid import Grid, Subject, embedded_subject, grid_of
from timing import Timings, interleaved

from workbench.decoding.replies import Reply
from workbench.sweep.ledger import Entry, open_ledger
from workbench.sweep.packing import row_key

SIZES = (1 / 8, 1 / 4, 1 / 2, 1.0)
LEDGER_ROWS = 10_000


def compare_memory(model: str, n_prompts: int, n_settings: int, batch_size: int) -> dict[str, float | None]:
    """The whole grid's peak memory over that of an eighth of it, all gates open."""
    grown = []
    for settings in (max(1, n_settings // 8), n_settings):
        grown.append(peak_of(__file__, model, n_prompts, settings, batch_size))
        print(
            f"{n_prompts * settings:6d} distinct rows: {grown[-1]:.0f} MB beyond the loaded model, at the peak"
        )
    return {"peak_memory_ratio": grown[1] / grown[0]}


def compare_cost(
    subject: Subject, n_prompts: int, n_settings: int, batch_size: int, repeats: int
) -> dict[str, float | None]:
    """What the last row costs beside the first ones, and how far the seconds stray from a line, all gates open."""
    whole = grid_of(subject, closed_share=0, n_prompts=n_prompts, n_settings=n_settings)
    grids = [whole.part(max(1, round(n_settings * size))) for size in SIZES]
    timings = interleaved(
        {_name(grid): partial(write_ours, grid, batch_size=batch_size) for grid in grids}, repeats=repeats
    )
    timings.show(_name(grids[0]))
    rows = np.array([grid.distinct_rows for grid in grids])
    seconds = np.array([np.median(timings.seconds[_name(grid)]) for grid in grids])
    slope, start = np.polyfit(rows, seconds, 1)
    strays = (seconds - start - slope * rows) / (start + slope * rows)
    print(
        f"\n{1e3 * slope:.3f} ms per distinct row and {1e3 * start:.1f} ms besides; off that line by", end=" "
    )
    print(", ".join(f"{100 * stray:+.1f} % at {n} rows" for n, stray in zip(rows, strays, strict=True)))
    growth = _per_row(timings, grids[-1], grids[0])
    print(f"a row of the largest grid takes {growth:.3f} x what one of the smallest takes")
    overhead = _ledger_seconds(grids[-1], batch_size) / (LEDGER_ROWS * slope)
    print(
        f"a ledger of {LEDGER_ROWS:,} rows takes {100 * overhead:.2f} % of the time that the rows themselves take"
    )
    return {
        "per_row_largest_vs_smallest": growth,
        "largest_residual": float(abs(strays).max()),
        "ledger_overhead": overhead,
    }


def _ledger_seconds(grid: Grid, batch_size: int) -> float:
    """The seconds of naming so many rows, looking them up in a fresh ledger, and committing them batch by batch.

    Rows and replies are those of the grid, over and over, as if written under other terms each time: no key is twice.
    """
    rows = rows_on(grid)
    written = dict(enumerate(write_ours(grid, batch_size=batch_size).tokens))
    entries = [Entry(Reply("word " * len(written[i]), written[i], False, 0)) for i in range(len(rows))]
    with tempfile.TemporaryDirectory() as folder, open_ledger(Path(folder) / "ledger.sqlite") as ledger:
        start = time.perf_counter()
        turns = [divmod(i, len(rows)) for i in range(LEDGER_ROWS)]
        names = {row_key(rows[i], "weights", turn, ()): entries[i] for turn, i in turns}
        ledger.entries(list(names))
        items = list(names.items())
        for first in range(0, len(items), batch_size):
            ledger.commit(dict(items[first : first + batch_size]))
        seconds = time.perf_counter() - start
        if len(ledger) != LEDGER_ROWS:
            raise RuntimeError(f"the ledger holds {len(ledger)} rows, expected {LEDGER_ROWS}")
    return seconds


def _name(grid: Grid) -> str:
    return f"{grid.distinct_rows} distinct rows"


def _per_row(timings: Timings, arm: Grid, reference: Grid) -> float:
    ratio, _, _ = timings.ratio(_name(arm), _name(reference))
    return ratio * reference.distinct_rows / arm.distinct_rows


def _measure(model: str, numbers: Sequence[int]) -> None:
    n_prompts, n_settings, batch_size = numbers
    grid = grid_of(embedded_subject(model), closed_share=0, n_prompts=n_prompts, n_settings=n_settings)
    tell_peak(partial(write_ours, grid, batch_size=batch_size))


if __name__ == "__main__":
    _measure(sys.argv[1], [int(argument) for argument in sys.argv[2:]])
