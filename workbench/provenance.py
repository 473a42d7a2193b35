"""Where a value came from, which models it fits, and files that carry both.

A `Space` is what two models must share before a vector of one means anything in the other; a `Provenance`
names the model and the prompts behind a value. Both travel in the header of every file the workbench
writes.

The trap: equal spaces are necessary, not sufficient. Two models of the same shape trained from different
seeds pass every check while their directions are unrelated (cosine ≈ 0), so look at cosines too
(`vectors.random_band`).
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import safetensors.torch
import torch
from torch import Tensor

FORMAT_VERSION = 1


class SpaceMismatch(ValueError):
    """A value was made in one space and used in another."""


_MAP_IT = (
    "use two models of one base, equal in depth and width, or map the vectors: "
    "map_vectors(fit_map(theirs, ours), vectors, like=...); `workbench transfer` measures what that is worth"
)
_REMEDIES = {
    "n_layers": _MAP_IT,
    "d_model": _MAP_IT,
    "site": "read and steer at the same site: pass the same site= everywhere",
    "processing": "load both raw: load_model(...), HookedTransformer.from_pretrained_no_processing(...), or a bridge "
    "with enable_compatibility_mode(no_processing=True)",
    "template_hash": (
        "the chat templates differ, workbench show-prompt shows how: give both models one, "
        "load_model(..., template=...)"
    ),
    "tokenizer_hash": (
        "the vocabularies differ, or how texts and the marks of the chat template are split into them, workbench "
        "show-prompt of either model shows the tokens: give both one tokenizer, load_model(..., tokenizer=...), or map "
        "the vectors, map_vectors(fit_map(theirs, ours), vectors, like=...)"
    ),
}


@dataclass(frozen=True)
class Space:
    """What two models must share for a vector to pass between them.

    `site` is `resid_pre`, `resid_mid` or `resid_post`; `processing` is `raw`, or what was done to the
    weights after training (`fold_ln`, …); the hashes are of the chat template and of the vocabulary.
    """

    n_layers: int
    d_model: int
    site: str
    processing: str
    template_hash: str
    tokenizer_hash: str

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and strings; `Space(**json)` is the inverse."""
        return asdict(self)

    def require(self, other: "Space", what: str) -> None:
        """Refuse `other`, the space of `what`, unless it equals this one.

        Raises `SpaceMismatch` naming the first field that differs, both its values, and the remedy.
        """
        for field in fields(self):
            expected, got = getattr(self, field.name), getattr(other, field.name)
            if expected != got:
                name = field.name
                raise SpaceMismatch(
                    f"{what}: made with {name}={got!r}, used with {name}={expected!r}: {_REMEDIES[name]}"
                )


@dataclass(frozen=True)
class Provenance:
    """Where a value came from: its kind, the model and prompts behind it, and the values it was made from."""

    kind: str
    model: str = ""
    model_hash: str = ""
    prompts: str = ""
    prompts_hash: str = ""
    note: str = ""
    parents: tuple["Provenance", ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dicts, lists and strings."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "Provenance":
        """The inverse of `to_json`."""
        parents = tuple(cls.from_json(parent) for parent in data["parents"])
        return cls(**{**data, "parents": parents})


def content_hash(*parts: Any) -> str:
    """16 hex digits of the sha256 of `parts`: strings, bytes, numbers, None, tensors, lists and tuples.

    Every part is preceded by its type and length, so `("ab", "c")` and `("a", "bc")` differ. Tensors count
    with dtype, shape and bytes. The result is the same in every process and on every device.
    """
    digest = hashlib.sha256()
    _feed(digest.update, parts)
    return digest.hexdigest()[:16]


def _feed(update: Callable[[bytes], None], part: Any) -> None:
    if isinstance(part, tuple | list):
        update(f"list:{len(part)}:".encode())
        for item in part:
            _feed(update, item)
        return
    if isinstance(part, Tensor):
        tag = f"{part.dtype}{tuple(part.shape)}"
        # Reinterpreted as bytes because numpy, which would give them directly, has no bfloat16.
        payload = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
    elif isinstance(part, bytes):
        tag, payload = "bytes", part
    elif part is None or isinstance(part, str | int | float):
        tag, payload = type(part).__name__, str(part).encode()
    else:
        raise TypeError(
            f"cannot hash a {type(part).__name__}: pass strings, bytes, numbers, tensors or lists of them"
        )
    update(f"{tag}:{len(payload)}:".encode() + payload)


def write_safely(
    path: str | Path, content: bytes | Callable[[BinaryIO], object], *, private: bool = False
) -> None:
    """Write bytes, or what a function writes to an open binary file, so that no reader sees half a file.

    The bytes go to a file beside `path`, reach the disk, and only then take its name: whatever happens
    before leaves an earlier file alone. Missing folders are made, and a link stays one: what it names is written.
    `private` files are their owner's alone, from the first byte.
    Raises `OSError` naming `path` (a full disk, no permission, a folder or a device).
    """
    final = Path(path).resolve()
    if final.exists() and not final.is_file():  # a rename would put a file in the place of a device
        raise OSError(f"could not save {path}: that is no file, nothing was changed; name a file")
    beside = final.with_name(f".{final.name}.{secrets.token_hex(4)}.partial")
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        mode = 0o600 if private else 0o666  # less what the process' own mask takes away
        with open(beside, "xb", opener=partial(os.open, mode=mode)) as file:
            if isinstance(content, bytes):
                file.write(content)
            else:
                content(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, final)
    except BaseException as error:
        with suppress(OSError):
            beside.unlink()
        if not isinstance(error, OSError):
            raise
        raise unsaved(path, error) from error


def unsaved(path: str | Path, error: Exception) -> OSError:
    """The error for a file or folder that could not be written: a full disk, no permission."""
    errno, reason = (error.errno, error.strerror) if isinstance(error, OSError) else (None, None)
    text = (
        f"could not save {path} ({reason or error}): nothing was changed; "
        "make room or choose another folder, then save again"
    )
    return OSError(text) if errno is None else OSError(errno, text)


def save_tensors(
    path: str | Path, kind: str, tensors: Mapping[str, Tensor], header: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON header as one safetensors file; the header gains kind, version and a hash."""
    # Clones, because safetensors refuses views into shared memory (rows of an expanded or sliced tensor).
    stored = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    head = {"format": FORMAT_VERSION, "kind": kind, **header}
    metadata = {"workbench": json.dumps(head, sort_keys=True), "hash": _file_hash(head, stored)}
    write_safely(path, safetensors.torch.save(stored, metadata=metadata))


def load_tensors(path: str | Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The tensors and the header of a file that `save_tensors` wrote.

    Raises `ValueError` where the file is damaged, was not written by the workbench, is of another kind, or
    of a newer format; `FileNotFoundError` where there is none.
    """
    head = read_header(path)
    if head["kind"] != kind:
        raise ValueError(
            f"{path} holds {head['kind']}, expected {kind}: load it with load_{head['kind']}(...)"
        )
    with safetensors.safe_open(path, framework="pt") as file:
        names = file.keys()
        tensors = {name: file.get_tensor(name) for name in names}
        stored_hash = file.metadata().get("hash")
    if stored_hash != _file_hash(head, tensors):
        raise _damaged(path, "its content does not match its hash")
    return tensors, head


def read_header(path: str | Path) -> dict[str, Any]:
    """The JSON header of a workbench file, without reading its tensors."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"no file {path}: check the path, or save one there first")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
        head = json.loads(metadata["workbench"])
        version, kind = head["format"], head["kind"]
        if not isinstance(version, int) or not isinstance(kind, str):
            raise TypeError(f"format {version!r}, kind {kind!r}")
    except (KeyError, TypeError) as error:
        raise foreign(path) from error
    except (safetensors.SafetensorError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise _damaged(path, str(error)) from error
    if version > FORMAT_VERSION:
        raise ValueError(
            f"{path} has format {version}, this workbench reads up to {FORMAT_VERSION}: "
            "update inferaligner-workbench"
        )
    return dict(head)


def foreign(path: str | Path) -> ValueError:
    """The error for a file, intact or not, that lacks what `save` writes."""
    return ValueError(f"{path} was not written by the workbench: expected a file of its save(...)")


def _file_hash(head: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> str:
    names = sorted(tensors)
    return content_hash(json.dumps(head, sort_keys=True), names, [tensors[name] for name in names])


def _damaged(path: str | Path, reason: str) -> ValueError:
    return ValueError(f"{path} is damaged or truncated ({reason}): restore it from a copy or save it again")
