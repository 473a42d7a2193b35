"""The benchmarks run, and end with the ratios they promise."""

import importlib
import json
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


NOT_HERE = {"speedup_vs_steering_vectors", "speedup_vs_nnsight"}
Sweep: TypeAlias = Callable[..., str]


@pytest.mark.parametrize(
    ("script", "keys"),
    [
        ("extraction", {"extraction_vs_forward"}),
        ("generation", {"steered_vs_unsteered", "online_vs_unsteered", "step_vs_step"}),
        ("twins", {"twin_vs_loaded", "bridge_vs_loaded"}),
    ],
)
def test_the_last_line_is_one_object_of_ratios(script: str, keys: set[str]) -> None:
    found = subprocess.run(
        [sys.executable, SCRIPTS / f"{script}.py", "--prompts=8", "--batch-size=4", "--repeats=2"],
        capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert found.returncode == 0, found.stderr
    ratios = json.loads(found.stdout.splitlines()[-1])
    assert set(ratios) == keys
    assert all(0.1 < ratio < 10 for ratio in ratios.values())


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
    python = tmp_path / "nnsight" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeError, match="nnsight ended with status 3:\nno such model"):
        sweep()


@pytest.fixture
def sweep(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Sweep:
    """Runs sweep.py here, small and with no peers but those in the temporary folder; returns what it printed."""
    monkeypatch.syspath_prepend(str(SCRIPTS))

    def run(*options: str) -> str:
        small = "--prompts=4 --settings=2 --batch-size=8 --repeats=1 --share=50".split()
        monkeypatch.setattr(sys, "argv", ["sweep.py", *small, f"--peers={tmp_path}", *options])
        runpy.run_path(str(SCRIPTS / "sweep.py"), run_name="__main__")
        return capsys.readouterr().out

    return run


def last_line(said: str) -> dict[str, float | None]:
    return json.loads(said.splitlines()[-1])
