"""What a sweep tries: every combination of strengths, layer sets and positions, as values.

The trap: a control at another length of shift is no control. All vectors of a sweep take the lengths of the plan's own
(`matched`), so equal α means shifts of equal length.
"""

import math
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from operator import index
from typing import get_args

from workbench.evaluation.answers import Arm
from workbench.evaluation.conditions import matched
from workbench.steering import Positions, SteeringPlan
from workbench.vectors import SteeringVectors, random_directions


@dataclass(frozen=True, order=True)
class Setting:
    """One point of a sweep."""

    layers: tuple[int, ...]
    positions: Positions
    alpha: float

    @property
    def tags(self) -> tuple[tuple[str, object], ...]:
        """The columns that identify the setting in a frame; layers as text, "2 3 4"."""
        return (
            ("alpha", self.alpha),
            ("layers", " ".join(map(str, self.layers))),
            ("positions", self.positions),
        )


@dataclass(frozen=True, eq=False)
class SweepSpec:
    """A plan, the values tried in place of its own, and the controls beside it.

    `placebo` is the number of random directions; every prompt gets one of them, dealt in turn. `controls` are further
    vectors by name, answered at every setting too.
    """

    plan: SteeringPlan
    alpha: Sequence[float | int]
    layers: Sequence[Sequence[int]]
    positions: Sequence[Positions]
    placebo: int = 10
    controls: Mapping[str, SteeringVectors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, read, expected in (
            ("alpha", _numbers, "a list of finite numbers: one strength is alpha=[0.1]"),
            ("layers", _sets, "a list of lists of whole numbers: one set is layers=[[3, 4]]"),
            ("positions", _words, 'a list of "all", "prompt", "reply": one of them is positions=["all"]'),
        ):
            given = getattr(self, name)
            try:
                object.__setattr__(self, name, read(given))
            except (TypeError, ValueError, OverflowError) as error:
                raise ValueError(f"got {name}={reprlib.repr(given)}, expected {expected}") from error
        if not self.alpha or not self.layers or not self.positions:
            raise ValueError(
                "got a sweep without alpha, layers or positions: expected at least one value of each"
            )
        if self.placebo < 1:
            raise ValueError(
                f"got placebo={self.placebo}, expected 1 or more: a sweep without a control shows nothing"
            )
        if taken := {"steered", "unsteered", "random"} & set(self.controls):
            raise ValueError(
                f"got a control named {', '.join(sorted(taken))}: the sweep has that arm itself, rename it"
            )
        for setting in self.settings:
            self.at(setting)  # a plan checks its layers: refuse before anything runs

    @property
    def settings(self) -> tuple[Setting, ...]:
        """Every combination, in order."""
        return tuple(
            Setting(tuple(layers), positions, alpha)
            for layers, positions, alpha in product(self.layers, self.positions, self.alpha)
        )

    def at(self, setting: Setting) -> SteeringPlan:
        """The plan at one setting."""
        return replace(self.plan, alpha=setting.alpha, layers=setting.layers, positions=setting.positions)

    def arms(self) -> list[Arm]:
        """The unsteered arm once; steered, random and every control at each setting."""
        own = self.plan.vectors
        vectors: dict[str, tuple[SteeringVectors, ...]] = {"steered": (own,)}
        vectors["random"] = tuple(random_directions(own, seed=seed) for seed in range(self.placebo))
        vectors |= {name: (matched(control, own),) for name, control in self.controls.items()}
        return [
            Arm("unsteered"),
            *(
                Arm(name, tuple(replace(self.at(s), vectors=v) for v in several), dealt=True, tags=s.tags)
                for name, several in vectors.items()
                for s in self.settings
            ),
        ]


def _numbers(given: Sequence[float | int]) -> tuple[float, ...]:
    if not all(math.isfinite(alpha) for alpha in given):
        raise ValueError("a strength is not finite")
    return tuple(float(alpha) for alpha in given)


def _sets(given: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(index(layer) for layer in layers) for layers in given)


def _words(given: Sequence[Positions]) -> tuple[Positions, ...]:
    if not set(given) <= set(get_args(Positions)):
        raise ValueError("a word is not known")
    return tuple(given)
