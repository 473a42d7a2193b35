"""Weights on disk: shards read one after another, tensor by tensor, and new ones written as they fill.

A model is never whole in memory: at most one file of what is written, and of .bin, which cannot be read in parts, one
file of what is read.

The trap: a .bin file is a pickle, which can run code when it is read. It is read when that was asked for alone, and
then as tensors and nothing else (`weights_only`).
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

FILE_BYTES = 2 * 10**9
"""How large a written file grows: what is held in memory at a time."""


@dataclass(frozen=True)
class Shard:
    """One file of weights, and the names it holds."""

    path: Path
    names: tuple[str, ...]

    def tensors(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, Tensor]]:
        """Its weights, or those of some `names`, one after another.

        Raises `ValueError` for a file that is damaged, or holds anything but the tensors that were announced.
        """
        names = self.names if names is None else names
        if self.path.suffix == ".bin":
            held = _unpickled(self.path)
            if differing := sorted(set(held) ^ set(self.names)):
                raise ValueError(
                    f"{self.path.name} and its index do not agree on {', '.join(differing[:3])}: download both again"
                )
            for name in names:
                yield name, held.pop(name)
            return
        with _opened(self.path) as file:
            for name in names:
                try:
                    yield name, file.get_tensor(name)
                except (OSError, SafetensorError) as error:
                    raise _damaged(self.path, error) from error


def find_shards(folder: Path, *, allow_bin: bool) -> list[Shard]:
    """The files of weights in a checkpoint's folder, in order, each with the names it holds.

    Raises `ValueError` where an index names a file or a weight that is not there, or where all there is are .bin files
    that nobody allowed; `FileNotFoundError` where there are no weights.
    """
    name = folder.resolve().name
    for stem, pickled in (("model.safetensors", False), ("pytorch_model.bin", True)):
        index, single = folder / f"{stem}.index.json", folder / stem
        if not index.is_file() and not single.is_file():
            continue
        if pickled and not allow_bin:
            raise ValueError(
                f"{name} has its weights as .bin alone, which are pickles: read them as tensors and nothing else with "
                "--allow-bin (allow_bin=True), if you trust where they come from"
            )
        return _indexed(folder, index, single.suffix) if index.is_file() else [Shard(single, _names(single))]
    raise FileNotFoundError(
        f"no weights in {folder}: expected model.safetensors, or several files with model.safetensors.index.json"
    )


def _indexed(folder: Path, index: Path, suffix: str) -> list[Shard]:
    try:
        listed: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        files: dict[str, list[str]] = {file: [] for file in sorted(listed.values())}
        for weight, file in listed.items():
            files[file].append(weight)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(index, error) from error
    # An index of safetensors that names a pickle would have it read unasked.
    if foreign := [file for file in files if Path(file).name != file or Path(file).suffix != suffix]:
        raise ValueError(
            f"{index.name} names {', '.join(foreign)}, expected files of this folder in {suffix}"
        )
    if missing := [file for file in files if not (folder / file).is_file()]:
        raise ValueError(
            f"{folder.resolve().name} lacks {', '.join(missing)}, which its index names: download it again, whole"
        )
    shards = []
    for file, weights in files.items():
        path = folder / file
        # What a .bin file holds is seen when its turn comes.
        held = tuple(weights) if path.suffix == ".bin" else _names(path)
        if lacking := sorted(set(weights) - set(held)):
            raise ValueError(
                f"{file} lacks {', '.join(lacking[:3])}, which the index says it holds: download it again"
            )
        shards.append(Shard(path, held))
    return shards


def _names(path: Path) -> tuple[str, ...]:
    if path.suffix == ".bin":
        return tuple(_unpickled(path))
    with _opened(path) as file:
        return tuple(file.keys())


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(path, framework="pt")
    except (OSError, SafetensorError) as error:
        raise _damaged(path, error) from error


def _unpickled(path: Path) -> dict[str, Tensor]:
    try:
        # Asked for by name (allow_bin), and weights_only: a file that would do more than make tensors is refused.
        held = torch.load(path, map_location="cpu", weights_only=True)  # noqa: TID251
    except (
        Exception
    ) as error:  # pickle's own errors, zip's, torch's: all of them say that the file is no good
        raise _damaged(path, error) from error
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise _damaged(path, TypeError("it holds more than tensors with names"))
    return held


def _damaged(path: Path, error: Exception) -> ValueError:
    told = (str(error) or type(error).__name__).splitlines()[0][:200]
    return ValueError(
        f"{path.name} is damaged or no file of weights ({told}): download it again, or restore it from a copy"
    )


def write_shards(folder: Path, tensors: Iterator[tuple[str, Tensor]]) -> int:
    """Write weights into `folder` as they come, in safetensors files with an index; the number of files."""
    files: list[dict[str, int]] = []
    held: dict[str, Tensor] = {}

    def write() -> None:
        save_file(held, _part(folder, len(files)), metadata={"format": "pt"})
        files.append({name: tensor.nbytes for name, tensor in held.items()})
        held.clear()

    for name, tensor in tensors:
        if held and sum(each.nbytes for each in held.values()) + tensor.nbytes > FILE_BYTES:
            write()
        held[name] = tensor
    write()
    if len(files) == 1:
        _part(folder, 0).rename(folder / "model.safetensors")
        return 1
    listed: dict[str, str] = {}
    for number, sizes in enumerate(files):
        final = f"model-{number + 1:05}-of-{len(files):05}.safetensors"
        _part(folder, number).rename(folder / final)
        listed |= dict.fromkeys(sizes, final)
    index = {"metadata": {"total_size": sum(sum(sizes.values()) for sizes in files)}, "weight_map": listed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
    return len(files)


def _part(folder: Path, number: int) -> Path:
    return folder / f"{number}.safetensors"
