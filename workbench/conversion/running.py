"""How a conversion runs: what can be refused is refused first, then shards flow, and the folder gets its name.

    config.json -> settings -> config of the target -> the weights it must have
    shards      -> one tensor at a time -> what it becomes -> shards of the target

The trap: a weight too many, or too few, loads. transformers fills a gap with random numbers and passes over what it
does not know, so names and shapes are held against an empty model of the target class.
"""

import errno
import json
import math
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, GenerationConfig, PreTrainedConfig

from workbench.conversion.families import Family
from workbench.conversion.internlm import INTERNLM
from workbench.conversion.internlm2 import INTERNLM2
from workbench.conversion.qwen import QWEN
from workbench.conversion.settings import Settings
from workbench.conversion.vocabulary import read_tokenizer
from workbench.conversion.weights import Shard, find_shards, write_shards
from workbench.provenance import unsaved

EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
FAMILIES = {family.architecture: family for family in (INTERNLM2, INTERNLM, QWEN)}


@dataclass(frozen=True)
class Conversion:
    """What a conversion wrote: the folder, the class before and after, the longest context, and what to know of it."""

    folder: Path
    source: str
    target: str
    context_length: int
    notes: tuple[str, ...]


def convert_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    tokenizer: str | Path | None = None,
    allow_bin: bool = False,
    dtype: torch.dtype | None = None,
    progress: bool = False,
) -> Conversion:
    """Read an InternLM2, InternLM (v1) or Qwen (v1) checkpoint, and write what `load_model` loads, into a new folder.

    None of the checkpoint's own code runs. Weights keep their dtype unless one is given; pickled ones (.bin) are read
    with `allow_bin` alone. A tokenizer comes from `tokenizer`, a folder or a hub id, where the checkpoint has none but
    code. Settings and weights that the layout does not know are refused by name. `out` is whole or absent.

    Raises `ValueError` for what cannot be converted, `FileNotFoundError` where there is no checkpoint,
    `FileExistsError` where `out` is there already, `OSError` where it cannot be written.
    """
    source, out = Path(source), Path(out)
    if dtype is not None and not dtype.is_floating_point:
        raise ValueError(f"got dtype={dtype}, expected float32, float16 or bfloat16")
    if out.exists() or out.is_symlink():
        raise FileExistsError(f"{out} is there already: name a new folder, or remove it first")
    if not source.is_dir():
        raise FileNotFoundError(
            f"no folder {source}: expected a checkpoint on this disk; fetch one from the hub first, "
            "hf download ID --local-dir FOLDER"
        )
    settings = Settings(source)
    family = _family(settings)
    config = _configure(family, settings)
    wanted = _wanted(config)
    shards = find_shards(source, allow_bin=allow_bin)
    _require_all_there(family, shards, wanted)
    special = _special_tokens(source, config)
    words, remarks = read_tokenizer(
        source, tokenizer, vocab_size=config.vocab_size, context_length=config.max_position_embeddings
    )
    _require_room(out, shards, wanted, dtype)
    config.dtype = dtype or settings.dtype
    tensors = _converted(family, shards, wanted, config, dtype)
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)  # what an interrupted run left
    try:
        beside.mkdir(parents=True)
        with tqdm(total=len(wanted), desc="converting", unit="weight", disable=not progress) as bar:
            write_shards(beside, _counted(tensors, bar))
        config.save_pretrained(str(beside))
        special.save_pretrained(str(beside))
        words.save_pretrained(str(beside))
        for file in beside.iterdir():
            file.chmod(0o644)  # safetensors makes files that their owner alone can read
        beside.rename(out)
    except BaseException as error:
        shutil.rmtree(beside, ignore_errors=True)
        # A full disk is an OSError in Python, a SafetensorError in safetensors and a bare Exception in tokenizers.
        if isinstance(error, OSError | SafetensorError) or type(error) is Exception:
            raise unsaved(out, error) from error
        raise
    return Conversion(
        out,
        family.architecture,
        config.architectures[0],
        config.max_position_embeddings,
        (*family.notes(config), *remarks),
    )


def _family(settings: Settings) -> Family:
    if settings.architecture in FAMILIES:
        return FAMILIES[settings.architecture]
    raise ValueError(
        f"{settings.name} is a {settings.architecture}, expected one of {', '.join(FAMILIES)}: what transformers ships "
        "loads as it is, load_model(FOLDER), and other remote code is not read"
    )


def _configure(family: Family, settings: Settings) -> Any:
    config = family.configure(settings)
    settings.refuse_the_rest()
    return config


def _wanted(config: PreTrainedConfig) -> dict[str, torch.Size]:
    """Name and shape of every weight that the target stores, from a model without memory."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if config.tie_word_embeddings:
        del shapes[OUTPUT]  # it is the embedding once more
    return shapes


def _require_all_there(family: Family, shards: Sequence[Shard], wanted: Mapping[str, torch.Size]) -> None:
    """Refuse weights that are unknown, missing, or there twice, and an output that is tied to another embedding."""
    found: Counter[str] = Counter()
    unknown = []
    for shard in shards:
        for name in shard.names:
            targets = family.targets(name)
            if targets is None or not {*targets} <= {*wanted, OUTPUT}:
                unknown.append(name)
            found.update(targets or ())
    if unknown:
        raise ValueError(
            f"weights that {family.architecture} does not have by its config.json: {_some(unknown)}: they could only "
            "be dropped; restore config.json and weights from one copy"
        )
    if twice := [name for name, times in found.items() if times > 1]:
        raise ValueError(f"weights that are there twice: {_some(twice)}: keep one file of each")
    if missing := [name for name in wanted if name not in found]:
        raise ValueError(f"no weights for {_some(missing)}: the checkpoint is not whole; download it again")
    if OUTPUT in found and OUTPUT not in wanted:
        _require_tied(family, shards)


def _require_tied(family: Family, shards: Sequence[Shard]) -> None:
    """A checkpoint may store what it ties, under both names: as long as it is one, the target stores it once."""
    both = []
    for shard in shards:
        names = [name for name in shard.names if {*(family.targets(name) or ())} & {EMBEDDING, OUTPUT}]
        both += [tensor for _, tensor in shard.tensors(names)] if names else []
    if not torch.equal(*both):
        raise ValueError(
            "config.json ties the output to the embedding, and the weights have two that differ: restore both from one "
            "copy, or set tie_word_embeddings to false"
        )


def _converted(
    family: Family,
    shards: Sequence[Shard],
    wanted: Mapping[str, torch.Size],
    config: Any,
    dtype: torch.dtype | None,
) -> Iterator[tuple[str, Tensor]]:
    for shard in shards:
        for stored, whole in shard.tensors():
            for name, tensor in family.convert(stored, whole, config):
                if name not in wanted:  # a tied output
                    continue
                if tensor.shape != wanted[name] or not tensor.is_floating_point():
                    raise ValueError(
                        f"{stored} would make {name} {tensor.dtype} of shape {tuple(tensor.shape)}, expected floats of "
                        f"shape {tuple(wanted[name])} by config.json: restore both from one copy"
                    )
                # Copies, because safetensors refuses views into shared memory, such as parts of fused rows.
                copied = tensor.to(dtype or tensor.dtype, copy=True).contiguous()
                if not copied.isfinite().all():
                    raise ValueError(
                        f"{stored} has numbers that are not finite in {copied.dtype}: download it again, or store it "
                        "in a wider dtype"
                    )
                yield name, copied


def _counted(tensors: Iterator[tuple[str, Tensor]], bar: Any) -> Iterator[tuple[str, Tensor]]:
    for named in tensors:
        yield named
        bar.update()


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _require_room(
    out: Path, shards: Sequence[Shard], wanted: Mapping[str, torch.Size], dtype: torch.dtype | None
) -> None:
    """Refuse a disk that is too full before hours of writing rather than after."""
    if dtype is None:
        needed = sum(shard.path.stat().st_size for shard in shards)
    else:
        needed = sum(math.prod(shape) for shape in wanted.values()) * dtype.itemsize
    there = next(folder for folder in out.absolute().parents if folder.exists())
    if (free := shutil.disk_usage(there).free) < needed:
        text = f"{needed / 1e9:.1f} GB are needed, {free / 1e9:.1f} GB are free"
        raise unsaved(out, OSError(errno.ENOSPC, text))


def _special_tokens(source: Path, config: Any) -> GenerationConfig:
    """The tokens that begin, end and pad a text: the generation config's where it has them, else config.json's."""
    path = source / "generation_config.json"
    try:
        given = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        told = {
            name: given.get(name, getattr(config, name))
            for name in ("bos_token_id", "eos_token_id", "pad_token_id")
        }
    except (ValueError, AttributeError) as error:
        raise ValueError(f"{path.name} is damaged ({error}): restore it from a copy, or remove it") from error
    return GenerationConfig(**told)
