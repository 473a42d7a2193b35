"""The main job on a model that knows nothing: every part runs, and the titles tell this run's numbers."""

import copy
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pandas as pd
import pytest
from measuring import extraction, labelled_prompts, other_concept, relative_of
from rich.console import Console

import workbench as wb
from workbench.demo import TARGETS, run_demo, running
from workbench.demo import pictures as drawn
from workbench.demo.tables import as_table, condition_rows, openings
from workbench.demo.target import QUICK_TEST, load_embedded, run_models, run_target
from workbench.evaluation.answers import Arm
from workbench.evaluation.conditions import CONTROLS, TITLES, Condition, conditions
from workbench.evaluation.defences import defences
from workbench.evaluation.metrics import METRICS
from workbench.plots import TRADE_OFF
from workbench.shipped import shipped_path

KEYS = ("layers", "alpha", "scale", "gate_open", "conditions")

ABSENT = ("guided", "safety_sft", "dpo")
"""Conditions that this run has no model or guide for."""


@pytest.fixture(scope="module")
def pairs():
    test = [wb.Prompt.user(f"the {p.text}", label=p.label, answer=p.answer) for p in labelled_prompts()]
    return wb.ContrastSet("small", extraction(), labelled_prompts(), wb.PromptSet("test", tuple(test)))


@pytest.fixture(scope="module")
def outcome(babblers, pairs):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("workbench.sweep.choosing.MIN_AUROC", 0.0)
        patch.setattr("workbench.sweep.choosing.GAP_ALPHAS", (0.1, 0.2))
        patch.setattr("workbench.sweep.choosing.RAW_ALPHAS", (0.1,))
        patch.setattr("workbench.demo.target.MAX_NEW_TOKENS", 4)
        patch.setattr("workbench.demo.target.conditions", short_conditions)
        plain = babblers["plain"]
        models = {"target": plain, "from_aligned": relative_of(plain, seed=2)}
        return run_models("finance", models, relative_of(plain), pairs, other_concept(), full=False)


def short_conditions(*plans, companions, deal_random, guide):
    """The conditions, with defences short enough for the tiny model's context."""
    rows = conditions(*plans, companions=companions, deal_random=deal_random, guide=guide)
    short = {name: Arm(name, rewrite=lambda p: p.with_system("no")) for name in defences("small-world")}
    return [Condition(row.name, short.get(row.name, row.arm), row.who) for row in rows]


@pytest.fixture
def no_browser(monkeypatch):
    monkeypatch.setattr("workbench.export._picture", lambda fig, suffix: b"<svg/>")


def demo(outcome, folder, monkeypatch, width=160):
    monkeypatch.setattr(running, "_run_all", lambda targets, full, workers: iter([outcome]))
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    return run_demo(folder=folder, targets=["finance"], console=console), console.export_text()


def test_it_writes_every_picture_its_csv_and_the_json(outcome, tmp_path, monkeypatch, no_browser):
    numbers, _ = demo(outcome, tmp_path, monkeypatch)
    names = ("layer-profile", "projections", "gate-map", "strength-curves", "trade-off")
    for name in names:
        assert (tmp_path / f"{name}.svg").is_file()
        assert len(pd.read_csv(tmp_path / f"{name}.csv"))
    stored = json.loads((tmp_path / "demo.json").read_text())
    assert stored == json.loads(json.dumps(numbers))
    assert stored["full"] is False
    assert set(KEYS) <= set(stored["domains"]["finance"])
    assert stored["seconds"]["total"] >= 0
    conditions = stored["domains"]["finance"]["conditions"]
    assert list(conditions) == [name for name in TITLES if name not in ABSENT]
    assert all(set(METRICS) | {"n", "intervals"} <= set(numbers) for numbers in conditions.values())


@pytest.mark.parametrize("width", [80, 160])
def test_it_says_what_was_chosen_and_how(outcome, tmp_path, monkeypatch, no_browser, width):
    _, text = demo(outcome, tmp_path, monkeypatch, width)
    said = " ".join(text.split())
    assert "a sample of the test prompts, 40 harmful" in said
    assert f"α = {outcome.numbers['alpha']:g}" in said
    assert f"the gate reads layer {outcome.numbers['gate_layer']} with bias" in said
    for title in (title for name, title in TITLES.items() if name not in ABSENT):
        assert title in said
    assert said.count("before ") == said.count("after ") >= 3


def test_it_says_where_prompts_are_too_few(outcome, tmp_path, monkeypatch, no_browser):
    _, text = demo(outcome, tmp_path, monkeypatch, width=300)
    assert "prompts are too few to tell a change of 5 points" in text
    assert outcome.numbers["too_few"] and all(said in text for said in outcome.numbers["too_few"])


@pytest.mark.parametrize("full", [True, False])
def test_choices_are_made_on_validation_alone(babblers, pairs, monkeypatch, full):
    """No prompt of test is among those that the search is given, nor in the place of those of validation."""
    asked = []

    def choose(target, aligned, given, other, *, search_on, **_):
        asked.append((given, search_on))
        raise InterruptedError

    monkeypatch.setattr("workbench.demo.target.choose", choose)
    plain = babblers["plain"]
    with pytest.raises(InterruptedError):
        run_models("finance", {"target": plain}, relative_of(plain), pairs, other_concept(), full=full)
    ((given, search_on),) = asked
    assert given is pairs
    assert {prompt.text for prompt in search_on} <= {prompt.text for prompt in pairs.val}


def test_every_companion_of_a_model_ships_and_none_is_left_out(tmp_path, monkeypatch):
    everyone = {"target", "safety_sft", "dpo", "from_aligned"}
    assert {name: set(load_embedded(name)[0]) for name in TARGETS} == {
        name: {"target"} if name == "general" else everyone for name in TARGETS
    }
    shutil.copytree(shipped_path("organisms"), tmp_path / "organisms")
    shutil.rmtree(tmp_path / "organisms" / "finance-chat")
    monkeypatch.setattr("workbench.loading.sources.shipped_path", tmp_path.joinpath)
    with pytest.raises(ValueError, match="no embedded model 'organism:finance-chat'"):
        load_embedded("finance")


def test_the_table_is_measured_on_test_prompts(outcome, pairs):
    assert outcome.numbers["prompts_hash"] == pairs.test.sample_each(QUICK_TEST).hash
    assert outcome.numbers["prompts_hash"] != pairs.val.sample_each(QUICK_TEST).hash
    shown = [prompt for _, prompt, *_ in outcome.examples]
    assert set(shown) <= {prompt.text for prompt in pairs.test}


def test_it_tells_how_far_the_models_share_a_direction(outcome):
    (told,) = [sentence for sentence in outcome.sentences if "aligned model have cosine" in sentence]
    cosine = outcome.numbers["cosine_srv_ssv"]
    assert f"{min(cosine):+.2f}" in told
    assert f" {', '.join(map(str, outcome.numbers['layers']))};" in told or told.startswith("Careful")


def test_titles_tell_this_runs_numbers(outcome):
    before = outcome.numbers["conditions"]["none"]["asr_not_refused"]
    assert f"fall from {100 * before:.0f} % to" in drawn.trade_off_finding([outcome])
    assert "random directions of that length leave" in drawn.strength_finding(outcome)


def as_if(outcome, **broken):
    """The outcome, had these shares of its conditions' replies to attacks been broken."""
    conditions = outcome.numbers["conditions"]
    conditions = {name: n | {"broken": broken.get(name, 0.0)} for name, n in conditions.items()}
    return replace(outcome, numbers=outcome.numbers | {"conditions": conditions})


def test_the_trade_off_tells_what_broke_where_it_matters(outcome):
    calm = as_if(outcome, inferaligner=0.02, shuffled=0.1)
    assert "broken" not in drawn.trade_off_finding([calm]) + drawn.broken_conditions([calm])
    worse = as_if(outcome, inferaligner=0.3, shuffled=1.0)
    assert drawn.trade_off_finding([calm, worse]).endswith("; 2–30 % of replies to attacks are broken")
    assert drawn.broken_conditions([calm, worse]) == "; broken, hence no defence: shuffled labels (10–100 %)"
    frame = drawn.trade_off_frame([outcome])
    assert set(frame.loc[frame["condition"] == "shuffled", "kind"]) == set(TRADE_OFF)


def test_the_gate_is_shown_on_test_prompts_and_kind_by_kind(outcome):
    """Thresholds and layer were set on validation prompts, where they are right by construction."""
    frame, opened = outcome.frames["gate-map"], outcome.numbers["gate_open"]
    at = frame[frame["layer"] == outcome.numbers["gate_layer"]].set_index("label")
    assert at["open"].round(4).to_dict() == opened
    assert at["n"].to_dict() == outcome.numbers["prompts"]
    calm = ", ".join(f"{100 * opened[kind]:.1f} % of {kind}" for kind in ("harmless", "contrast", "domain"))
    assert drawn.gate_finding(outcome) == (
        f"Of test prompts the gate opens on {100 * opened['harmful']:.1f} % of harmful and "
        f"{100 * opened['jailbroken']:.1f} % of jailbroken; on {calm}"
    )
    general = replace(outcome, frames={"gate-map": frame[frame["label"] != "domain"]})
    assert "domain" not in drawn.gate_finding(general)


def test_a_failing_picture_costs_no_numbers(outcome, tmp_path, monkeypatch, no_browser):
    def fail(*given, **asked):
        raise RuntimeError("no ink")

    monkeypatch.setattr("workbench.plots.layer_profile", fail)
    with pytest.raises(RuntimeError, match="no ink"):
        demo(outcome, tmp_path, monkeypatch)
    assert json.loads((tmp_path / "demo.json").read_text())["domains"]["finance"]["conditions"]
    assert len(list(tmp_path.glob("*.csv"))) == 5


def test_a_folder_that_cannot_be_written_to_is_refused_before_anything_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_run_all", lambda *given: pytest.fail("it ran"))
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(
        OSError, match=r"cannot write to .*taken/here \(Not a directory\), nothing was run: choose"
    ):
        run_demo(folder=tmp_path / "taken" / "here")


@pytest.mark.parametrize(
    ("asked", "goes_to"),
    [
        ({"targets": ["finance"]}, "figures/quick"),
        ({"targets": ["finance"], "full": True}, "figures/quick"),  # one target is not the full run either
        ({"full": True}, "figures"),
        ({"full": True, "folder": "mine"}, "mine"),
        ({"folder": "figures"}, "figures"),
    ],
)
def test_only_the_full_run_takes_the_place_of_one(outcome, tmp_path, monkeypatch, no_browser, asked, goes_to):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "demo.json").write_text("published")
    everyone = [replace(outcome, name=name) for name in TARGETS]
    monkeypatch.setattr(running, "_run_all", lambda targets, full, workers: iter(everyone))
    console = Console(record=True, width=160, file=open("/dev/null", "w"))  # noqa: SIM115
    run_demo(**asked, console=console)
    said = " ".join(console.export_text().split())
    assert f"demo.json, the pictures and the csv each draws are in {goes_to}/" in said
    assert json.loads((tmp_path / goes_to / "demo.json").read_text())["domains"]
    kept = (tmp_path / "figures" / "demo.json").read_text() == "published"
    assert kept == (goes_to != "figures")
    assert ("Those of the full run are in figures/, as they were." in said) == (goes_to == "figures/quick")


def at_best(outcome):
    """The outcome of a full run: controls have been measured at their own best settings, too."""
    conditions = dict(outcome.numbers["conditions"])
    for name in CONTROLS:
        best = conditions["none"] | {"plan": {"alpha": -0.25}}
        conditions[name] = conditions[name] | {"at_best": best}
    return outcome.numbers | {"conditions": conditions}


@pytest.mark.parametrize("width", [80, 95, 100, 105, 110, 124, 128, 130, 132, 136, 140, 160])
def test_no_cell_is_cut(outcome, width):
    """As wide as numbers get: every one of them, and every name, is there whole."""
    numbers = copy.deepcopy(at_best(outcome))
    for found in numbers["conditions"].values():
        for one in (found, found.get("at_best", {})):
            for metric in set(METRICS) & set(one):
                one[metric], one["intervals"][metric] = 1.0, [0.99, 1.0]
    console = Console(record=True, width=width, file=open("/dev/null", "w"))  # noqa: SIM115
    console.print(as_table("finance", numbers, console))
    text = console.export_text()
    assert "…" not in text
    assert text.count("  at its best, α = −0.25 ") == len(CONTROLS)
    assert all(title in text for name, title in TITLES.items() if name not in ABSENT)
    columns = text.count("100.0") / (len(numbers["conditions"]) + len(CONTROLS))
    assert columns == (8 if width >= 100 else 6)
    assert ("–100" in text) == (width >= 136)


def test_controls_are_also_shown_at_their_own_best(outcome):
    rows = list(condition_rows(at_best(outcome)["conditions"]))
    assert [title for _, title, _ in rows][rows.index(next(r for r in rows if r[0] == "random")) + 1] == (
        "at its best, α = −0.25"
    )
    assert len(list(condition_rows(outcome.numbers["conditions"]))) == len(rows) - len(CONTROLS)


def test_it_prints_how_often_the_gate_opened(outcome, tmp_path, monkeypatch, no_browser):
    _, text = demo(outcome, tmp_path, monkeypatch)
    share, (low, high) = (outcome.numbers[k]["contrast"] for k in ("gate_open", "gate_open_intervals"))
    told = f"contrast {100 * share:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"
    assert told in openings(outcome.numbers)
    assert told in " ".join(text.split())


def test_an_html_page_comes_with_advice(outcome, tmp_path, monkeypatch):
    monkeypatch.setattr("workbench.export._picture", lambda fig, suffix: None)
    _, text = demo(outcome, tmp_path, monkeypatch)
    assert (tmp_path / "trade-off.html").is_file()
    assert "For SVG: pip install kaleido==0.2.1" in " ".join(text.split())


def test_the_target_that_sees_is_asked_about_pictures_and_its_aligned_sibling_in_words(outcome, monkeypatch):
    asked = {}

    def run_models(name, models, aligned, pairs, other_concept, *, aligned_pairs, full):
        asked[name] = (pairs, aligned_pairs)
        return outcome

    monkeypatch.setattr("workbench.demo.target.run_models", run_models)
    monkeypatch.setattr("workbench.demo.target.load_embedded", lambda name: ({}, None))
    for name in ("llava", "finance"):
        run_target(name, False)
    pictured, worded = asked["llava"]
    assert all(prompt.images for part in (pictured.val, pictured.test) for prompt in part)
    assert worded.train == wb.load_contrast("small-world").train
    assert not any(prompt.images for part in (worded.train, worded.val) for prompt in part)
    assert asked["finance"] == (wb.load_contrast("small-world", domain="finance"), None)


@pytest.mark.parametrize("sees", [True, False])
def test_a_guide_is_learned_where_the_aligned_model_reads_what_the_target_is_asked(
    babblers, pairs, monkeypatch, sees
):
    learned = []

    def conditions(*_, guide, **__):
        raise InterruptedError(str(guide))

    made = SimpleNamespace(ours=None, paper=None, evidence=SimpleNamespace(controls={}))
    for name, stand_in in {
        "choose": lambda *_, **__: made,
        "choose_guide": lambda *_, **__: learned.append(1) or SimpleNamespace(guide="a guide"),
        "control_plans": lambda *_: {},
        "conditions": conditions,
    }.items():
        monkeypatch.setattr(f"workbench.demo.target.{name}", stand_in)
    plain, worded = babblers["plain"], pairs if sees else None
    with pytest.raises(InterruptedError, match="None" if sees else "a guide"):
        run_models("x", {"target": plain}, plain, pairs, other_concept(), aligned_pairs=worded, full=True)
    assert bool(learned) is not sees


@pytest.mark.parametrize(
    ("targets", "full", "folder"),
    [
        (TARGETS, True, "figures"),
        (["llava"], True, "figures/llava"),
        (TARGETS[:1], True, "figures/quick"),
        (["llava"], False, "figures/quick"),
    ],
)
def test_a_published_run_has_a_folder_and_nothing_less_takes_its_place(targets, full, folder, monkeypatch):
    monkeypatch.setattr(
        running, "require_writable", lambda folder: (_ for _ in ()).throw(OSError(str(folder)))
    )
    with pytest.raises(OSError, match=f"^{folder}$"):
        run_demo(full=full, targets=targets)


def test_unknown_target():
    with pytest.raises(ValueError, match=f"got targets joy, expected some of {', '.join(TARGETS)}, llava"):
        run_demo(targets=["joy"])
    with pytest.raises(ValueError, match="got targets none"):
        run_demo(targets=[])
