"""Files that cross between two environments: plans, and what they did where they were made.

    python tests/exchange.py write FOLDER     # a model, plans made on it by every backend here, and its steered replies
    python tests/exchange.py read FOLDER      # the same replies again, from those files, on every backend here

`test_exchange.py` does one half itself and has the other half done by another version of TransformerLens.
"""

import json
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

from conftest import BACKENDS, eight_prompts
from parity import N_TOKENS, SETTINGS, Parity, save_babbler
from safetensors.torch import load_file, save_file

import workbench as wb
from workbench.loading import Model
from workbench.provenance import SpaceMismatch

PLANS = ("read in the prefill", "read above the shift", "the paper's form", "prompt only")
HERE = version("transformer-lens")


@dataclass(frozen=True)
class Run:
    """How far `used` is from what `made` did with the same plan."""

    made: str
    used: str
    plan: str
    parity: Parity


@dataclass(frozen=True)
class Found:
    """What came of a folder: who read it, the runs with raw weights, and whose vectors were refused by whom."""

    version: str
    runs: tuple[Run, ...]
    refused: tuple[tuple[str, str], ...]

    @classmethod
    def from_json(cls, told: str) -> "Found":
        """The inverse of `json.dumps(asdict(...))`."""
        found = json.loads(told)
        runs = (Run(**run | {"parity": Parity(**run["parity"])}) for run in found["runs"])
        return cls(found["version"], tuple(runs), tuple(map(tuple, found["refused"])))


def write(folder: Path) -> None:
    """Write model and prompts, then every backend's plans and replies, and vectors of processed weights."""
    checkpoint, prompts = save_babbler(folder / "model"), eight_prompts()
    prompts.save(folder / "prompts.jsonl")
    (folder / "version").write_text(HERE)
    for backend in BACKENDS:
        model = wb.load_model(checkpoint, backend=backend)
        for name in PLANS:
            plan, into = SETTINGS[name][0].plan(model, prompts), folder / "raw" / backend / name
            wb.save_plan(plan, into)
            replies = wb.generate(model, prompts, plan, max_new_tokens=N_TOKENS)
            told = [{"tokens": reply.tokens, "gate_open": reply.gate_open} for reply in replies]
            (into / "replies.json").write_text(json.dumps(told))
            logits = wb.teacher_forced_logits(model, prompts, [reply.tokens for reply in replies], plan)
            save_file({str(row): steps for row, steps in enumerate(logits)}, into / "logits.safetensors")
        if backend != "plain":
            process(model)
            vectors = wb.mean_difference(wb.last_token_activations(model, prompts))
            vectors.save(folder / "processed" / f"{backend}.safetensors")


def process(model: Model) -> None:
    """Fold and centre the weights of a TransformerLens model, as its version does by default."""
    if hasattr(model, "enable_compatibility_mode"):
        model.enable_compatibility_mode()
    else:
        model.load_and_process_state_dict(model.state_dict())


def read(folder: Path) -> Found:
    """Steer every backend here with what is in the folder."""
    prompts, runs, refused = wb.load_prompts(folder / "prompts.jsonl"), [], []
    for used in BACKENDS:
        model = wb.load_model(folder / "model", backend=used)
        for path in sorted((folder / "raw").glob("*/*/plan.json")):
            result = compare(model, prompts, path.parent)
            runs.append(Run(path.parent.parent.name, used, path.parent.name, result))
        for path in sorted((folder / "processed").iterdir()):
            plan = wb.SteeringPlan(wb.load_vectors(path), gate=wb.AlwaysOpen(), layers=[1], alpha=1.0)
            try:
                wb.generate(model, prompts, plan, max_new_tokens=1)
            except SpaceMismatch:
                refused.append((path.stem, used))
    return Found(HERE, tuple(runs), tuple(refused))


def compare(model: Model, prompts: wb.PromptSet, folder: Path) -> Parity:
    """The plan in `folder` on `model`, beside what it did where it was made."""
    plan, told = wb.load_plan(folder), json.loads((folder / "replies.json").read_text())
    made = load_file(folder / "logits.safetensors")
    logits = wb.teacher_forced_logits(model, prompts, [row["tokens"] for row in told], plan)
    replies = wb.generate(model, prompts, plan, max_new_tokens=N_TOKENS)
    return Parity(
        max(float((got - made[str(row)]).abs().max()) for row, got in enumerate(logits)),
        [list(reply.tokens) for reply in replies] == [row["tokens"] for row in told],
        [list(reply.gate_open) for reply in replies] == [row["gate_open"] for row in told],
    )


if __name__ == "__main__":
    job, folder = sys.argv[1], Path(sys.argv[2])
    if job == "write":
        write(folder)
    else:
        (folder / "found.json").write_text(json.dumps(asdict(read(folder))))
