"""Loading models, and the few things the workbench asks of one, alike on three backends.

A model is a TransformerLens `HookedTransformer` (`"hooked"`), a `TransformerBridge` (`"bridge"`) or the transformers
model itself (`"plain"`); the user holds that object, not a wrapper. Site names are TransformerLens': `resid_post` of
layer l is the residual stream after block l, `blocks.{l}.hook_resid_post`.

The trap: HookedTransformer folds and centres weights by default, which moves the residual stream. Everything here loads
raw weights, and `space_of` tells a processed model apart, so that vectors of the other kind are refused.
"""

import copy
import json
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import chain
from pathlib import Path
from typing import Literal, TypeAlias

import torch
from jaxtyping import Float
from safetensors import SafetensorError
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from workbench.prompts import EncodedBatch, template_hash, tokenizer_hash
from workbench.provenance import Space, content_hash
from workbench.shipped import shipped_path

try:
    from transformer_lens import HookedTransformer
except ImportError:  # TransformerLens 4 has the bridge alone
    HookedTransformer = TransformerBridge

Model: TypeAlias = HookedTransformer | TransformerBridge | PreTrainedModel
Backend: TypeAlias = Literal["hooked", "bridge", "plain"]
ResidualFn: TypeAlias = Callable[
    [Float[Tensor, "batch pos d_model"]], Float[Tensor, "batch pos d_model"] | None
]

SITES = ("resid_pre", "resid_mid", "resid_post")


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


def transformers_model(model: Model) -> PreTrainedModel | None:
    """The transformers model that a plain model is and a bridge runs; None for a HookedTransformer, which has none."""
    if isinstance(model, TransformerBridge):
        return model.original_model
    return model if isinstance(model, PreTrainedModel) else None


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(f"{model_name(model)} has no tokenizer: load it with load_model(..., tokenizer=...)")
    return tokenizer


def model_name(model: Model) -> str:
    """The name a model was loaded under."""
    return str(model.config.name_or_path if isinstance(model, PreTrainedModel) else model.cfg.model_name)


def model_hash(model: Model) -> str:
    """A fingerprint of the weights as this backend holds them: at most 1,024 evenly spaced numbers of each tensor."""
    names, samples = [], []
    for name, weight in (transformers_model(model) or model).named_parameters():
        flat = weight.detach().reshape(-1)
        names.append(name)
        samples.append(flat[:: max(1, flat.numel() // 1024)][:1024])
    return content_hash(names, samples)


def blocks(model: Model) -> nn.ModuleList:
    """The decoder blocks, first to last."""
    if not isinstance(model, PreTrainedModel):
        return model.blocks
    decoder = model.get_decoder()
    for attribute in ("layers", "h"):
        if isinstance(getattr(decoder, attribute, None), nn.ModuleList):
            return getattr(decoder, attribute)
    raise ValueError(f'no decoder blocks found in a {type(model).__name__}: load it with backend="bridge"')


def n_layers(model: Model) -> int:
    """The number of decoder blocks."""
    return len(blocks(model))


def d_model(model: Model) -> int:
    """The width of the residual stream."""
    if isinstance(model, PreTrainedModel):
        return int(model.config.get_text_config().hidden_size)
    return int(model.cfg.d_model)


def device_of(model: Model) -> torch.device:
    """The device of the model's first parameter, where its input goes."""
    return next(model.parameters()).device


def context_length(model: Model) -> int:
    """The most tokens, prompt and reply together, that the model can hold."""
    hf = transformers_model(model)
    if hf is None:
        return int(model.cfg.n_ctx)
    return int(
        getattr(hf.config.get_text_config(), "max_position_embeddings", tokenizer_of(model).model_max_length)
    )


def space_of(model: Model, site: str = "resid_post") -> Space:
    """The space of the model's activations at a site."""
    tokenizer = tokenizer_of(model)
    _require_site(site)
    return Space(
        n_layers(model),
        d_model(model),
        site,
        _processing(model),
        template_hash(tokenizer),
        tokenizer_hash(tokenizer),
    )


def _require_site(site: str) -> None:
    if site not in SITES:
        raise ValueError(f"got site {site!r}, expected one of {', '.join(SITES)}")


def _processing(model: Model) -> str:
    if isinstance(model, PreTrainedModel):
        return "raw"
    if isinstance(model, TransformerBridge):
        return "processed" if model._weights_processed else "raw"
    done = []
    if str(model.cfg.normalization_type).endswith("Pre"):
        done.append("fold_ln")
    # Centring leaves no mark but this: every row that writes to the residual stream has mean zero.
    embedding = model.W_E.detach().float()
    if embedding.mean(-1).abs().max() < 1e-5 * embedding.abs().max():
        done.append("center_writing_weights")
    return "+".join(done) or "raw"


def run_body(model: Model, batch: EncodedBatch) -> None:
    """One forward pass without LM head and without KV cache, for the hooks that see it."""
    batch = batch.to(device_of(model))
    hf = transformers_model(model)
    with torch.no_grad():
        if hf is None:
            model(batch.input_ids, attention_mask=batch.attention_mask, return_type=None)
        else:
            hf.get_decoder()(
                input_ids=batch.input_ids,
                attention_mask=batch.attention_mask,
                position_ids=batch.position_ids,
                use_cache=False,
            )


@contextmanager
def residual_hooks(model: Model, site: str, fns: Mapping[int, ResidualFn]) -> Iterator[None]:
    """While the block runs, `fns[l]` sees the residual stream [batch pos d_model] of layer l at `site`.

    What a function returns takes the residual's place; None leaves it. `resid_mid` can be changed on a
    HookedTransformer only: elsewhere the hook sits on the norm that reads it. Hooks of your own stay, these go, whatever
    happens inside.
    """
    _require_site(site)
    depth = n_layers(model)
    for layer in fns:
        if not 0 <= layer < depth:
            raise ValueError(f"got layer {layer}, {model_name(model)} has layers 0 to {depth - 1}")
    if site == "resid_mid" and transformers_model(model) is not None:
        fns = {layer: _read_only(fn) for layer, fn in fns.items()}
    with ExitStack() as stack:
        if isinstance(model, PreTrainedModel):
            for layer, fn in fns.items():
                stack.callback(_plain_hook(blocks(model)[layer], site, fn).remove)
        else:
            named = [(hook_name(layer, site), fn) for layer, fn in fns.items()]
            for name, _ in named:
                # The bridge ignores an unknown name in silence.
                if name not in model.hook_dict:
                    raise ValueError(
                        f"{model_name(model)} has no hook {name!r}: read it at resid_pre or resid_post"
                    )
            stack.enter_context(model.hooks(fwd_hooks=[(name, _without_hook(fn)) for name, fn in named]))
        yield


def hook_name(layer: int, site: str = "resid_post") -> str:
    """TransformerLens' name of the site."""
    return f"blocks.{layer}.hook_{site}"


def _without_hook(fn: ResidualFn) -> Callable[[Tensor, object], Tensor | None]:
    return lambda residual, hook: fn(residual)


def _read_only(fn: ResidualFn) -> ResidualFn:
    def read(residual: Tensor) -> None:
        if fn(residual) is not None:
            raise ValueError(
                "resid_mid can only be read here: steer at resid_post, or load a HookedTransformer"
            )

    return read


def _plain_hook(block: nn.Module, site: str, fn: ResidualFn) -> torch.utils.hooks.RemovableHandle:
    if site == "resid_post":

        def after(module: nn.Module, args: tuple, output: Tensor | tuple) -> Tensor | tuple | None:
            residual, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
            changed = fn(residual)
            return changed if changed is None or rest is None else (changed, *rest)

        return block.register_forward_hook(after)

    def before(module: nn.Module, args: tuple) -> tuple | None:
        changed = fn(args[0])
        return None if changed is None else (changed, *args[1:])

    return (block if site == "resid_pre" else _norm_after_attention(block)).register_forward_pre_hook(before)


def _norm_after_attention(block: nn.Module) -> nn.Module:
    """The norm whose input is the residual stream between attention and MLP."""
    if hasattr(
        block, "pre_feedforward_layernorm"
    ):  # Gemma 2 and 3, whose post_attention_layernorm sits in the branch
        return block.pre_feedforward_layernorm
    parallel = getattr(block, "use_parallel_residual", False) or hasattr(block, "post_feedforward_layernorm")
    for name in () if parallel else ("post_attention_layernorm", "ln_2"):
        if hasattr(block, name):
            return getattr(block, name)
    raise ValueError(
        f"a {type(block).__name__} has no norm between attention and MLP: read resid_pre or resid_post"
    )
