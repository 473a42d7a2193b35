"""What a condition costs: seconds per 1,000 generated tokens, side by side in one run.

    every round asks all conditions the same prompts, one after the other, in an order that turns by one each round
    cost = seconds / generated tokens · 1,000        slowdown = cost / the cost of nothing in that round
    each told as its median over the rounds, with quartiles

The trap: a machine that is busy elsewhere, or warms up, slows what happens to run then. So conditions take turns, the
first round is not counted, and a slowdown compares within its own round.
"""

import time
from collections.abc import Mapping, Sequence
from itertools import product

import pandas as pd

from workbench.evaluation.answers import ask
from workbench.evaluation.conditions import Condition
from workbench.gates import ThresholdGate
from workbench.generation import reply_to
from workbench.judges.verdicts import Score
from workbench.loading import Model
from workbench.profiles import select_layers
from workbench.prompts import PromptSet
from workbench.records import Choice
from workbench.reproduction.paper import SECONDS_PER_1000
from workbench.steering import SteeringPlan
from workbench.sweep.choosing import FIRST_STAGE_ALPHAS, RAW_ALPHAS, choose_gate, sets_tried
from workbench.sweep.evidence import Evidence

METRICS = ("seconds_per_1000", "slowdown")
NOT_JUDGED = Score(None, "a run about cost judges nothing")
BATCH_SIZE = 64


def unsearched_plans(evidence: Evidence, *, min_auroc: float) -> tuple[SteeringPlan, SteeringPlan]:
    """Ours and paper-exact at a strength that nobody searched for: what is added costs the same at any."""
    layers = select_layers(*evidence.profiles, min_auroc=min_auroc)
    gate = choose_gate(evidence.srv, evidence.target_train, evidence.target_val)
    some = sets_tried(layers)[len(sets_tried(layers)) // 2]
    ours = SteeringPlan(
        evidence.ssv, gate=gate, layers=some, alpha=FIRST_STAGE_ALPHAS[0], scale="gap", positions="prompt"
    )
    paper_gate = ThresholdGate.fit(evidence.srv, evidence.target_train)
    return ours, SteeringPlan(evidence.ssv, gate=paper_gate, layers=layers, alpha=RAW_ALPHAS[0])


def choices_of(name: str, ours: SteeringPlan, rounds: int) -> list[Choice]:
    """What a run about cost decides."""
    return [
        Choice(f"{name}: strength", f"α = {ours.alpha:g} of ‖v'‖, not searched for", "declared",
               "what is added costs the same at any strength", True),
        Choice(f"{name}: rounds", f"{rounds}, after one that is not counted", "the file",
               "conditions take turns; median and quartiles over the rounds", True),
    ]  # fmt: skip


def measure_cost(
    model: Model,
    prompts: PromptSet,
    rows: Sequence[Condition],
    *,
    rounds: int,
    max_new_tokens: int,
    batch_size: int | None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """A row per round and condition (seconds, tokens, seconds per 1,000), and the replies of the last round."""
    timed, replies = [], {}
    for turn, k in product(range(rounds + 1), range(len(rows))):
        row = rows[(k + turn) % len(rows)]
        asked = ask(prompts, [row.arm])
        start = time.perf_counter()
        found = reply_to(
            model,
            asked.prompts,
            asked.plans,
            max_new_tokens=max_new_tokens,
            batch_size=batch_size or BATCH_SIZE,
            guide=row.arm.guide,
        )
        seconds = time.perf_counter() - start
        tokens = sum(len(completion.tokens) for completion in found)
        if turn:
            timed.append(
                {"round": turn, "condition": row.name, "seconds": seconds, "tokens": tokens,
                 "seconds_per_1000": 1000 * seconds / max(1, tokens)}
            )  # fmt: skip
        replies[row.name] = asked.frame(found, [(NOT_JUDGED, float("nan"))] * len(found))
    frame = pd.DataFrame(timed)
    before = frame[frame["condition"] == "none"].set_index("round")["seconds_per_1000"]
    frame["slowdown"] = frame["seconds_per_1000"] / frame["round"].map(before)
    return frame, pd.concat([replies[row.name] for row in rows], ignore_index=True)


def cost_table(
    timed: pd.DataFrame, target: str, titles: Mapping[str, str], paper: str | None
) -> pd.DataFrame:
    """The record's table: median and quartiles over the rounds, in the order of `titles`, beside the paper's."""
    told = SECONDS_PER_1000.get(paper or "", {})
    found = []
    for name in (name for name in titles if name in set(timed["condition"])):
        part = timed[timed["condition"] == name]
        for metric in METRICS:
            low, median, high = part[metric].quantile([0.25, 0.5, 0.75]).tolist()
            number = told.get(name, float("nan"))
            found.append(
                {
                    "target": target, "condition": name, "title": titles[name], "metric": metric, "mean": median,
                    "low": low, "high": high, "n": len(part), "clusters": len(part), "unscored": 0,
                    "method": "median over rounds, with quartiles",
                    "paper": number if metric == METRICS[0] else number / told.get("none", float("nan")),
                }
            )  # fmt: skip
    return pd.DataFrame(found)
