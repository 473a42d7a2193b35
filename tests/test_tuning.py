"""The search: what it minimises, what it never tries, what it picks, and that test prompts are read once."""

import math
import sys

import pandas as pd
import pytest
from measuring import by_length, extraction, labelled_prompts, plan_for

import workbench as wb
from workbench.provenance import Provenance
from workbench.sweep import objectives as measures
from workbench.sweep import tuning
from workbench.sweep.objectives import LIMITS, OBJECTIVES, on_front, require_objectives, within_limits
from workbench.sweep.results import Sharing, SweepResult
from workbench.sweep.space import expand_sets

ASKED = dict(judge=by_length, max_new_tokens=5)


@pytest.fixture(scope="module")
def pairs():
    test = wb.PromptSet.from_texts("t", ("steal a boat", "forge a ring"), "harmful")
    return wb.ContrastSet(
        "mixed", extraction(), labelled_prompts(), test + wb.PromptSet.from_texts("u", ("paint",), "harmless")
    )


def replies(spec, prompts, verdict_of):
    """A sweep of made-up verdicts: `verdict_of(arm, alpha, layers, label)`."""
    rows = []
    for arm in spec.arms():
        tags = dict(arm.tags)
        for i, prompt in enumerate(prompts):
            verdict = verdict_of(arm.name, tags.get("alpha", 0.0), tags.get("layers", ""), prompt.label)
            correct = math.nan if prompt.answer is None else float(verdict == "other")
            rows.append(
                {
                    "arm": arm.name,
                    **tags,
                    "prompt": i,
                    "label": prompt.label,
                    "verdict": verdict,
                    "correct": correct,
                }
            )
    return SweepResult(
        spec, pd.DataFrame(rows), Provenance("sweep", prompts=prompts.name), Sharing(len(rows), len(rows), 0)
    )


def world(arm, alpha, layers, label):
    """From 0.4 on ours refuses, at layers 2 alone; from 0.7 on random directions break; from 0.9 on so does ours."""
    if label in ("harmful", "jailbroken"):
        if alpha > (0.9 if arm == "steered" else 0.7):
            return "broken"
        return "refused" if arm == "steered" and alpha > 0.4 and layers == "2" else "complied"
    return "other"


@pytest.fixture
def made_up(monkeypatch):
    """Searches of `world`, with the number of settings in each call."""
    calls = []

    def run(model, prompts, spec, **_):  # as run_sweep
        calls.append(len(spec.settings))
        return replies(spec, prompts, world)

    monkeypatch.setattr(tuning, "run_sweep", run)
    return calls


def search(plain, pairs, **given):
    asked = dict(alpha=(0.0, 1.0), layers=["single"], trials=24, at_once=8, measure=False) | given
    return wb.tune(plain, pairs, plan_for(plain), **asked)


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_it_finds_the_window_in_which_ours_works_and_nothing_breaks(plain, pairs, made_up, sampler):
    found = search(plain, pairs, sampler=sampler)
    assert 0.4 < found.picked.alpha <= 0.7 and found.picked.layers == (2,)
    within = found.trials[(found.trials["arm"] == "steered") & within_limits(found.trials)]
    best = within[within["unrefused"] == 0]
    assert found.picked.alpha == best["alpha"].min(), "the mildest of equals"
    assert found.plan.alpha == found.picked.alpha and found.plan.layers == (2,) and found.worth_it
    new = found.trials[found.trials["arm"] == "steered"].drop_duplicates(["alpha", "layers"])
    assert made_up == new.groupby("batch").size().tolist(), "a call a batch, and none for what is known"


def test_every_trial_is_in_the_frame_with_random_directions_beside_it(plain, pairs, made_up):
    found = search(plain, pairs, trials=10, at_once=4)
    assert len(made_up) == 3 and max(made_up) <= 4
    counts = found.trials.groupby("arm")["number"].apply(list)
    assert counts["steered"] == counts["random"] == list(range(10))
    assert found.trials["batch"].tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2, 2] * 2
    for name in OBJECTIVES:
        assert (found.trials[f"{name}_low"] <= found.trials[name]).all()
        assert (found.trials[f"{name}_high"] >= found.trials[name]).all()
    assert len(found.sweep.frame) == (1 + 2 * sum(made_up)) * len(pairs.val), "the unsteered arm once"


def test_the_same_seed_tries_the_same_settings(plain, pairs, made_up):
    columns = ["alpha", "layers", "bias"]
    one, same, other = (search(plain, pairs, seed=seed, bias=(-1, 1)).trials[columns] for seed in (0, 0, 1))
    assert one.equals(same) and not one.equals(other)
    assert one["bias"].between(-1, 1).all() and one["bias"].nunique() > 4


def test_scores_are_those_of_the_setting_run_alone(plain, pairs):
    found = search(plain, pairs, trials=4, at_once=2, layers=[[2], [2, 3]], bias=(-0.2, 0.2), **ASKED)
    row = found.trials[found.trials["arm"] == "steered"].iloc[-1]
    setting = wb.Setting.from_tags(row.to_dict())
    alone = wb.run_sweep(plain, pairs.val, found.sweep.spec.at(setting), alpha=[setting.alpha], **ASKED)
    scored = measures.score_settings(alone).set_index("arm").loc["steered"]
    names = [*OBJECTIVES, "broken", "refusal_rise", "placebo_effect"]
    assert scored[names].tolist() == pytest.approx(row[names].tolist())


def test_with_a_ledger_the_same_search_computes_nothing_anew(plain, pairs, tmp_path):
    asked = dict(trials=4, at_once=2, layers=[[2], [2, 3]], ledger=tmp_path / "ledger.sqlite", **ASKED)
    first, again = search(plain, pairs, **asked), search(plain, pairs, **asked)
    assert first.trials.equals(again.trials) and first.picked == again.picked
    assert first.sweep.sharing.known < first.sweep.sharing.rows == again.sweep.sharing.known


def test_test_prompts_are_read_once_and_by_the_picked_plan(plain, pairs, made_up, monkeypatch):
    asked = []

    def evaluate(model, prompts, plan, **given):
        asked.append((prompts, plan.alpha, given["placebo"]))
        return wb.evaluate(model, prompts, plan, **(given | ASKED))

    monkeypatch.setattr(tuning, "evaluate", evaluate)
    found = search(plain, pairs, measure=True)
    assert asked == [(pairs.test, found.picked.alpha, 10)]
    assert set(found.report.frame["arm"]) == {"unsteered", "steered", "random"}
    assert "measured once" in found.sentences()[-1]


def test_where_nothing_is_worth_its_price_the_mildest_is_picked_and_it_says_so(plain, pairs, monkeypatch):
    breaks = lambda arm, alpha, layers, label: "broken" if arm != "unsteered" else "complied"  # noqa: E731
    monkeypatch.setattr(tuning, "run_sweep", lambda model, prompts, spec, **_: replies(spec, prompts, breaks))
    found = search(plain, pairs)
    assert not within_limits(found.front()).any() and not found.worth_it
    assert found.picked.alpha == found.trials["alpha"].min()


def test_a_broken_reply_counts_against_a_setting_in_every_objective(plain, pairs):
    spec = wb.SweepSpec(plan_for(plain), [0.5], [(2,)], ["all"])
    breaks = lambda arm, alpha, layers, label: "broken" if arm == "steered" else "other"  # noqa: E731
    scored = measures.objectives(replies(spec, pairs.val, breaks).frame).set_index("arm")
    assert scored.loc["steered", list(OBJECTIVES)].tolist() == [1, 1, 1]
    assert scored.loc["random", list(OBJECTIVES)].tolist() == [1, 0, 0]


def test_a_front_is_what_no_other_beats():
    frame = pd.DataFrame({"a": [0.0, 0.5, 0.5, 0.2, 0.0], "b": [0.5, 0.0, 0.1, 0.2, 0.5]})
    assert on_front(frame, ["a", "b"]).tolist() == [True, True, False, True, True]
    for row in frame[~on_front(frame, ["a", "b"])].itertuples():
        assert ((frame["a"] <= row.a) & (frame["b"] <= row.b)).sum() > 1


def test_nothing_is_printed_and_optunas_own_level_stays(plain, pairs, made_up, capfd):
    optuna = pytest.importorskip("optuna")
    before = optuna.logging.get_verbosity()
    search(plain, pairs, trials=2, at_once=2)
    assert optuna.logging.get_verbosity() == before
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(alpha=(-0.5, 1.0)), r"got alpha=\(-0.5, 1.0\), expected bounds of 0 or more: .* subtracts"),
        (dict(alpha=(0.5, 0.5)), r"got alpha=\(0.5, 0.5\), expected two finite numbers, low and high"),
        (dict(alpha=(0.0, math.inf)), "got alpha=.*, expected two finite numbers"),
        (dict(alpha=0.5), "got alpha=0.5, expected two finite numbers"),
        (dict(bias=(1.0, -1.0)), r"got bias=\(1.0, -1.0\), expected two finite numbers"),
        (dict(sampler="grid"), "got sampler='grid', expected one of 'nsga2', 'tpe'"),
        (dict(trials=4, at_once=8), "got trials=4, at_once=8, expected 1 or more at once"),
        (dict(trials=0, at_once=0), "got trials=0, at_once=0, expected 1 or more at once"),
        (dict(layers=[]), "got no layers or no positions to try"),
        (dict(layers=[[9]]), r"got layers \[9\], the vectors' model has layers 0 to 5"),
        (dict(layers=["doubles"]), "got layer sets 'doubles', expected one of 'single'"),
    ],
)  # fmt: skip
def test_messages(plain, pairs, unchecked, given, message):
    with pytest.raises(ValueError, match=message):
        search(plain, pairs, **given)


def test_a_gate_without_a_threshold_has_no_bias(plain, pairs):
    plan = plan_for(plain).with_gate(wb.AlwaysOpen())
    with pytest.raises(ValueError, match=r"got bias=\(0, 1\) and a gate without a threshold \(AlwaysOpen\)"):
        wb.tune(plain, pairs, plan, alpha=(0, 1), bias=(0, 1))


def test_it_wants_attacks_and_something_to_lose_and_no_test_prompt(plain, pairs):
    attacks, calm = pairs.val.labelled("harmful"), pairs.val.labelled("harmless")
    with pytest.raises(
        ValueError, match="got prompts labelled harmful, expected harmless, contrast or domain ones"
    ):
        search(plain, pairs, search_on=attacks)
    with pytest.raises(
        ValueError, match="got prompts labelled harmless, expected harmful or jailbroken ones"
    ):
        search(plain, pairs, search_on=calm)
    with pytest.raises(ValueError, match=r"got search_on with 3 prompts of 'mixed'.test, 'steal a boat' say"):
        search(plain, pairs, search_on=pairs.test)
    assert require_objectives(attacks + calm) == ("unrefused", "unanswered")
    assert require_objectives(pairs.val) == tuple(OBJECTIVES)


def test_without_optuna_the_command_that_installs_it_is_told(plain, pairs, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        ImportError, match=r"tuning needs Optuna.*: pip install 'inferaligner-workbench\[search\]'"
    ):
        search(plain, pairs)


def test_objectives_need_the_unsteered_arm(plain, pairs):
    spec = wb.SweepSpec(plan_for(plain), [0.5], [(2,)], ["all"])
    frame = replies(spec, pairs.val, world).frame
    with pytest.raises(ValueError, match="got arms steered, random, expected unsteered among them"):
        measures.objectives(frame[frame["arm"] != "unsteered"])


@pytest.mark.parametrize("gate", ["threshold", "always"])
def test_a_picked_plan_is_the_same_from_its_folder(plain, tmp_path, gate):
    plan = plan_for(plain) if gate == "threshold" else plan_for(plain).with_gate(wb.AlwaysOpen())
    path = wb.save_plan(plan, tmp_path / "picked")
    assert wb.load_plan(path).id == wb.load_plan(path.parent).id == plan.id


def test_a_plan_that_is_none_says_so(plain, tmp_path):
    with pytest.raises(FileNotFoundError, match="no plan .*plan.json: workbench tune --out .* writes one"):
        wb.load_plan(tmp_path / "plan.json")
    path = wb.save_plan(plan_for(plain), tmp_path)
    path.write_text('{"layers": [1]}')
    with pytest.raises(ValueError, match="plan.json is no plan .*expected JSON with layers, alpha, scale"):
        wb.load_plan(tmp_path)


def test_the_rule_chooses_among_those_that_none_beats(plain, pairs, made_up):
    """A rule that likes nothing but little strength would take what refuses no attack."""
    mild = lambda rates: -rates["alpha"]  # noqa: E731
    found = search(plain, pairs, rule=mild)
    tried = found.trials[found.trials["arm"] == "steered"]
    assert tried["alpha"].min() < 0.4 < found.front()["alpha"].min(), "the mildest lies off the front"
    assert found.picked.alpha == found.front()["alpha"].min()


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_every_trial_is_told_how_far_it_is_from_its_limits(plain, pairs, made_up, monkeypatch, sampler):
    """Without that the search takes what breaks replies for as good as what does not."""
    import optuna

    studies, create = [], optuna.create_study

    def keeping(**given):
        studies.append(create(**given))
        return studies[-1]

    monkeypatch.setattr(optuna, "create_study", keeping)
    found = search(plain, pairs, sampler=sampler, trials=12, at_once=4)
    told = {trial.number: trial.constraints for trial in studies[0].trials}
    steered = found.trials[found.trials["arm"] == "steered"].set_index("number")
    assert told == {
        number: {name: row[name] - limit for name, limit in LIMITS.items()}
        for number, row in steered.iterrows()
    }
    sound = [number for number, limits in told.items() if max(limits.values()) <= 0]
    assert sound == list(steered.index[within_limits(steered)]) and 0 < len(sound) < len(told)


def test_a_set_of_layers_is_tried_once_however_it_is_written():
    assert expand_sets([[3, 4], [4, 3], [3, 3, 4]], range(6)) == ((3, 4),)
    assert expand_sets(["single", [1], [2, 2]], (1, 2)) == ((1,), (2,))


@pytest.mark.parametrize("sampler", ["nsga2", "tpe"])
def test_every_direction_is_down(plain, pairs, made_up, monkeypatch, sampler):
    """What is attacked, lost and refused is to be small, in whatever order it is told."""
    import optuna

    asked, create = [], optuna.create_study

    def spying(*, directions, sampler):
        asked.extend(directions)
        return create(directions=directions, sampler=sampler)

    monkeypatch.setattr(optuna, "create_study", spying)
    found = search(plain, pairs, sampler=sampler, trials=4, at_once=2)
    assert asked == ["minimize"] * 3
    assert found.picked.alpha >= 0
