"""Many settings of one plan, answered together: strengths, layer sets and positions, with their controls."""

from workbench.sweep.choosing import Choices, choose, choose_gate
from workbench.sweep.results import Rule, SweepResult, safest
from workbench.sweep.running import run_sweep
from workbench.sweep.spec import Setting, SweepSpec

__all__ = [
    "Choices",
    "Rule",
    "Setting",
    "SweepResult",
    "SweepSpec",
    "choose",
    "choose_gate",
    "run_sweep",
    "safest",
]
