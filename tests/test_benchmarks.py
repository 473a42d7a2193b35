"""The benchmarks run, and end with the ratios they promise."""

import importlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

pytestmark = pytest.mark.slow  # each runs a whole benchmark, small

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


SMALL = ("--prompts=4", "--batch-size=4", "--repeats=1")
SMALL_SWEEP = ("--prompts=4", "--settings=2", "--batch-size=8", "--repeats=1", "--share=50")
NOT_HERE = {"speedup_vs_steering_vectors", "speedup_vs_nnsight"}
PEERS = ("steering_vectors", "repeng", "nnsight")
OF_PEERS = {
    "extraction": {f"extraction_vs_{peer}" for peer in PEERS} | {f"{peer}_vs_own_forward" for peer in PEERS},
    "generation": {f"generation_vs_{peer}" for peer in PEERS}
    | {f"{peer}_vs_own_unsteered" for peer in PEERS},
}
Run: TypeAlias = Callable[..., str]
Sweep: TypeAlias = Callable[..., str]


def test_a_model_that_sees_is_timed_beside_transformers_own_generate(run: Run) -> None:
    said = run("multimodal", "--shape=llava-tiny", "--prompts=4", "--repeats=1")
    assert "0 of 4 replies differ" in said  # or two different things would be timed
    ratios = last_line(said)
    assert set(ratios) == {"steered_vs_unsteered", "steered_vs_own_unsteered"}
    assert all(0.1 < ratio < 10 for ratio in ratios.values())


@pytest.mark.parametrize("model", ["organism:finance", "random:tiny"])
@pytest.mark.parametrize(
    ("script", "keys"),
    [
        ("extraction", {"extraction_vs_forward", "extraction_vs_body"}),
        (
            "generation",
            {
                f"{arm}_vs_{reference}"
                for arm, references in {
                    "steered": ("unsteered", "own_unsteered"),
                    "online": ("unsteered", "own_unsteered"),
                    "step": ("step", "own_step"),
                }.items()
                for reference in references
            },
        ),
        ("twins", {"twin_vs_loaded", "bridge_vs_loaded"}),
    ],
)
def test_the_last_line_is_one_object_of_ratios(
    run: Run, script: str, keys: set[str], model: str, tmp_path: Path
) -> None:
    of_peers = OF_PEERS.get(script, set())
    said = run(script, f"--model={model}", *SMALL, *([f"--peers={tmp_path}"] if of_peers else []))
    ratios = last_line(said)
    assert set(ratios) == keys | of_peers
    assert {name for name, ratio in ratios.items() if ratio is None} == of_peers
    assert all(0.1 < ratio < 10 for ratio in ratios.values() if ratio is not None)
    assert ("left out: steering-vectors, repeng, nnsight" in said) == bool(of_peers)


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("extraction", "steering-vectors reads 4 layers"),
        ("generation", "steering-vectors parts from 'ours, gate per layer' in 0 of 4"),
    ],
)
def test_a_peer_does_the_same_work(run: Run, script: str, told: str, tmp_path: Path) -> None:
    stand_in(tmp_path, factor=1)
    said = run(script, "--model=random:tiny", *SMALL, f"--peers={tmp_path}")
    assert told in said
    assert (last_line(said)[f"{script}_vs_steering_vectors"] or 0) > 0


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("extraction", "steering-vectors read other vectors"),
        ("generation", "steering-vectors wrote . replies otherwise than 'ours, gate per layer'"),
        ("sweep", "steering-vectors wrote . of 8 replies otherwise than ours"),
    ],
)
def test_a_peer_that_does_other_work_is_refused(run: Run, script: str, message: str, tmp_path: Path) -> None:
    stand_in(tmp_path, factor=3)
    small = SMALL_SWEEP if script == "sweep" else ("--model=random:tiny", *SMALL)
    with pytest.raises(RuntimeError, match=message):
        run(script, *small, f"--peers={tmp_path}")


def test_large_shapes_are_told_as_a_table(run: Run) -> None:
    said = run("large", "--shape=tiny", "--batch-sizes=1", "--repeats=1", "--prompts=4").splitlines()
    assert [" ".join(line.split()[:3]) for line in said[3:]] == [
        "generation, batch 1", "generation, batch 1", "generation, batch 1",
        "extraction, batch 64", "extraction, batch 64", "32 settings, 2", "32 settings, 2",
    ]  # fmt: skip


def test_extraction_is_weighed_in_processes_of_its_own(run: Run) -> None:
    ratios = last_line(run("extraction", "--memory"))
    # Deterministic: what is held is the batch's, however many prompts and layers there are.
    assert set(ratios) == {"with_4x_prompts", "with_4x_layers", "vs_forward"}
    assert all(ratio is not None and 0.9 < ratio < 1.1 for ratio in ratios.values()), ratios


@pytest.mark.parametrize("subject", ["--model=organism:finance", "--shape=tiny"])
def test_a_sweep_is_compared_with_a_loop_that_writes_the_same(sweep: Sweep, subject: str) -> None:
    said = sweep(subject)
    ratios = last_line(said)
    assert list(ratios) == [
        "speedup_vs_transformers_loop", "speedup_vs_steering_vectors", "speedup_vs_nnsight", "over_floor",
        "speedup_without_packing", "speedup_without_closed_gate_sharing", "speedup_without_prefix_sharing",
    ]  # fmt: skip
    assert {name for name, ratio in ratios.items() if ratio is None} == NOT_HERE
    assert all(0.1 < ratio < 30 for ratio in ratios.values() if ratio is not None)
    assert "8 rows asked for, 6 distinct" in said
    assert "transformers loop: 0 of 8 replies part from ours" in said
    assert "left out: steering-vectors, nnsight" in said


def test_arms_that_do_other_work_are_refused(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    shifted = importlib.import_module("sweep_arms")._shifted
    monkeypatch.setattr("sweep_arms._shifted", lambda model, shifts: shifted(model, {}))
    with pytest.raises(RuntimeError, match="transformers loop wrote . of 8 replies otherwise than ours"):
        sweep()


def test_a_sweep_is_weighed_in_processes_of_its_own(sweep: Sweep) -> None:
    assert set(last_line(sweep("--memory"))) == {"peak_memory_ratio"}


def test_a_sweeps_cost_is_fitted_by_a_line(sweep: Sweep) -> None:
    said = sweep("--cost")
    assert set(last_line(said)) == {"per_row_largest_vs_smallest", "largest_residual", "ledger_overhead"}
    assert "ms per distinct row" in said


def test_a_peer_that_breaks_says_how(sweep: Sweep, tmp_path: Path) -> None:
    environment(tmp_path / "nnsight", "echo no such model >&2\nexit 3\n")
    with pytest.raises(RuntimeError, match="nnsight ended with status 3:\nno such model"):
        sweep()


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a script here, with these options; returns what it printed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(script: str, *options: str) -> str:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *options])
        runpy.run_path(str(SCRIPTS / f"{script}.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


@pytest.fixture
def sweep(run: Run, tmp_path: Path) -> Sweep:
    """Runs sweep.py, small and with no peers but those in the temporary folder."""
    return lambda *options: run("sweep", *SMALL_SWEEP, f"--peers={tmp_path}", *options)


def environment(folder: Path, script: str) -> None:
    """What stands for a peer's Python."""
    python = folder / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"#!/bin/sh\n{script}")
    python.chmod(0o755)


def stand_in(environments: Path, *, factor: float) -> None:
    """An environment with a steering-vectors whose shifts and vectors are so many times as long as they should be."""
    settings = f"STAND_IN_FACTOR={factor} PYTHONPATH={Path(__file__).parent / 'stand_ins'}"
    environment(environments / "steering-vectors", f'{settings} exec {sys.executable} "$@"')


def last_line(said: str) -> dict[str, float | None]:
    return json.loads(said.splitlines()[-1])
