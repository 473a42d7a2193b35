"""InferAligner workbench: find a model's safety direction, decide per prompt, steer, and measure honestly.

Every public name is had from here, `import workbench as wb`. `__init__.pyi` lists them, once: for type checkers and
editors, and for this file, which imports a name's room on first use. Importing torch, transformers and TransformerLens
takes seconds, which `workbench --help` need not pay.
"""

import ast
from importlib import import_module
from pathlib import Path

__version__ = "0.1.0"

_ROOM = {
    alias.name: node.module or ""
    for node in ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8")).body
    if isinstance(node, ast.ImportFrom)
    for alias in node.names
}

__all__ = ["__version__", *sorted(_ROOM)]


def __getattr__(name: str) -> object:
    room = _ROOM.get(name)
    if room is None:
        raise AttributeError(f"workbench has no {name!r}: it has {', '.join(__all__)}")
    return import_module(f"workbench.{name}") if room == "workbench" else getattr(import_module(room), name)


def __dir__() -> list[str]:
    return __all__
