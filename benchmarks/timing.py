"""What every benchmark here shares: its options, and how arms are timed side by side.

    ratio = median over repeats of  seconds(arm) / seconds(reference)  of the same repeat

The trap: a machine drifts (heat, other processes) by more than the differences that matter here. So the arms of one
repeat run back to back, in an order that turns with every repeat, and ratios are formed within repeats.
"""

import argparse
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from workbench import PromptSet
from workbench.loading import Model
from workbench.loading.backends import backend_of
from workbench.models import model_name


@dataclass(frozen=True)
class Timings:
    """Seconds of every arm, one number per repeat."""

    seconds: Mapping[str, Sequence[float]]

    def ratio(self, arm: str, reference: str) -> tuple[float, float, float]:
        """Median, lower and upper quartile of the arm's seconds over the reference's, repeat by repeat."""
        quotients = np.array(self.seconds[arm]) / np.array(self.seconds[reference])
        low, middle, high = np.quantile(quotients, [0.25, 0.5, 0.75])
        return float(middle), float(low), float(high)

    def told(self, arm: str, reference: str) -> float | None:
        """The median ratio; None where one of the two was not there to be timed."""
        return self.ratio(arm, reference)[0] if {arm, reference} <= set(self.seconds) else None

    def show(self, reference: str) -> None:
        """A line per arm: median seconds, their quartiles, and the ratio to the reference with its quartiles."""
        for arm, seconds in self.seconds.items():
            low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75]) * 1e3
            line = f"{arm:<38} {middle:9.2f} ms [{low:.2f}, {high:.2f}]"
            if arm != reference:
                line += "   {:.3f} x [{:.3f}, {:.3f}]".format(*self.ratio(arm, reference))
            print(line)


def interleaved(arms: Mapping[str, Callable[[], object]], *, repeats: int) -> Timings:
    """Time all arms `repeats` times, back to back, after one round that is not counted."""
    names = list(arms)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(-1, repeats):
        turn = repeat % len(names)
        for name in names[turn:] + names[:turn]:
            _wait_for_device()
            start = time.perf_counter()
            arms[name]()
            _wait_for_device()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)
    return Timings(seconds)


def conclude(ratios: Mapping[str, float | None]) -> None:
    """The last line of a benchmark: one JSON object of its ratios, null where one could not be measured."""
    rounded = {name: None if value is None else round(value, 4) for name, value in ratios.items()}
    print(json.dumps(rounded))


def arguments(description: str, *, prompts: int, repeats: int) -> argparse.ArgumentParser:
    """The options that the benchmarks of one model take."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument(
        "--model", default="organism:finance", help="organism:NAME, random:SHAPE, a folder or a hub id"
    )
    parser.add_argument("--prompts", type=int, default=prompts, help="how many prompts")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--repeats", type=int, default=repeats)
    return parser


def describe(model: Model, prompts: PromptSet, batch_size: int) -> None:
    """A line that says what is measured, and on what."""
    millions = sum(weight.numel() for weight in model.parameters()) / 1e6
    machine = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"{torch.get_num_threads()} CPU threads"
    )
    batch = f"{len(prompts)} prompts in batches of {batch_size}"
    print(f"{model_name(model)}, {millions:.1f} M parameters, {backend_of(model)}; {batch}; {machine}")


def _wait_for_device() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()
