"""On which prompts a gate opens: by kind, by wrapper, and for every threshold that it might have had.

The trap: a gate is chosen by its mean over all jailbreaks, and one wrapper in ten may pass it every time.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from workbench.activations import Activations
from workbench.gates import Gate
from workbench.profiles.sides import clusters_of, require_intents
from workbench.prompts import Prompt
from workbench.stats import cluster_bootstrap

NO_WRAPPER = "none"


def gate_map(gate: Gate, activations: Activations) -> pd.DataFrame:
    """A row per label and layer: the share of prompts on which the gate is open there, and how many there were."""
    opened = gate.read(activations).open
    frame = pd.DataFrame(opened.float().numpy())
    frame["label"] = list(activations.labels)
    shares = frame.groupby("label", sort=False)
    tidy = shares.mean().reset_index().melt("label", var_name="layer", value_name="open")
    tidy["n"] = tidy["label"].map(shares.size())
    return tidy


def gate_scores(gate: Gate, activations: Activations) -> pd.DataFrame:
    """A row per prompt and layer: the gate's score there, a·s + b, and what it decides.

    Columns: model, prompt (number), label, source, wrapper, layer, score (in residual units, above 0 opens), scaled
    (the score in units of its spread over these prompts at that layer: layers differ a hundredfold), open, decides
    (whether the gate goes by that layer; of a gate of one shared layer, `open` is that one's everywhere).
    """
    reading = gate.read(activations)
    scores = _finite(reading.scores.double().numpy(), "a map of scores")
    spread = scores.std(axis=0)
    scaled = scores / np.where(spread > 0, spread, 1.0)
    n_prompts, n_layers = scores.shape
    prompts = activations.prompts or [None] * n_prompts
    return pd.DataFrame(
        {
            "model": activations.provenance.model,
            "prompt": np.repeat(np.arange(n_prompts), n_layers),
            "label": np.repeat(np.array(activations.labels), n_layers),
            "source": np.repeat(np.array([prompt.source if prompt else "" for prompt in prompts]), n_layers),
            "wrapper": np.repeat(np.array([_wrapper(prompt) for prompt in prompts]), n_layers),
            "layer": np.tile(np.arange(n_layers), n_prompts),
            "score": scores.ravel(),
            "scaled": scaled.ravel(),
            "open": reading.open.numpy().ravel(),
            "decides": np.tile(np.isin(np.arange(n_layers), gate.reads), n_prompts),
        }
    )


def gate_roc(gate: Gate, activations: Activations) -> pd.DataFrame:
    """Every threshold of each layer's score: how many prompts open it that should not, and how many that should.

    A row per threshold (`part` curve), false_positive and true_positive, and one for the gate's own (`part` chosen),
    with intervals. `decides` tells the layers that the gate goes by. Harm is meant by harmful and jailbroken prompts.
    """
    from sklearn.metrics import roc_curve  # here for the reason told in `stats`

    require_intents(activations, "an ROC")
    harmful, clusters = activations.harmful.numpy(), clusters_of(activations)
    scores = _finite(gate.read(activations).scores.double().numpy(), "an ROC")
    rows: list[dict[str, object]] = []
    for layer, own in enumerate(scores.T):
        at = {"layer": layer, "decides": layer in gate.reads}
        curve = zip(*roc_curve(harmful, own), strict=True)
        rows += [
            at | {"part": "curve", "false_positive": fp, "true_positive": tp, "threshold": threshold}
            for fp, tp, threshold in curve
        ]
        chosen: dict[str, object] = {"part": "chosen", "threshold": 0.0}
        for name, side in (("false_positive", ~harmful), ("true_positive", harmful)):
            part = None if clusters is None else clusters[side]
            found = cluster_bootstrap((own[side] > 0).astype(float), part)
            chosen |= {name: found.mean, f"{name}_low": found.low, f"{name}_high": found.high}
        rows.append(at | chosen | {"n": len(harmful)})
    return pd.DataFrame(rows)


def gate_by_wrapper(
    gate: Gate, activations: Activations, *, layers: Sequence[int] | None = None
) -> pd.DataFrame:
    """A row per wrapper and side: the share of prompts on which the gate is open at any of `layers`, with interval.

    `side` is "attack" for harmful and jailbroken prompts, on which it should open, and "harmless" for the others.
    Without `layers` those that the gate decides by. Prompts without a wrapper are `NO_WRAPPER`.
    """
    if activations.prompts is None:
        raise ValueError(
            "these activations know no prompts, hence no wrappers: read them with last_token_activations"
        )
    opened = gate.read(activations).open
    chosen = list(gate.reads or range(opened.shape[1])) if layers is None else list(layers)
    if not chosen or not set(chosen) <= set(range(opened.shape[1])):
        raise ValueError(f"got layers {chosen}, expected some of 0 to {opened.shape[1] - 1}")
    clusters = clusters_of(activations)
    table = pd.DataFrame(
        {
            "wrapper": [_wrapper(prompt) for prompt in activations.prompts],
            "side": np.where(activations.harmful.numpy(), "attack", "harmless"),
            "open": opened[:, chosen].any(1).double().numpy(),
        }
    )
    if set(table["wrapper"]) == {NO_WRAPPER}:
        raise ValueError("no prompt has a wrapper: expected jailbroken ones, whose cluster names theirs")
    rows = []
    for (wrapper, side), part in table.groupby(["wrapper", "side"], sort=False):
        assert clusters is not None
        found = cluster_bootstrap(part["open"].to_numpy(), clusters.loc[part.index])
        rows.append(
            {
                "wrapper": wrapper,
                "side": side,
                "open": found.mean,
                "low": found.low,
                "high": found.high,
                "n": found.n,
                "model": activations.provenance.model,
            }
        )
    return pd.DataFrame(rows)


def _wrapper(prompt: Prompt | None) -> str:
    return (dict(prompt.cluster).get("wrapper") if prompt else None) or NO_WRAPPER


def _finite(scores: NDArray[np.float64], what: str) -> NDArray[np.float64]:
    if not np.isfinite(scores).all():
        raise ValueError(f"the gate has no finite scores, hence no threshold: {what} is of a ThresholdGate")
    return scores
