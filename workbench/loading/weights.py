"""Weights from a checkpoint: whole, in safetensors, and nothing but tensors.

    W = W_base + (alpha / r) * B A        a low-rank delta, merged into its base      (LoRA, arXiv 2106.09685)

No code of a checkpoint runs: no remote code, no pickle. Pickled weights (.bin) are read when asked for, by a reader
that builds tensors and refuses whatever else the file tells it to make (`weights_only=True`).

The trap: transformers fills gaps with random numbers and drops what a config does not count, peft skips what it does
not find, and both only warn. Here a checkpoint that is not whole is refused.
"""

import hashlib
import json
import os
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, TypeAlias

import transformers
from safetensors import SafetensorError, safe_open
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    AutoModelForSequenceClassification,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)
from transformers.utils import logging

from workbench.loading.holding import Holding
from workbench.loading.sources import Checkpoint
from workbench.memory import is_out_of_memory

Reader: TypeAlias = type[
    AutoModel | AutoModelForCausalLM | AutoModelForImageTextToText | AutoModelForSequenceClassification
]

UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, MemoryError, SafetensorError)
"""What transformers, safetensors and peft raise on a checkpoint that is damaged, truncated, incomplete or too large."""


def read_checkpoint(
    checkpoint: Checkpoint,
    holding: Holding,
    adapter: Checkpoint | None = None,
    *,
    reader: Reader | None = None,
    unused: Sequence[str] = (),
) -> PreTrainedModel:
    """The transformers model that a checkpoint holds, with the delta `adapter` merged into it, if one is given.

    It is one that writes text, unless `reader` is a class of transformers that reads others; then weights whose names
    begin with one of `unused` may be missing.

    Raises `ValueError` with the reason and the remedy where it is damaged, incomplete, or would have to run code.
    """
    at_fault, readable = checkpoint, UNREADABLE if holding.form == "safetensors" else Exception
    try:
        if checkpoint.is_embedded:
            _require_as_on_its_card(Path(checkpoint.source))
        base = checkpoint.adapter_base()
        if (base or adapter) and holding.bits:
            raise _NotTaken(
                f"a delta cannot be merged into weights of {holding.bits} bits: merge it without bits=, save that with "
                "save_pretrained, and load it with bits="
            )
        # An embedded model is there before a bar could be read.
        with without_bars() if checkpoint.name.startswith("organism:") else nullcontext():
            model = (
                _read_whole(checkpoint, holding, reader, unused)
                if base is None
                else _merge(read_checkpoint(base, holding, reader=reader, unused=unused), checkpoint)
            )
        name = checkpoint.name
        if adapter is not None:
            at_fault, name = adapter, f"{name}+{adapter.name}"
            model = _merge(model, adapter)
    except readable as error:
        raise _unreadable(at_fault, error) from error
    model.config.name_or_path = name
    return model


def _unreadable(checkpoint: Checkpoint, error: Exception) -> ValueError:
    found, remedy = "its checkpoint is damaged, truncated or not there", "restore the folder from a copy"
    if not isinstance(checkpoint.source, Path):
        found = "it is no folder here, and neither the hub nor its cache on this disk gave it whole"
        remedy = (
            "check the id and the connection (HF_HUB_OFFLINE=1 asks the cache alone, and answers at once); an "
            'embedded model is "organism:NAME", a folder its path'
        )
    if pointers := checkpoint.unfetched():
        found = f"{', '.join(pointers[:3])} came as pointers of Git LFS, without their content"
        remedy = "git lfs pull in that folder fetches it"
    if isinstance(error, _NotTaken):
        return ValueError(f"could not load {checkpoint.name!r}: {error}")
    if is_out_of_memory(error):
        found = "there is no room for it"
        remedy = (
            'dtype=torch.bfloat16 takes half of float32, device_map="auto" several devices, bits=8 a quarter'
        )
    return ValueError(f"could not load {checkpoint.name!r}: {found} ({brief(error)}): {remedy}")


class _NotTaken(ValueError):
    """What a checkpoint is, where nothing is wrong with it: no copy of it would do."""


def _read_whole(
    checkpoint: Checkpoint, holding: Holding, reader: Reader | None, unused: Sequence[str]
) -> PreTrainedModel:
    given, _ = PreTrainedConfig.get_config_dict(checkpoint.source, revision=checkpoint.revision)
    kind = given.get("model_type")
    if kind not in CONFIG_MAPPING and "auto_map" in given:
        raise _NotTaken(
            f"a {kind} is code of its own, which is never run: workbench convert reads InternLM, InternLM2 and Qwen "
            "into classes of transformers; load others yourself, and pass the model"
        )
    asked = re.search(r'"(?:attn|experts)_implementation": "([^"]*/[^"]*)"', json.dumps(given))
    if asked:
        raise _NotTaken(
            f"its config.json asks for {asked[1]!r}, a kernel from the hub, which is code: take it out of there"
        )
    if kind is not None and kind not in CONFIG_MAPPING:
        raise _NotTaken(
            f"its config.json says model_type {kind!r}, which transformers {transformers.__version__} does not know: "
            "a newer one may; or load it yourself, and pass the model"
        )
    config = AutoConfig.from_pretrained(
        checkpoint.source, revision=checkpoint.revision, trust_remote_code=False
    )
    if reader is not None:
        pass
    elif type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        reader = AutoModelForCausalLM
    elif type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        reader = AutoModelForImageTextToText
    else:
        raise _NotTaken(f"a {kind} writes no text token by token: expected a causal language model")
    if holding.form == "safetensors":
        _require_safetensors(checkpoint, config)
    elif not _any_file(checkpoint, "pytorch_model.bin") and _any_file(checkpoint, "model.safetensors"):
        raise _NotTaken('got weights="bin", and its weights are safetensors: leave weights= out')
    with _as_it_is_on_the_hub():
        loaded: Any = reader.from_pretrained(
            checkpoint.source,
            revision=checkpoint.revision,
            config=config,
            use_safetensors=holding.form == "safetensors",
            weights_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **holding.settings(),
        )
    model, report = loaded
    if missing := sorted(key for key in report["missing_keys"] if not key.startswith(tuple(unused))):
        raise ValueError(f"no weights for {', '.join(missing[:3])}")
    known = {_any_layer(key) for key in model.state_dict()}
    if more := sorted(key for key in report["unexpected_keys"] if _any_layer(key) in known):
        raise ValueError(f"config.json counts fewer layers than there are weights for: {', '.join(more[:3])}")
    return model


def _any_file(checkpoint: Checkpoint, whole: str) -> bool:
    """Whether weights are there, in one file or by the index of several."""
    return any(checkpoint.file(name) for name in (whole, f"{whole}.index.json"))


def _any_layer(key: str) -> str:
    return re.sub(r"\d+", "N", key)


def _require_safetensors(checkpoint: Checkpoint, config: PreTrainedConfig) -> None:
    """Refuse a checkpoint that has none, lacks some, or whose index or config leads elsewhere."""
    # A config may name another file, even a pickled one; use_safetensors alone would not keep it out.
    if told := getattr(config, "transformers_weights", None):
        raise _NotTaken(f"its config.json sends readers to {told!r}: take transformers_weights out of it")
    if whole := checkpoint.file("model.safetensors"):
        _require_uncut([whole])
        return
    shards = sorted(set(checkpoint.json("model.safetensors.index.json").get("weight_map", {}).values()))
    if not shards:
        raise OSError(
            'no model.safetensors, and no index of several: .bin files are read when asked for, weights="bin"'
        )
    if strange := [name for name in shards if Path(name).name != name or not name.endswith(".safetensors")]:
        raise ValueError(f"its index names {strange[0]!r}, expected .safetensors files beside it")
    if isinstance(checkpoint.source, Path):
        missing = [name for name in shards if checkpoint.file(name) is None]
        if missing:
            raise OSError(
                f"{len(missing)} of the {len(shards)} files that its index names are not there: "
                f"{', '.join(missing[:3])}"
            )
        _require_uncut([checkpoint.source / name for name in shards])


def _require_uncut(files: Sequence[Path]) -> None:
    """Refuse, by its name, a file that is shorter or longer than its header says: transformers does not tell which."""
    for file in files:
        try:
            with safe_open(file, framework="pt"):
                pass
        except SafetensorError as error:
            raise OSError(f"{file.name}: {brief(error)}") from error


@contextmanager
def _as_it_is_on_the_hub() -> Iterator[None]:
    """Without transformers' habit of asking the hub to convert pickled weights, in a thread that outlives the call."""
    name = "DISABLE_SAFETENSORS_CONVERSION"
    before = os.environ.get(name)
    os.environ[name] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _require_as_on_its_card(folder: Path) -> None:
    """An embedded model's card lists the hashes of its files: a flipped bit would load, and steer, and mislead."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""  # a family in training has none yet
    for name, listed in re.findall(r"^\| (\S+) \| [\d,]+ \| `([0-9a-f]+)` \|$", text, re.MULTILINE):
        if not hashlib.sha256((folder / name).read_bytes()).hexdigest().startswith(listed):
            raise ValueError(f"{name} is not the file that its card lists")


def _merge(base: PreTrainedModel, delta: Checkpoint) -> PreTrainedModel:
    from peft import PeftModel, get_peft_model_state_dict  # here, because few checkpoints need it
    from peft.tuners.lora import LoraLayer

    told = delta.json("adapter_config.json")
    if told.get("peft_type") != "LORA":
        raise _NotTaken(
            f"its adapter_config.json says peft_type {told.get('peft_type')!r}, expected 'LORA'"
            if told
            else "no adapter_config.json: expected a folder that peft's save_pretrained wrote"
        )
    if told.get("megatron_config"):
        raise ValueError(
            "its adapter_config.json names a module to import, megatron_core: take it out of there"
        )
    stored = delta.file("adapter_model.safetensors")
    if stored is None:
        raise OSError("adapter_model.safetensors is missing")  # peft would look for a pickle next
    if any(weight.is_meta for weight in base.parameters()):
        raise _NotTaken(
            "a delta cannot be merged into weights that device_map= has put away: merge it without, save that with "
            "save_pretrained, and load it with device_map="
        )
    _require_as_many_words(base, stored)
    ends = base.get_input_embeddings(), base.get_output_embeddings()
    tied = ends[1] is not None and ends[0].weight is ends[1].weight
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        warnings.simplefilter("ignore", UserWarning)  # of gaps, which are refused below
        both = PeftModel.from_pretrained(base, str(stored.parent))
    # Embeddings that were saved along are none of its parts; asked about them, peft looks for the base on the hub.
    parts = set(get_peft_model_state_dict(both, save_embedding_layers=False))
    with safe_open(stored, framework="pt") as file:
        there = set(file.keys())
    if odd := sorted((parts - there) | {key for key in there - parts if ".lora_" in key}):
        raise ValueError(f"it does not fit its base, by {', '.join(odd[:3])}")
    if tied and any(
        isinstance(end, LoraLayer) for end in (base.get_input_embeddings(), base.get_output_embeddings())
    ):
        raise _NotTaken(
            "its delta changes the embedding or the LM head alone, which are one tensor in this base: merged, it would "
            "change both; merge it yourself into a base with tie_word_embeddings=False, and pass that model"
        )
    return both.merge_and_unload()


def _require_as_many_words(base: PreTrainedModel, stored: Path) -> None:
    """Refuse a delta whose own embeddings have other rows than its base's, as after tokens were added."""
    ends = (base.get_input_embeddings(), base.get_output_embeddings())
    rows = {name: end.weight.shape[0] for name, end in base.named_modules() if end in ends}
    with safe_open(stored, framework="pt") as file:
        theirs = {key: file.get_slice(key).get_shape()[0] for key in file.keys() if ".lora_" not in key}  # noqa: SIM118
    for name, ours in rows.items():
        for key, n in theirs.items():
            if n != ours and key.endswith((f".{name}.weight", f".{name}.base_layer.weight")):
                raise _NotTaken(
                    f"its {name} has {n} rows, its base's {ours}, as after tokens were added: resize that first, base "
                    f"= AutoModelForCausalLM.from_pretrained(...), base.resize_token_embeddings({n}), pass "
                    "PeftModel.from_pretrained(base, ...).merge_and_unload(), and its tokenizer="
                )


@contextmanager
def without_bars() -> Iterator[None]:
    """Without transformers' progress bars, of loading and of saving."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def brief(error: Exception) -> str:
    """The first line of an error, which may have many."""
    return (str(error) or type(error).__name__).splitlines()[0][:200]
