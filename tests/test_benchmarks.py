"""The benchmarks run, and end with the ratios they promise."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.parametrize(
    ("script", "keys"),
    [
        ("extraction", {"extraction_vs_forward"}),
        ("generation", {"steered_vs_unsteered", "online_vs_unsteered", "step_vs_step"}),
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
