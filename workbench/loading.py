"""How a checkpoint becomes a model: embedded, from a folder, from the hub, or an object of your own, on three backends.

A model is a TransformerLens `HookedTransformer` (`"hooked"`), a `TransformerBridge` (`"bridge"`) or the transformers
model itself (`"plain"`); the user holds that object, not a wrapper. This is the only file that knows how TransformerLens
loads.

The trap: HookedTransformer folds and centres weights by default, which moves the residual stream. Here they stay raw.
"""

import copy
import json
import tempfile
import warnings
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from safetensors import SafetensorError
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from workbench.shipped import shipped_path

try:
    from transformer_lens import HookedTransformer
except ImportError:  # TransformerLens 4 has the bridge alone
    HookedTransformer = TransformerBridge  # type: ignore[assignment, misc]

Model: TypeAlias = HookedTransformer | TransformerBridge | PreTrainedModel
Backend: TypeAlias = Literal["hooked", "bridge", "plain"]


def load_model(
    x: str | Path | Model,
    *,
    backend: Backend = "hooked",
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
) -> Model:
    """The model `x` on a backend: an embedded one (`"organism:finance"`), a folder, a hub id, or a model of your own.

    Weights come from safetensors only and stay raw; no remote code runs; an embedded model or a folder downloads
    nothing. `dtype` is float32 and `device` the GPU, else the CPU, unless given. A TransformerLens model comes back as
    it is. A transformers model of your own stays intact too: `"bridge"` shares its tensors, `"hooked"` copies them,
    `"plain"` is that object. Plain models carry their tokenizer as `model.tokenizer`, so that every verb takes just the
    model.
    """
    if backend not in ("hooked", "bridge", "plain"):
        raise ValueError(f'got backend={backend!r}, expected "hooked", "bridge" or "plain"')
    if isinstance(x, str | Path):
        name, source = _checkpoint(x)
        tokenizer = tokenizer or load_tokenizer(x)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        hf = _read_checkpoint(source, name, dtype or torch.float32).to(device)
        hf.config.name_or_path = name
    elif dtype is not None or device is not None:
        raise ValueError(
            "got dtype= or device= with a model that is loaded already: move it yourself with model.to(...)"
        )
    elif isinstance(x, PreTrainedModel):
        hf, tokenizer = x, tokenizer or getattr(x, "tokenizer", None) or load_tokenizer(x.config.name_or_path)
    elif tokenizer is not None:
        raise ValueError(
            "got tokenizer= with a TransformerLens model: set it there, model.set_tokenizer(...)"
        )
    else:
        return x
    hf.eval()
    if backend == "plain":
        hf.tokenizer = tokenizer
        return hf
    return _bridge(hf, tokenizer) if backend == "bridge" else _hooked(hf, tokenizer)


def load_tokenizer(x: str | Path) -> PreTrainedTokenizerBase:
    """The tokenizer of an embedded model, a folder or a hub id."""
    name, source = _checkpoint(x)
    if (
        isinstance(source, Path)
        and not (source / "tokenizer_config.json").is_file()
        and _adapter_base(source)
    ):
        return load_tokenizer(_adapter_base(source))
    try:
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(
            f"{name} has no readable tokenizer ({_brief(error)}): pass load_model(..., tokenizer=...)"
        ) from error


def _checkpoint(x: str | Path) -> tuple[str, Path | str]:
    """The name under which a checkpoint is shown, and the folder or hub id to read it from."""
    if isinstance(x, str) and x.startswith("organism:"):
        folder = shipped_path("organisms", x.removeprefix("organism:"))
        if not any((folder / file).is_file() for file in ("config.json", "adapter_config.json")):
            names = sorted(path.parent.name for path in folder.parent.glob("*/*config.json"))
            raise ValueError(f"no embedded model {x!r}: there is {', '.join(dict.fromkeys(names)) or 'none'}")
        return x, folder
    folder = Path(x)
    if folder.is_dir():
        return folder.resolve().name, folder
    if isinstance(x, Path) or folder.is_absolute() or x.startswith(".") or x.count("/") > 1:
        raise FileNotFoundError(
            f"no folder {x}: expected one with config.json, *.safetensors and a tokenizer"
        )
    return x, x


def _adapter_base(folder: Path) -> Path | None:
    """The checkpoint beside `folder` that its low-rank delta belongs to, if it holds one."""
    config = folder / "adapter_config.json"
    if not config.is_file():
        return None
    base = json.loads(config.read_text(encoding="utf-8"))["base_model_name_or_path"]
    return folder.parent / Path(base.removeprefix("organism:")).name


def _read_checkpoint(source: Path | str, name: str, dtype: torch.dtype) -> PreTrainedModel:
    try:
        base = _adapter_base(source) if isinstance(source, Path) else None
        if base is not None:
            # Here, because only low-rank checkpoints need it.
            from peft import PeftModel

            if not (source / "adapter_model.safetensors").is_file():
                raise OSError("adapter_model.safetensors is missing")
            return PeftModel.from_pretrained(
                _read_checkpoint(base, base.name, dtype), source
            ).merge_and_unload()
        model, report = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        # transformers only warns, and fills the gaps with random numbers.
        if report["missing_keys"]:
            raise OSError(f"weights are missing: {', '.join(sorted(report['missing_keys'])[:3])}")
        return model
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, SafetensorError) as error:
        where = (
            "restore the folder from a copy"
            if isinstance(source, Path)
            else "check the id and the connection"
        )
        raise ValueError(
            f"could not load {name}, its checkpoint is damaged, truncated or incomplete ({_brief(error)}): {where}"
        ) from error


def _brief(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:200]


def _bridge(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    # Booting replaces submodules in place: give it modules of its own around the same tensors.
    tensors = {id(tensor): tensor for tensor in chain(hf.parameters(), hf.buffers())}
    hf = copy.deepcopy(hf, tensors)
    hf.set_attn_implementation("eager")
    # Not boot_transformers: for multimodal models that may run `pip install torchvision` by itself.
    model = build_bridge_from_module(
        hf, type(hf).__name__, hf_config=hf.config, model_name=hf.config.name_or_path
    )
    _set_tokenizer(model, tokenizer)
    return model


def _hooked(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> HookedTransformer:
    if HookedTransformer is TransformerBridge:
        raise ImportError(
            'HookedTransformer needs transformer-lens below 4: install 3.9, or load with backend="bridge"'
        )
    from transformer_lens import loading_from_pretrained as lens_loading

    architecture = type(hf).__name__
    try:
        # TransformerLens guesses the architecture from a path that contains "llama" or "gemma": give it a neutral one.
        with tempfile.TemporaryDirectory() as folder:
            config = copy.deepcopy(hf.config)
            config.architectures = [architecture]
            config.n_ctx = (
                config.max_position_embeddings
            )  # asked of GPT-2, whose config lost it in transformers 5
            config.save_pretrained(folder)
            cfg = lens_loading.get_pretrained_model_config(
                folder, hf_cfg=config.to_dict(), fold_ln=False, device=str(hf.device), dtype=hf.dtype
            )
            weights = lens_loading.get_pretrained_state_dict(folder, cfg, hf, dtype=hf.dtype)
        cfg.tokenizer_name, cfg.model_name = None, hf.config.name_or_path
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
    except (AttributeError, KeyError, NotImplementedError, ValueError) as error:
        raise ValueError(
            f"TransformerLens cannot build a HookedTransformer from a {architecture} ({_brief(error)}): "
            'load it with backend="bridge" or "plain", or pass a HookedTransformer of your own'
        ) from error
    _set_tokenizer(model, tokenizer)
    _require_same_logits(hf, model)
    return model.eval()


def _set_tokenizer(model: HookedTransformer | TransformerBridge, tokenizer: PreTrainedTokenizerBase) -> None:
    # Not set_tokenizer: it reads the tokenizer from its folder again and so forgets a chat template given by hand.
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = bool(tokenizer("")["input_ids"])


def _require_same_logits(hf: PreTrainedModel, model: HookedTransformer) -> None:
    """Refuse a conversion that dropped something of the architecture: the logits of a few tokens must agree."""
    tokens = torch.arange(8, device=hf.device)[None] % hf.config.vocab_size
    with torch.no_grad():
        expected, got = hf(tokens).logits, model(tokens)
    error = ((got - expected).abs().max() / expected.abs().max()).item()
    if not error <= (1e-3 if hf.dtype == torch.float32 else 5e-2):
        raise ValueError(
            f"HookedTransformer and transformers disagree on {type(hf).__name__} by {error:.1%} of the largest logit: "
            'load it with backend="bridge" or "plain"'
        )
