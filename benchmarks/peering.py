"""The peers that benchmarks compare with, each in an environment of its own, loaded once and then told when to run.

The trap: a peer that is started anew for every repeat is timed with cold caches.
"""

import argparse
import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from peers.worker import Task
from torch import Tensor

from workbench import SteeringPlan

ENVIRONMENTS = Path(__file__).parents[1] / ".peers"
PEERS = ("steering-vectors", "repeng", "nnsight")
"""nnsight stands for pyvene, too: both write the other arms' tokens, at speeds that did not differ when tried."""


class Peer:
    """A peer's script, running in its environment and waiting for a word."""

    def __init__(self, name: str, environments: Path, task: Path) -> None:
        self.name, self.log = name, task / f"{name}.log"
        module = f"peers.{name.replace('-', '_')}_peer"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [(environments / name / "bin" / "python").absolute(), "-m", module, task],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
                cwd=Path(__file__).parent,
            )  # fmt: skip
        self.batch_size: int = self._answer()["batch_size"]

    def ask(self, word: str) -> Any:
        """Say a word, wait for the answer to it."""
        assert self.process.stdin is not None
        print(word, file=self.process.stdin, flush=True)
        return self._answer()

    def replies(self) -> Sequence[tuple[int, ...]]:
        """The tokens of the grid that it wrote last."""
        return [tuple(row) for row in self.ask("replies")["replies"]]

    def vectors(self) -> dict[int, list[float]]:
        """The vectors that it read last, by layer."""
        return {int(layer): vector for layer, vector in self.ask("vectors")["vectors"].items()}

    def close(self) -> None:
        """End it, whatever it is doing."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):  # libraries greet on the same stream
                return json.loads(line)
        self.process.wait()
        last = self.log.read_text(encoding="utf-8").strip().splitlines()[-5:]
        raise RuntimeError("\n".join([f"{self.name} ended with status {self.process.returncode}:", *last]))


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a benchmark that has peers."""
    parser.add_argument("--backend", default="plain", choices=["hooked", "bridge", "plain"], help="of ours")
    parser.add_argument("--peers", type=Path, default=ENVIRONMENTS, help="their environments")


def directions_of(plan: SteeringPlan) -> Tensor:
    """What one alpha adds at every layer of the model, in the plan's scale: peers know no scales."""
    return replace(plan, layers=range(plan.vectors.space.n_layers), alpha=1.0).shift


def installed(environments: Path, names: Sequence[str] = PEERS) -> list[str]:
    """The peers whose environments are there; says which are not."""
    there = [name for name in names if (environments / name).is_dir()]
    if absent := [name for name in names if name not in there]:
        print(f"left out: {', '.join(absent)} (make benchmark-peers installs them)")
    return there


@contextmanager
def peers_on(
    task: Task, directions: Tensor | None, environments: Path, names: Sequence[str]
) -> Iterator[list[Peer]]:
    """These peers, from their environments, loaded and warm, with this task before them."""
    with tempfile.TemporaryDirectory() as folder:
        task.save(Path(folder), directions)
        running: list[Peer] = []
        try:
            # One after the other: each finds its batch size before the next one starts.
            for name in names:
                running.append(Peer(name, environments, Path(folder)))
                print(f"{name} runs in batches of {running[-1].batch_size}")
            yield running
        finally:
            for peer in running:
                peer.close()
