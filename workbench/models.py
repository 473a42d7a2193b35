"""The few things the workbench asks of a model, alike on three backends.

Site names are TransformerLens': `resid_post` of layer l is the residual stream after block l,
`blocks.{l}.hook_resid_post`; `resid_pre` enters the block, `resid_mid` lies between attention and MLP.

The trap: a hook sees neither mask nor step, and the bridge ignores an unknown hook name in silence.
`residual_hooks` checks names; its functions close over whatever else they need to know.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, TypeAlias

import torch
from accelerate.utils import align_module_device
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.chat import Words, template_hash, tokenizer_hash
from workbench.hooks import Hook, attached, hooked_modules, on_points
from workbench.loading import Model, is_spread
from workbench.provenance import Space, content_hash

Residual: TypeAlias = Float[Tensor, "batch pos d_model"]
ResidualFn: TypeAlias = Callable[[Residual], Residual | None]

SITES = ("resid_pre", "resid_mid", "resid_post")


class UnseenBlocks(ValueError):
    """Blocks ran where hooks on them do not, or did not run at all: nothing can be read or added there."""

    def __init__(self, model: Model, layers: Sequence[int]) -> None:
        self.layers = tuple(layers)
        super().__init__(
            f"no hook was reached at layer{'s' if len(self.layers) > 1 else ''} {', '.join(map(str, self.layers))} of "
            f"{model_name(model)!r}: these blocks do not run as modules, so nothing is read or added there; load it on "
            "another backend, and see what `workbench verify` says of it"
        )


def transformers_model(model: Model) -> PreTrainedModel | None:
    """The transformers model that a plain model is and a bridge runs; None for a HookedTransformer."""
    hf = model.original_model if isinstance(model, TransformerBridge) else model
    return hf if isinstance(hf, PreTrainedModel) else None


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """The model's tokenizer."""
    tokenizer = getattr(model, "tokenizer", None)
    if tokenizer is None:
        raise ValueError(
            f"{model_name(model)!r} has no tokenizer: load it with load_model(..., tokenizer=...)"
        )
    return tokenizer


def words_of(model: Model) -> Words:
    """What makes tokens of its prompts: its processor, where it sees images, else its tokenizer."""
    processor = getattr(transformers_model(model), "processor", None)
    return tokenizer_of(model) if processor is None else processor


def model_name(model: Model) -> str:
    """The name a model was loaded under."""
    if isinstance(model, PreTrainedModel):
        return str(model.config.name_or_path)
    return str(_lens_config(model).model_name)


def model_hash(model: Model) -> str:
    """A fingerprint of the weights as this backend holds them: some 1,024 evenly spaced numbers of each."""
    names, samples = [], []
    for name, weight in _named_weights(transformers_model(model) or model):
        flat = weight.detach().reshape(-1)
        names.append(name)
        samples.append(flat[:: max(1, flat.numel() // 1024)].clone())  # a view would keep all of it
    return content_hash(names, samples)


def weights_hash(model: Model) -> str:
    """A hash of every number that a model computes with: parameters, buffers, the config, and how it cuts images.

    Beside `model_hash`, which samples, it misses no edit; it takes as long as reading the weights does.
    """
    held = transformers_model(model) or model
    digest = hashlib.sha256(repr(_config_of(model)).encode())
    processor = getattr(held, "processor", None)
    if processor is not None:  # what cuts and scales images is a part of what is computed
        cut = processor.image_processor
        digest.update(repr((type(cut).__name__, sorted(cut.to_dict().items(), key=repr))).encode())
    for name, tensor in chain(_named_weights(held), held.named_buffers()):
        digest.update(content_hash(name, tensor).encode())
    return digest.hexdigest()[:16]


def _named_weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters by name, each once; those that accelerate has put away are fetched while they are seen."""
    if not is_spread(model):
        yield from model.named_parameters()
        return
    tied: set[str] = set(getattr(model, "all_tied_weights_keys", None) or ())
    for name in [name for name, _ in model.named_parameters() if name not in tied]:
        path, _, own = name.rpartition(".")
        module = model.get_submodule(path)
        with align_module_device(module):
            yield name, getattr(module, own)


def carries_hooks(model: Model) -> bool:
    """Whether somebody has attached hooks to the model: no hash of weights tells what they do."""
    return next(hooked_modules(model), None) is not None


def blocks(model: Model) -> nn.ModuleList:
    """The decoder blocks, first to last."""
    holder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    for attribute in ("blocks", "layers", "h"):
        found = getattr(holder, attribute, None)
        if isinstance(found, nn.ModuleList):
            return found
    raise ValueError(f'no decoder blocks found in a {type(model).__name__}: load it with backend="bridge"')


def final_norm(model: Model) -> nn.Module | None:
    """The norm between the last block and the LM head; None where none is found."""
    holder = model.get_decoder() if isinstance(model, PreTrainedModel) else model
    for attribute in ("ln_final", "norm", "ln_f", "final_layer_norm", "final_layernorm"):
        found = getattr(holder, attribute, None)
        if isinstance(found, nn.Module):
            return found
    return None


def n_layers(model: Model) -> int:
    """The number of decoder blocks."""
    return len(blocks(model))


def d_model(model: Model) -> int:
    """The width of the residual stream."""
    if isinstance(model, PreTrainedModel):
        return int(model.config.get_text_config().hidden_size)
    return int(_lens_config(model).d_model)


def device_of(model: Model) -> torch.device:
    """The device of the model's first parameter, where its input goes; accelerate fetches those it has put away."""
    return next((weight.device for weight in model.parameters() if not weight.is_meta), torch.device("cpu"))


def context_length(model: Model) -> int:
    """The most tokens, prompt and reply together, that the model can hold."""
    hf = transformers_model(model)
    if hf is None:
        return int(_lens_config(model).n_ctx)
    unlimited = tokenizer_of(model).model_max_length
    return int(getattr(hf.config.get_text_config(), "max_position_embeddings", unlimited))


def has_running_state(model: Model) -> bool:
    """Whether a text leaves more behind in the model than keys and values: a state, which padding may move, too."""
    return bool(getattr(transformers_model(model), "_is_stateful", False))


def space_of(model: Model, site: str = "resid_post") -> Space:
    """The space of the model's activations at a site."""
    _require_site(site)
    tokenizer = tokenizer_of(model)
    hashes = template_hash(tokenizer), tokenizer_hash(tokenizer)
    return Space(n_layers(model), d_model(model), site, _processing(model), *hashes)


def hook_name(layer: int, site: str = "resid_post") -> str:
    """TransformerLens' name of a site."""
    return f"blocks.{layer}.hook_{site}"


@contextmanager
def residual_hooks(model: Model, site: str, fns: Mapping[int, ResidualFn]) -> Iterator[None]:
    """Within this context `fns[l]` sees the residual stream [batch pos d_model] of layer l at `site`.

    What a function returns takes the residual's place; None leaves it. `resid_mid` can be changed on a
    HookedTransformer only: elsewhere the hook sits on the norm that reads it. Hooks of your own stay; these
    go, whatever happens inside. A model that was compiled in place is refused.
    """
    _require_site(site)
    _require_uncompiled(model)
    for layer in fns:
        if not 0 <= layer < n_layers(model):
            raise ValueError(
                f"got layer {layer}: {model_name(model)!r} has layers 0 to {n_layers(model) - 1}"
            )
    if site == "resid_mid" and transformers_model(model) is not None:
        fns = {layer: _read_only(fn) for layer, fn in fns.items()}
    if isinstance(model, PreTrainedModel):
        with attached([_hook_of(blocks(model)[layer], site, fn) for layer, fn in fns.items()]):
            yield
        return
    hooks: list[Any] = [(hook_name(layer, site), _lens_hook(fn)) for layer, fn in fns.items()]
    for name, _ in hooks:
        if name not in model.hook_dict:
            raise ValueError(f"{model_name(model)!r} has no hook {name!r}: use resid_pre or resid_post")
    with on_points(model, hooks):
        yield


@contextmanager
def input_hook(model: Model, fn: Callable[[Int[Tensor, "batch pos"]], None]) -> Iterator[None]:
    """Within this context `fn` sees the token ids of every pass, on their way into the embedding."""
    hf = transformers_model(model)
    embedding: Any = model.embed if hf is None else hf.get_input_embeddings()
    with attached([Hook(embedding, lambda module, args: fn(args[0]), before=True)]):
        yield


def _config_of(model: Model) -> dict[str, Any]:
    """The settings that a forward pass depends on, without what says where the model came from."""
    hf = transformers_model(model)
    told = hf.config.to_dict() if hf is not None else _lens_config(model).to_dict()
    named = {
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "model_name",
        "tokenizer_name",
        "device",
    }
    return {key: str(told[key]) for key in sorted(told) if key not in named}


def _lens_config(model: Model) -> Any:
    return model.cfg


def _require_site(site: str) -> None:
    if site not in SITES:
        raise ValueError(f"got site {site!r}, expected one of {', '.join(SITES)}")


def _require_uncompiled(model: Model) -> None:
    """Refuse a compiled model: it calls the hooks that it had when it was compiled, and no other, without a word."""
    within = {id(module) for block in blocks(model) for module in block.modules()}
    for name, module in model.named_modules():
        # A block's own hooks are called around its forward, whatever that is.
        forward = None if id(module) in within else vars(module).get("forward")
        if module._compiled_call_impl is not None or hasattr(forward, "_torchdynamo_orig_callable"):
            raise ValueError(
                f"{name or 'the model'} of {model_name(model)!r} was compiled, and hooks that are set after that are "
                "not called: steer a model that is not"
            )


def _processing(model: Model) -> str:
    bridge = isinstance(model, TransformerBridge)
    if isinstance(model, PreTrainedModel) or (bridge and not model._weights_processed):
        return "raw"
    done = ["processed"] if bridge else []  # a bridge says that something was done, not what
    if str(_lens_config(model).normalization_type).endswith("Pre"):
        done.append("fold_ln")
    # Centring leaves no mark but this: every row that writes to the residual stream has mean zero.
    embedding = model.W_E[:256].detach().float()
    if embedding.mean(-1).abs().max() < 1e-5 * embedding.abs().max():
        done.append("center_writing_weights")
    return "+".join(done) or "raw"


def _lens_hook(fn: ResidualFn) -> Callable[..., Residual | None]:
    return lambda residual, hook: fn(residual)


def _read_only(fn: ResidualFn) -> ResidualFn:
    def read(residual: Residual) -> None:
        if fn(residual) is not None:
            raise ValueError(
                "resid_mid can only be read here: change resid_post, or load a HookedTransformer"
            )

    return read


def _hook_of(block: nn.Module, site: str, fn: ResidualFn) -> Hook:
    """The hook that shows `fn` the residual stream at a block of a transformers model: its input, or its output."""

    def before(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        changed = fn(args[0])
        return None if changed is None else (changed, *args[1:])

    def after(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, Tensor):
            return fn(output)
        changed = fn(output[0])
        return None if changed is None else (changed, *output[1:])

    if site == "resid_post":
        return Hook(block, after)
    return Hook(block if site == "resid_pre" else _norm_after_attention(block), before, before=True)


def _norm_after_attention(block: nn.Module) -> nn.Module:
    """The norm whose input is the residual stream between attention and MLP."""
    # Gemma 2 and 3 have all four norms and read resid_mid with this one; OLMo 2 lacks it and reads it with none;
    # parallel blocks (NeoX) have no resid_mid at all.
    names = ["pre_feedforward_layernorm"]
    if not (hasattr(block, "post_feedforward_layernorm") or getattr(block, "use_parallel_residual", False)):
        names += ["post_attention_layernorm", "ln_2"]
    for name in names:
        norm = getattr(block, name, None)
        if isinstance(norm, nn.Module):
            return norm
    raise ValueError(f"a {type(block).__name__} has no norm before its MLP: use resid_pre or resid_post")
