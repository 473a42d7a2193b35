"""Comparing arms of a judged frame: one row per arm and metric, pairs by prompt, corrected together, honest on n."""

import math

import numpy as np
import pandas as pd
import pytest

import workbench as wb
from workbench.evaluation.comparing import COLUMNS
from workbench.evaluation.metrics import change, over_seeds
from workbench.stats import holm, paired_test, prompts_to_tell


def arm(name, verdicts, label="harmful"):
    return pd.DataFrame(
        [
            {
                "arm": name,
                "prompt": i,
                "label": label,
                "verdict": v,
                "correct": math.nan,
                "cluster_verb": f"v{i // 2}",
            }
            for i, v in enumerate(verdicts)
        ]
    )


def judged(**arms):
    return pd.concat([arm(name, verdicts) for name, verdicts in arms.items()], ignore_index=True)


@pytest.fixture
def frame():
    return judged(none=["complied"] * 12, steered=["refused"] * 11 + ["complied"], alike=["complied"] * 12)


def test_a_row_is_what_the_parts_say(frame):
    found = wb.compare(frame, "none", "asr_complied").set_index("arm")
    assert list(found.reset_index().columns) == sorted(COLUMNS, key=COLUMNS.index)
    assert list(found.index) == ["steered", "alike"]
    row = found.loc["steered"]
    moved = change(frame[frame["arm"] == "steered"], frame[frame["arm"] == "none"], "asr_complied")
    assert (row["change"], row["low"], row["high"]) == (moved.mean, moved.low, moved.high)
    assert (row["b"], row["c"], row["n"], row["against"]) == (0, 11, 12, "none")
    test = paired_test([0] * 11 + [1], [1] * 12, [i // 2 for i in range(12)])
    assert (row["p"], row["p_clusters"]) == (test.p, test.p_clusters)
    assert row["p_clusters"] > row["p"]
    assert found.loc["alike", "p_clusters"] == 1


def test_all_that_is_compared_is_corrected_together(frame):
    both = wb.compare(frame, metrics=["asr_complied", "asr_not_refused"])
    assert len(both) == 4
    assert both["p_holm"].to_numpy() == pytest.approx(holm(both["p_clusters"]))
    alone = wb.compare(frame, metrics="asr_complied", arms=["steered"])
    assert alone["p_holm"].iat[0] < both["p_holm"].iat[0]


def test_metrics_without_prompts_are_left_out(frame):
    assert set(wb.compare(frame)["metric"]) == {"asr_not_refused", "asr_complied", "broken"}


def test_what_is_needed_is_told_from_how_many_change_and_how_they_cluster():
    verdicts = np.where(
        np.arange(40) % 8 < 2, "refused", "complied"
    ).tolist()  # whole pairs of prompts change
    row = wb.compare(judged(none=["complied"] * 40, some=verdicts), metrics="asr_complied", worth=0.1).iloc[0]
    assert row["needed"] == prompts_to_tell(0.1, changing=0.25, design_effect=2)


def test_a_shortfall_names_the_worst_arm_of_each_metric_whose_change_is_not_told(frame):
    """`steered` moves half of the prompts, which no number of prompts more would make any plainer."""
    (sentence,) = wb.shortfalls(wb.compare(frame, metrics="asr_complied"))
    assert sentence.startswith(
        "asr_complied, alike against none: 12 prompts are too few to tell a change of 5 points"
    )
    assert wb.shortfalls(wb.compare(frame, metrics="asr_complied", worth=1.0), worth=1.0) == []


def test_unscored_pairs_are_counted_out_and_a_metric_of_none_is_told():
    frame = judged(none=["complied", "complied", None], some=["refused", None, "refused"], mute=[None] * 3)
    found = wb.compare(frame, metrics="asr_complied").set_index("arm")
    assert list(found["n"]) == [1, 0]
    assert found.loc["mute", ["change", "low", "high", "p", "p_clusters", "p_holm"]].isna().all()
    assert found.loc["some", "p_holm"] == found.loc["some", "p_clusters"]  # what has no p is no comparison


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: wb.compare(f, "joy"), "got arms joy, the frame has none, steered, alike"),
        (lambda f: wb.compare(f, arms=["steer"]), "got arms steer, the frame has none, steered, alike"),
        (
            lambda f: wb.compare(f, arms=["none"]),
            "got 'none' against itself, expected arms to compare with it",
        ),
        (lambda f: wb.compare(f, metrics="joy"), "got metric 'joy', expected one of asr_not_refused"),
        (
            lambda f: wb.compare(f.iloc[:-1]),
            "the two arms answered different prompts: expected the same ones",
        ),
        (lambda f: over_seeds([], "broken"), "got no runs, expected one judged frame per seed"),
        (
            lambda f: over_seeds([arm("none", ["refused"] * n) for n in (2, 3)], "asr_complied"),
            "the two arms answered different prompts",
        ),
    ],
)
def test_messages(frame, call, message):
    with pytest.raises(ValueError, match=message):
        call(frame)


def test_seeds_are_a_level_of_their_own():
    runs = [arm("none", ["complied"] * k + ["refused"] * (20 - k)) for k in (2, 9, 16)]
    found, alone = over_seeds(runs, "asr_complied"), over_seeds(runs[:1], "asr_complied")
    assert found.mean == pytest.approx(27 / 60)
    assert "3 seeds" in found.method
    assert "seeds were not varied" in alone.method
    assert found.high - found.low > 0.8  # seeds from 10 to 80 %, of which there are three
    assert over_seeds(runs, "over_refusal") is None
