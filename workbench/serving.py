"""The course in a browser: JupyterLab to work in it, Voilà to show it to those who have no Jupyter.

The trap: both ask the network for things that nobody asked them for (news, updates, formulas). They are told not to.
"""

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
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


def open_lab(arguments: Sequence[str] = ()) -> int:
    """JupyterLab on the course, until it is stopped: its exit code. Notebooks that are not there yet are written."""
    course = course_folder()
    _require("jupyterlab", "JupyterLab", "pip install jupyterlab jupytext")
    _require("jupytext", "jupytext", "pip install jupytext")
    _build(course, "--blank")
    return subprocess.run(lab_command(course, f"{_TOUR}.ipynb", *arguments), check=False).returncode


def open_app(*, port: int, ip: str, browser: bool) -> int:
    """The tour as a page, until it is stopped: its exit code. Every visitor has a kernel of their own."""
    course = course_folder()
    _require("voila", "Voilà", "pip install 'inferaligner-workbench[app]'")
    _require("jupytext", "jupytext", "pip install jupytext")
    # A copy of its own: without exercises, and whatever was written in the course stays out of it.
    with tempfile.TemporaryDirectory(prefix="workbench-app-") as folder:
        _build(course, "--app", folder, _TOUR)
        command = app_command(Path(folder) / f"{_TOUR}.ipynb", port=port, ip=ip, browser=browser)
        given = os.environ | app_surroundings(Path(folder), course)
        return subprocess.run(command, env=given, check=False).returncode


def lab_command(folder: Path, first: str, *arguments: str) -> list[str]:
    """What starts JupyterLab on a folder, with the notebook `first` open."""
    return [
        sys.executable, "-m", "jupyterlab", f"--ServerApp.root_dir={folder}", "--LabApp.news_url=None",
        "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate", "--LabApp.extension_manager=readonly",
        *arguments, str(folder / first),
    ]  # fmt: skip


def app_command(notebook: Path, *, port: int, ip: str = "127.0.0.1", browser: bool) -> list[str]:
    """What starts Voilà on one notebook, in `app_surroundings`: the page comes when all of it is done."""
    return [
        sys.executable, "-m", "voila", str(notebook), f"--port={port}", f"--Voila.ip={ip}",
        f"--template={_TEMPLATE}",
        *([] if browser else ["--no-browser"]),
    ]  # fmt: skip


def app_surroundings(folder: Path, course: Path) -> dict[str, str]:
    """The environment of the app: the page's template, written into `folder`, and the modules beside the notebooks."""
    template = folder / "voila" / "templates" / _TEMPLATE
    template.mkdir(parents=True)
    (template / "conf.json").write_text('{"base_template": "lab"}')
    (template / "index.html.j2").write_text(_PAGE)
    added = {"PYTHONPATH": str(course), "JUPYTER_PATH": str(folder)}
    joined = {
        name: os.pathsep.join(filter(None, [path, os.environ.get(name)])) for name, path in added.items()
    }
    return joined | {"TQDM_DISABLE": "1"}


_TEMPLATE = "offline"
_PAGE = """{%- extends 'voila/templates/lab/index.html.j2' -%}
{%- block notebook_css -%}
{# Voilà asks another machine for icons that no handle here has. #}
{%- set parts = super().split('<link rel="stylesheet" href="https://') -%}
{{ parts[0] | safe }}{% for part in parts[1:] %}{{ part.split('>', 1)[1] | safe }}{% endfor %}
{%- endblock notebook_css -%}
"""


def _require(module: str, name: str, remedy: str) -> None:
    if importlib.util.find_spec(module) is None:
        raise ImportError(f"{name} is not installed here: {remedy}")


def _build(course: Path, *arguments: str) -> None:
    subprocess.run([sys.executable, str(course / "build.py"), *arguments], check=True)
