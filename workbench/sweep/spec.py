"""What a sweep tries: every combination of strengths, layer sets, positions, gates, biases and vectors, as a value.

The trap: a control at another length of shift is no control. All vectors of a sweep take the lengths of the plan's own
(`matched`), so equal α means shifts of equal length.
"""

import math
import reprlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from itertools import product
from operator import index
from types import MappingProxyType
from typing import Any, get_args

from workbench.evaluation.answers import Arm
from workbench.evaluation.conditions import matched
from workbench.gates import Gate, ThresholdGate
from workbench.steering import Positions, Scale, SteeringPlan
from workbench.vectors import SteeringVectors, random_directions

OWN = "plan"
"""The name of the plan's own vectors, and of its own gate, where no others are tried."""


@dataclass(frozen=True, order=True)
class Setting:
    """One combination of a sweep. `vectors` and `gate` are names in its spec."""

    layers: tuple[int, ...]
    positions: Positions
    scale: Scale
    alpha: float
    vectors: str = OWN
    gate: str = OWN
    bias: float = 0.0

    @property
    def tags(self) -> tuple[tuple[str, object], ...]:
        """The columns that identify the setting in a frame; layers as text, "2 3 4"."""
        return (
            ("vectors", self.vectors),
            ("gate", self.gate),
            ("bias", self.bias),
            ("layers", " ".join(map(str, self.layers))),
            ("positions", self.positions),
            ("scale", self.scale),
            ("alpha", self.alpha),
        )

    @classmethod
    def from_tags(cls, tags: Mapping[Any, Any]) -> "Setting":
        """The inverse of `tags`, from a row of a frame."""
        layers = tuple(int(layer) for layer in tags["layers"].split())
        return cls(**{name: tags[name] for name in SETTING} | {"layers": layers})


SETTING = ["vectors", "gate", "bias", "layers", "positions", "scale", "alpha"]
"""The columns of a sweep's frame that a `Setting` is told by; the unsteered arm has none of them."""


@dataclass(frozen=True, eq=False)
class SweepSpec:
    """A plan, the values tried in place of its own, and the controls beside it.

    `alpha` is a list in the plan's scale, or lists by scale: {"raw": [2, 4], "residual": [.1, .2]}. `gates` and
    `vectors` are tried by name; without any the plan's own stand in. `bias` makes gates laxer (stricter below 0), in
    units of their projection; a gate without a threshold has none. `placebo` is the number of random directions; every
    prompt gets one of them, dealt in turn. `controls` are further vectors by name, answered at every setting too.
    """

    plan: SteeringPlan
    alpha: Sequence[float | int] | Mapping[Scale, Sequence[float | int]]
    layers: Sequence[Sequence[int]]
    positions: Sequence[Positions]
    placebo: int = 10
    controls: Mapping[str, SteeringVectors] = field(default_factory=dict)
    gates: Mapping[str, Gate] = field(default_factory=dict)
    bias: Sequence[float | int] = (0.0,)
    vectors: Mapping[str, SteeringVectors] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, read, expected in _AXES:
            given = getattr(self, name)
            try:
                object.__setattr__(self, name, read(given))
            except (TypeError, ValueError, OverflowError, AttributeError) as error:
                raise ValueError(f"got {name}={reprlib.repr(given)}, expected {expected}") from error
        if missing := [name for name in ("alpha", "layers", "positions", "bias") if not getattr(self, name)]:
            raise ValueError(
                f"got a sweep without {' and '.join(missing)}: expected at least one value of each axis"
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
            self.at(setting)  # a plan checks its layers and strength: refuse before anything runs

    @cached_property
    def settings(self) -> tuple[Setting, ...]:
        """Every combination, in order; what is listed twice is tried once."""
        found = (
            Setting(tuple(layers), positions, scale, alpha, vectors, gate, bias)
            for vectors, (gate, bias), layers, positions, (scale, alpha) in product(
                self._vectors, self._gates, self.layers, self.positions, self.strengths
            )
        )
        return tuple(dict.fromkeys(found))

    @property
    def strengths(self) -> tuple[tuple[Scale, float], ...]:
        """Every strength with its scale."""
        by_scale = self.alpha if isinstance(self.alpha, Mapping) else {self.plan.scale: self.alpha}
        return tuple((scale, float(alpha)) for scale, several in by_scale.items() for alpha in several)

    def at(self, setting: Setting) -> SteeringPlan:
        """The plan at one setting."""
        return self._with(setting, self._vectors[setting.vectors])

    def arms(self) -> list[Arm]:
        """The unsteered arm once; steered, random and every control at each setting."""
        own = self.plan.vectors
        beside = {"random": tuple(random_directions(own, seed=seed) for seed in range(self.placebo))}
        beside |= {name: (matched(control, own),) for name, control in self.controls.items()}
        return [
            Arm("unsteered"),
            *(
                Arm(name, tuple(self._with(s, v) for v in several), dealt=True, tags=s.tags)
                for name in ("steered", *beside)
                for s in self.settings
                for several in [beside.get(name, (self._vectors[s.vectors],))]
            ),
        ]

    @cached_property
    def _vectors(self) -> dict[str, SteeringVectors]:
        own = self.plan.vectors
        return {name: matched(vectors, own) for name, vectors in (self.vectors or {OWN: own}).items()}

    @cached_property
    def _gates(self) -> dict[tuple[str, float], Gate]:
        """Every gate at every bias; one that has no threshold once, at 0."""
        found: dict[tuple[str, float], Gate] = {}
        for name, gate in (self.gates or {OWN: self.plan.gate}).items():
            if isinstance(gate, ThresholdGate):
                found |= {(name, float(b)): gate.shift_bias(b) if b else gate for b in self.bias}
            else:
                found[name, 0.0] = gate
        return found

    def _with(self, setting: Setting, vectors: SteeringVectors) -> SteeringPlan:
        return replace(
            self.plan,
            vectors=vectors,
            gate=self._gates[setting.gate, setting.bias],
            layers=setting.layers,
            positions=setting.positions,
            scale=setting.scale,
            alpha=setting.alpha,
        )


def _numbers(given: Sequence[float | int]) -> tuple[float, ...]:
    if not all(math.isfinite(alpha) for alpha in given):
        raise ValueError("a strength is not finite")
    return tuple(float(alpha) for alpha in given)


def _strengths(
    given: Sequence[float | int] | Mapping[Scale, Sequence[float | int]],
) -> tuple[float, ...] | Mapping[Scale, tuple[float, ...]]:
    if not isinstance(given, Mapping):
        return _numbers(given)
    if not set(given) <= set(get_args(Scale)):
        raise ValueError("a scale is not known")
    return MappingProxyType({scale: several for scale in given if (several := _numbers(given[scale]))})


def _sets(given: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(sorted({index(layer) for layer in layers})) for layers in given)


def _words(given: Sequence[Positions]) -> tuple[Positions, ...]:
    if not set(given) <= set(get_args(Positions)):
        raise ValueError("a word is not known")
    return tuple(given)


def _named(kind: type, given: Mapping[str, Any]) -> Mapping[str, Any]:
    if not all(isinstance(name, str) and isinstance(value, kind) for name, value in given.items()):
        raise ValueError("a value is of another kind")
    return MappingProxyType(dict(given))


_AXES: tuple[tuple[str, Callable[..., object], str], ...] = (
    (
        "alpha",
        _strengths,
        "a list of finite numbers: one strength is alpha=[0.1]; or such lists by scale, alpha={'raw': [4.0]}",
    ),
    ("layers", _sets, "a list of lists of whole numbers: one set is layers=[[3, 4]]"),
    ("positions", _words, 'a list of "all", "prompt", "reply": one of them is positions=["all"]'),
    ("bias", _numbers, "a list of finite numbers: the gate as it is is bias=[0]"),
    ("placebo", index, "a whole number of random directions"),
    ("gates", partial(_named, Gate), 'gates by name: gates={"none": wb.AlwaysOpen()}'),
    ("vectors", partial(_named, SteeringVectors), 'steering vectors by name: vectors={"own": srv}'),
    (
        "controls",
        partial(_named, SteeringVectors),
        'steering vectors by name: controls={"shuffled": vectors}',
    ),
)
