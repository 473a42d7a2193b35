"""A real sweep in a process of its own, that is killed by SIGKILL in the middle, and what is left of it.

The moment is a number of commits, drawn from a seed, seen in the ledger from outside while the sweep runs. Every batch
that is begun is written to a log first, so that what a kill loses can be counted.
"""

import argparse
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import workbench as wb
from workbench.sweep import cluster, executors
from workbench.sweep.ledger import Ledger

N_BATCHES = 20
"""A sweep here has at least so many."""
HERE = Path(__file__).parent
PATHS = os.pathsep.join([str(HERE), str(HERE.parent)])
PATIENCE = 300.0
BESIDE = " logs to "


class LoggedWorker(cluster._Worker):
    """A worker that logs the batches it begins, to a file whose name comes with the checkpoint's."""

    def __init__(self, checkpoint: str, *given: object) -> None:
        checkpoint, _, log = checkpoint.partition(BESIDE)
        super().__init__(checkpoint, *given)
        self.log = Path(log)

    def write(self, number: int, *given: object, **further: object) -> object:
        note(self.log, number)
        return super().write(number, *given, **further)


# The sweep, in a process of its own ---------------------------------------------------------------


def run_here(ledger: Path, log: Path, frame: Path, address: str | None, mutant: str) -> None:
    """The sweep that is killed: the embedded finance model, some 200 rows in batches of about eight."""
    inside = executors.write_or_split

    def logged(model, rows, terms, *, share):
        note(log, len(rows))
        return inside(model, rows, terms, share=share)

    if mutant == "commits at the end":
        defer_commits()
    target = wb.load_model("organism:finance", backend="plain")
    pairs = wb.load_contrast("small-world")
    read = wb.last_token_activations(target, pairs.train)
    vectors = wb.mean_difference(read)
    plan = wb.SteeringPlan(
        vectors, gate=wb.ThresholdGate.fit(vectors, read, layer=2), layers=[2, 3], alpha=0.4, scale="gap"
    )
    prompts = wb.PromptSet("sample", pairs.val.prompts[::12])
    asked = dict(alpha=[0.2, 0.4], placebo=3, max_new_tokens=8, batch_size=8, ledger=ledger)
    if address is None:
        executors.write_or_split = logged
        result = wb.run_sweep(target, prompts, plan, **asked)
    else:
        cluster._Worker = LoggedWorker
        with wb.RayCluster(f"organism:finance{BESIDE}{log}", address=address or None, workers=2) as executor:
            result = wb.run_sweep(target, prompts, plan, executor=executor, **asked)
    result.frame.to_json(frame, orient="split")


def note(log: Path, what: object) -> None:
    """One line, whoever writes it, and there as soon as it is written."""
    descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(descriptor, f"{what} {os.getpid()}\n".encode())
    os.close(descriptor)


def defer_commits() -> None:
    """A mutant: what is done is written down when all is done."""
    commit, waiting = Ledger.commit, {}

    def later(self, entries):
        waiting.update(entries)
        if len(waiting) > 255:
            commit(self, waiting)

    Ledger.commit = later


# Its killer ---------------------------------------------------------------------------------------


@dataclass
class Sweep:
    """A sweep in a folder, started as often as it takes."""

    folder: Path
    mutant: str = ""
    address: str | None = None
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def ledger(self) -> Path:
        return self.folder / "sweep.db"

    @property
    def frame(self) -> Path:
        return self.folder / "frame.json"

    @property
    def begun(self) -> list[str]:
        """A line for every batch that was begun, by anyone."""
        log = self.folder / "begun.log"
        return log.read_text().splitlines() if log.exists() else []

    def start(self) -> None:
        self.folder.mkdir(exist_ok=True)
        given = ["--ledger", self.ledger, "--log", self.folder / "begun.log", "--frame", self.frame]
        given += [] if self.address is None else ["--address", self.address]
        given += ["--mutant", self.mutant] if self.mutant else []
        with (self.folder / "said.log").open("ab") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-c", "from killing import main; main()", *given],
                stdout=said,
                stderr=said,
                env=os.environ | {"PYTHONPATH": PATHS},
            )

    def commits(self) -> dict[str, tuple[object, ...]]:
        """Every entry, byte for byte, read from outside while the sweep may be running."""
        try:
            with closing(sqlite3.connect(f"file:{self.ledger}?mode=ro", uri=True)) as connection:
                return {row[0]: row for row in connection.execute("SELECT * FROM replies")}
        except sqlite3.OperationalError:
            return {}  # not there yet

    def wait_for(self, n_entries: int) -> None:
        """Until so many entries are seen, or so many batches are begun that they ought to be."""
        until, before = time.monotonic() + PATIENCE, len(self.begun)
        while len(self.commits()) < n_entries and len(self.begun) - before < N_BATCHES:
            if self.process.poll() is not None:
                raise AssertionError(f"the sweep ended by itself, before it could be killed: {self.said}")
            if time.monotonic() > until:
                raise AssertionError(f"the sweep came no further: {self.said}")
            time.sleep(0.002)

    def kill(self) -> None:
        """SIGKILL, if it is still there."""
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def finish(self) -> None:
        code = self.process.wait(PATIENCE)
        assert code == 0, self.said

    @property
    def said(self) -> str:
        return (self.folder / "said.log").read_text()[-3000:]


def moments(seed: int, n: int, n_entries: int) -> list[int]:
    """`n` numbers of entries in the middle of a sweep that has `n_entries`, ascending."""
    return sorted(random.Random(seed).sample(range(8, n_entries - 60), n))


NODE = dict(num_cpus=1, object_store_memory=100 * 2**20, include_dashboard=False)


@contextmanager
def two_nodes() -> Iterator[object]:
    """A cluster of two nodes on this machine; yields it."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "PYTHONPATH": PATHS}
    # A dead node is missed after seconds, where Ray by itself takes most of a minute.
    os.environ |= {"RAY_health_check_period_ms": "1000", "RAY_health_check_timeout_ms": "4000"}
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        cluster.add_node(**NODE)
        time.sleep(5)  # what places workers hears of a node later than what lists it
        yield cluster
    finally:
        cluster.shutdown()


def processes_of(node: object) -> list[int]:
    """A node's processes, and those that they started."""
    pids = [info.process.pid for infos in node.all_processes.values() for info in infos]
    return pids + [child for pid in pids for child in children(pid)]


def kill_all(pids: Sequence[int]) -> None:
    """SIGKILL to each of them that is still there."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    """The processes that this one started, and theirs."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):  # it may end at any moment
            for child in map(int, task.read_text().split()):
                found += [child, *children(child)]
    return found


def workers_of(lines: Sequence[str]) -> list[int]:
    """The processes that began batches, the last one first."""
    return list(dict.fromkeys(int(line.split()[1]) for line in reversed(lines)))


def main() -> None:
    """The shell's way to `run_here`; not as a script, whose classes workers could not import."""
    parser = argparse.ArgumentParser()
    for name in ("--ledger", "--log", "--frame"):
        parser.add_argument(name, type=Path, required=True)
    parser.add_argument("--address")
    parser.add_argument("--mutant", default="")
    given = parser.parse_args()
    run_here(given.ledger, given.log, given.frame, given.address, given.mutant)
