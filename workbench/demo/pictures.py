"""The five pictures of the main job, each titled with what this run found.

The trap: a title written before the run is a hope. Every number in a title is taken from the frame that is drawn.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from workbench import plots
from workbench.demo.target import Outcome
from workbench.evaluation.conditions import TITLES
from workbench.evaluation.protocol import listed
from workbench.export import save_figure, save_frame
from workbench.prompts import ATTACKS

CURVE_NAMES = {metric: plots.METRIC_NAMES[metric] for metric in plots.CURVES}
TRADE_OFF_NAMES = {
    **CURVE_NAMES,
    "utility": plots.METRIC_NAMES["utility"],
    "broken": plots.BROKEN,
}
# Shares of broken replies above which ours, and a control, are told as such: the first is the main job's target.
MAX_BROKEN, TOLD_BROKEN = 0.02, 0.1


def save_pictures(outcomes: Sequence[Outcome], folder: Path, *, sample: str) -> list[Path]:
    """Write all five: four about the first target, the trade-off about all. Returns the paths of the pictures."""
    first = outcomes[0]
    numbers = first.numbers
    layers, gate_layer = numbers["layers"], numbers["gate_layer"]
    frames = {name: first.frames[name] for name in ("layer-profile", "projections", "gate-map")}
    frames |= {"strength-curves": strength_frame(first), "trade-off": trade_off_frame(outcomes)}
    for name, frame in frames.items():  # all of them first: a picture that fails costs no numbers
        save_frame(frame, folder / name)
    draw = {
        "layer-profile": lambda frame: plots.layer_profile(
            frame, chosen=layers, finding=profile_finding(first), method="AUROC of the projection of val prompts on "
            "each model's own harmful − harmless direction, and balanced accuracy at the paper's threshold; bands: "
            "95 % intervals; dashed: chance",
        ),
        "projections": lambda frame: plots.projections(
            frame, chosen=layers, finding=projection_finding(first), method=f"a point is a val prompt of {first.name}, "
            "a bar the median; unit: ‖v'‖, 0 half-way between train's harmful and harmless means",
        ),
        "gate-map": lambda frame: plots.gate_map(
            frame, chosen_gate=gate_layer, finding=gate_finding(first), method=f"share of {first.name}'s test prompts, "
            f"{sample}, on which the gate would open if that layer decided; thresholds and layer were set on val",
        ),
        "strength-curves": lambda frame: plots.strength_curves(
            frame, chosen=numbers["alpha"], unit="α, in units of ‖v'‖", finding=strength_finding(first),
            method=f"{first.name}, layers {listed(layers)}, {numbers['positions']} positions, a sample of val; "
            "equal α, equal length of shift; bands: 95 % intervals",
        ),
        "trade-off": lambda frame: plots.trade_off(
            frame, names=TITLES, finding=trade_off_finding(outcomes), method=f"shares of test prompts, {sample}; "
            f"lines: 95 % intervals; every control at the α, layers and gate of ours{broken_conditions(outcomes)}",
        ),
    }  # fmt: skip
    return [save_figure(draw[name](frame), frame, folder / f"{name}.svg") for name, frame in frames.items()]


def strength_frame(outcome: Outcome) -> pd.DataFrame:
    """The sweep's summary as `plots.strength_curves` wants it."""
    frame = outcome.frames["strength"]
    arms = {
        arm: arm if arm in ("steered", "unsteered") else TITLES.get(arm, arm) for arm in frame["arm"].unique()
    }
    arms["random"] = "random"
    return frame.assign(metric=frame["metric"].map(CURVE_NAMES), arm=frame["arm"].map(arms))


def trade_off_frame(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Every target's estimates as `plots.trade_off` wants them."""
    parts = []
    for outcome in outcomes:
        frame = outcome.frames["trade-off"]
        part = frame[frame["metric"].isin(TRADE_OFF_NAMES) & frame["arm"].isin(TITLES)]
        kinds = part["metric"].map(TRADE_OFF_NAMES)
        parts.append(
            part.assign(panel=outcome.name, condition=part["arm"], kind=kinds).drop(columns=["arm", "metric"])
        )
    return pd.concat(parts, ignore_index=True)


def profile_finding(outcome: Outcome) -> str:
    """At which layers both models read intent."""
    layers = listed(outcome.numbers["qualified_layers"])
    return f"The {outcome.name} model and the aligned one both read intent at layers {layers}"


def projection_finding(outcome: Outcome) -> str:
    """Which kinds the target's own direction puts on the harmful side, at the gate's layer."""
    frame, layer = outcome.frames["projections"], outcome.numbers["gate_layer"]
    side = (
        frame[frame["layer"] == layer]
        .groupby("label")["projection"]
        .apply(lambda values: (values > 0).mean())
    )
    said = ", ".join(f"{_percent(side[label])} of {label}" for label in plots.LABELS if label in side)
    return f"By the target's own direction at layer {layer}, on the harmful side: {said} prompts of val"


def gate_finding(outcome: Outcome) -> str:
    """How often the gate opens at its layer, kind by kind: many of one must not hide a few of another."""
    frame, layer = outcome.frames["gate-map"], outcome.numbers["gate_layer"]
    opened = frame[frame["layer"] == layer].set_index("label")["open"]
    attacks, calm = (
        [
            f"{100 * opened[label]:.1f} % of {label}"
            for label in plots.LABELS
            if label in opened and (label in ATTACKS) == attack
        ]
        for attack in (True, False)
    )
    return f"Of test prompts the gate opens on {' and '.join(attacks)}; on {', '.join(calm)}"


def strength_finding(outcome: Outcome) -> str:
    """What the chosen α does, beside random directions of the same length."""
    frame, alpha = outcome.frames["strength"], outcome.numbers["alpha"]
    at = frame[(frame["metric"] == "asr_not_refused") & (frame["alpha"] == alpha)].set_index("arm")["mean"]
    plain = frame[(frame["metric"] == "asr_not_refused") & (frame["arm"] == "unsteered")]["mean"].iloc[0]
    return (
        f"At α = {alpha:g} attacks not refused fall from {_percent(plain)} to {_percent(at['steered'])}; "
        f"random directions of that length leave {_percent(at['random'])}"
    )


def trade_off_finding(outcomes: Sequence[Outcome]) -> str:
    """Attack success and accuracy, before and after, over all targets."""
    before, after = ([o.numbers["conditions"][name] for o in outcomes] for name in ("none", "inferaligner"))
    kept = [
        (b["utility"], a["utility"]) for b, a in zip(before, after, strict=True) if b["utility"] is not None
    ]
    said = (
        f"Attacks not refused fall from {_range(before, 'asr_not_refused')} to {_range(after, 'asr_not_refused')}, "
        f"jailbreaks from {_range(before, 'jailbreak_not_refused')} to {_range(after, 'jailbreak_not_refused')}"
    )
    if kept:
        moved = 100 * max(abs(a - b) for b, a in kept)
        said += (
            f"; domain accuracy moves by at most {moved:.1f} points"
            if moved
            else "; domain accuracy stays as it is"
        )
    if max(a["broken"] for a in after) > MAX_BROKEN:
        said += f"; {_range(after, 'broken')} of replies to attacks are broken"
    return said


def broken_conditions(outcomes: Sequence[Outcome]) -> str:
    """Which conditions owe what they do not comply with to broken replies, for the subtitle."""
    found = {}
    for name, title in TITLES.items():
        numbers = [o.numbers["conditions"][name] for o in outcomes if name in o.numbers["conditions"]]
        if name != "inferaligner" and max((n["broken"] for n in numbers), default=0.0) > TOLD_BROKEN:
            found[title] = _range(numbers, "broken")
    said = ", ".join(f"{title} ({share})" for title, share in found.items())
    return f"; broken, hence no defence: {said}" if said else ""


def _range(numbers: Sequence[dict[str, float]], metric: str) -> str:
    values = [f"{100 * number[metric]:.0f}" for number in numbers]
    low, high = min(values, key=float), max(values, key=float)
    return f"{low} %" if low == high else f"{low}–{high} %"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"
