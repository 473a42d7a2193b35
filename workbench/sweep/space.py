"""What a search draws its settings from, and a sweep of settings that are listed.

The trap: a bound that only fails inside a plan fails in the middle of a search. So every corner of the space is made a
plan before anything runs.
"""

import math
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from workbench.gates import ThresholdGate
from workbench.steering import Positions, SteeringPlan
from workbench.sweep.layers import LayerSet, LayerSets, layer_sets
from workbench.sweep.spec import Setting, SweepSpec

Range: TypeAlias = tuple[float | int, float | int]


@dataclass(frozen=True, eq=False)
class SearchSpace:
    """Bounds of the strength and of the gate's bias, and the layer sets and positions to choose from."""

    plan: SteeringPlan
    alpha: Range
    layers: tuple[LayerSet, ...]
    bias: Range | None
    positions: tuple[Positions, ...]

    def __post_init__(self) -> None:
        _require_range("alpha", self.alpha, "the strengths to search between, (0, 1) say")
        if self.alpha[0] < 0:
            raise ValueError(
                f"got alpha={self.alpha}, expected bounds of 0 or more: a negative strength subtracts the safety "
                "vector, and no search for that is offered"
            )
        if self.bias is not None:
            _require_range("bias", self.bias, "how much stricter and laxer the gate may be, (-2, 2) say")
            if not isinstance(self.plan.gate, ThresholdGate):
                raise ValueError(
                    f"got bias={self.bias} and a gate without a threshold ({type(self.plan.gate).__name__}): leave "
                    "bias out, or give the plan a ThresholdGate"
                )
        if not self.layers or not self.positions:
            raise ValueError(
                "got no layers or no positions to try: expected a list of some, or None for the plan's"
            )
        for layers in self.layers:
            for positions in self.positions:
                replace(self.plan, layers=layers, positions=positions, alpha=self.alpha[1])

    def ask(self, trial: Any) -> Setting:
        """The setting that an Optuna trial stands for."""
        sets = {" ".join(map(str, layers)): layers for layers in self.layers}
        return Setting(
            layers=sets[_choose(trial, "layers", list(sets))],
            positions=_choose(trial, "positions", self.positions),
            scale=self.plan.scale,
            alpha=trial.suggest_float("alpha", *map(float, self.alpha)),
            bias=trial.suggest_float("bias", *map(float, self.bias)) if self.bias else 0.0,
        )


def _choose(trial: Any, name: str, among: Sequence[Any]) -> Any:
    """One of them. Where there is one only, Optuna is not asked: it would spend its mutations on it."""
    return among[0] if len(among) == 1 else trial.suggest_categorical(name, among)


@dataclass(frozen=True, eq=False)
class ListedSpec(SweepSpec):
    """A sweep of the settings listed, where a grid has every combination."""

    listed: tuple[Setting, ...] = ()

    @property
    def settings(self) -> tuple[Setting, ...]:  # type: ignore[override]
        """Those listed, in order."""
        return self.listed


def list_settings(plan: SteeringPlan, settings: Sequence[Setting], *, placebo: int) -> ListedSpec:
    """The sweep of these settings of `plan`, whose vectors and gate stay but for the bias."""
    return ListedSpec(
        plan,
        alpha=[setting.alpha for setting in settings],
        layers=[setting.layers for setting in settings],
        positions=[setting.positions for setting in settings],
        bias=[setting.bias for setting in settings],
        placebo=placebo,
        listed=tuple(settings),
    )


def expand_sets(layers: Sequence[LayerSets | Sequence[int]], of: Sequence[int]) -> tuple[LayerSet, ...]:
    """The layer sets in `layers`, where kinds of them (`layer_sets`) are made of the layers `of`; each set once.

    A set has no order, and no layer twice: [[3, 4], [4, 3], [3, 3, 4]] is one.
    """
    sets: list[LayerSet] = []
    for one in layers:
        sets += layer_sets(one, of) if isinstance(one, str) else [tuple(sorted(set(one)))]
    return tuple(dict.fromkeys(sets))


def _require_range(name: str, given: Range, expected: str) -> None:
    try:
        low, high = given
        sound = math.isfinite(low) and math.isfinite(high) and low < high
    except (TypeError, ValueError):
        sound = False
    if not sound:
        raise ValueError(
            f"got {name}={reprlib.repr(given)}, expected two finite numbers, low and high: {expected}"
        )
