"""The package as its users meet it: names, arrows, declared dependencies, and the wheel far away from the clone."""

import ast
import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
import typing
import zipfile
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

import workbench as wb
from workbench.demo import TARGETS
from workbench.evaluation.conditions import TITLES
from workbench.shipped import shipped_path

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "workbench").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def imported(path: Path) -> Iterator[str]:
    """The modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_the_nouns_of_every_public_verb_are_public() -> None:
    """Whoever calls a verb can name what it takes and what it gives, with nothing but `wb.`."""
    missing = {}
    for name in wb.__all__:
        public = getattr(wb, name)
        for verb in _verbs(public):
            for noun in _nouns(_hints(verb)):
                if noun.__module__.startswith("workbench.") and noun.__name__ not in wb.__all__:
                    missing[noun.__name__] = f"{name}: {verb.__qualname__}"
    assert missing == {}


def _verbs(public: object) -> Iterator[object]:
    if inspect.isfunction(public):
        yield inspect.unwrap(public)
    elif inspect.isclass(public):
        for name, member in vars(public).items():
            function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
            if inspect.isfunction(function) and not name.startswith("_"):
                yield inspect.unwrap(function)


def _hints(verb: typing.Any) -> Iterator[object]:
    for annotation in verb.__annotations__.values():
        if not isinstance(annotation, str):
            yield annotation
        elif annotation.isidentifier():  # "pd.Series[float]" and the like exist for type checkers only
            yield verb.__globals__[annotation]


def _nouns(hints: typing.Iterable[object]) -> Iterator[type]:
    for hint in hints:
        if inspect.isclass(hint) and not typing.get_args(hint):
            yield hint
        else:
            yield from _nouns(arg for arg in typing.get_args(hint) if not isinstance(arg, str))


def test_the_arrows_between_the_rooms_hold() -> None:
    found = subprocess.run(
        [Path(sys.executable).parent / "lint-imports", "--no-cache"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout


def test_every_import_is_a_declared_dependency() -> None:
    """What another package happens to bring may be gone with its next version."""
    extras = PROJECT["project"]["optional-dependencies"]
    declared = {
        re.match(r"[\w-]+", requirement).group().lower().replace("_", "-")
        for requirement in [
            *PROJECT["project"]["dependencies"],
            *extras["export"],
            *extras["cluster"],
            *extras["data"],
            *extras["eval"],
            *extras["train"],
        ]
    }
    owners = packages_distributions()
    undeclared = {}
    for path in SOURCES:
        for module in imported(path):
            top = module.split(".")[0]
            if top in sys.stdlib_module_names or top == "workbench":
                continue
            owned_by = {owner.lower().replace("_", "-") for owner in owners.get(top, [top])}
            if not owned_by & declared:
                undeclared[top] = path.name
    assert undeclared == {}


def test_nothing_is_ever_unpickled_but_the_tensors_of_a_bin_file() -> None:
    """Those when their user asks for them, and as nothing else."""
    loads = {}
    for path in SOURCES:
        assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & set(imported(path)), path
        if "torch.load" in (source := path.read_text()):
            loads[path.relative_to(ROOT).as_posix()] = re.findall(r"torch\.load(.*)  #", source)
    assert loads == {
        "workbench/conversion/weights.py": ['(path, map_location="cpu", weights_only=True)'],
    }


def pins_of(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if not line.startswith("#"))


def test_the_second_lane_pins_the_other_transformer_lens_and_nothing_unknown() -> None:
    first, second = pins_of("constraints.txt"), pins_of("constraints-tl4.txt")
    assert first["transformer-lens"].startswith("3.9.") and second["transformer-lens"].startswith("4.")
    assert second.keys() <= first.keys()


@pytest.mark.parametrize("differing", [None, "constraints-tl4.txt"])
def test_constraints_pin_every_declared_dependency_within_its_range(differing: str | None) -> None:
    from packaging.requirements import Requirement

    pins = pins_of("constraints.txt") | (pins_of(differing) if differing else {})
    assert pins["torch"].count("+") == 0
    extras = PROJECT["project"]["optional-dependencies"].values()
    for requirement in map(Requirement, chain(PROJECT["project"]["dependencies"], *extras)):
        if requirement.name != PROJECT["project"]["name"]:
            assert requirement.specifier.contains(pins[requirement.name]), requirement


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from this clone."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--quiet", "-w", folder, ROOT],
        check=True,
    )  # fmt: skip
    return next(folder.glob("*.whl"))


def test_the_wheel_holds_every_module_and_every_shipped_file(wheel: Path) -> None:
    inside = set(zipfile.ZipFile(wheel).namelist())
    modules = {path.relative_to(ROOT).as_posix() for path in SOURCES}
    shipped = {
        f"workbench/data/{path.relative_to(shipped_path()).as_posix()}"
        for path in shipped_path().rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert shipped
    assert (modules | shipped | {"workbench/py.typed"}) <= inside
    assert not [name for name in inside if name.startswith(("tests/", "benchmarks/", "notebooks/"))]


@pytest.mark.slow
def test_the_wheel_runs_the_demo_in_an_empty_environment(wheel: Path, tmp_path: Path) -> None:
    """Far from the clone, with nothing installed but the wheel and what it asks for."""
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    binaries = tmp_path / "venv" / "bin"
    subprocess.run(
        [binaries / "python", "-m", "pip", "install", "--quiet", "-c", ROOT / "constraints.txt", wheel],
        check=True,
    )
    # Neither the clone nor this environment may lend it anything.
    environment = {
        k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
    }
    found = subprocess.run(
        [binaries / "workbench", "demo"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert found.returncode == 0, found.stderr[-2000:]
    results = json.loads((tmp_path / "figures" / "quick" / "demo.json").read_text())
    assert list(results["domains"]) == list(TARGETS)
    measured = set(TITLES) - {"guided"}  # which takes a guide
    everywhere = measured - {
        "safety_sft",
        "dpo",
        "from_aligned",
    }  # a model without a domain has no companions
    for name, domain in results["domains"].items():
        assert set(domain["conditions"]) == (everywhere if name == "general" else measured)
