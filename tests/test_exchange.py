"""What is made with one version of TransformerLens steers on another, on every backend of either, both ways.

`make test-tl4` runs these with TransformerLens 4 and tells them where the Python of the other environment is.
"""

import os
import shutil
import subprocess
from itertools import product
from pathlib import Path

import exchange
import pytest
from conftest import BACKENDS, LENSES
from exchange import Found

import workbench as wb
from workbench.provenance import SpaceMismatch

OTHER = os.environ.get("WORKBENCH_OTHER_PYTHON")
pytestmark = pytest.mark.skipif(OTHER is None, reason="two environments are needed: make test-tl4")
BACKENDS_OF = {"3": ("hooked", "bridge", "plain"), "4": ("bridge", "plain")}


def elsewhere(job: str, folder: Path) -> None:
    """Have the other environment do its half."""
    found = subprocess.run(
        [OTHER, exchange.__file__, job, folder], capture_output=True, text=True, check=False
    )
    assert found.returncode == 0, found.stderr[-2000:]


def require_all(found: Found, made: tuple[str, ...], used: tuple[str, ...]) -> None:
    """Every plan of every backend there does here what it did, and no vectors of processed weights are taken."""
    assert not [run for run in found.runs if not run.parity.holds]
    assert {(run.made, run.used, run.plan) for run in found.runs} == set(product(made, used, exchange.PLANS))
    assert set(found.refused) == set(product(made[:-1], used))


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the other version made."""
    folder = tmp_path_factory.mktemp("theirs")
    elsewhere("write", folder)
    return folder


@pytest.fixture(scope="module")
def there(theirs: Path) -> str:
    """The other version, by the number before the first dot."""
    return (theirs / "version").read_text().split(".")[0]


def test_what_was_made_there_steers_here(theirs: Path, there: str) -> None:
    assert BACKENDS_OF[there] != BACKENDS, "both environments have the same kinds of model"
    require_all(exchange.read(theirs), BACKENDS_OF[there], BACKENDS)


def test_what_is_made_here_steers_there(tmp_path: Path, there: str) -> None:
    exchange.write(tmp_path)
    elsewhere("read", tmp_path)
    found = Found.from_json((tmp_path / "found.json").read_text())
    assert found.version.startswith(f"{there}.")
    require_all(found, BACKENDS, BACKENDS_OF[there])


@pytest.mark.parametrize("name", exchange.PLANS)
def test_a_plan_that_arrives_changed_is_noticed(
    theirs: Path, prompts: wb.PromptSet, tmp_path: Path, name: str
) -> None:
    folder = shutil.copytree(theirs / "raw" / "bridge" / name, tmp_path / "changed")
    plan, model = wb.load_plan(folder), wb.load_model(theirs / "model", backend="bridge")
    assert exchange.compare(model, prompts, folder).holds
    wb.save_plan(plan.with_alpha(1.1 * plan.alpha), folder)
    assert not exchange.compare(model, prompts, folder).holds


@pytest.mark.parametrize("name", LENSES)
def test_processed_weights_here_refuse_what_was_made_there_of_raw_ones(
    theirs: Path, prompts: wb.PromptSet, name: str
) -> None:
    model = wb.load_model(theirs / "model", backend=name)
    exchange.process(model)
    for folder in (theirs / "raw").glob("*/*"):
        with pytest.raises(
            SpaceMismatch, match="made with processing='raw', used with processing='.*load both raw"
        ):
            wb.generate(model, prompts, wb.load_plan(folder), max_new_tokens=1)
