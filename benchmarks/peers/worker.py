"""How a peer's script takes part in `sweep.py`: it loads once, then writes the whole grid whenever it is told to.

    in     a folder with task.json and directions.safetensors; then a word per line: "steered", "unsteered" or "replies"
    out    a JSON line per word: the grid's seconds, or the tokens of the grid before

This runs in the peer's own environment, where nothing of the workbench is installed. Loading, finding the best batch
size and one round to warm up come before the first word, and are not timed. The peer is told which prompts are open:
of all arms it alone need not read the gates.

The trap: a peer that steers every prompt would write other replies, and its speed would mean nothing. So each is given
rows to steer and rows to leave alone in one batch, by the nearest thing it has to a gate.
"""

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch
from safetensors.torch import load_file
from torch import Tensor

BATCH_SIZES = (16, 32, 64)


@dataclass(frozen=True)
class Task:
    """The grid, as `sweep_grid.Grid.save` writes it."""

    checkpoint: str
    rows: Sequence[Sequence[int]]
    open: Sequence[bool]
    settings: Sequence[Mapping[str, Any]]
    new_tokens: int
    stop: int
    pad: int
    threads: int


@dataclass(frozen=True)
class Batch:
    """Left-padded rows, as keywords for `generate`; `open` says which of them are steered."""

    inputs: Mapping[str, Tensor]
    options: Mapping[str, Any]
    open: Tensor


@dataclass(frozen=True)
class Steering:
    """One setting: alpha and, per layer, the vector that one alpha adds."""

    alpha: float
    vectors: Mapping[int, Tensor]


Write: TypeAlias = Callable[[Batch, Steering | None], Tensor]
"""A batch's whole token rows, prompts included; unsteered where there is no steering."""


def serve(load: Callable[[str], Write]) -> None:
    """Load, warm up, then answer words from the standard input until it ends."""
    folder = Path(sys.argv[1])
    task = Task(**json.loads((folder / "task.json").read_text(encoding="utf-8")))
    directions = load_file(folder / "directions.safetensors")["directions"]
    settings = [
        Steering(setting["alpha"], {layer: directions[layer] for layer in setting["layers"]})
        for setting in task.settings
    ]
    torch.set_num_threads(task.threads)
    write = load(task.checkpoint)
    sizes = [size for size in BATCH_SIZES if size <= len(task.rows)] or [len(task.rows)]
    best = min(sizes, key=lambda size: _seconds(write, task, settings[:2], size))
    print(json.dumps({"batch_size": best}), flush=True)
    replies: list[list[int]] = []
    for word in map(str.strip, sys.stdin):
        if word == "replies":
            print(json.dumps({"replies": replies}), flush=True)
            continue
        start = time.perf_counter()
        replies = _grid(write, task, settings if word == "steered" else [None] * len(settings), best)
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


def _seconds(write: Write, task: Task, settings: Sequence[Steering], size: int) -> float:
    """The shorter of two rounds, after one to warm up."""
    rounds = []
    for _ in range(3):
        start = time.perf_counter()
        _grid(write, task, settings, size)
        rounds.append(time.perf_counter() - start)
    return min(rounds[1:])


def _grid(write: Write, task: Task, settings: Sequence[Steering | None], batch_size: int) -> list[list[int]]:
    by_length = sorted(range(len(task.rows)), key=lambda i: len(task.rows[i]))
    parts = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    batches = [_batch(task, part) for part in parts]
    replies: list[list[int]] = []
    for steering in settings:
        of_setting: dict[int, list[int]] = {}
        for part, batch in zip(parts, batches, strict=True):
            with torch.no_grad():
                written = write(batch, steering)[:, batch.inputs["input_ids"].shape[1] :].tolist()
            of_setting |= dict(zip(part, (_until_stop(row, task.stop) for row in written), strict=True))
        replies += [of_setting[i] for i in range(len(task.rows))]
    return replies


def _batch(task: Task, part: Sequence[int]) -> Batch:
    rows = [task.rows[i] for i in part]
    width = max(map(len, rows))
    inputs = {
        "input_ids": torch.tensor([[task.pad] * (width - len(row)) + list(row) for row in rows]),
        "attention_mask": torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows]),
    }
    options = {
        "max_new_tokens": task.new_tokens, "do_sample": False, "eos_token_id": task.stop, "pad_token_id": task.pad,
    }  # fmt: skip
    return Batch(inputs, options, torch.tensor([task.open[i] for i in part]))


def _until_stop(row: list[int], stop: int) -> list[int]:
    return row[: row.index(stop) + 1] if stop in row else row
