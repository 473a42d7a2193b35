"""Adders as hooks for TransformerLens' own verbs: `run_with_hooks(ids, fwd_hooks=...)`, `with model.hooks(...)`.

The trap: a bridge of TransformerLens 3.9 leaves out a hook whose name it does not have, and says nothing; and every
bridge has names that stand for another point, where what a hook returns is not what goes on. The plan would seem to
steer. So the hooks look for themselves: one more, at the bottom of the model, sees whether all the names were there.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeAlias

from torch import Tensor

from workbench.models import hook_name
from workbench.shifts import Adder

LensHook: TypeAlias = tuple[str | Callable[[str], bool], Callable[..., Tensor]]
BOTTOM = hook_name(0, "resid_pre")
"""What every model has, and runs first."""


def lens_hooks(site: str, adders: Mapping[int, Adder]) -> list[LensHook]:
    """Hooks that add at `site`, and one before them that refuses a model which lacks one of their names."""
    if not adders:
        return []
    named = {hook_name(layer, site): add for layer, add in adders.items()}
    roll = _Roll(list(named))
    return [(roll, roll.require), *((name, partial(_added, name, site, add)) for name, add in named.items())]


class _Roll:
    """Says of one name that it is the bottom's, and keeps what it was asked: TransformerLens asks about each it has."""

    def __init__(self, wanted: Sequence[str]) -> None:
        self.wanted = wanted
        self.there: set[str] = set()

    def __call__(self, name: str) -> bool:
        if name in self.there:  # asked anew, maybe by another model
            self.there.clear()
        self.there.add(name)
        return name == BOTTOM

    def require(self, tensor: Tensor, hook: Any) -> Tensor:
        if missing := [name for name in self.wanted if name not in self.there]:
            raise ValueError(
                f"this model has no hook {missing[0]!r}: the plan is of a model with other layers, or acts at a site "
                "that this one does not show; read the gate on the model you steer, plan.read(model, prompts), or make "
                'the vectors at site="resid_post"'
            )
        return tensor


def _added(name: str, site: str, add: Adder, tensor: Tensor, hook: Any) -> Tensor:
    if site == "resid_mid" and hook.name != name:
        raise ValueError(
            f"resid_mid can only be read here ({name!r} stands for {hook.name!r}, which the residual stream does not "
            'go through): make the vectors at site="resid_post", or load a HookedTransformer'
        )
    return add(tensor)
