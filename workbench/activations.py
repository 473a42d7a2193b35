"""The residual stream at the last token of each prompt, at every layer: what vectors and gates are made from.

    a_l(P) = resid_post of layer l at the last token of the chat-templated prompt P      (arXiv 2401.11206)

The trap: `hidden_states[-1]` of transformers is taken after the final norm, so it is not the last layer's
residual. Hooks on the blocks are.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby

import torch
from einops import rearrange
from jaxtyping import Bool, Float
from torch import Tensor
from tqdm.auto import tqdm
from transformer_lens import ActivationCache

from workbench.chat import EncodedBatch, pad_id, pad_left, tokenize
from workbench.forward import run_body
from workbench.loading import Model
from workbench.memory import in_batches, room_for
from workbench.models import (
    UnseenBlocks,
    context_length,
    has_running_state,
    hook_name,
    model_hash,
    model_name,
    n_layers,
    residual_hooks,
    space_of,
    tokenizer_of,
    words_of,
)
from workbench.prompts import ATTACKS, LABELS, Prompt, PromptSet, as_prompt_set
from workbench.provenance import Provenance, Space


@dataclass(frozen=True, eq=False)
class Activations:
    """Last-token residuals of a set of prompts, in float32 on the CPU, with the labels they were read under.

    `prompts` is None where only a cache was at hand.
    """

    values: Float[Tensor, "prompt layer d_model"]
    labels: tuple[str, ...]
    prompts: PromptSet | None
    space: Space
    provenance: Provenance

    def __post_init__(self) -> None:
        n_prompts = self.values.shape[0]
        expected = (len(self.labels), self.space.n_layers, self.space.d_model)
        if tuple(self.values.shape) != expected:
            raise ValueError(
                f"activations have shape {tuple(self.values.shape)}, expected {expected}: "
                "one row per label, and the depth and width of their space"
            )
        if self.prompts is not None and len(self.prompts) != n_prompts:
            raise ValueError(
                f"activations have {n_prompts} rows for {len(self.prompts)} prompts: expected one each"
            )
        if unknown := set(self.labels) - set(LABELS):
            raise ValueError(f"got labels {', '.join(sorted(unknown))}, expected some of {', '.join(LABELS)}")
        finite = self.values.isfinite().all(-1)
        if not finite.all():
            prompt, layer = (~finite).nonzero()[0].tolist()
            source = repr(self.prompts[prompt].source) if self.prompts else f"number {prompt}"
            raise ValueError(
                f"activations of prompt {source} hold NaN or infinity at layer {layer}: "
                "load the model in float32 or bfloat16, or look at its weights"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def harmful(self) -> Bool[Tensor, "prompt"]:
        """Which prompts a safe model should refuse: harmful and jailbroken."""
        return torch.tensor([label in ATTACKS for label in self.labels])

    @property
    def prompts_hash(self) -> str:
        """The hash of the prompts; empty where they are unknown."""
        return self.prompts.hash if self.prompts else ""

    def where(self, mask: Bool[Tensor, "prompt"]) -> "Activations":
        """The rows for which `mask` holds, in order."""
        kept = mask.nonzero()[:, 0].tolist()
        if not kept:
            raise ValueError(f"no row of these {len(self)} activations is chosen: expected at least one")
        prompts = self.prompts and PromptSet(self.prompts.name, tuple(self.prompts[i] for i in kept))
        return replace(
            self, values=self.values[kept], labels=tuple(self.labels[i] for i in kept), prompts=prompts
        )

    def labelled(self, *labels: str) -> "Activations":
        """The rows with one of `labels`, in order."""
        mask = torch.tensor([label in labels for label in self.labels])
        if not mask.any():
            present = ", ".join(sorted(set(self.labels)))
            raise ValueError(f"no activations labelled {', '.join(labels)}: there are {present}")
        return self.where(mask)

    def balanced(self, n: int, *, seed: int) -> "Activations":
        """`n` harmful and `n` other rows, drawn without replacement, in order."""
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.zeros(len(self), dtype=torch.bool)
        for members in (self.harmful, ~self.harmful):
            index = members.nonzero()[:, 0]
            if not 0 < n <= len(index):
                raise ValueError(
                    f"got n={n} of each kind, there are {int(self.harmful.sum())} harmful and "
                    f"{int((~self.harmful).sum())} other activations: take 1 or more, as many as both have at most"
                )
            drawn[index[torch.randperm(len(index), generator=generator)[:n]]] = True
        return self.where(drawn)

    @classmethod
    def from_cache(
        cls, cache: ActivationCache, labels: Sequence[str], *, model: Model, site: str = "resid_post"
    ) -> "Activations":
        """The last position of a cache that `model.run_with_cache` made, one label per row.

        The rows must end together (left padding): a right-padded row's last position is padding.
        """
        layers = []
        for layer in range(n_layers(model)):
            name = hook_name(layer, site)
            if name not in cache:
                raise ValueError(
                    f"the cache has no {name!r}: run the model with names_filter that keeps it at every layer"
                )
            residual = cache[name]
            if residual.ndim != 3:
                raise ValueError(
                    f"the cache's {name!r} has {residual.ndim} dimensions, expected batch, pos, d_model: "
                    "run with remove_batch_dim=False"
                )
            layers.append(residual[:, -1].detach().float().cpu())
        provenance = Provenance(
            "activations", model_name(model), model_hash(model), note="from an ActivationCache"
        )
        values = rearrange(layers, "layer prompt d_model -> prompt layer d_model")
        return cls(values, tuple(labels), None, space_of(model, site), provenance)


def _read_last_position(
    model: Model, site: str, batch: EncodedBatch, depth: int
) -> Float[Tensor, "prompt layer d_model"]:
    last: dict[int, Tensor] = {}

    def keep(layer: int, residual: Tensor) -> None:
        # A clone, because a view of the last position would keep the whole residual stream alive.
        last[layer] = residual[:, -1].float().clone()

    with residual_hooks(model, site, {layer: partial(keep, layer) for layer in range(depth)}):
        run_body(model, batch)
    if unseen := [layer for layer in range(depth) if layer not in last]:
        raise UnseenBlocks(model, unseen)
    layers = [last[layer].to(last[0].device) for layer in range(depth)]  # a model may be spread over several
    return rearrange(layers, "layer prompt d_model -> prompt layer d_model")


def _batched_together(lengths: Sequence[int], *, padded: bool) -> list[list[int]]:
    """The numbers of the rows that may share a batch, the longest first; of one length where none may be padded."""
    by_length = sorted(range(len(lengths)), key=lambda i: lengths[i], reverse=True)
    return [by_length] if padded else [list(of) for _, of in groupby(by_length, key=lambda i: lengths[i])]


def last_token_activations(
    model: Model,
    prompts: PromptSet | Sequence[Prompt | str],
    *,
    site: str = "resid_post",
    batch_size: int = 64,
    progress: bool = False,
) -> Activations:
    """The residual stream of every layer at each prompt's last token, rows in the prompts' order.

    One forward pass without LM head per batch; prompts of like length share a batch, so that little of it
    is padding. A model that keeps a running state, which padding may move, is given prompts of one length at a time.
    Where memory runs out on a batch it goes on in smaller ones, and says so.

    Raises `ValueError` for a prompt that the context does not hold, `NoRoom` for one that memory does not.
    """
    prompts = as_prompt_set(prompts)
    rows = tokenize(words_of(model), prompts, context_length=context_length(model))
    return token_activations(model, prompts, rows, site=site, batch_size=batch_size, progress=progress)


def token_activations(
    model: Model,
    prompts: PromptSet,
    rows: Sequence[Sequence[int]],
    *,
    site: str = "resid_post",
    batch_size: int = 64,
    progress: bool = False,
) -> Activations:
    """`last_token_activations` of prompts that are tokens already, a row of token ids for each."""
    if batch_size < 1:
        raise ValueError(f"got batch_size={batch_size}: expected 1 or more")
    space, tokenizer = space_of(model, site), tokenizer_of(model)
    shape = len(rows), space.n_layers, space.d_model
    with room_for(f"{shape[0]:,} prompts of {shape[1]} layers and width {shape[2]}", "read fewer at a time"):
        values = torch.empty(shape)

    def read(chosen: Sequence[int]) -> Float[Tensor, "prompt layer d_model"]:
        batch = pad_left([rows[i] for i in chosen], pad_id(tokenizer))
        return _read_last_position(model, site, batch, space.n_layers).cpu()

    def told(chosen: Sequence[int]) -> str:
        return f"{len(chosen)} prompt{'s' * (len(chosen) > 1)} of up to {len(rows[chosen[0]]):,} tokens"

    with tqdm(total=len(rows), desc=f"reading {prompts.name}", unit="prompt", disable=not progress) as bar:
        for together in _batched_together([len(row) for row in rows], padded=not has_running_state(model)):
            for chosen, found in in_batches(together, batch_size, read, told):
                values[list(chosen)] = found
                bar.update(len(chosen))
    provenance = Provenance("activations", model_name(model), model_hash(model), prompts.name, prompts.hash)
    return Activations(values, prompts.labels, prompts, space, provenance)
