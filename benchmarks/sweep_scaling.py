"""How a sweep grows: its peak memory, and its seconds, against the number of its distinct rows.

    memory    peak resident memory of the sweep, less what was resident before it, in a process of its own for each size
    cost      seconds = a + b x rows, by least squares; the largest residual as a share of the line

The trap: `getrusage` remembers the peak of loading, and, right after a fork, that of the parent. So the peak is read
from the kernel's account of this program alone, set back when the model is loaded; from there only where it has none.
"""

import json
import resource
import subprocess
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from measuring import Timings, interleaved
from sweep_arms import write_ours
from sweep_grid import Grid, Subject, embedded_subject, grid_of

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SIZES = (1 / 8, 1 / 4, 1 / 2, 1.0)


def compare_memory(model: str, n_prompts: int, n_settings: int, batch_size: int) -> dict[str, float | None]:
    """The whole grid's peak memory over that of an eighth of it, all gates open."""
    grown = []
    for settings in (max(1, n_settings // 8), n_settings):
        done = subprocess.run(
            [sys.executable, __file__, model, str(n_prompts), str(settings), str(batch_size)],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"the sweep of {n_prompts * settings} rows failed:\n{done.stderr}")
        before, peak = json.loads(done.stdout.splitlines()[-1])
        grown.append(peak - before)
        megabytes = f"{before:.0f} MB with the model loaded, {peak:.0f} MB at the peak"
        print(f"{n_prompts * settings:6d} distinct rows: {megabytes}: {peak - before:.0f} MB more")
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
    print("ledger overhead: not measured, runs have no ledger yet")
    return {
        "per_row_largest_vs_smallest": growth,
        "largest_residual": float(abs(strays).max()),
        "ledger_overhead": None,
    }


def _name(grid: Grid) -> str:
    return f"{grid.distinct_rows} distinct rows"


def _per_row(timings: Timings, arm: Grid, reference: Grid) -> float:
    ratio, _, _ = timings.ratio(_name(arm), _name(reference))
    return ratio * reference.distinct_rows / arm.distinct_rows


def _resident(field: str) -> float:
    """Megabytes: "VmRSS" now, "VmHWM" at the peak; the peak for both where the kernel keeps no such account."""
    if STATUS.exists():
        lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
        return int(lines[field].split()[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _measure(model: str, numbers: Sequence[int]) -> None:
    n_prompts, n_settings, batch_size = numbers
    grid = grid_of(embedded_subject(model), closed_share=0, n_prompts=n_prompts, n_settings=n_settings)
    if RESET.exists():
        RESET.write_text("5")
    before = _resident("VmRSS")
    write_ours(grid, batch_size=batch_size)
    print(json.dumps([before, _resident("VmHWM")]))


if __name__ == "__main__":
    _measure(sys.argv[1], [int(argument) for argument in sys.argv[2:]])
