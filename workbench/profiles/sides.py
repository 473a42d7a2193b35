"""Two sides of a set of prompts, those that mean harm and those that do not, and what their prompts share.

The trap: residuals from a cache know no prompts, so nothing of what these share; each is then on its own.
"""

import pandas as pd

from workbench.activations import Activations
from workbench.stats import cluster_frame

PLAIN = ("harmful", "harmless")


def require_both(activations: Activations, what: str) -> None:
    """Raise `ValueError` unless there are harmful and harmless prompts, which `what` compares."""
    missing = [label for label in PLAIN if label not in activations.labels]
    if missing:
        present = ", ".join(sorted(set(activations.labels)))
        raise ValueError(
            f"got prompts labelled {present}, none {' and none '.join(missing)}: "
            f"{what} compares harmful with harmless"
        )


def require_intents(activations: Activations, what: str) -> None:
    """Raise `ValueError` unless some prompts mean harm (harmful, jailbroken) and some do not."""
    harmful = activations.harmful
    if harmful.all() or not harmful.any():
        side = "prompts that mean harm" if harmful.all() else "prompts without harm"
        raise ValueError(f"got {side} only, expected both: {what} compares the two")


def clusters_of(activations: Activations) -> pd.DataFrame | None:
    """What the prompts share, a column per kind; None where the prompts are unknown."""
    if activations.prompts is None:
        return None
    return cluster_frame([prompt.cluster for prompt in activations.prompts])
