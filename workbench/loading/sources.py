"""What a name stands for: an embedded model, a folder, or a hub id at a revision; and the files that are there.

The trap: a name of one word may be both a folder here and a model on the hub. The folder is taken; a path that is no
folder is never looked for on the hub.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.utils.hub import cached_file

from workbench.shipped import shipped_path

_POINTER = b"version https://git-lfs."


@dataclass(frozen=True)
class Checkpoint:
    """Where a model or a low-rank delta is read from: `source` is a folder or a hub id, `name` shows no local path."""

    name: str
    source: Path | str
    revision: str | None = None

    @classmethod
    def named(cls, x: str | Path, revision: str | None = None) -> "Checkpoint":
        """The checkpoint that `x` names.

        Raises `ValueError` for an unknown embedded model, and for a revision of what is not on the hub;
        `FileNotFoundError` for a path that is no folder.
        """
        if x == "":
            raise ValueError('got an empty name, expected "organism:NAME", a folder or a hub id')
        found = _embedded(x) if isinstance(x, str) and x.startswith("organism:") else _folder_or_id(x)
        if revision is None:
            return found
        if isinstance(found.source, Path):
            raise ValueError(
                f"got revision={revision!r} with {found.name!r}: a hub id has revisions, a folder is what it holds"
            )
        return cls(found.name, found.source, revision)

    @property
    def is_embedded(self) -> bool:
        """Whether it ships with the workbench."""
        return Path(self.source).parent == shipped_path("organisms")

    def file(self, name: str) -> Path | None:
        """The file of that name, fetched or from the cache for a hub id; None where there is none."""
        if isinstance(self.source, Path):
            path = self.source / name
            return path if path.is_file() else None
        try:
            found = cached_file(self.source, name, revision=self.revision)
        except (
            OSError,
            ValueError,
        ):  # whatever keeps all files away is told by the first one that must be there
            return None
        return Path(found) if found else None

    def json(self, name: str) -> dict[str, Any]:
        """What a file of settings says; empty where there is none."""
        path = self.file(name)
        return dict(json.loads(path.read_text(encoding="utf-8"))) if path else {}

    def unfetched(self) -> list[str]:
        """The files of a folder that are pointers of Git LFS, which a clone leaves there that fetches no content."""
        if not isinstance(self.source, Path):
            return []
        files = sorted(
            path for path in self.source.glob("*") if path.is_file() and path.stat().st_size < 1024
        )
        return [path.name for path in files if path.read_bytes().startswith(_POINTER)]

    def adapter_base(self) -> "Checkpoint | None":
        """What a low-rank delta belongs to; an embedded one lies beside it, or ships. None for a whole model."""
        config = self.json("adapter_config.json")
        if not config:
            return None
        base = config["base_model_name_or_path"]
        if not isinstance(base, str) or not base:
            raise ValueError(
                f"adapter_config.json has base_model_name_or_path {base!r}: name a folder or hub id there"
            )
        if base.startswith("organism:") and isinstance(self.source, Path):
            beside = self.source.parent / Path(base.removeprefix("organism:")).name
            return Checkpoint.named(
                beside if beside.is_dir() or shipped_path("organisms") == beside.parent else base
            )
        found = Checkpoint.named(base)
        return found if isinstance(found.source, Path) else Checkpoint.named(base, config.get("revision"))


def _embedded(x: str) -> Checkpoint:
    root = shipped_path("organisms")
    folder = root / x.removeprefix("organism:")
    shipped = {config.parent for config in root.glob("*/*config.json")}
    if folder not in shipped:
        names = ", ".join(sorted(path.name for path in shipped))
        remedy = f"expected organism:NAME with NAME one of {names}"
        if not names:
            remedy = f"train the family first, workbench organisms train --out {root}"
        raise ValueError(f"no embedded model {x!r}: {remedy}")
    return Checkpoint(x, folder)


def _folder_or_id(x: str | Path) -> Checkpoint:
    folder = Path(os.path.expanduser(x))  # Path's own raises where there is no such user
    if folder.is_dir():
        return Checkpoint(folder.resolve().name, folder)
    if isinstance(x, Path) or folder.is_absolute() or x.startswith((".", "~")) or x.count("/") > 1:
        raise FileNotFoundError(
            f"no folder {x}: expected one with config.json, *.safetensors and a tokenizer"
        )
    return Checkpoint(x, x)
