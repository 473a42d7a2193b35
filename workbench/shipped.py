"""Where the files that ship with the project lie: `data/` of the clone, or `workbench/data` inside a wheel.

The trap: an editable install has no `workbench/data`, a wheel has no `data/` beside the package. Both are
asked.
"""

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent


def shipped_path(*parts: str) -> Path:
    """The path of a shipped file or folder, `shipped_path("prompts", "small-world")`; it need not exist."""
    inside_wheel = _PACKAGE / "data"
    root = inside_wheel if inside_wheel.is_dir() else _PACKAGE.parent / "data"
    return root.joinpath(*parts)
