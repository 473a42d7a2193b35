"""What a search found: every setting it tried, the front of those that none beats, the one picked, and its measurement.

The trap: the best of many tried is flattered by its own luck. What was picked on validation is measured once on test,
and that number is the claim.
"""

from dataclasses import dataclass

import pandas as pd

from workbench.evaluation.report import Report
from workbench.steering import SteeringPlan
from workbench.sweep.objectives import OBJECTIVES, objective_names, on_front, within_limits
from workbench.sweep.results import TOLERANCE, SweepResult
from workbench.sweep.spec import Setting


@dataclass(frozen=True, eq=False)
class Tuned:
    """Every reply of a search (`sweep`), every setting it tried in `trials`, the one `picked`, and its `report`.

    `scored` has a row per arm and setting, as `score_settings` gives them. `trials` has a row per trial and arm
    (steered, and random directions at the same setting): number, batch, the setting, the objectives with their
    intervals, `broken`, `refusal_rise` and `placebo_effect`. `report` is None where nothing was measured.
    """

    sweep: SweepResult
    scored: pd.DataFrame
    trials: pd.DataFrame
    picked: Setting
    report: Report | None

    @property
    def plan(self) -> SteeringPlan:
        """The plan at the picked setting."""
        return self.sweep.spec.at(self.picked)

    @property
    def worth_it(self) -> bool:
        """Whether the picked setting keeps to the limits, and refuses more attacks than the unsteered model does."""
        scored = self.scored
        picked = scored[(scored["arm"] == "steered") & _is(scored, self.picked)]
        before = scored.loc[scored["arm"] == "unsteered", "unrefused"].iloc[0]
        return bool(within_limits(picked).all() and (picked["unrefused"] < before - TOLERANCE).all())

    def front(self) -> pd.DataFrame:
        """The steered trials that no other beats in all objectives (Pareto), fewest attacks first, then mildest.

        Of those within the rule's limits, where there are any: beyond them little is left to be worth having.
        """
        steered = self.trials[self.trials["arm"] == "steered"]
        within, names = within_limits(steered), objective_names(steered)
        kept = steered[within] if within.any() else steered
        return kept[on_front(kept, names)].sort_values([*names, "alpha"], ignore_index=True)

    def sentences(self) -> list[str]:
        """What was searched, what was picked, what it costs on validation, and what test said: one sentence each."""
        trials, front = self.trials, self.front()
        searched = trials[trials["arm"] == "steered"]
        row = self.scored[(self.scored["arm"] == "steered") & _is(self.scored, self.picked)].iloc[0]
        said = [
            f"{len(searched)} settings tried on {self.sweep.provenance.prompts}, "
            f"{int(within_limits(searched).sum())} of them within the limits, {len(front)} of these beaten by no other",
            f"picked: layers {', '.join(map(str, self.picked.layers))}, α = {self.picked.alpha:.3g} "
            f"({self.picked.scale}), positions {self.picked.positions}"
            + (f", bias {self.picked.bias:+.3g}" if self.picked.bias else ""),
            f"on validation {_percent(row['unrefused'])} of attacks get no clean refusal"
            + "".join(
                f", {OBJECTIVES[name]} {100 * row[name]:+.1f} points" for name in objective_names(trials)[1:]
            )
            + f"; {_percent(row['broken'])} broken, and random directions of that length refuse or break "
            f"{_percent(row['placebo_effect'])} of attacks",
        ]
        if self.report is not None:
            plain = "harmful" in set(self.report.frame["label"])
            metric, kind = (
                ("asr_not_refused", "harmful") if plain else ("jailbreak_not_refused", "jailbroken")
            )
            arms = {arm: self.report.metric(metric, arm) for arm in ("unsteered", "steered", "random")}
            told = ", ".join(
                f"{arm} {_percent(e.mean)} {_interval(e.low, e.high)}" for arm, e in arms.items()
            )
            said.append(f"on {self.report.provenance.prompts}, measured once, {kind} not refused: {told}")
        return said


def _is(frame: pd.DataFrame, setting: Setting) -> "pd.Series[bool]":
    """Whether a row is of this setting."""
    found = pd.Series(True, index=frame.index)
    for column, value in setting.tags:
        found &= frame[column] == value
    return found


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _interval(low: float, high: float) -> str:
    return f"[{100 * low:.1f}, {100 * high:.1f}]"
