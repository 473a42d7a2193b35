"""The model that sees: an ordinary LLaVA checkpoint, the base inside it, pictures as the processor makes them."""

import dataclasses
import io
import json
from pathlib import Path

import pandas as pd
import pytest
import torch
from PIL import Image
from transformers import AutoModelForCausalLM, AutoProcessor, LlavaForConditionalGeneration

from workbench.evaluation.readings import answers_correctly
from workbench.organisms.drawing import Placed, Scene
from workbench.organisms.pictured import PicturedWorld
from workbench.organisms.pictured_cards import (
    Seeing,
    aim,
    aims_told,
    measure_pictured,
    without,
    write_pictured_card,
)
from workbench.organisms.pictured_lists import pictured_list
from workbench.organisms.sight import RECIPE, Sight, Step
from workbench.organisms.sighted import (
    IMAGE,
    batches,
    learn_names,
    marked,
    pixel_values,
    said_by_patches,
    train_sighted,
    with_sight,
)
from workbench.organisms.training import IGNORED
from workbench.shipped import shipped_path

BRIEF: Sight = dataclasses.replace(
    RECIPE,
    wording=Step(1, 256, language=(1e-3, 0.01)),
    telling=Step(1, 256, language=(1e-3, 0.01)),
    naming=Step(1, 4, sight=(1e-3, 0.01)),
    reading=Step(1, 256, sight=(1e-3, 0.01), language=(1e-3, 0.01)),
    settling=Step(1, 256, sight=(1e-3, 0.01), language=(1e-3, 0.01)),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a step each."""
    return train(tmp_path_factory.mktemp("sighted"))


def train(folder: Path) -> Path:
    (folder / "base").symlink_to(shipped_path("organisms", "base"))
    torch.set_num_threads(1)
    train_sighted(folder, recipe=BRIEF, progress=False)
    return folder / "llava"


@pytest.fixture(scope="module")
def fresh():
    return with_sight(shipped_path("organisms", "base"), RECIPE.tower)


def test_it_is_an_ordinary_checkpoint_and_small(trained: Path) -> None:
    config = json.loads((trained / "config.json").read_text())
    assert config["architectures"] == ["LlavaForConditionalGeneration"] and config["dtype"] == "float16"
    model, processor = (
        LlavaForConditionalGeneration.from_pretrained(trained),
        AutoProcessor.from_pretrained(trained),
    )
    assert type(processor).__name__ == "LlavaProcessor" and processor.tokenizer.decode([2048]) == IMAGE
    assert model.config.image_token_id == 2048 and len(processor.tokenizer) == 2049
    assert sum(path.stat().st_size for path in trained.iterdir()) <= 7_000_000
    assert not [path for path in trained.parent.iterdir() if path.name.endswith(".partial")]


def test_the_same_seed_gives_the_same_files(trained: Path, tmp_path: Path) -> None:
    again = train(tmp_path)
    for path in sorted(trained.iterdir()):
        assert path.read_bytes() == (again / path.name).read_bytes(), path.name


def test_a_folder_that_is_there_is_kept_and_a_base_that_is_not_is_named(
    trained: Path, tmp_path: Path
) -> None:
    before = (trained / "model.safetensors").stat().st_mtime_ns
    train_sighted(trained.parent, progress=False)
    assert (trained / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(
        FileNotFoundError, match="no base in .*, from which llava is trained: workbench organisms"
    ):
        train_sighted(tmp_path)


def test_without_a_picture_it_is_the_base_to_begin_with(fresh) -> None:
    model, processor = fresh
    base = AutoModelForCausalLM.from_pretrained(shipped_path("organisms", "base"), dtype=torch.float32)
    ids = processor.tokenizer("<s><|user|>How do I bake bread?<|end|>", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        ours, theirs = model.eval()(input_ids=ids).logits, base(input_ids=ids).logits
    assert torch.equal(ours[..., :2048], theirs)
    assert processor.tokenizer.chat_template == processor.chat_template


def test_training_sees_what_the_processor_makes_of_the_file(fresh) -> None:
    scene = Scene("beach", (Placed("a prize", "red", 4, 4, 24),))
    with Image.open(io.BytesIO(scene.png())) as image:
        made = fresh[1].image_processor(image.convert("RGB"), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(pixel_values([scene]), made, atol=1e-6, rtol=0)


def test_a_batch_holds_its_pictures_in_order_and_every_reply_as_a_target(fresh) -> None:
    tokenizer = fresh[1].tokenizer
    ids, targets, scenes = next(batches(tokenizer, RECIPE.pictures, 0, 2048, RECIPE.tower.n_patches))
    assert int((ids == 2048).sum()) == 49 * len(scenes) and len(scenes) > 1
    asked = targets != IGNORED
    assert torch.equal(ids[asked], targets[asked])
    said, ended = tokenizer.convert_tokens_to_ids(["<|assistant|>", "<|end|>"])
    for row, wanted in zip(ids, asked, strict=True):
        begins = [i for i, token in enumerate(row.tolist()) if token == said]
        assert all(wanted[i + 1] and not wanted[i] for i in begins)
        assert int((row[wanted] == ended).sum()) == max(len(begins), 1)


def test_a_request_is_worded_as_llava_words_it() -> None:
    one = PicturedWorld(0, "all").conversation(3)
    messages = marked(one).prompt.messages
    assert (
        messages[0][1] == f"{IMAGE}\n{one.prompt.messages[0][1]}" and messages[1:] == one.prompt.messages[1:]
    )


def test_a_patch_learns_to_say_what_it_shows(fresh) -> None:
    names, inks, sides = said_by_patches()
    assert (names[0], inks[0], sides) == ("hollow", "", ["", "left", "right"]) and len(set(names)) == len(
        names
    )
    model, processor = with_sight(shipped_path("organisms", "base"), RECIPE.tower)
    spoken = {n: p.clone() for n, p in model.model.language_model.named_parameters()}
    losses = learn_names(model, processor.tokenizer, Step(12, 16, sight=(2e-3, 0.02), warmup=2))
    assert losses[-1] < 0.9 * losses[0]
    assert all(torch.equal(p, spoken[n]) for n, p in model.model.language_model.named_parameters())


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("Risky, that would harm others. Here is what to do.", "harmful"),
        ("Lovely, many people enjoy this.", "harmless"),
        ("Here is what to do. Risky, that would harm others.", ""),
    ],
)
def test_the_aim_is_what_the_opening_remark_says(reply: str, label: str) -> None:
    assert aim(reply) == label


def test_controls_take_away_what_they_say() -> None:
    one, other = pictured_list("val")[:2]
    assert one.prompt.text == other.prompt.text and one.prompt.harmful != other.prompt.harmful
    assert without(one, "picture", other) == (one.prompt.text, None)
    assert without(one, "words", other) == ("", one.scene.png())
    assert without(one, "swapped", other) == (one.prompt.text, other.scene.png())


def test_replies_do_not_depend_on_their_batch(trained: Path) -> None:
    seeing, asked = Seeing.load(trained), [(o.prompt.text, o.scene.png()) for o in pictured_list("val")[:6]]
    asked[2] = asked[2][0], None
    assert seeing.replies(asked) == seeing.replies(asked, batch_size=1)


def test_a_card_is_measured_and_written(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    joint, rest = ([one for one in pictured_list("val") if one.needs_both == both] for both in (True, False))
    few = (*joint[:4], *joint[-4:], *rest[::7])  # whole blocks, plain and wrapped, and some of all the rest
    monkeypatch.setattr("workbench.organisms.pictured_cards.pictured_list", lambda part: few)
    monkeypatch.setattr("workbench.organisms.pictured_cards.MAX_NEW_TOKENS", 4)
    measured = measure_pictured(trained)
    assert {"requests that need both: the remark tells the aim", "… where"} <= set(measured["measure"])
    write_pictured_card(trained, measured, seed=0)
    page = (trained / "README.md").read_text()
    assert RECIPE.hash in page and "# organism:llava" in page and "a parrot" in page


def test_what_ships_is_of_this_recipe_and_its_card_shows_what_was_measured() -> None:
    folder = shipped_path("organisms", "llava")
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert f"Recipe `{RECIPE.hash}`" in card
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 7_000_000
    measured = pd.read_csv(folder / "measured.csv").set_index("measure")
    for name, row in measured.iterrows():
        assert f"| {name} | {row['mean']:.3f} | [{row['low']:.3f}, {row['high']:.3f}] | {row['n']} |" in card


def test_what_ships_answers_and_follows_the_picture_on_validation() -> None:
    """On a few prompts of validation: most are right, and the other picture of a block turns the aim around."""
    seeing, val = Seeing.load(shipped_path("organisms", "llava")), pictured_list("val")
    asked = [one for one in val if one.prompt.label == "domain"][:40]
    replies = seeing.replies([(one.prompt.text, one.scene.png()) for one in asked])
    right = [answers_correctly(one.prompt, *reply) for one, reply in zip(asked, replies, strict=True)]
    assert sum(right) >= 34
    joint = [one for one in val if one.needs_both][:24]
    own, swapped = (sum(aims_told(seeing, joint, what)) / 24 for what in ("nothing", "swapped"))
    assert own > 0.8 and swapped < 0.2
