"""How a peer's script takes part in a benchmark: it loads once, then does its part whenever it is told to.

    in     a folder with task.json, and directions.safetensors where there is something to steer; then a word per line
    words  a grid: "steered", "unsteered", "replies"        pairs: "read", "forward", "vectors"
    out    a JSON line per word: the seconds of the arm, or what it made last

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
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

BATCH_SIZES = (16, 32, 64)
Pair: TypeAlias = tuple[str, str]
Vectors: TypeAlias = Mapping[int, Tensor]


@dataclass(frozen=True)
class Task:
    """What a benchmark asks of every peer: a grid of settings to write, or pairs of texts to read.

    Rows are token ids of prompts, settings hold `layers` and `alpha`; `pairs` are harmful and harmless texts, whose
    tokens are what a tokenizer makes of them.
    """

    checkpoint: str
    pad: int
    pad_token: str
    threads: int
    rows: Sequence[Sequence[int]] = ()
    open: Sequence[bool] = ()
    settings: Sequence[Mapping[str, Any]] = ()
    new_tokens: int = 0
    stop: int = -1
    pairs: Sequence[Pair] = ()

    def save(self, folder: Path, directions: Tensor | None = None) -> None:
        """Put it into a folder, with what one alpha adds at each layer."""
        (folder / "task.json").write_text(json.dumps(asdict(self)), encoding="utf-8")
        if directions is not None:
            save_file({"directions": directions.contiguous()}, folder / "directions.safetensors")

    @classmethod
    def from_folder(cls, folder: Path) -> "Task":
        """The inverse of `save`."""
        given = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        return cls(**{**given, "pairs": [(harmful, harmless) for harmful, harmless in given["pairs"]]})


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
    vectors: Vectors


class Library(Protocol):
    """A peer's library around a model."""

    def write(self, batch: Batch, steering: Steering | None) -> Tensor:
        """A batch's whole token rows, prompts included; unsteered where there is no steering."""

    def read(self, pairs: Sequence[Pair], batch_size: int) -> Vectors:
        """Mean last-token residual of the first texts less that of the second ones, layer by layer, as it has them."""


def serve(load: Callable[[Any, Any], Library]) -> None:
    """Load, warm up, then answer words from the standard input until it ends."""
    folder = Path(sys.argv[1])
    task = Task.from_folder(folder)
    torch.set_num_threads(task.threads)
    hf = AutoModelForCausalLM.from_pretrained(task.checkpoint, dtype=torch.float32).eval()
    # By file, because a name of its class from one version of transformers may mean nothing to another.
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=f"{task.checkpoint}/tokenizer.json", pad_token=task.pad_token, padding_side="left"
    )
    library = load(hf, tokenizer)
    if task.pairs:
        batch_size, arms, made = _reading(library, task, hf, tokenizer)
    else:
        batch_size, arms, made = _writing(library, task, folder)
    print(json.dumps({"batch_size": batch_size}), flush=True)
    last: dict[str, Any] = {}
    for word in map(str.strip, sys.stdin):
        if word in arms:
            start = time.perf_counter()
            result = arms[word]()
            print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)
            last[word] = result
        else:
            print(json.dumps({word: made[word](last)}), flush=True)


Arms: TypeAlias = Mapping[str, Callable[[], Any]]
Made: TypeAlias = Mapping[str, Callable[[Mapping[str, Any]], Any]]


def _writing(library: Library, task: Task, folder: Path) -> tuple[int, Arms, Made]:
    directions = load_file(folder / "directions.safetensors")["directions"]
    settings = [
        Steering(setting["alpha"], {layer: directions[layer] for layer in setting["layers"]})
        for setting in task.settings
    ]
    best = _best_size(len(task.rows), lambda size: _grid(library, task, settings[:2], size))
    unsteered: Sequence[Steering | None] = [None] * len(settings)
    arms = {
        "steered": partial(_grid, library, task, settings, best),
        "unsteered": partial(_grid, library, task, unsteered, best),
    }
    return best, arms, {"replies": lambda last: last["steered"]}


def _reading(library: Library, task: Task, hf: Any, tokenizer: Any) -> tuple[int, Arms, Made]:
    best = _best_size(2 * len(task.pairs), lambda size: library.read(task.pairs, size))
    texts = sorted((text for pair in task.pairs for text in pair), key=len)
    parts = [texts[start : start + best] for start in range(0, len(texts), best)]
    batches = [tokenizer(part, return_tensors="pt", padding=True) for part in parts]

    @torch.no_grad()
    def forward() -> None:
        for batch in batches:
            hf(**batch, use_cache=False)

    def vectors(last: Mapping[str, Any]) -> Mapping[int, list[float]]:
        return {layer: vector.float().tolist() for layer, vector in last["read"].items()}

    return best, {"read": partial(library.read, task.pairs, best), "forward": forward}, {"vectors": vectors}


def _best_size(n_rows: int, work: Callable[[int], object]) -> int:
    """The size of the fastest batches: of each the shorter of two rounds, after one to warm up."""

    def seconds(size: int) -> float:
        rounds = []
        for _ in range(3):
            start = time.perf_counter()
            work(size)
            rounds.append(time.perf_counter() - start)
        return min(rounds[1:])

    return min([size for size in BATCH_SIZES if size <= n_rows] or [n_rows], key=seconds)


def _grid(
    library: Library, task: Task, settings: Sequence[Steering | None], batch_size: int
) -> list[list[int]]:
    by_length = sorted(range(len(task.rows)), key=lambda i: len(task.rows[i]))
    parts = [by_length[start : start + batch_size] for start in range(0, len(by_length), batch_size)]
    batches = [_batch(task, part) for part in parts]
    replies: list[list[int]] = []
    for steering in settings:
        of_setting: dict[int, list[int]] = {}
        for part, batch in zip(parts, batches, strict=True):
            with torch.no_grad():
                written = library.write(batch, steering)[:, batch.inputs["input_ids"].shape[1] :].tolist()
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
