"""What a sweep tries: every combination of strengths, layer sets and positions, as values.

The trap: a control at another length of shift is no control. All vectors of a sweep take the lengths of the plan's own
(`matched`), so equal α means shifts of equal length.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from itertools import product

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
    alpha: tuple[float, ...]
    layers: tuple[tuple[int, ...], ...]
    positions: tuple[Positions, ...]
    placebo: int = 10
    controls: Mapping[str, SteeringVectors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.alpha or not self.layers or not self.positions:
            raise ValueError(
                "got a sweep without alpha, layers or positions: expected at least one value of each"
            )
        if any(not math.isfinite(alpha) for alpha in self.alpha):
            raise ValueError(f"got alpha {list(self.alpha)}, expected finite numbers")
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
            Setting(layers, positions, alpha)
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
