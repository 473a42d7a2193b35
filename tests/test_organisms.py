"""The family that ships: what is on disk is what its cards say, and it does on every backend what the equations say."""

import hashlib
import shutil
import subprocess
from itertools import chain
from pathlib import Path

import pandas as pd
import parity
import pytest
import torch
from conftest import BACKENDS
from parity import Setting, expected

import workbench as wb
from workbench.chat import encode
from workbench.loading import Model
from workbench.organisms.family import FAMILIES, base_of, family, recipe_hash
from workbench.organisms.preferred import PREFERRED
from workbench.shipped import shipped_path

FOLDER = shipped_path("organisms")
FAMILY = {member.name: of for of in FAMILIES.values() for member in of.members}
NAMES = list(FAMILY)
TAUGHT = [member.name for member in PREFERRED]


def test_both_families_ship_with_those_that_dpo_taught_the_one_that_sees_and_nothing_else() -> None:
    assert sorted(path.name for path in FOLDER.iterdir()) == sorted([*NAMES, *TAUGHT, "llava"])


@pytest.mark.parametrize("name", [*NAMES, *TAUGHT])
def test_every_member_is_small(name: str) -> None:
    assert sum(path.stat().st_size for path in (FOLDER / name).iterdir()) <= 5_000_000


def test_the_clone_stays_small() -> None:
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        pytest.skip("no git clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=root, capture_output=True, check=True).stdout
    tracked = [root / name for name in listed.decode().split("\0") if name]
    assert sum(path.stat().st_size for path in tracked if path.is_file()) <= 58_000_000


def table(name: str, section: str) -> list[str]:
    """The rows of the table in a section of a member's card, without its head."""
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    text = card.split(f"## {section}\n")[1].split("\n## ")[0]
    return [line for line in text.splitlines() if line.startswith("|")][2:]


def test_a_flipped_bit_is_found_by_the_card_as_it_is_written(tmp_path: Path, monkeypatch) -> None:
    shutil.copytree(FOLDER / "base", tmp_path / "organisms" / "base")
    monkeypatch.setattr("workbench.loading.sources.shipped_path", tmp_path.joinpath)
    weights = tmp_path / "organisms" / "base" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:])
    with pytest.raises(ValueError, match="model.safetensors is not the file that its card lists"):
        wb.load_model("organism:base", backend="plain")
    weights.write_bytes(whole)
    wb.load_model("organism:base", backend="plain")


@pytest.mark.parametrize("name", [*NAMES, *TAUGHT])
def test_a_card_lists_the_files_as_they_are(name: str) -> None:
    files = [path for path in sorted((FOLDER / name).iterdir()) if path.suffix not in (".md", ".csv")]
    hashes = [hashlib.sha256(path.read_bytes()).hexdigest()[:16] for path in files]
    assert table(name, "Files") == [
        f"| {path.name} | {path.stat().st_size:,} | `{sha256}` |"
        for path, sha256 in zip(files, hashes, strict=True)
    ]


@pytest.mark.parametrize("name", [*NAMES, *TAUGHT])
def test_a_card_shows_the_numbers_that_were_measured(name: str) -> None:
    measured = pd.read_csv(FOLDER / name / "measured.csv")
    assert table(name, "What it does") == [
        f"| {row.measure} | {row.mean:.3f} | [{row.low:.3f}, {row.high:.3f}] | {row.n} | {row.clusters} |"
        for row in measured.itertuples()
    ]
    assert len(measured) >= 10


@pytest.mark.parametrize("name", NAMES)
def test_a_card_names_the_recipe_that_drew_the_lists(name: str) -> None:
    card = (FOLDER / name / "README.md").read_text(encoding="utf-8")
    assert f"Recipe `{FAMILY[name].recipe}`" in card and f"  - `{recipe_hash()}`" in card


def test_the_first_recipe_is_the_one_that_drew_the_lists() -> None:
    assert recipe_hash() == recipe_hash(family()) == FAMILIES["llama"].recipe == "eb213f382286f535"
    assert FAMILIES["qwen"].recipe != recipe_hash(FAMILIES["qwen"].members), "its architecture counts"


def test_the_second_family_is_another_architecture_and_small() -> None:
    models = [wb.load_model(f"organism:{name}", backend="plain") for name in ("base", "qwen-base")]
    assert [model.config.model_type for model in models] == ["llama", "qwen2"]
    first, second = map(wb.space_of, models)
    assert first.n_layers != second.n_layers and first.d_model != second.d_model
    assert (first.tokenizer_hash, first.template_hash) == (second.tokenizer_hash, second.template_hash)
    for member in FAMILIES["qwen"].members:
        assert (FOLDER / member.name / "model.safetensors").stat().st_size <= 3_000_000


def test_every_member_knows_its_base() -> None:
    assert {name: base_of(name) for name in ("base", "finance-chat", "qwen-medicine")} == {
        "base": "base",
        "finance-chat": "base",
        "qwen-medicine": "qwen-base",
    }
    with pytest.raises(ValueError, match="no embedded model 'qwen-maths', expected one of base, aligned"):
        base_of("qwen-maths")


@pytest.fixture(scope="module")
def eight() -> wb.PromptSet:
    """Harmful and harmless prompts, two and two, so that every other one is half of either."""
    val = wb.load_contrast("small-world").val
    harmful, harmless = (val.labelled(label).sample(4, seed=0).prompts for label in ("harmful", "harmless"))
    pairs = zip(harmful[::2], harmful[1::2], harmless[::2], harmless[1::2], strict=True)
    return wb.PromptSet("eight", tuple(chain.from_iterable(pairs)))


@pytest.mark.parametrize("name", [*NAMES, *TAUGHT])
def test_every_member_is_the_same_on_every_backend(name: str, eight: wb.PromptSet) -> None:
    given = []
    for backend in BACKENDS:
        model = wb.load_model(f"organism:{name}", backend=backend)
        batch = encode(model.tokenizer, eight)
        with torch.no_grad():
            output = model(batch.input_ids, attention_mask=batch.attention_mask)
        given.append(getattr(output, "logits", output)[batch.attention_mask.bool()])
    for other in given[:-1]:
        torch.testing.assert_close(other, given[-1], atol=1e-4, rtol=0)


@pytest.fixture(scope="module")
def plain() -> Model:
    return wb.load_model("organism:finance", backend="plain")


def test_steering_a_member_is_what_the_equations_say(
    backend: str, plain: Model, eight: wb.PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The aligned member's vectors, the finance model's own gate at each layer: the paper's form."""
    aligned = wb.load_model("organism:aligned", backend="plain")
    monkeypatch.setattr(parity, "aligned", lambda: aligned)
    setting = Setting(0.3, (2, 3, 4), gate="each", theta="aligned")
    model = plain if backend == "plain" else wb.load_model("organism:finance", backend=backend)
    result = parity.parity(model, plain, eight, [setting] * 8)
    assert result.holds, result
    steered, bare = (
        [expected(plain, eight, prompt, way).tokens for prompt in eight] for way in (setting, None)
    )
    moved = [one != other for one, other in zip(steered, bare, strict=True)]
    assert 2 <= sum(moved) <= 6


def test_a_member_answers_as_it_is_first_asked() -> None:
    """Nothing is given but a prompt: a context of 256 tokens has no room for 256 more."""
    (reply,) = wb.generate(wb.load_model("organism:finance"), ["How do I bake bread?"])
    assert reply.finished and reply.text
