"""The course in a browser: JupyterLab to work in it, Voilà to show it to those who have no Jupyter.

The trap: both ask the network for things that nobody asked them for (news, updates, formulas). They are told not to.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from pathlib import Path

_TOUR = "00_tour"


def course_folder() -> Path:
    """The notebooks of the clone; `FileNotFoundError` in an installed package, which has none."""
    course = Path(__file__).resolve().parents[1] / "notebooks"
    if not (course / "build.py").is_file():
        raise FileNotFoundError(
            "the notebooks are in the clone, not in the installed package: run workbench lab or app from a clone"
        )
    return course


def open_lab(*, port: int, browser: bool) -> None:
    """JupyterLab on the course, until it is stopped. Notebooks that are not there yet are written, unexecuted."""
    course = course_folder()
    _require("jupyterlab", "JupyterLab", "pip install jupyterlab jupytext")
    _require("jupytext", "jupytext", "pip install jupytext")
    _build(course, "--blank")
    subprocess.run(lab_command(course, f"{_TOUR}.ipynb", port=port, browser=browser), check=False)


def open_app(*, port: int, ip: str, browser: bool) -> None:
    """The tour as a page of text, pictures and handles, until it is stopped; each visitor has a kernel of their own."""
    course = course_folder()
    _require("voila", "Voilà", "pip install 'inferaligner-workbench[app]'")
    _require("jupytext", "jupytext", "pip install jupytext")
    # A copy of its own: without exercises, and whatever was written in the course stays out of it.
    with tempfile.TemporaryDirectory(prefix="workbench-app-") as folder:
        _build(course, "--app", folder, _TOUR)
        page = Path(folder) / f"{_TOUR}.ipynb"
        # The kernel takes its surroundings from here: notebooks import the modules beside them.
        paths = os.pathsep.join([str(course), *filter(None, [os.environ.get("PYTHONPATH")])])
        given = os.environ | {"PYTHONPATH": paths, "TQDM_DISABLE": "1"}
        subprocess.run(app_command(page, port=port, ip=ip, browser=browser), env=given, check=False)


def lab_command(folder: Path, first: str, *, port: int, browser: bool) -> list[str]:
    """What starts JupyterLab on a folder, with the notebook `first` open."""
    return [
        sys.executable, "-m", "jupyterlab", f"--port={port}", f"--ServerApp.root_dir={folder}",
        "--LabApp.news_url=None", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        "--LabApp.extension_manager=readonly", *([] if browser else ["--no-browser"]), str(folder / first),
    ]  # fmt: skip


def app_command(notebook: Path, *, port: int, ip: str = "127.0.0.1", browser: bool) -> list[str]:
    """What starts Voilà on one notebook. Cells are shown as they are done; the page never says where a file lies."""
    return [
        sys.executable, "-m", "voila", str(notebook), f"--port={port}", f"--Voila.ip={ip}",
        "--VoilaConfiguration.progressive_rendering=True", *([] if browser else ["--no-browser"]),
    ]  # fmt: skip


def _require(module: str, name: str, remedy: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{name} is not installed here: {remedy}")


def _build(course: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, str(course / "build.py"), *arguments], check=True)
