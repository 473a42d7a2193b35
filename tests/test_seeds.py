"""Three seeds: what is measured of each model, by the search of the full demo."""

import importlib.util
from pathlib import Path

import pandas as pd
import pytest
from measuring import extraction, labelled_prompts, other_concept, relative_of

import workbench as wb
from workbench.demo import target as demo
from workbench.evaluation.metrics import METRICS

SCRIPT = Path(__file__).parents[1] / "figures" / "seeds.py"
COLUMNS = ["seed", "model", "arm", "metric", "mean", "low", "high", "n", "clusters", "method"]


@pytest.fixture
def seeds(plain, monkeypatch):
    """The script, with models that know nothing in place of a family."""
    spec = importlib.util.spec_from_file_location("seeds", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    models = {"finance": plain, "aligned": relative_of(plain)}
    monkeypatch.setattr(module, "load_model", lambda folder, backend: models[folder.name])
    test = [wb.Prompt.user(f"the {p.text}", label=p.label, answer=p.answer) for p in labelled_prompts()]
    pairs = wb.ContrastSet("small", extraction(), labelled_prompts(), wb.PromptSet("test", tuple(test)))
    monkeypatch.setattr(module, "prompts_for", lambda name: (pairs, other_concept()))
    return module


def test_a_target_is_measured_as_it_is_and_steered(seeds, monkeypatch, tmp_path):
    monkeypatch.setattr("workbench.sweep.choosing.MIN_AUROC", 0.0)
    monkeypatch.setattr("workbench.sweep.choosing.GAP_ALPHAS", (0.1,))
    monkeypatch.setattr("workbench.sweep.choosing.RAW_ALPHAS", (0.1,))
    monkeypatch.setattr("workbench.sweep.choosing.sets_tried", lambda layers: [(1, 2)])
    monkeypatch.setattr(seeds, "MAX_NEW_TOKENS", 2)
    found = seeds.measure_one(1, tmp_path, "finance")
    assert list(found.columns) == COLUMNS
    assert found.groupby("arm", sort=False)["metric"].apply(list).to_dict() == {
        "none": list(METRICS),
        "inferaligner": list(METRICS),
    }
    assert (found["seed"] == 1).all() and (found["model"] == "finance").all()
    assert found["mean"].between(found["low"], found["high"]).all()


def test_the_aligned_model_is_measured_as_its_card_is(seeds, monkeypatch, tmp_path):
    numbers = {"mean": 0.9, "low": 0.8, "high": 1.0, "n": 9, "clusters": 3, "method": "m"}
    measured = pd.DataFrame([{"measure": "harmful requests refused", **numbers}])
    monkeypatch.setattr(
        seeds, "measure_member", lambda folder: measured if folder.name == "aligned" else None
    )
    (row,) = seeds.measure_one(2, tmp_path, "aligned").to_dict("records")
    assert row == {
        "seed": 2,
        "model": "aligned",
        "arm": "none",
        "metric": "harmful requests refused",
        **numbers,
    }


def test_settings_are_searched_for_as_in_the_full_demo_but_for_the_controls(
    seeds, plain, monkeypatch, tmp_path
):
    val = [wb.Prompt.user(f"{label} {i}", label=label) for label in demo.FULL_SEARCH for i in range(100)]
    small, other = seeds.prompts_for("finance")
    pairs = wb.ContrastSet("large", small.train, wb.PromptSet("val", tuple(val)), small.test)
    asked = []

    def choose(target, aligned, pairs, other_concept, *, search_on, **how):
        asked.append({"search_on": search_on.hash, **how})
        raise InterruptedError

    for module in (seeds, demo):
        monkeypatch.setattr(module, "choose", choose)
    monkeypatch.setattr(seeds, "prompts_for", lambda name: (pairs, other))
    with pytest.raises(InterruptedError):
        seeds.measure_one(0, tmp_path, "finance")
    with pytest.raises(InterruptedError):
        demo.run_models("finance", {"target": plain}, plain, pairs, other, full=True)
    in_words = {"aligned_pairs": None}  # both models read the same prompts
    assert asked[0] | in_words == asked[1] | {"controls": False}


def test_a_family_that_is_not_there_is_named(seeds, tmp_path, capsys):
    (tmp_path / "aligned").mkdir()
    with pytest.raises(SystemExit):
        seeds.main([f"1={tmp_path}"])
    said = " ".join(capsys.readouterr().err.split())
    assert f"no {tmp_path}/finance, {tmp_path}/medicine, {tmp_path}/maths: train them" in said
