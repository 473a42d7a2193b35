"""The dose-response run: what is measured, what is kept, what is told where nothing can be chosen."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from measuring import extraction, labelled_prompts, other_concept, relative_of

import workbench as wb
from workbench.plots import DOSE_LINES, DOSE_METRICS, DOSE_SETTINGS, NOT_CHOSEN

SCRIPT = Path(__file__).parents[1] / "figures" / "dose_response.py"
FEW = {"harmful": 3, "jailbroken": 2, "harmless": 2}
MINUS = "attacks_not_refused minus ours"


@pytest.fixture(scope="module")
def dose():
    spec = importlib.util.spec_from_file_location("dose_response", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def measured(dose, plain):
    """By whether something can be chosen: what is measured on models that know nothing, under a judge that does."""
    test = [wb.Prompt.user(f"the {p.text}", label=p.label, answer=p.answer) for p in labelled_prompts()]
    pairs = wb.ContrastSet("small", extraction(), labelled_prompts(), wb.PromptSet("test", tuple(test)))
    models = {"target": plain, "aligned": relative_of(plain), "base": relative_of(plain, seed=1)}
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.sweep.choosing.GAP_ALPHAS", (0.1, 0.2))
        patch.setattr("workbench.sweep.choosing.RAW_ALPHAS", (0.1,))
        patch.setattr("workbench.sweep.choosing.sets_tried", lambda layers: [(1, 2), (2, 3)])
        for chosen in (True, False):
            patch.setattr("workbench.sweep.choosing.MIN_AUROC", 0.0 if chosen else 1.1)
            asked = {"search": FEW, "test": FEW, "max_new_tokens": 2}
            found[chosen] = dose.measure_run(models, pairs, other_concept(), **asked)
    return found


def result(gaps, *, lost=(), broken=0.0):
    """The rows of runs: gaps by (share, seed) as (mean, low, high); those of `lost` chose nothing."""
    rows = []
    for (share, seed), (mean, low, high) in gaps.items():
        at = {"share": share, "seed": seed, "target": "medicine", "n": 200}
        rows += [
            {
                **at,
                "condition": name,
                "setting": setting,
                "metric": metric,
                "mean": broken,
                "low": 0,
                "high": 1,
            }
            for name in DOSE_LINES
            for setting in DOSE_SETTINGS
            for metric in (*DOSE_METRICS, "refused", "jailbreak_refused")
        ]
        gap = {"setting": "own best", "metric": MINUS, "mean": mean, "low": low, "high": high}
        rows += [{**at, "condition": "own_srv", **gap}, {**at, "condition": "random", **gap, "mean": 0.99}]
    for share, seed in lost:
        at = {"share": share, "seed": seed, "target": "medicine"}
        rows += [{**at, "condition": "none", "setting": "own best", "metric": "broken", "mean": 0.0}]
        rows += [{**at, "condition": NOT_CHOSEN, "note": "no layer"}]
    return pd.DataFrame(rows)


def test_every_condition_is_measured_at_both_settings(measured):
    frame = measured[True]
    for setting in DOSE_SETTINGS:
        part = frame[(frame["setting"] == setting) & (frame["metric"] == "broken")]
        assert sorted(part["condition"]) == sorted(DOSE_LINES)
        assert set(part["n"]) == {5}
    controls = frame[frame["condition"].isin(("own_srv", "own_srv_subtracted", "random"))]
    assert controls.groupby(["condition", "setting"])["metric"].apply(lambda names: MINUS in set(names)).all()
    assert wb.plots.dose_response(frame.assign(share=0.05, seed=0)).data


def test_at_equal_alpha_a_control_has_the_setting_of_ours(measured):
    at = measured[True].drop_duplicates(["condition", "setting"]).set_index(["condition", "setting"])
    ours = at.loc[("inferaligner", "equal alpha"), ["alpha", "layers", "positions"]].tolist()
    assert at.loc[("own_srv", "equal alpha"), ["alpha", "layers", "positions"]].tolist() == ours
    assert at.loc[("own_srv_subtracted", "equal alpha"), "alpha"] == -ours[0]
    assert at.loc[("own_srv_subtracted", "own best"), "alpha"] < 0
    assert at.loc[("inferaligner", "own best"), ["alpha", "layers", "positions"]].tolist() == ours


def test_base_and_aligned_model_gate_and_cosine_are_on_record(measured):
    found = measured[True].set_index(["condition", "metric"])
    assert {("base", "refused"), ("aligned", "refused"), ("gate", "open on harmful")} <= set(found.index)
    cosine = found.loc[("srv_ssv", "cosine")]
    assert cosine["low"] <= cosine["mean"] <= cosine["high"]
    assert "cosine" in cosine["note"]


def test_where_nothing_can_be_chosen_that_is_the_finding(measured, dose):
    frame = measured[False]
    (row,) = frame[frame["condition"] == NOT_CHOSEN].to_dict("records")
    assert "no layer reaches AUROC 1.1 in all 2 profiles" in row["note"]
    assert {"none", "base", "aligned"} == set(frame["condition"]) - {NOT_CHOSEN}
    said = dose.finding(frame.assign(share=0.0, seed=0))
    assert said == "In none of 1 runs could a setting be chosen"


def test_only_a_lack_of_layers_is_a_finding(dose, plain, monkeypatch):
    """A fault of the run, such as a prompt beyond the context, must not be published as one of the models."""
    pairs = wb.ContrastSet(
        "small", extraction(), labelled_prompts(), wb.PromptSet.from_texts("t", ["x"], "harmful")
    )
    models, asked = dict.fromkeys(("target", "aligned", "base"), plain), {"search": FEW, "test": FEW}

    def too_long(*given, **asked):
        raise ValueError("prompt 3 has 70 tokens")

    monkeypatch.setattr(dose, "choose", too_long)
    with pytest.raises(ValueError, match="prompt 3 has 70 tokens"):
        dose.measure_run(models, pairs, other_concept(), max_new_tokens=2, **asked)


def test_the_finding_tells_the_gaps_of_the_frame(dose):
    gaps = {(0.5, 0): (0.01, -0.02, 0.04), (0.0, 0): (0.6, 0.5, 0.7), (0.0, 1): (0.4, 0.3, 0.5)}
    said = dose.finding(result(gaps))
    assert said == (
        "At its best, the target's own vector leaves more attacks not refused than the aligned model's in 2 of 3 runs, "
        "fewer in 0: +50 points where the base refused 0 % of harm, +1 where it refused 50 %"
    )
    itself = [
        {"condition": "none", "metric": "attacks_not_refused", "share": share, "seed": seed, "mean": mean}
        for share, seed, mean in ((0.0, 0, 0.9), (0.0, 1, 0.9), (0.5, 0, 0.04))
    ]
    told = dose.finding(pd.concat([result(gaps), pd.DataFrame(itself)]))
    assert told.endswith("+1 where it refused 50 % and the target, unsteered, leaves 4 %")
    opposed = dose.finding(result({(0.05, 0): (-0.2, -0.3, -0.1)}, lost=[(0.05, 1)], broken=0.07))
    assert "0 of 1 runs, fewer in 1: -20 points where the base refused 5 % of harm" in opposed
    assert opposed.endswith("; up to 7 % broken; in 1 more nothing could be chosen")
    assert "medicine: 200 harmful and 200 jailbroken test prompts" in dose.method(result(gaps))


def fake_run(dose, monkeypatch, home, trained):
    """`run_one` without models: what is trained goes to `trained`, what is measured says where models came from."""
    monkeypatch.setattr(dose, "shipped_path", lambda *parts: home)
    monkeypatch.setattr(dose, "load_model", lambda path, backend: path)
    monkeypatch.setattr(dose, "prompts_for", lambda target: (None, None))
    monkeypatch.setattr(
        dose,
        "train_family",
        lambda folder, *, seed, members, processes: trained.append(
            (seed, [m.name for m in members], members[0].mixture.refused_share)
        ),
    )
    monkeypatch.setattr(
        dose,
        "measure_run",
        lambda models, pairs, other: pd.DataFrame([{"condition": "none", "note": models["target"]}]).assign(
            layers="1", setting="", metric="refused"
        ),
    )


def test_a_run_trains_what_it_needs_once_and_is_kept(dose, monkeypatch, tmp_path):
    trained = []
    fake_run(dose, monkeypatch, tmp_path / "nowhere", trained)
    first = dose.run_one((0.2, 1), target="medicine", folder=tmp_path)
    assert trained == [(1, ["base", "aligned", "medicine"], 0.2)]
    assert (first["share"].item(), first["seed"].item(), first["target"].item()) == (0.2, 1, "medicine")
    assert first["note"].item() == str(tmp_path / "0.2-seed1" / "medicine")
    again = dose.run_one((0.2, 1), target="medicine", folder=tmp_path)
    assert len(trained) == 1
    pd.testing.assert_frame_equal(first, again)
    dose.run_one((0.2, 1), target="finance", folder=tmp_path)
    assert trained[1] == (1, ["base", "aligned", "finance"], 0.2)


def test_only_the_shipped_dose_and_seed_use_the_shipped_family(dose, monkeypatch, tmp_path):
    trained, home = [], tmp_path / "organisms"
    for name in ("base", "aligned", "medicine"):
        (home / name).mkdir(parents=True)
    fake_run(dose, monkeypatch, home, trained)
    shipped = dose.run_one((0.05, 0), target="medicine", folder=tmp_path)
    assert trained == []
    assert shipped["note"].item() == str(home / "medicine")
    for run in ((0.05, 1), (0.0, 0)):
        dose.run_one(run, target="medicine", folder=tmp_path)
    dose.run_one((0.05, 0), target="finance", folder=tmp_path)  # which does not ship here
    assert [seed for seed, *_ in trained] == [1, 0, 0]


def test_models_of_another_recipe_are_refused(dose, monkeypatch, tmp_path):
    fake_run(dose, monkeypatch, tmp_path / "nowhere", [])
    (tmp_path / "0-seed0").mkdir()
    (tmp_path / "0-seed0" / "recipe").write_text("yesterday")
    with pytest.raises(ValueError, match=r"0-seed0 is of recipe yesterday, the recipe now is \w+: move that"):
        dose.run_one((0.0, 0), target="medicine", folder=tmp_path)


def test_it_writes_picture_and_csv_of_all_runs(dose, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("workbench.export._picture", lambda fig, suffix: b"<svg/>")

    def run_one(run, *, target, folder):
        return result({run: (0.5, 0.4, 0.6)}) if run != (0.0, 1) else result({}, lost=[run])

    monkeypatch.setattr(dose, "run_one", run_one)
    dose.main(["--shares", "0", "0.5", "--seeds", "0", "1", "--workers", "1", "--out", str(tmp_path)])
    frame = pd.read_csv(tmp_path / "dose-response.csv")
    assert frame[["share", "seed"]].drop_duplicates().values.tolist() == [[0, 0], [0, 1], [0.5, 0], [0.5, 1]]
    assert (tmp_path / "dose-response.svg").is_file()
    said = capsys.readouterr().out
    assert "0 % refused, seed 1: no layer" in said
    assert "in 3 of 3 runs" in said and "in 1 more nothing could be chosen" in said


def test_without_any_choice_what_is_known_is_kept(dose, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(dose, "run_one", lambda run, *, target, folder: result({}, lost=[run]))
    dose.main(["--seeds", "0", "--workers", "1", "--out", str(tmp_path)])
    assert pd.read_csv(tmp_path / "dose-response.csv")["note"].eq("no layer").sum() == 4
    assert not (tmp_path / "dose-response.svg").exists()
    assert "In none of 4 runs could a setting be chosen" in capsys.readouterr().out


def test_a_share_is_a_share(dose, capsys):
    with pytest.raises(SystemExit):
        dose.main(["--shares", "5"])
    assert "got shares [5.0], expected numbers from 0 to 1" in capsys.readouterr().err
