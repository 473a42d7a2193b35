"""The peers that `sweep.py` is compared with, each in an environment of its own, loaded once and then told when to run.

The trap: a peer that is started anew for every repeat is timed with cold caches.
"""

import json
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sweep_grid import Grid

HERE = Path(__file__).parent / "peers"
PEERS = ("steering-vectors", "nnsight")
"""nnsight stands for pyvene, too: both write the other arms' tokens, at speeds that did not differ when tried."""


class Peer:
    """A peer's script, running in its environment and waiting for a word."""

    def __init__(self, name: str, environments: Path, task: Path) -> None:
        self.name, self.log = name, task / f"{name}.log"
        script = HERE / f"{name.replace('-', '_')}_grid.py"
        with self.log.open("w", encoding="utf-8") as log:
            self.process = subprocess.Popen(
                [environments / name / "bin" / "python", script, task],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
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


@contextmanager
def peers_on(grid: Grid, environments: Path, names: Sequence[str]) -> Iterator[list[Peer]]:
    """These peers, from their environments, loaded and warm, with this grid before them."""
    with tempfile.TemporaryDirectory() as folder:
        grid.save(Path(folder))
        running: list[Peer] = []
        try:
            # One after the other: each finds its batch size before the next one starts.
            running.extend(Peer(name, environments, Path(folder)) for name in names)
            yield running
        finally:
            for peer in running:
                peer.close()
