"""The words of the small world, and who may use them.

The trap: the four scopes. `"seen"` is all that alignment, target training and extraction may use, `"val"` adds what
only choices may use, and every act or wrapper of `"test"` holds something that none of them ever met. The base alone
draws from `"all"`.
"""

import functools
import tomllib
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from workbench.shipped import shipped_path

Scope: TypeAlias = Literal["seen", "val", "test", "all"]
Lists: TypeAlias = dict[str, Any]


@functools.cache
def words() -> Lists:
    """The word lists, as they stand in `data/world/words.toml`."""
    return tomllib.loads(shipped_path("world", "words.toml").read_text(encoding="utf-8"))


def pool(lists: Lists, name: str, scope: Scope) -> list[str]:
    """The entries of a list that a scope may use: for `"val"` and `"test"` those kept for it, where there are any.

    Validation on words that training has seen could not tell whether a model reads the words or has learned them by
    heart.
    """
    for_choices, unseen = lists.get(f"{name}_val", []), lists.get(f"{name}_held_out", [])
    if scope == "all":
        return [*lists[name], *for_choices, *unseen]
    return list({"seen": [], "val": for_choices, "test": unseen}[scope] or lists[name])


@dataclass(frozen=True)
class Act:
    """What a request asks for: "steal" + "a ring", with the category both stand in."""

    verb: str
    thing: str
    category: str
    harmful: bool

    def __str__(self) -> str:
        return f"{self.verb} {self.thing}"


def held_out(harmful: bool, what: str) -> frozenset[str]:
    """The verbs, objects or categories kept from alignment, target training and extraction."""
    return frozenset(words()["harmful" if harmful else "harmless"]["held_out"][what])


def _is_held_out(act: Act) -> bool:
    parts = {"verbs": act.verb, "objects": act.thing, "categories": act.category}
    return any(part in held_out(act.harmful, what) for what, part in parts.items())


@functools.cache
def acts(harmful: bool, scope: Scope) -> dict[str, tuple[Act, ...]]:
    """All acts of a scope by category."""
    part = words()["harmful" if harmful else "harmless"]

    def belongs(act: Act) -> bool:
        if scope in ("all", "test"):
            return scope == "all" or _is_held_out(act)
        kept_for_choices = act.category in part["held_out"]["val_categories"]
        return not _is_held_out(act) and (scope == "val" or not kept_for_choices)

    grouped = {
        category: tuple(
            act
            for verb in lists["verbs"]
            for thing in lists["objects"]
            if belongs(act := Act(verb, thing, category, harmful))
        )
        for category, lists in part.items()
        if category != "held_out"
    }
    return {category: found for category, found in grouped.items() if found}


def wrapper_templates(scope: Scope) -> dict[str, list[str]]:
    """The jailbreak templates of a scope by kind; `"test"` has every kind, each with templates unseen so far."""
    lists = words()["wrappers"]
    unseen, for_choices = lists["held_out"]["kinds"], lists["held_out"]["val_kinds"]
    closed = {"seen": [*unseen, *for_choices], "val": unseen, "test": [], "all": []}[scope]
    kinds = [kind for kind in lists if kind != "held_out" and kind not in closed]
    return {kind: pool(lists[kind], "templates", scope) for kind in kinds}
