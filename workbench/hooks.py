"""Hooks on modules, which are gone when their context ends, whatever ended it.

The trap: a Ctrl-C may come when a hook is set and its handle not yet noted, or in the middle of taking hooks off. A
model that keeps one steers for ever, and nobody asked it to. So hooks are taken off by what they are. TransformerLens
takes its own off by its notes, and leaves some: what it leaves of ours is taken off after it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

from torch import nn

OWN = ("transformers.", "transformer_lens.")
"""Whose hooks belong to a model: transformers leaves some that only watch, and a bridge is held together by its own."""


@dataclass(frozen=True)
class Hook:
    """A hook on a module: `before` its forward pass, where it may be given keywords too, or after it."""

    module: nn.Module
    fn: Callable[..., Any]
    before: bool = False
    with_kwargs: bool = False


@contextmanager
def attached(hooks: Sequence[Hook]) -> Iterator[None]:
    """Within this context the hooks are on their modules."""
    try:
        for hook in hooks:
            if hook.before:
                hook.module.register_forward_pre_hook(hook.fn, with_kwargs=hook.with_kwargs)
            else:
                hook.module.register_forward_hook(hook.fn)
        yield
    finally:
        _surely(lambda: _take_off(hooks))


@contextmanager
def on_points(model: Any, hooks: Sequence[tuple[str, Callable[..., Any]]]) -> Iterator[None]:
    """Within this context TransformerLens' own `model.hooks` has the hooks on their hook points, by name."""
    points, level = [model.hook_dict[name] for name, _ in hooks], model.context_level
    try:
        with model.hooks(fwd_hooks=list(hooks)):
            yield
    finally:
        _surely(lambda: _clear(points, [fn for _, fn in hooks]))
        model.context_level = level


def _surely(undo: Callable[[], None]) -> None:
    try:
        undo()
    except BaseException:  # interrupted in the middle of it
        undo()
        raise


def _clear(points: Sequence[Any], fns: Sequence[Callable[..., Any]]) -> None:
    """Take these functions off hook points, where functions of TransformerLens' own close over them."""
    for point in points:
        for number, held in list(point._forward_hooks.items()):
            cells = [cell.cell_contents for cell in getattr(held, "__closure__", None) or ()]
            if any(inside is fn for inside in cells for fn in fns):
                point._forward_hooks.pop(number, None)
        point.fwd_hooks = [handle for handle in point.fwd_hooks if handle.hook.id in point._forward_hooks]


def _take_off(hooks: Sequence[Hook]) -> None:
    for hook in hooks:
        module = hook.module
        held = module._forward_pre_hooks if hook.before else module._forward_hooks
        for number in [number for number, fn in held.items() if fn is hook.fn]:
            held.pop(number, None)
            module._forward_pre_hooks_with_kwargs.pop(number, None)


def hooked_modules(model: nn.Module) -> Iterator[str]:
    """The names of the modules to which somebody has attached a hook, to a point of TransformerLens' or by torch."""
    inner = getattr(model, "original_model", None)  # a bridge does not count it among its modules
    around = [] if inner is None else [("original_model", inner)]
    for name, module in chain(model.named_modules(), around):
        hooks = (*module._forward_hooks.values(), *module._forward_pre_hooks.values())
        # What is put on a hook point, which has a name of its own, is called by a function of TransformerLens'.
        if vars(module).get("fwd_hooks"):
            yield str(module.name)
        elif any(not str(getattr(hook, "__module__", "")).startswith(OWN) for hook in hooks):
            yield name.replace("._original_component", "") or "the model itself"
