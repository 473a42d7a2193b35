"""Kill -9 in the middle of a sweep: the driver, a worker, a node. Every reply that was committed is there afterwards.

`make test-kill` kills a hundred times; here it is three times each.
"""

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from killing import N_BATCHES, NODE, PATIENCE, Sweep, kill_all, moments, processes_of, two_nodes, workers_of

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("WORKBENCH_KILLS", "9"))
"""In all: a hundred in `make test-kill`."""
DRIVERS, WORKERS = KILLS // 3, KILLS // 3
NODES = KILLS - DRIVERS - WORKERS
SEED = 20261122


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    sweep = Sweep(tmp_path_factory.mktemp("undisturbed"))
    sweep.start()
    sweep.finish()
    assert len(sweep.begun) >= N_BATCHES and len(sweep.commits()) >= 100
    return sweep


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Sweep]:
    """One that is about to be killed, and does not outlive its test, whatever happens."""
    sweep = Sweep(tmp_path / "sweep")
    yield sweep
    if sweep.process is not None:
        sweep.kill()


def frame_of(sweep: Sweep) -> pd.DataFrame:
    return pd.read_json(sweep.frame, orient="split")


def require_equal(sweep: Sweep, undisturbed: Sweep) -> None:
    """The same frame in every column; and in the ledger no reply is missing, and none is there twice."""
    found, expected = frame_of(sweep), frame_of(undisturbed)
    differs = ~(found.eq(expected) | (found.isna() & expected.isna())).all(axis=1)
    tied = (found["near_ties"] > 0) | (expected["near_ties"] > 0)
    assert not (differs & ~tied).any(), found[differs & ~tied]
    assert not differs.any(), f"{differs.sum()} rows with a near tie came out otherwise"
    assert sweep.commits().keys() == undisturbed.commits().keys()


def kill_and_resume(sweep: Sweep, at: list[int], in_flight: int) -> None:
    """Kill the driver at each of these moments, start it again, and let it finish at last."""
    for moment in at:
        before, begun = len(sweep.commits()), len(sweep.begun)
        sweep.start()
        sweep.wait_for(moment)
        seen = sweep.commits()
        sweep.kill()
        kept = sweep.commits()
        assert seen.items() <= kept.items(), "a reply that was committed is gone, or is another"
        sizes = [int(line.split()[0]) for line in sweep.begun[begun:]]
        lost = sum(sizes) - (len(kept) - before)
        assert 0 <= lost <= sum(sizes[-in_flight:]), f"{lost} replies were begun and are not there"
    kept = sweep.commits()
    sweep.start()
    sweep.finish()
    assert kept.items() <= sweep.commits().items()


@pytest.mark.parametrize("turn", range(-(-DRIVERS // 3)))
def test_the_driver_is_killed(undisturbed: Sweep, sweep: Sweep, turn: int) -> None:
    n = min(3, DRIVERS - 3 * turn)
    kill_and_resume(sweep, moments(SEED + turn, n, len(undisturbed.commits())), in_flight=1)
    require_equal(sweep, undisturbed)


def test_a_sweep_that_commits_at_the_end_fails(undisturbed: Sweep, sweep: Sweep) -> None:
    """The test can fail: this mutant keeps everything in memory until it is nearly done."""
    sweep.mutant = "commits at the end"
    with pytest.raises(AssertionError, match="replies were begun and are not there"):
        kill_and_resume(sweep, moments(SEED, 3, len(undisturbed.commits())), in_flight=1)


@pytest.fixture(scope="module")
def cluster() -> Iterator[object]:
    pytest.importorskip("ray", reason="needs the extra cluster")
    with two_nodes() as cluster:
        yield cluster


def disturbed(sweep: Sweep, undisturbed: Sweep, at: list[int], kill: Callable[[], object]) -> None:
    """Kill something at each of these moments while the sweep's own process goes on."""
    sweep.start()
    for moment in at:
        sweep.wait_for(moment)
        seen = sweep.commits()
        kill()
        assert seen.items() <= sweep.commits().items()
    sweep.finish()
    numbers = [line.split()[0] for line in sweep.begun]
    assert len(numbers) - len(set(numbers)) <= len(at) * 2, "more was computed twice than was in flight"
    require_equal(sweep, undisturbed)


@pytest.mark.parametrize("turn", range(-(-WORKERS // 3)))
def test_workers_are_killed(undisturbed: Sweep, sweep: Sweep, cluster, turn: int) -> None:
    sweep.address = cluster.address
    n = min(3, WORKERS - 3 * turn)
    killed: list[int] = []

    def kill() -> None:
        # The last one that began a batch may be the one that died a moment ago.
        until = time.monotonic() + PATIENCE
        while not (there := [pid for pid in workers_of(sweep.begun) if pid not in killed]):
            assert time.monotonic() < until, sweep.said
            time.sleep(0.01)
        killed.append(there[0])
        os.kill(there[0], signal.SIGKILL)

    disturbed(sweep, undisturbed, moments(SEED + 100 + turn, n, len(undisturbed.commits())), kill)
    assert len(killed) == n and len(workers_of(sweep.begun)) >= 2 + 1


@pytest.mark.parametrize("turn", range(NODES))
def test_a_node_is_killed(undisturbed: Sweep, sweep: Sweep, cluster, turn: int) -> None:
    """The node that is not the driver's, with a worker at work on it, which goes on elsewhere."""
    sweep.address = cluster.address
    (node,) = cluster.worker_nodes
    at_work: list[int] = []

    def kill() -> None:
        pids = processes_of(node)
        at_work.extend(set(pids) & set(workers_of(sweep.begun)))
        kill_all(pids)
        cluster.worker_nodes.discard(node)

    try:
        disturbed(sweep, undisturbed, moments(SEED + 200 + turn, 1, len(undisturbed.commits())), kill)
    finally:
        cluster.add_node(**NODE)
    assert at_work, "no worker was on the node that was killed"


def test_a_cluster_s_driver_is_killed(undisturbed: Sweep, sweep: Sweep, cluster) -> None:
    """The sweep's own process, with two workers at work: they lose what each has in hand."""
    sweep.address = cluster.address
    sweep.start()
    (moment,) = moments(SEED + 300, 1, len(undisturbed.commits()))
    sweep.wait_for(moment)
    seen = sweep.commits()
    sweep.kill()
    kept, begun = sweep.commits(), len(sweep.begun)
    assert seen.items() <= kept.items()
    sweep.start()
    sweep.finish()
    assert kept.items() <= sweep.commits().items()
    numbers_left = len(sweep.begun) - begun
    assert begun + numbers_left - len(undisturbed.begun) <= 2 + 1
    require_equal(sweep, undisturbed)
