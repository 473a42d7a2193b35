"""A plan on disk: a folder with `plan.json`, to be read and edited by hand, beside files of its vectors and its gate.

The trap: a strength means nothing without its scale, layers and positions. The file has all of them, or it is refused.
"""

import json
from pathlib import Path
from typing import Any

from workbench.gates import AlwaysOpen, ThresholdGate, load_gate
from workbench.provenance import write_safely
from workbench.steering import SteeringPlan
from workbench.vectors import load_vectors

FIELDS = ("layers", "alpha", "scale", "positions", "deciding", "refusal")
PLAN, VECTORS, GATE = "plan.json", "vectors.safetensors", "gate.safetensors"


def save_plan(plan: SteeringPlan, folder: str | Path) -> Path:
    """Write a plan into `folder`; the path of its `plan.json`. `load_plan` reads it.

    Raises `ValueError` for a gate that is neither a `ThresholdGate` nor `AlwaysOpen`: those alone can be saved.
    """
    folder = Path(folder)
    if not isinstance(plan.gate, ThresholdGate | AlwaysOpen):
        raise ValueError(
            f"got a plan with a {type(plan.gate).__name__}, expected a ThresholdGate or AlwaysOpen: other gates have "
            "no file; keep the code that makes them"
        )
    told: dict[str, Any] = {name: getattr(plan, name) for name in FIELDS}
    told |= {"vectors": VECTORS, "gate": None}
    plan.vectors.save(folder / VECTORS)
    if isinstance(plan.gate, ThresholdGate):
        plan.gate.save(folder / GATE)
        told["gate"] = GATE
    write_safely(folder / PLAN, (json.dumps(told, indent=1) + "\n").encode())
    return folder / PLAN


def load_plan(path: str | Path) -> SteeringPlan:
    """The plan that `save_plan` wrote, from its `plan.json` or its folder.

    Raises `FileNotFoundError` where there is none, `ValueError` where a field is missing or no plan can have it.
    """
    path = Path(path) / PLAN if Path(path).is_dir() else Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no plan {path}: workbench tune --out {path.parent} writes one, and so does save_plan"
        )
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        fields = {name: told[name] for name in FIELDS}
        vectors, gate = str(told["vectors"]), told["gate"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is no plan ({type(error).__name__}: {error}), expected JSON with {', '.join(FIELDS)}, vectors and "
            "gate: write it with save_plan"
        ) from error
    return SteeringPlan(
        load_vectors(path.parent / vectors),
        gate=AlwaysOpen() if gate is None else load_gate(path.parent / str(gate)),
        **fields,
    )
