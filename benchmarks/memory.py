"""Peak memory of a piece of work, in a process of its own: what it takes beyond what was there before.

    peak = peak resident memory while the work runs, less what is resident before it, in megabytes

A script that is measured calls `tell_peak` when run; one that compares calls `peak_of` with that script's numbers.

The trap: `getrusage` remembers the peak of loading, and, right after a fork, that of the parent. So the peak is read
from Linux's account of this program alone, set back before the work; other systems keep none. And glibc keeps what was
freed, more or less of it from run to run, unless large blocks are told to go back at once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def peak_of(script: str, *arguments: str | int) -> float:
    """The megabytes that the script's work takes with these arguments."""
    done = subprocess.run(
        [sys.executable, script, *map(str, arguments)],
        capture_output=True, text=True, check=False, env={**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{Path(script).name} {' '.join(map(str, arguments))} failed:\n{done.stderr}")
    before, peak = json.loads(done.stdout.splitlines()[-1])
    return peak - before


def tell_peak(work: Callable[[], object]) -> None:
    """Do the work here, and print what `peak_of` reads."""
    if not RESET.exists():
        raise RuntimeError(f"no {RESET} here: peak memory is read from Linux's account of a process")
    RESET.write_text("5")
    before = _resident("VmRSS")
    work()
    print(json.dumps([before, _resident("VmHWM")]))


def _resident(field: str) -> float:
    """Megabytes: "VmRSS" now, "VmHWM" at the peak."""
    lines = dict(line.split(":", 1) for line in STATUS.read_text().splitlines() if ":" in line)
    return int(lines[field].split()[0]) / 1024
