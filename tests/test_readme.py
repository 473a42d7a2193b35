"""README.md is run as printed, and names only what is there."""

import json
import re
import runpy
from pathlib import Path

import pytest

import workbench as wb
from workbench.shipped import shipped_path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BY_HAND, OWN_MODEL = re.findall(r"```python\n(.*?)```", README, re.S)


@pytest.mark.slow
@pytest.mark.skipif(not shipped_path("organisms").is_dir(), reason="no embedded models in data/organisms yet")
def test_the_snippet_runs_as_printed(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    exec(compile(BY_HAND, "README.md", "exec"), names)
    report, sweep = names["report"], names["sweep"]
    assert isinstance(report, wb.Report)
    assert isinstance(sweep, wb.SweepResult)
    assert sweep.best() in (0, 0.05, 0.1, 0.15, 0.2, 0.3)
    refused = report.metric("asr_not_refused"), report.metric("asr_not_refused", arm="unsteered")
    assert refused[0].high < refused[1].low
    assert "GateReading" in capsys.readouterr().out


def test_the_snippet_for_a_model_of_ones_own_runs_as_printed(
    checkpoints: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name in ("my-domain-model", "my-chat-model"):
        (tmp_path / name).symlink_to(checkpoints["llama"])
    for part, friend in (("train", "lock"), ("val", "boat"), ("test", "letter")):
        for label, verbs in (("harmful", ("steal", "break")), ("harmless", ("mend", "paint"))):
            texts = [f"{verb} the {friend} {'please ' * n}" for n in range(3) for verb in verbs]
            (tmp_path / f"{part}-{label}.txt").write_text("\n".join(texts))
    monkeypatch.chdir(tmp_path)
    exec(compile(OWN_MODEL, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) >= 13
    assert wb.load_vectors("ssv.safetensors").space.n_layers == 4


def test_the_tree_names_every_room_and_nothing_else() -> None:
    tree = README.split("<!-- tree -->\n```\n")[1].split("```")[0]
    listed, folder = set(), ""
    for line in tree.splitlines():
        name = line.split()[0]
        folder = folder if line.startswith(" ") else name
        listed.add(f"{folder}{name}" if line.startswith(" ") else name)
    rooms = {
        f"workbench/{path.name}{'/' * path.is_dir()}"
        for path in (ROOT / "workbench").iterdir()
        if not path.name.startswith("__") and (path.suffix == ".py" or path.is_dir())
    }
    assert {name for name in listed if name.startswith("workbench/")} == {"workbench/", *rooms}
    assert [name for name in listed if not (ROOT / name).exists()] == []


def test_make_knows_every_command_named() -> None:
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"make ([a-z]+)`|^    make ([a-z]+)", README, re.M))
    assert {first or second for first, second in named} <= targets
    assert named


RESULTS = runpy.run_path(str(ROOT / "figures" / "results.py"))


def test_its_results_are_those_of_the_full_run() -> None:
    path = ROOT / "figures" / "demo.json"
    numbers = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
    if numbers and not numbers["full"]:
        pytest.skip("figures/demo.json is a quick run's: git checkout figures brings the full one back")
    assert RESULTS["BLOCK"].search(README).group() == (RESULTS["results"](numbers) if numbers else "")


def test_results_show_every_condition_with_its_interval() -> None:
    def condition(rate: float) -> dict[str, object]:
        rates = dict.fromkeys(RESULTS["COLUMNS"], rate) | {"utility": None}
        counts = {metric: 456 for metric, value in rates.items() if value is not None}
        return {**rates, "n": counts, "intervals": {metric: [rate / 2, rate + 0.1] for metric in counts}}

    conditions = {"none": condition(0.5), "inferaligner": condition(0.01)}
    domain = {"layers": [3, 4], "alpha": 0.5, "scale": "gap", "conditions": conditions}
    text = RESULTS["results"]({"full": True, "domains": {"general": domain}})
    assert "layers 3, 4, α = 0.5 (gap)" in text
    assert "| nothing | 50.0 [25.0, 60.0] |" in text
    assert "| **InferAligner (ours)** | 1.0 [0.5, 11.0] |" in text
    assert "harmful, not refused (n = 456)" in text
    assert "domain accuracy" not in text
    with pytest.raises(ValueError, match=r"quick run, expected those of a full one: make demo FULL=1"):
        RESULTS["results"]({"full": False, "domains": {}})
