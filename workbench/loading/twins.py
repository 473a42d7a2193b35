"""A bridge's plain twin: the same tensors in the transformers model that the bridge is wrapped around.

    twin = the bridge's modules, each wrapper replaced by a copy of what it wraps      every tensor is the bridge's own

It is made of the bridge's own modules, not of its config: a setting that was changed on one of them goes along.

The trap: whatever a bridge computes with and its twin does not see would make the twin fast and wrong. A bridge of
GPT-NeoX holds q, k and v twice, and computes with those that transformers does not know; hooks stay behind. So every
parameter of the bridge has to lie in the twin's memory, and what else stands in the way is refused by name.
"""

import copy
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from torch import Tensor, nn
from transformer_lens.hook_points import HookPoint
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.generalized_components.base import GeneralizedComponent
from transformers import PreTrainedModel

from workbench.hooks import hooked_modules
from workbench.loading.backends import CANNOT, Model, first_logits, require_same_logits
from workbench.loading.holding import is_spread
from workbench.loading.weights import brief

LIBRARIES = ("torch", "transformers", "transformer_lens")
"""Whose modules are no more than their tensors and settings."""
NAMED = 3
"""As many names as an error lists."""


class NoTwin(ValueError):
    """A model that no plain model can stand in for; `reason` says why."""

    def __init__(self, model: Model, reason: str, alike: nn.Module | None = None) -> None:
        self.reason = reason
        config: Any = model.cfg
        held = {
            _memory(weight): weight.untyped_storage().nbytes() for weight in (alike or model).parameters()
        }
        super().__init__(
            f"{str(config.model_name)!r} has no plain twin: {reason}; run on it as it is, or load its checkpoint a "
            f'second time, load_model(..., backend="plain"), which takes {sum(held.values()) / 1e6:,.1f} MB'
        )


def plain_twin(model: Model) -> PreTrainedModel:
    """A plain transformers model around a bridge's own tensors: as fast as one that was loaded, and no second copy.

    Parameters and buffers are the bridge's very objects, so that each sees what is done to the other's, in place or by
    `.data =`. Where a bridge computes with views of a joint weight (GPT-2, Phi-3), `.data =` on a view parts the two:
    take the twin anew. Attention is sdpa where transformers has it for the architecture: logits agree to rounding, and
    replies are the bridge's but for near ties. A plain model is its own twin.

    Raises `NoTwin`, a `ValueError`, for a HookedTransformer, which holds a copy of its own, and for a bridge with what
    a twin would not see: q, k and v of its own (GPT-NeoX, Bloom, Falcon), processed weights, hooks, modules or forwards
    of yours.
    """
    if isinstance(model, PreTrainedModel):
        return model
    if not isinstance(model, TransformerBridge) or not isinstance(model.original_model, PreTrainedModel):
        raise NoTwin(model, f"a {type(model).__name__} holds every weight in a shape of its own")
    for obstacle in _obstacles(model):
        raise NoTwin(model, obstacle)
    try:
        twin = _unwrapped(model.original_model, model.tokenizer)
        twin.config.name_or_path = str(model.cfg.model_name)
        twin.set_attn_implementation(twin.get_correct_attn_implementation(None))
    except CANNOT as error:
        raise NoTwin(model, f"its modules do not come out of their wrappers ({brief(error)})") from error
    if apart := _apart(model, twin):
        raise NoTwin(
            model,
            f"{len(apart)} of the parameters that it computes with are not those of a {type(twin).__name__} "
            f"({_some(apart)}), and what is done to the ones the others would not see",
            twin,
        )
    if replaced := [name for name, module in _named(model) if "forward" in vars(module)]:
        raise NoTwin(model, f"it has forwards in the place of their classes' ({_some(replaced)})")
    try:
        require_same_logits(
            twin, model, first_logits(twin, twin), "its modules or their settings were changed"
        )
    except CANNOT as error:
        raise NoTwin(model, brief(error)) from error
    return twin


def twin_or_itself(model: Model, *, twin: bool = True) -> tuple[Model, str]:
    """What computes in a model's place, its plain twin where it has one, and a clause that says so, or why not."""
    if isinstance(model, PreTrainedModel):
        return model, "the model itself"
    if not twin:
        return model, "the model itself, as asked"
    try:
        found = plain_twin(model)
    except NoTwin as error:
        return model, f"the model itself: {error.reason}"
    attention = found.config._attn_implementation
    return (
        found,
        f"its plain twin: a {type(found).__name__} around the same tensors, with {attention} attention",
    )


def _obstacles(bridge: TransformerBridge) -> Iterator[str]:
    """What a bridge may have that its twin would not, without a look at tensors."""
    if is_spread(bridge.original_model):
        yield "it is spread over several devices"
    if bridge._weights_processed:
        yield "its weights are processed (enable_compatibility_mode), which the architecture knows nothing of"
    if hooked := list(hooked_modules(bridge)):
        yield f"it carries hooks, which would not go with it ({_some(hooked)})"
    if foreign := list(_foreign(bridge)):
        yield f"it has modules that are none of its libraries' ({_some(foreign)})"


def _foreign(bridge: TransformerBridge) -> Iterator[str]:
    """Modules that may do anything, and those that stand where a wrapper is to stand."""
    for name, module in _named(bridge):
        if type(module).__module__.partition(".")[0] not in LIBRARIES:
            yield name
        if isinstance(module, GeneralizedComponent):
            for own, child in module.named_children():
                if not own.startswith("_") and not isinstance(
                    child, GeneralizedComponent | HookPoint | nn.ModuleList
                ):
                    yield f"{name}.{own}"


def _unwrapped(hf: PreTrainedModel, tokenizer: object) -> PreTrainedModel:
    """Copies of a bridge's modules without their wrappers, around the same tensors."""
    shared = chain(
        hf.parameters(), hf.buffers(), [getattr(hf, "tokenizer", None), getattr(hf, "processor", None)]
    )
    copies: dict[int, object] = {id(thing): thing for thing in shared}
    for module in reversed(list(hf.modules())):  # what lies inside of others comes first
        if isinstance(module, GeneralizedComponent):
            copies[id(module)] = copy.deepcopy(module.original_component, copies)
    twin = copy.deepcopy(hf, copies)
    twin.tokenizer = tokenizer  # type: ignore[assignment]
    return twin


def _apart(bridge: TransformerBridge, twin: PreTrainedModel) -> list[str]:
    """The parameters of a bridge that do not lie in its twin's memory."""
    there = {_memory(weight) for weight in twin.parameters()}
    held = chain(bridge.named_parameters(), bridge.original_model.named_parameters())
    return list(dict.fromkeys(_bare(name) for name, weight in held if _memory(weight) not in there))


def _memory(weight: Tensor) -> int:
    return weight.untyped_storage().data_ptr()


def _named(bridge: TransformerBridge) -> Iterator[tuple[str, nn.Module]]:
    """A bridge's modules by name, with the model that it is around, which it does not count among them."""
    for name, module in chain(bridge.named_modules(), [("original_model", bridge.original_model)]):
        if module is not bridge:
            yield _bare(name), module


def _bare(name: str) -> str:
    return name.replace("._original_component", "")


def _some(names: Sequence[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more
