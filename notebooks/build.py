"""Builds the course: every percent `.py` beside this file becomes an executed `.ipynb`, and an HTML page if asked.

    make notebooks           all of them, executed          make notebooks ARGS="01 04"       these two
    make notebooks HTML=1    and as pages that need no network, figures included

The trap: with plotly's default renderer an exported page holds no figure, and says nothing about it. For pages the
notebooks run with the renderer that embeds plotly itself.
"""

import argparse
import copy
import os
import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

HERE = Path(__file__).resolve().parent
PAGES = HERE / "html"
WIDGET = "application/vnd.jupyter.widget-view+json"
NO_HANDLES = (
    "<em>Something to turn by hand, with a kernel behind it: open this notebook with workbench lab.</em>"
)
EMBEDDED = "plotly_mimetype+notebook"
DETAILS = re.compile(r"<details>.*?</details>", re.S)
REMOTE = re.compile(r'<script src="https?://[^"]*"></script>')
"""Plotly asks for MathJax beside every figure; no formula is in any."""
FENCE = re.compile(r"```python\n(.*?)```", re.S)


def sources(wanted: Sequence[str] = ()) -> list[Path]:
    """The notebooks of the course in order: those whose names begin with one of `wanted`, or all."""
    every = sorted(HERE.glob("[0-9][0-9]_*.py"))
    unknown = [start for start in wanted if not any(path.name.startswith(start) for path in every)]
    if unknown:
        numbers = ", ".join(path.stem for path in every)
        raise ValueError(f"got {', '.join(unknown)}, expected beginnings of {numbers}: 04 is enough")
    return [path for path in every if not wanted or any(path.name.startswith(start) for start in wanted)]


def read(source: Path) -> NotebookNode:
    """The notebook that a percent `.py` is."""
    notebook = jupytext.read(source)
    notebook.metadata["kernelspec"] = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return notebook


def with_solutions(notebook: NotebookNode) -> NotebookNode:
    """The same notebook, each folded solution run after its exercise's check, which is then asked again."""
    solved: list[NotebookNode] = []
    asked = ""
    for cell in notebook.cells:
        solved.append(cell)
        if cell.cell_type == "code" and "check" in cell.metadata.get("tags", ()):
            asked = cell.source
        for folded in DETAILS.findall(cell.source) if cell.cell_type == "markdown" else ():
            if "<summary>Solution" in folded:
                (solution,) = FENCE.findall(folded)
                for source, tag in ((solution, "solution"), (asked, "answer")):
                    solved.append(nbformat.v4.new_code_cell(source, metadata={"tags": [tag]}))
    return nbformat.v4.new_notebook(metadata=notebook.metadata, cells=solved)


def for_app(notebook: NotebookNode) -> NotebookNode:
    """The same notebook without its exercises and what comes after them: nothing can be written in an app."""
    ends = [i for i, cell in enumerate(notebook.cells) if cell.source.startswith("## Exercise")]
    cells = notebook.cells[: ends[0]] if ends else notebook.cells
    return nbformat.v4.new_notebook(metadata=notebook.metadata, cells=cells)


def execute(notebook: NotebookNode, *, embedded: bool = False, timeout: int = 900) -> NotebookNode:
    """The notebook with its outputs; raises `nbclient.exceptions.CellExecutionError` where a cell fails."""
    # The kernel takes its surroundings from this process.
    os.environ["PLOTLY_RENDERER"] = EMBEDDED if embedded else "plotly_mimetype"
    os.environ.setdefault("TQDM_DISABLE", "1")
    # A widget's state is megabytes of what the cell makes anew.
    where = {"metadata": {"path": str(HERE)}}
    NotebookClient(notebook, timeout=timeout, resources=where, store_widget_state=False).execute()
    return notebook


def page(notebook: NotebookNode, title: str) -> str:
    """An HTML page that shows everything without a network; where a handle would be it says where to turn it."""
    from nbconvert import HTMLExporter

    notebook = copy.deepcopy(notebook)
    for output in (output for cell in notebook.cells for output in cell.get("outputs", ())):
        if WIDGET in output.get("data", {}):
            output.data = {"text/html": output.data.get("text/html", "") + NO_HANDLES}

    # Each of these is a script from somewhere else, for formulas and diagrams that the course does without.
    exporter = HTMLExporter(
        require_js_url="", jquery_url="", mathjax_url="", mermaid_js_url="", widget_renderer_url=""
    )
    html = str(exporter.from_notebook_node(notebook, {"metadata": {"name": title}})[0])
    return REMOTE.sub("", html)


def main(arguments: Sequence[str] | None = None) -> None:
    """Build what the command line asks for."""
    parser = argparse.ArgumentParser(
        description="Build the course: executed notebooks, and HTML pages if asked."
    )
    parser.add_argument("notebooks", nargs="*", help="beginnings of names: 01 04; all without any")
    parser.add_argument(
        "--html", action="store_true", help=f"write self-contained pages to {PAGES.name}/ as well"
    )
    parser.add_argument(
        "--blank", action="store_true", help="only where there is no .ipynb yet, and without running"
    )
    parser.add_argument(
        "--app", type=Path, metavar="FOLDER", help="into this folder, unexecuted and without exercises"
    )
    asked = parser.parse_args(arguments)
    for source in sources(asked.notebooks):
        notebook, target, start = read(source), source.with_suffix(".ipynb"), time.monotonic()
        if asked.app:
            nbformat.write(for_app(notebook), asked.app / target.name)
            continue
        if asked.blank:
            if not target.exists():  # what a student has written there stays
                nbformat.write(notebook, target)
            continue
        execute(notebook, embedded=asked.html)
        if asked.html:
            PAGES.mkdir(exist_ok=True)
            (PAGES / f"{source.stem}.html").write_text(page(notebook, source.stem), encoding="utf-8")
        nbformat.write(notebook, target)
        sys.stdout.write(f"{source.stem}  {time.monotonic() - start:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
