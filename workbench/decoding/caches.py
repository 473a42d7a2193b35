"""Keys and values of a growing text, in buffers that are made once for the longest it can become.

transformers' own layers copy all they hold at every step, to append one position: half of the time of a small model.

The trap: what a layer returns are views of its buffer, good until the next step, which is as long as attention needs.
"""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from workbench.models import has_running_state


class ReservedLayer(DynamicLayer):
    """A layer that grows within a buffer of `room` positions, where transformers' own copies itself to grow."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.length = room, 0

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Append, and return all that there is. What else transformers passes has no meaning for such a layer."""
        start, self.length = self.length, self.length + key_states.shape[-2]
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self._buffers = self._reserve(key_states), self._reserve(value_states)
        for buffer, states in zip(self._buffers, (key_states, value_states), strict=True):
            buffer[..., start : self.length, :] = states
        self.keys, self.values = (buffer[..., : self.length, :] for buffer in self._buffers)
        return self.keys, self.values

    def batch_select_indices(self, indices: Int[Tensor, "kept"]) -> None:
        """Go on with these rows, in this order; a row may be taken several times."""
        if not self.is_initialized:  # a layer that takes keys and values from another holds none
            return
        chosen = []
        for buffer in self._buffers:
            taken = buffer.new_empty(len(indices), *buffer.shape[1:])
            taken[..., : self.length, :] = buffer[indices, ..., : self.length, :]
            chosen.append(taken)
        self._buffers = chosen[0], chosen[1]
        self.keys, self.values = (buffer[..., : self.length, :] for buffer in self._buffers)

    def _reserve(self, states: Float[Tensor, "row head pos d_head"]) -> Float[Tensor, "row head room d_head"]:
        return states.new_empty(*states.shape[:-2], self.room, states.shape[-1])


def reserved_cache(hf: PreTrainedModel, room: int) -> DynamicCache:
    """A cache for texts of at most `room` positions, with layers of its own kind where the model asks for such.

    Layers with a sliding window keep what lies in it, as transformers' own do. Raises `ValueError` for layers that keep
    a running state: rows cannot leave a batch, or branch off a prompt, where nobody can take a row of it.
    """
    cache = DynamicCache(config=hf.config)
    running = [number for number, layer in enumerate(cache.layers) if hasattr(layer, "recurrent_states")]
    if running or has_running_state(hf):
        where = f", at {len(running)} of {len(cache.layers)} layers" if running else ""
        raise ValueError(
            f"a {type(hf).__name__} keeps a running state in place of keys and values, or beside them{where}: steered "
            "replies need a model whose layers all attend to what came before"
        )
    cache.layers = [ReservedLayer(room) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache
