"""One transformers model on three backends: as it is, in a `TransformerBridge`, or rebuilt as a `HookedTransformer`.

The trap: HookedTransformer folds and centres weights by default, which moves the residual stream. Here they stay raw.
"""

import copy
import tempfile
import warnings
from itertools import chain
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from workbench.loading.weights import brief
from workbench.memory import NoRoom, is_out_of_memory

try:
    from transformer_lens import HookedTransformer
except ImportError:  # TransformerLens 4 has the bridge alone
    HookedTransformer = TransformerBridge  # type: ignore[assignment, misc]

CANNOT = (AttributeError, KeyError, MemoryError, NotImplementedError, RuntimeError, TypeError, ValueError)
"""What TransformerLens raises on an architecture that it cannot hold."""

Model: TypeAlias = HookedTransformer | TransformerBridge | PreTrainedModel
Backend: TypeAlias = Literal["plain", "bridge", "hooked"]

DEFAULT_BACKEND: Backend = "bridge" if HookedTransformer.__name__ == "TransformerBridge" else "hooked"
"""What a model is loaded on unless told: a HookedTransformer where TransformerLens has it, else a bridge."""


def backend_of(model: Model) -> Backend:
    """The backend that a loaded model is on."""
    if isinstance(model, PreTrainedModel):
        return "plain"
    return "bridge" if isinstance(model, TransformerBridge) else "hooked"


def same_tensors(hf: PreTrainedModel) -> PreTrainedModel:
    """A model of modules of its own, which may be changed, around the tensors of `hf`."""
    tensors = {id(tensor): tensor for tensor in chain(hf.parameters(), hf.buffers())}
    return copy.deepcopy(hf, tensors)


def as_plain(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """The model itself, out of training mode, with its tokenizer as `model.tokenizer`."""
    hf.tokenizer = tokenizer  # type: ignore[assignment]
    return hf.eval()


def as_bridge(hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> TransformerBridge:
    """A bridge around the model, whose modules it replaces; refused where the two do not compute the same."""
    architecture = type(hf).__name__
    expected = first_logits(hf, hf.eval())  # before its attention and its modules are replaced
    hf.set_attn_implementation("eager")
    try:
        with warnings.catch_warnings():
            # Said of every block of a vision tower, which has no attention as text models do.
            warnings.filterwarnings("ignore", message="Hook alias")
            # Not boot_transformers, which for multimodal models may run `pip install torchvision` by itself.
            model = build_bridge_from_module(
                hf, architecture, hf_config=hf.config, model_name=str(hf.config.name_or_path)
            )
    except CANNOT as error:
        raise ValueError(
            f"TransformerLens cannot build a bridge around a {architecture} ({brief(error)}): load it with "
            'backend="plain"'
        ) from error
    require_same_logits(hf, model, expected, 'load it with backend="plain"')
    set_tokenizer(model, tokenizer)
    return model


def as_hooked(
    hf: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, spend: bool = False
) -> HookedTransformer:
    """A HookedTransformer with the model's weights, raw; refused where the two do not compute the same.

    With `spend` the model is nobody else's: each of its tensors is released once it is copied, so that no second copy
    of the weights is held.
    """
    if HookedTransformer.__name__ == "TransformerBridge":
        raise ImportError('HookedTransformer needs transformer-lens 3.9: install it, or use backend="bridge"')
    # Here, because TransformerLens 4 has no such module.
    from transformer_lens import loading_from_pretrained as lens

    architecture = type(hf).__name__
    config = copy.deepcopy(hf.config)
    config.architectures = [architecture]
    expected = first_logits(hf, hf.eval())  # before its tensors are released
    try:
        config.n_ctx = (
            config.max_position_embeddings
        )  # read for GPT-2, whose config lost it in transformers 5
        # TransformerLens guesses from a path that contains "llama" or "gemma", so it gets a neutral one.
        with tempfile.TemporaryDirectory() as folder, torch.no_grad():
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
        weights = {name: weight.detach() for name, weight in model.fill_missing_keys(weights).items()}
        if spend:
            for parameter in hf.parameters():
                parameter.data = parameter.new_empty(0)
        _copy_into(model, weights)
    except CANNOT as error:
        if is_out_of_memory(error):
            raise NoRoom(
                f"memory ran out on a HookedTransformer of this {architecture}, which holds a copy of the weights: "
                'load it with backend="plain" or "bridge", which hold none, or in dtype=torch.bfloat16'
            ) from error
        raise ValueError(
            f"TransformerLens cannot build a HookedTransformer from a {architecture} ({brief(error)}): "
            'load it with backend="bridge" or "plain", or pass a HookedTransformer of your own'
        ) from error
    require_same_logits(hf, model, expected, 'load it with backend="bridge" or "plain"')
    set_tokenizer(model, tokenizer)
    return model.eval()


def _copy_into(model: HookedTransformer, weights: dict[str, Tensor]) -> None:
    """Copy weights one by one, letting go of each; load_and_process_state_dict holds float32 copies of them all."""
    held = model.state_dict()
    with torch.no_grad():
        for name in list(weights):
            weight = weights.pop(name)
            if name in held:  # Phi-3's norms are given biases, which they do not have
                held[name].copy_(weight)


def _require_windows(hf: PreTrainedModel, cfg: Any) -> None:
    """Refuse a conversion that sees everything where a layer sees a window: a few tokens would not tell."""
    config, depth = hf.config.get_text_config(), cfg.n_layers
    window = getattr(config, "sliding_window", None)
    kinds = (getattr(config, "layer_types", None) or ["sliding_attention"] * depth) if window else []
    there = [kind == "local" for kind in cfg.attn_types or []] if cfg.use_local_attn else [False] * depth
    if any(kind == "sliding_attention" and not local for kind, local in zip(kinds, there, strict=False)):
        raise ValueError(f"it would leave out the sliding window of {window} tokens")


def first_logits(hf: PreTrainedModel, model: Any) -> Tensor:
    """The logits of a few tokens, and of fewer of them with padding before; `hf` says how many words there are."""
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


def require_same_logits(
    hf: PreTrainedModel, model: HookedTransformer | TransformerBridge, expected: Tensor, remedy: str
) -> None:
    """Refuse a conversion that dropped part of the architecture: the logits of a few tokens must agree."""
    # In half precision every way of computing rounds in its own order, a small random model's by a fifth of a logit.
    tolerance = 1e-3 if hf.dtype in (torch.float32, torch.float64) else 0.2
    try:
        got = first_logits(hf, model)
    except CANNOT as error:
        raise ValueError(
            f"{type(model).__name__} cannot run this {type(hf).__name__} in {str(hf.dtype).removeprefix('torch.')} "
            f"({brief(error)}): {remedy}"
        ) from error
    share = ((got - expected).abs().max() / expected.abs().max()).item()
    if not share <= tolerance:  # NaN is refused too
        raise ValueError(
            f"{type(model).__name__} and transformers disagree on this {type(hf).__name__} by {share:.1%} "
            f"of the largest logit: {remedy}"
        )


def set_tokenizer(model: HookedTransformer | TransformerBridge, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give a TransformerLens model a copy of the tokenizer, as the workbench reads with it: padded on the left."""
    # Not HookedTransformer's set_tokenizer, which reads the folder again and forgets a chat template set by hand.
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.padding_side = "left"
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    model.tokenizer = tokenizer
    model.cfg.tokenizer_prepends_bos = bool(tokenizer("")["input_ids"])
