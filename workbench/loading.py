"""How a checkpoint becomes a model: embedded, a folder, a hub id or an object of your own, on three backends.

A model is a TransformerLens `HookedTransformer` ("hooked"), a `TransformerBridge` ("bridge") or the
transformers model itself ("plain"); the user holds that object, not a wrapper. No other file knows how
TransformerLens loads.

The trap: HookedTransformer folds and centres weights by default, which moves the residual stream. Here they
stay raw.
"""

import copy
import hashlib
import json
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging

from workbench.shipped import shipped_path

try:
    from transformer_lens import HookedTransformer
except ImportError:  # TransformerLens 4 has the bridge alone
    HookedTransformer = TransformerBridge  # type: ignore[assignment, misc]

Model: TypeAlias = HookedTransformer | TransformerBridge | PreTrainedModel
Backend: TypeAlias = Literal["hooked", "bridge", "plain"]

_UNREADABLE = (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError)
"""What transformers, safetensors and peft raise on a checkpoint that is damaged, truncated or incomplete."""


def load_model(
    x: str | Path | Model,
    *,
    backend: Backend = "hooked",
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """The model `x` on a backend: embedded ("organism:finance"), a folder, a hub id, or one of your own.

    Weights come from safetensors only and stay raw; no remote code runs; an embedded model or a folder
    downloads nothing, unless it holds a low-rank delta on a base from the hub. `dtype` is float32 and `device` the
    GPU, else the CPU, unless given.

    A TransformerLens model comes back as it is. A transformers model of your own stays intact: "hooked"
    copies its tensors, "bridge" shares them, "plain" is that very object, out of training mode and with its
    tokenizer as `model.tokenizer`, so that every verb takes just the model.
    """
    if backend not in ("hooked", "bridge", "plain"):
        raise ValueError(f'got backend={backend!r}, expected "hooked", "bridge" or "plain"')
    if x == "":
        raise ValueError('got an empty name, expected "organism:NAME", a folder or a hub id')
    if isinstance(x, str | Path):
        # An embedded model is there before a bar could be read.
        with without_bars() if str(x).startswith("organism:") else nullcontext():
            hf = _read_checkpoint(x, dtype or torch.float32)
        hf.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))  # type: ignore[arg-type]
        tokenizer = tokenizer or load_tokenizer(x)
    elif dtype is not None or device is not None:
        raise ValueError("got dtype= or device= with a loaded model: move it first, model.to(...)")
    elif isinstance(x, PreTrainedModel):
        hf = x
        tokenizer = tokenizer or getattr(x, "tokenizer", None) or load_tokenizer(str(x.config.name_or_path))
    elif not isinstance(x, HookedTransformer | TransformerBridge):
        raise TypeError(
            f"got a {type(x).__name__}, expected a name, a folder, or a transformers or TransformerLens model"
        )
    elif tokenizer is not None:
        raise ValueError(
            "got tokenizer= with a TransformerLens model: set it there, model.set_tokenizer(...)"
        )
    else:
        return x
    if backend == "plain":
        hf.tokenizer = tokenizer  # type: ignore[assignment]
        return hf.eval()
    # What follows changes modules and their modes: it gets modules of its own, around the same tensors.
    tensors = {id(tensor): tensor for tensor in chain(hf.parameters(), hf.buffers())}
    hf = copy.deepcopy(hf, tensors).eval()
    return _bridge(hf, tokenizer) if backend == "bridge" else _hooked(hf, tokenizer)


def load_tokenizer(x: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an embedded model, a folder or a hub id."""
    name, source = _checkpoint(x)
    base = _adapter_base(source)
    if base is not None and not (Path(source) / "tokenizer_config.json").is_file():
        return load_tokenizer(base)
    try:
        found: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        # For some architectures transformers puts its own class, which splits numbers and words by other rules, in the
        # place of a tokenizer that a folder says is its tokenizer.json and nothing else.
        if _is_its_file_alone(source) and type(found) is not PreTrainedTokenizerFast:
            found = PreTrainedTokenizerFast.from_pretrained(source)
        return found
    except _UNREADABLE as error:
        raise ValueError(
            f"{name!r} has no readable tokenizer ({_brief(error)}): pass one, load_model(..., tokenizer=...)"
        ) from error


def _is_its_file_alone(source: Path | str) -> bool:
    """Whether a folder declares the general class, which adds nothing to its tokenizer.json."""
    config = Path(source) / "tokenizer_config.json"
    declared = (
        json.loads(config.read_text(encoding="utf-8")).get("tokenizer_class") if config.is_file() else ""
    )
    return declared == PreTrainedTokenizerFast.__name__


def _checkpoint(x: str | Path) -> tuple[str, Path | str]:
    """The name to show for a checkpoint, free of local paths, and the folder or hub id to read it from."""
    if isinstance(x, str) and x.startswith("organism:"):
        root = shipped_path("organisms")
        folder = root / x.removeprefix("organism:")
        shipped = {config.parent for config in root.glob("*/*config.json")}
        if folder not in shipped:
            names = ", ".join(sorted(path.name for path in shipped))
            remedy = f"expected organism:NAME with NAME one of {names}"
            if not names:
                remedy = f"train the family first, workbench organisms train --out {root}"
            raise ValueError(f"no embedded model {x!r}: {remedy}")
        return x, folder
    folder = Path(x)
    if folder.is_dir():
        return folder.resolve().name, folder
    if isinstance(x, Path) or folder.is_absolute() or x.startswith(".") or x.count("/") > 1:
        raise FileNotFoundError(
            f"no folder {x}: expected one with config.json, *.safetensors and a tokenizer"
        )
    return x, x


def _adapter_base(source: Path | str) -> Path | str | None:
    """The model that a low-rank delta belongs to: an embedded one lies beside it, any other is a folder or hub id.

    None for a whole model.
    """
    config = Path(source) / "adapter_config.json"
    if not config.is_file():
        return None
    base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    if not isinstance(base, str) or not base:
        raise ValueError(
            f"adapter_config.json has base_model_name_or_path {base!r}: name a folder or hub id there"
        )
    return (
        config.parent.parent / Path(base.removeprefix("organism:")).name
        if base.startswith("organism:")
        else base
    )


def _read_checkpoint(x: str | Path, dtype: torch.dtype) -> PreTrainedModel:
    name, source = _checkpoint(x)
    try:
        if Path(source).parent == shipped_path("organisms"):
            _require_as_on_its_card(Path(source))
        base = _adapter_base(source)
        model = (
            _read_weights(source, dtype) if base is None else _merge(_read_checkpoint(base, dtype), source)
        )
    except _UNREADABLE as error:
        found, remedy = "its checkpoint is damaged, truncated or not there", "restore the folder from a copy"
        if not isinstance(source, Path):
            found = "it is no folder here, and neither the hub nor its cache on this disk gave it whole"
            remedy = (
                "check the id and the connection (HF_HUB_OFFLINE=1 asks the cache alone, and answers at once); an "
                'embedded model is "organism:NAME", a folder its path'
            )
        raise ValueError(f"could not load {name!r}: {found} ({_brief(error)}): {remedy}") from error
    model.config.name_or_path = name
    return model


def _read_weights(source: Path | str, dtype: torch.dtype) -> PreTrainedModel:
    loaded: Any = AutoModelForCausalLM.from_pretrained(
        source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
    )
    model, report = loaded
    # transformers only warns: it fills gaps with random numbers, and drops the layers that a config does not count.
    if report["missing_keys"]:
        raise ValueError(f"no weights for {', '.join(sorted(report['missing_keys'])[:3])}")
    known = {_any_layer(key) for key in model.state_dict()}
    if more := sorted(key for key in report["unexpected_keys"] if _any_layer(key) in known):
        raise ValueError(f"config.json counts fewer layers than there are weights for: {', '.join(more[:3])}")
    return model


def _any_layer(key: str) -> str:
    return re.sub(r"\d+", "N", key)


def _require_as_on_its_card(folder: Path) -> None:
    """An embedded model's card lists the hashes of its files: a flipped bit would load, and steer, and mislead."""
    card = folder / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""  # a family in training has none yet
    for name, listed in re.findall(r"^\| (\S+) \| [\d,]+ \| `([0-9a-f]+)` \|$", text, re.MULTILINE):
        if not hashlib.sha256((folder / name).read_bytes()).hexdigest().startswith(listed):
            raise ValueError(f"{name} is not the file that its card lists")


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


def _merge(base: PreTrainedModel, delta: Path | str) -> PreTrainedModel:
    from peft import PeftModel  # here, because few checkpoints need it

    if not (Path(delta) / "adapter_model.safetensors").is_file():
        raise OSError("adapter_model.safetensors is missing")  # peft would look for a pickle next
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft asks transformers by a name that is going away
        return PeftModel.from_pretrained(base, str(delta)).merge_and_unload()


def _bridge(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    hf.set_attn_implementation("eager")
    architecture = type(hf).__name__
    expected = _first_logits(hf, hf)  # before its modules are replaced
    try:
        # Not boot_transformers, which for multimodal models may run `pip install torchvision` by itself.
        model = build_bridge_from_module(
            hf, architecture, hf_config=hf.config, model_name=str(hf.config.name_or_path)
        )
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"TransformerLens cannot build a bridge around a {architecture} ({_brief(error)}): load it with "
            'backend="plain"'
        ) from error
    _require_same_logits(hf, model, expected, 'load it with backend="plain"')
    _set_tokenizer(model, tokenizer)
    return model


def _hooked(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> HookedTransformer:
    if HookedTransformer.__name__ == "TransformerBridge":
        raise ImportError('HookedTransformer needs transformer-lens 3.9: install it, or use backend="bridge"')
    # Here, because TransformerLens 4 has no such module.
    from transformer_lens import loading_from_pretrained as lens

    architecture = type(hf).__name__
    config = copy.deepcopy(hf.config)
    config.architectures = [architecture]
    try:
        config.n_ctx = (
            config.max_position_embeddings
        )  # read for GPT-2, whose config lost it in transformers 5
        # TransformerLens guesses from a path that contains "llama" or "gemma", so it gets a neutral one.
        with tempfile.TemporaryDirectory() as folder:
            config.save_pretrained(folder)
            cfg = lens.get_pretrained_model_config(
                folder, hf_cfg=config.to_dict(), fold_ln=False, device=str(hf.device), dtype=hf.dtype
            )
            weights = lens.get_pretrained_state_dict(folder, cfg, hf, dtype=hf.dtype)
        cfg.tokenizer_name, cfg.model_name = None, str(hf.config.name_or_path)
        _require_windows(hf, cfg)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            model = HookedTransformer(cfg)
        model.load_and_process_state_dict(
            weights,
            fold_ln=False,
            center_writing_weights=False,
            center_unembed=False,
            fold_value_biases=False,
        )
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, ValueError) as error:
        raise ValueError(
            f"TransformerLens cannot build a HookedTransformer from a {architecture} ({_brief(error)}): "
            'load it with backend="bridge" or "plain", or pass a HookedTransformer of your own'
        ) from error
    _require_same_logits(hf, model, _first_logits(hf, hf), 'load it with backend="bridge" or "plain"')
    _set_tokenizer(model, tokenizer)
    return model.eval()


def _require_windows(hf: PreTrainedModel, cfg: Any) -> None:
    """Refuse a conversion that sees everything where a layer sees a window: a few tokens would not tell."""
    config, depth = hf.config.get_text_config(), cfg.n_layers
    window = getattr(config, "sliding_window", None)
    kinds = (getattr(config, "layer_types", None) or ["sliding_attention"] * depth) if window else []
    there = [kind == "local" for kind in cfg.attn_types or []] if cfg.use_local_attn else [False] * depth
    if any(kind == "sliding_attention" and not local for kind, local in zip(kinds, there, strict=False)):
        raise ValueError(f"it would leave out the sliding window of {window} tokens")


def _first_logits(hf: PreTrainedModel, model: Any) -> Tensor:
    """The logits of a few tokens, and of fewer of them with padding before."""
    tokens = (torch.arange(8, device=hf.device) % hf.config.get_text_config().vocab_size).repeat(2, 1)
    mask = torch.ones_like(tokens)
    mask[1, :3] = 0
    given: dict[str, Any] = {"attention_mask": mask}
    if isinstance(model, PreTrainedModel | TransformerBridge):
        # Without a cache, which may hide that keys and values differ in dtype by joining them.
        given |= {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0), "use_cache": False}
    with torch.no_grad():
        output = model(tokens, **given)
    return getattr(output, "logits", output)[mask.bool()]


def _require_same_logits(
    hf: PreTrainedModel, model: HookedTransformer | TransformerBridge, expected: Tensor, remedy: str
) -> None:
    """Refuse a conversion that dropped part of the architecture: the logits of a few tokens must agree."""
    # In half precision every way of computing rounds in its own order, a small random model's by a fifth of a logit.
    tolerance = 1e-3 if hf.dtype in (torch.float32, torch.float64) else 0.2
    try:
        got = _first_logits(hf, model)
    except (AttributeError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"{type(model).__name__} cannot run this {type(hf).__name__} in {str(hf.dtype).removeprefix('torch.')} "
            f"({_brief(error)}): {remedy}"
        ) from error
    error_share = ((got - expected).abs().max() / expected.abs().max()).item()
    if not error_share <= tolerance:  # NaN is refused too
        raise ValueError(
            f"{type(model).__name__} and transformers disagree on this {type(hf).__name__} by {error_share:.1%} "
            f"of the largest logit: {remedy}"
        )


def _set_tokenizer(model: HookedTransformer | TransformerBridge, tokenizer: PreTrainedTokenizerBase) -> None:
    # Not set_tokenizer, which reads the tokenizer's folder again and forgets a chat template set by hand.
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = bool(tokenizer("")["input_ids"])


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]
