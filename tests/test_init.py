"""The front door: every public name is there, and opening it costs nothing."""

import subprocess
import sys

import pytest

import workbench as wb


@pytest.mark.parametrize("name", wb.__all__)
def test_every_name_is_there_and_documented(name: str):
    value = getattr(wb, name)
    assert name == "__version__" or value.__doc__, f"{name} has no docstring"


def test_names_are_shown_once():
    assert dir(wb) == sorted(set(wb.__all__)) and len(dir(wb)) == len(wb.__all__)


def test_an_unknown_name_lists_the_known():
    with pytest.raises(AttributeError, match="workbench has no 'load_modle': it has .*load_model"):
        _ = wb.load_modle


def test_importing_costs_no_torch():
    code = "import sys, workbench; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
