"""`load_model`: whatever a user brings, on a backend.

The trap: an option that cannot apply would be dropped in silence, and the model that comes back would not be the one
that was asked for. Combinations that make no sense are refused, each with what to do instead.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal, get_args

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, ProcessorMixin

from workbench.chat import Words, read_template, tokenizer_in, with_template
from workbench.hooks import hooked_modules
from workbench.loading.backends import (
    DEFAULT_BACKEND,
    Backend,
    Model,
    as_bridge,
    as_hooked,
    as_plain,
    backend_of,
    same_tensors,
    set_tokenizer,
)
from workbench.loading.holding import DeviceMap, Form, Holding, holding_of, is_spread
from workbench.loading.processor import SEE_IMAGES, around, read_processor, template_in
from workbench.loading.sources import Checkpoint
from workbench.loading.tokenizer import load_tokenizer, read_tokenizer
from workbench.loading.weights import read_checkpoint


def load_model(
    x: str | Path | Model,
    *,
    backend: Backend | None = None,
    like: Model | None = None,
    tokenizer: Words | None = None,
    template: str | Path | None = None,
    revision: str | None = None,
    adapter: str | Path | None = None,
    dtype: torch.dtype | None = None,
    device: str | torch.device | None = None,
    device_map: DeviceMap | None = None,
    bits: Literal[4, 8] | None = None,
    weights: Form = "safetensors",
) -> Model:
    """The model `x` on a backend: embedded ("organism:finance"), a folder, a hub id, or one of your own.

    Weights stay raw, no code of a checkpoint runs, nothing is installed; an embedded model or a folder downloads
    nothing, unless it holds a low-rank delta on a base from the hub. LLaVA and LLaVA-NeXT see images, by the
    processor that comes with them; other multimodal models read text alone.

    - `backend` is "hooked" unless given, or "bridge" with TransformerLens 4, which has none; `like` is a loaded model
      whose backend, dtype and place are taken over, never its weights.
    - `tokenizer`, or a processor, goes before the one that comes with `x`. `template` is for models that bring no chat
      template: a name ("llama-2", "vicuna", "chatml", ...), a .jinja file, or Jinja text.
    - `revision` is a branch, tag or commit of a hub id; `adapter` a peft LoRA folder or hub id, merged into `x`.
    - `dtype` is float32 unless given, `device` the GPU, else the CPU. `device_map="auto"` spreads the model over
      several GPUs, the CPU and the disk, by accelerate; `bits` is 8 or 4, by bitsandbytes: both for "plain" alone.
    - `weights="bin"` reads pickled weights, tensors only; safetensors are read otherwise, and nothing else.

    One copy of the weights is held, and what comes back is out of training mode, whose dropout would move activations:
    a TransformerLens model is the very object, given `tokenizer` where it has none. A transformers model of your own
    stays intact: "hooked" copies its tensors, "bridge" shares them (but for q, k, v that GPT-NeoX, Bloom and Falcon
    hold as one, which it copies), "plain" is the very object too, with its tokenizer as `model.tokenizer`, so that
    every verb takes just the model.
    """
    holding = Holding(dtype, device, device_map, bits, form=weights)
    _require_kinds(like, tokenizer)
    processor = tokenizer if isinstance(tokenizer, ProcessorMixin) else None
    tokenizer = None if tokenizer is None else tokenizer_in(tokenizer)
    if like is not None:
        backend, holding = _taken_over(like, backend, holding)
    chosen = backend or DEFAULT_BACKEND
    if chosen not in get_args(Backend):
        raise ValueError(f'got backend={backend!r}, expected "hooked", "bridge" or "plain"')
    holding.require_possible()
    if chosen != "plain" and (holding.device_map is not None or holding.bits):
        given = f"bits={holding.bits}" if holding.bits else f"device_map={holding.device_map!r}"
        raise ValueError(
            f'got {given} with backend="{chosen}": TransformerLens takes every weight whole and on one device; use '
            'backend="plain"'
        )
    if template is not None:
        read_template(template)  # a misspelt name is told before weights are read
    if isinstance(x, str | Path):
        checkpoint = Checkpoint.named(x, revision)
        delta = None if adapter is None else Checkpoint.named(adapter)
        hf, mine = read_checkpoint(checkpoint, holding, delta), True
        # What was trained after the base may have brought its own, with a chat template that the base lacks.
        brought = delta is not None and delta.file("tokenizer_config.json") is not None
        tokenizer = tokenizer or read_tokenizer(delta if delta and brought else checkpoint)
        if type(hf).__name__ in SEE_IMAGES:
            processor = processor or read_processor(checkpoint)
    elif isinstance(x, get_args(Model)):
        _require_nothing_to_read(x, holding, like, revision=revision, adapter=adapter)
        if not isinstance(x, PreTrainedModel):
            _require_as_it_is(x, backend, tokenizer, template)
            if tokenizer is not None:
                _require_rows(x, tokenizer)
                set_tokenizer(x, tokenizer if template is None else with_template(tokenizer, template))
            return x.eval()
        _require_head(x)
        hf, mine = x, False
        tokenizer = tokenizer or getattr(x, "tokenizer", None) or _tokenizer_beside(x)
        processor = processor or getattr(x, "processor", None)
        if chosen != "plain" and (is_spread(x) or holding_of(x).bits):
            raise ValueError(
                f"{x.config.name_or_path!r} is spread over several devices or held in few bits, and TransformerLens "
                'takes every weight whole and on one device: use backend="plain"'
            )
    else:
        raise TypeError(
            f"got a {type(x).__name__}, expected a name, a folder, or a transformers or TransformerLens model"
            + _unwrapping(x)
        )
    _require_rows(hf, tokenizer)
    if processor is not None:
        _require_sees(hf, backend=chosen)
        template = template or template_in(processor)
    if template is not None:
        tokenizer = with_template(tokenizer, template)
    if processor is not None:
        hf.processor = around(tokenizer, processor)  # type: ignore[assignment]
    if chosen == "plain":
        return as_plain(hf, tokenizer)
    if not mine:
        _require_nothing_added(hf)
    # What follows changes modules and their modes: a model of the user's gets modules of its own.
    hf = hf if mine else same_tensors(hf)
    return as_bridge(hf, tokenizer) if chosen == "bridge" else as_hooked(hf, tokenizer, spend=mine)


def _require_nothing_added(hf: PreTrainedModel) -> None:
    """Refuse what TransformerLens would leave out: it takes weights by the names that the architecture gives them."""
    adapters = [name for name, module in hf.named_modules() if type(module).__module__.startswith("peft.")]
    for what, names in (("hooks", list(hooked_modules(hf))), ("adapters", adapters)):
        if names:
            raise ValueError(
                f"{hf.config.name_or_path!r} carries {what} ({names[0]}{' and more' * (len(names) > 1)}), which a "
                'TransformerLens model would not: take them off, or merge adapters; or use backend="plain"'
            )


def _require_sees(hf: PreTrainedModel, *, backend: Backend) -> None:
    """Refuse a processor for a model that does not see, or not on this backend."""
    if type(hf).__name__ not in SEE_IMAGES:
        raise ValueError(
            f"got a processor for a {type(hf).__name__}, which is none of {', '.join(SEE_IMAGES)}: pass its tokenizer, "
            "processor.tokenizer, and it reads text alone"
        )
    if backend == "hooked":
        raise ValueError('a HookedTransformer sees no images: use backend="bridge" or "plain"')


def _require_kinds(like: object, tokenizer: object) -> None:
    """Refuse names where what they name is meant."""
    if like is not None and not isinstance(like, get_args(Model)):
        raise TypeError(
            f"got a {type(like).__name__} as like=, expected a loaded model: load_model(...) gives one"
        )
    if tokenizer is not None and not isinstance(tokenizer, PreTrainedTokenizerBase | ProcessorMixin):
        raise TypeError(
            f"got a {type(tokenizer).__name__} as tokenizer=, expected a tokenizer or a processor of transformers: "
            "load_tokenizer(...) reads one from a folder or a hub id"
        )


def _unwrapping(x: object) -> str:
    """What to do with a model that something else is wrapped around, or nothing."""
    from peft import PeftModel  # here, because few models need it

    if isinstance(x, PeftModel):
        return ": merge the delta, model.merge_and_unload(), or name its folder, adapter="
    return ": pass the model that was compiled, without torch.compile" if hasattr(x, "_orig_mod") else ""


def _require_head(hf: PreTrainedModel) -> None:
    if hf.get_output_embeddings() is None and not hf.can_generate():
        raise TypeError(
            f"got a {type(hf).__name__}, which has no LM head and writes no text: load it with AutoModelForCausalLM"
        )


def _require_rows(x: Model, tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer with words that the embedding has no row for."""
    if isinstance(x, PreTrainedModel):
        rows = getattr(x.get_input_embeddings(), "num_embeddings", None)
    else:
        rows = x.cfg.d_vocab
    if rows is not None and len(tokenizer) > rows:
        raise ValueError(
            f"got a tokenizer of {len(tokenizer)} words and a model whose embedding has {rows} rows: pass tokenizer= "
            "as the model was trained with it, or, where words were added since, load the model and resize it, "
            f"model.resize_token_embeddings({len(tokenizer)})"
        )


def _taken_over(like: Model, backend: Backend | None, holding: Holding) -> tuple[Backend, Holding]:
    """The backend and the holding of `like`, where nothing else was asked for."""
    said = {
        "backend": backend,
        "dtype": holding.dtype,
        "device": holding.device,
        "device_map": holding.device_map,
        "bits": holding.bits,
    }
    if given := [name for name, value in said.items() if value is not None]:
        raise ValueError(f"got like= and {given[0]}=: like takes it from that model, leave one of them out")
    return backend_of(like), replace(holding_of(like), form=holding.form)


def _require_nothing_to_read(
    x: Model, holding: Holding, like: Model | None, *, revision: str | None, adapter: str | Path | None
) -> None:
    """Refuse, of a loaded model, what could only be done while it is read."""
    if adapter is not None:
        raise ValueError(
            "got adapter= with a loaded model: merge it first, PeftModel.from_pretrained(model, ...).merge_and_unload()"
        )
    if revision is not None or holding.form != "safetensors":
        raise ValueError("got revision= or weights= with a loaded model: they say what is read, and it was")
    if like is not None:
        theirs, ours = holding_of(like), holding_of(x)
        if (theirs.dtype, theirs.device) != (ours.dtype, ours.device):
            raise ValueError(
                f"got a loaded model in {ours.dtype} on {ours.device}, like= one in {theirs.dtype} on "
                f"{theirs.device}: move it first, model.to(...)"
            )
    elif holding.bits or holding.device_map is not None:
        raise ValueError(
            "got device_map= or bits= with a loaded model: load it by its name or from its folder"
        )
    elif holding.dtype is not None or holding.device is not None:
        raise ValueError("got dtype= or device= with a loaded model: move it first, model.to(...)")


def _require_as_it_is(
    x: Model,
    backend: Backend | None,
    tokenizer: PreTrainedTokenizerBase | None,
    template: str | Path | None,
) -> None:
    """Refuse to change a TransformerLens model; a tokenizer it may be given, where it has none."""
    if tokenizer is not None and x.tokenizer is not None:
        raise ValueError(
            "got tokenizer= with a TransformerLens model that has one: take that away first, model.tokenizer = None"
        )
    if template is not None and tokenizer is None:
        raise ValueError(
            "got template= with a TransformerLens model: set it there, "
            "model.tokenizer = wb.load_tokenizer(..., template=...)"
        )
    if backend is not None and backend != backend_of(x):
        raise ValueError(
            f'got a {type(x).__name__}, wanted as "{backend}": load it anew, by its name or from its folder'
        )


def _tokenizer_beside(x: PreTrainedModel) -> PreTrainedTokenizerBase:
    if not x.config.name_or_path:
        raise ValueError(
            f"got a {type(x).__name__} that says not where it comes from: pass its tokenizer, "
            "load_model(..., tokenizer=...)"
        )
    return load_tokenizer(str(x.config.name_or_path))
