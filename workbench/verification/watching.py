"""What arrived at each layer, seen from outside: what enters the next block beside what the block gave out.

    arrived_l = (what block l + 1 takes in) - (what block l gave out)      the final norm comes after the last block

Between the two there are hooks and nothing else. Where steering runs, a row's arrived_l is its shift, to the rounding
of one addition; at layers that are not steered, at positions that are not, and wherever a row's gate is closed, it is
0, exactly.

The trap: that a hook was called tells nothing of what became of its result. So nothing here asks the hooks.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import pandas as pd
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformer_lens.model_bridge import TransformerBridge
from transformers import PreTrainedModel

from workbench.decoding.choosers import Forced
from workbench.loading import Model
from workbench.models import blocks, final_norm
from workbench.shifts import Shift

PARTS = ("prompt", "reply")


@dataclass(frozen=True, eq=False)
class Arrived:
    """What arrived at one layer in the passes over prompts or replies so far: lengths per row, over its positions.

    `excess` is how far what arrived lies from what was planned, less what rounding explains.
    """

    passes: int
    least: Float[Tensor, "row"]
    most: Float[Tensor, "row"]
    excess: Float[Tensor, "row"]

    def with_more(self, other: "Arrived") -> "Arrived":
        """Both taken together."""
        return Arrived(
            self.passes + other.passes,
            torch.minimum(self.least, other.least),
            torch.maximum(self.most, other.most),
            torch.maximum(self.excess, other.excess),
        )


class Watch:
    """What one run let arrive, beside the `shift` that is planned for its rows; `lengths` are those of the prompts."""

    def __init__(self, shift: Shift, lengths: Sequence[int], chooser: Forced) -> None:
        self.shift, self.lengths, self.chooser = shift, torch.tensor(lengths), chooser
        self.given: dict[int, Tensor] = {}
        self.arrived: dict[tuple[int, str], Arrived] = {}

    def gave(self, layer: int, residual: Tensor) -> None:
        """Block `layer` gave this out."""
        self.given[layer] = residual

    def took(self, layer: int, residual: Tensor) -> None:
        """What comes after block `layer` takes this in."""
        given = self.given.pop(layer, None)
        if given is None or given.shape != residual.shape:
            return
        part = "reply" if self.chooser.logits else "prompt"  # every pass ends with a choice
        planned = self._planned(layer, part).to(residual.device)
        given = given.to(residual.device).float()
        added = residual.float() - given
        # The sum is rounded once, and so is the shift where the model's dtype is coarser than its own.
        length = given.norm(dim=-1) + planned.norm(dim=-1)[:, None]
        rounding = torch.finfo(residual.dtype).eps * length * planned.any(-1)[:, None]
        excess = (added - planned[:, None]).norm(dim=-1) - rounding
        padding = torch.zeros_like(excess, dtype=torch.bool)
        if part == "prompt":
            width = residual.shape[1]
            before = width - self.lengths.to(residual.device)
            padding = torch.arange(width, device=residual.device) < before[:, None]
        lengths = added.norm(dim=-1)
        seen = Arrived(
            1,
            lengths.masked_fill(padding, torch.inf).amin(1).cpu(),
            lengths.masked_fill(padding, 0).amax(1).cpu(),
            excess.masked_fill(padding, -torch.inf).amax(1).cpu(),
        )
        earlier = self.arrived.get((layer, part))
        self.arrived[layer, part] = seen if earlier is None else earlier.with_more(seen)

    def frame(self, backend: str, layers: Iterable[int], n_steps: int) -> pd.DataFrame:
        """A row per layer, part, and gate: the rows that are shifted there, and those that are left as they are."""
        lines = []
        for layer in layers:
            for part, passes in zip(PARTS, (1, n_steps - 1), strict=True):
                seen = self.arrived.get((layer, part))
                if seen is not None and seen.passes != passes:
                    seen = None  # not in every pass
                length = self._planned(layer, part).norm(dim=-1).cpu()
                for gate, rows in (("open", length > 0), ("closed", length == 0)):
                    if passes and rows.any():
                        where = {"backend": backend, "layer": layer, "part": part, "gate": gate}
                        lines.append(where | _line(length, rows, seen))
        return pd.DataFrame(lines)

    def _planned(self, layer: int, part: str) -> Float[Tensor, "row d_model"]:
        here = self.shift.at(layer)
        on = here.on_prompt if part == "prompt" else here.on_reply
        return here.values.sum(1).float() * on[:, None]


def _line(
    length: Float[Tensor, "row"], rows: Bool[Tensor, "row"], seen: Arrived | None
) -> dict[str, int | float | bool]:
    planned = {"rows": int(rows.sum()), "planned": float(length[rows].mean())}
    if seen is None:
        return planned | {"least": float("nan"), "most": float("nan"), "holds": False}
    return planned | {
        "least": float(seen.least[rows].min()),
        "most": float(seen.most[rows].max()),
        "holds": bool((seen.excess[rows] <= 0).all()),
    }


def unseen(backend: str, layers: Iterable[int]) -> pd.DataFrame:
    """The frame of layers at which there was nothing to be seen."""
    nothing = {
        "rows": 0,
        "planned": float("nan"),
        "least": float("nan"),
        "most": float("nan"),
        "holds": False,
    }
    return pd.DataFrame(
        [{"backend": backend, "layer": layer, "part": "prompt", "gate": "open"} | nothing for layer in layers]
    )


@contextmanager
def watched(model: Model, watch: Watch) -> Iterator[None]:
    """Within this context `watch` sees what goes from block to block; hooks that steer are attached inside of it."""
    with ExitStack() as stack:
        for layer, (block, following) in visible(model).items():
            stack.callback(_on_what_it_gives(model, block, _seeing(watch.gave, layer)).remove)
            hook = following.register_forward_pre_hook(_taking(watch.took, layer), with_kwargs=True)
            stack.callback(hook.remove)
        yield


def visible(model: Model) -> dict[int, tuple[nn.Module, nn.Module]]:
    """Every layer's block and what comes after it; without the last one where no final norm is found."""
    each, norm = list(blocks(model)), final_norm(model)
    return dict(enumerate(pairwise(each if norm is None else [*each, norm])))


Seen = Callable[[int, Tensor], None]


def _on_what_it_gives(model: Model, block: nn.Module, see: Callable[[Any], None]) -> Any:
    """A hook on what a block gives out before anything is added to it."""
    if isinstance(model, PreTrainedModel):
        # Hooks of a module run in the order in which they came: this one before those that steer.
        return block.register_forward_hook(lambda module, args, output: see(output))
    if isinstance(model, TransformerBridge):
        inner: Any = block.original_component
        return inner.register_forward_hook(lambda module, args, output: see(output))
    point: Any = block.hook_resid_post
    return point.register_forward_pre_hook(lambda module, args: see(args[0]))


def _seeing(see: Seen, layer: int) -> Callable[[Any], None]:
    return lambda output: see(layer, (output[0] if isinstance(output, tuple) else output).detach())


def _taking(see: Seen, layer: int) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        residual: Float[Tensor, "row pos d_model"] = args[0] if args else kwargs["hidden_states"]
        see(layer, residual.detach())

    return hook
