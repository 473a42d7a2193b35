"""Models that see: on tiny LLaVA checkpoints the library gives what the equations give, images and texts together."""

import copy
import io
import itertools
import json
import random
import shutil
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import reference
import torch
from conftest import small_tokenizer
from parity import SETTINGS, Setting, asked, babbler_of, expected, in_words, parity
from seers import FEATURES, PATCH, SIDE, picture, save_llava, seeing_tokenizer, text_config, vision, with_eyes
from transformers import (
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextProcessor,
)
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

import workbench as wb
from workbench import plots
from workbench.chat import EncodedBatch, Tokens, pad_left, render, tokenize, tokenizer_hash
from workbench.decoding.asking import rows_of
from workbench.decoding.resuming import can_resume
from workbench.evaluation.answers import Arm
from workbench.forward import image_features, run_body
from workbench.loading import Model
from workbench.loading.processor import load_words
from workbench.models import space_of, weights_hash, words_of
from workbench.sweep.answering import answer_arms
from workbench.sweep.packing import in_order

PARTS = (
    "{{ bos_token }}{% for message in messages %}<{{ message['role'] }}> "
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %} </s>{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
"""A chat template that takes messages in parts, as those of most processors do."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save_llava(tmp_path_factory.mktemp("seeing") / "tiny-llava")


@pytest.fixture(scope="module")
def seers(folder: Path) -> dict[str, Model]:
    return {name: wb.load_model(folder, backend=name) for name in ("bridge", "plain")}


@pytest.fixture(scope="module", params=["bridge", "plain"])
def seer(request, seers) -> Model:
    return seers[request.param]


@pytest.fixture(scope="module")
def shown(prompts: wb.PromptSet) -> wb.PromptSet:
    """The eight prompts, five of them with an image or two, and two that differ in their image alone."""
    one, two, three = (wb.Image.of(picture(seed)) for seed in range(3))
    marked = replace(prompts[6], messages=(("user", "is <image> like <image> ?"),), images=(two, three))
    images = {0: (one,), 2: (two,), 3: (three,), 5: (one, two)}
    given = [replace(prompt, images=images.get(i, ())) for i, prompt in enumerate(prompts)]
    given[6], given[7] = marked, replace(prompts[7], messages=prompts[3].messages, images=(one,))
    return wb.PromptSet("shown", tuple(given))


# Parity ---------------------------------------------------------------------------------------------


def test_the_reference_is_the_model(seers, shown):
    plain = seers["plain"]
    for prompt in shown:
        messages, pixels = asked(plain, prompt)
        ids = reference.chat_ids(plain.tokenizer, messages)
        logits, _ = reference.forward(plain, ids, {}, [False] * len(ids), pixels)
        with torch.no_grad():
            theirs = plain(torch.tensor([ids]), pixel_values=pixels).logits[0]
        assert torch.allclose(logits, theirs, atol=2e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_library_equals_reference(name, seer, seers, shown):
    result = parity(seer, seers["plain"], shown, SETTINGS[name])
    assert result.holds, result


def test_the_settings_test_something(seers, shown):
    """Replies that vary, and change with the image alone."""
    plain = seers["plain"]
    replies = [expected(plain, shown, prompt, None).tokens for prompt in shown]
    assert len(set(replies)) >= 7
    assert replies[3] != replies[7]
    without = expected(plain, shown, replace(shown[0], images=()), None)
    assert without.tokens != replies[0]


def test_batches_and_order_do_not_matter(seer, shown):
    together = wb.last_token_activations(seer, shown)
    alone = wb.last_token_activations(seer, shown, batch_size=1)
    back = wb.last_token_activations(seer, wb.PromptSet("back", shown.prompts[::-1]), batch_size=3)
    assert torch.allclose(together.values, alone.values, atol=1e-4)
    assert torch.allclose(together.values, back.values.flip(0), atol=1e-4)


def test_an_image_is_seen_once_however_many_rows_show_it(seers, shown, monkeypatch):
    plain, seen = seers["plain"], []
    inside = type(plain).get_image_features
    monkeypatch.setattr(
        type(plain),
        "get_image_features",
        lambda self, pixel_values, **kw: seen.append(len(pixel_values)) or inside(self, pixel_values, **kw),
    )
    wb.generate(plain, shown, max_new_tokens=3)
    assert seen == [3]  # and not at the steps of the reply


def test_a_text_model_lends_its_vectors(seers):
    """What the paper does with LLaVA: the image's token is no obstacle, another word is."""
    aligned = wb.load_model(babbler_of(6), backend="plain", tokenizer=small_tokenizer())
    assert space_of(aligned) == space_of(seers["plain"])
    other = seeing_tokenizer()
    other.add_tokens(["plan-b"])
    assert tokenizer_hash(other) != tokenizer_hash(seeing_tokenizer()) == tokenizer_hash(small_tokenizer())


def test_a_gate_above_the_shift_costs_no_second_look(seers, shown, monkeypatch):
    """The rows that are shifted go on from the middle of the first pass; parity above says that it is right."""
    plain = seers["plain"]
    plan = SETTINGS["read above the shift"][0].plan(plain, shown)
    assert can_resume(plain, [plan])
    passes = []
    inside = plain.model.language_model.layers[0].forward
    monkeypatch.setattr(
        plain.model.language_model.layers[0],
        "forward",
        lambda hidden, *a, **k: passes.append(hidden.shape[1]) or inside(hidden, *a, **k),
    )
    wb.generate(plain, shown, plan, max_new_tokens=1)
    assert len(passes) == 1


# Sweeps, evaluation, verification ------------------------------------------------------------------


def says(text, finished):
    return wb.Score("refused" if len(text) % 2 else "complied", "")


def test_a_sweep_gives_what_single_runs_give_and_keeps_it(seers, shown, tmp_path, monkeypatch):
    plain = seers["plain"]
    plan = Setting(0.15, (1, 2), gate=1).plan(plain, shown)
    terms = dict(alpha=[0.0, 0.1, 0.2], judge=says, max_new_tokens=4, ledger=tmp_path / "l.sqlite", placebo=2)
    found = wb.run_sweep(plain, shown, plan, **terms)
    for alpha in (0.1, 0.2):
        alone = wb.generate(plain, shown, plan.with_alpha(alpha), max_new_tokens=4)
        rows = found.frame[(found.frame["arm"] == "steered") & (found.frame["alpha"] == alpha)]
        assert list(rows.sort_values("prompt")["reply"]) == [each.text for each in alone]
    before = found.frame[found.frame["arm"] == "unsteered"].set_index("prompt")["reply"]
    assert before[3] != before[7]  # of the same words, another image
    monkeypatch.setattr("workbench.sweep.executors.write_or_split", pytest.fail)
    assert wb.run_sweep(plain, shown, plan, **terms).sharing.known == found.sharing.rows


def test_a_ledger_knows_how_images_are_cut(folder, shown, tmp_path):
    plain = wb.load_model(folder, backend="plain")
    words = copy.copy(words_of(plain))
    words.image_processor = copy.deepcopy(words.image_processor)
    words.image_processor.image_mean = [0.0, 0.0, 0.0]
    other = wb.load_model(folder, backend="plain", tokenizer=words)
    assert weights_hash(plain) == weights_hash(wb.load_model(folder, backend="plain")) != weights_hash(other)
    terms = dict(judge=says, max_new_tokens=4, ledger=tmp_path / "l.sqlite")
    answer_arms(plain, shown, [Arm("none")], **terms)
    assert answer_arms(other, shown, [Arm("none")], **terms).sharing.known == 0


def test_any_order_of_rows_is_packed_in_one(seers, shown):
    """Of rows that differ in their image alone, too: those of one prompt lie side by side."""
    plain = seers["plain"]
    plan = Setting(0.15, (1, 2), gate="open").plan(plain, shown)
    same = [replace(shown[3], images=(wb.Image.of(picture(seed)),)) for seed in range(3)]
    plans = [plan.with_alpha(alpha) for alpha in (0.1, 0.2, 0.3)]
    asked = [(prompt, each) for prompt in same for each in plans]
    orders = set()
    for seed in range(4):
        random.Random(seed).shuffle(asked)
        prompts = wb.PromptSet("p", tuple(prompt for prompt, _ in asked))
        rows = in_order(rows_of(plain, prompts, [each for _, each in asked], None, 4, 8))
        orders.add(tuple((row.ids.images[0].hash, row.plan.alpha) for row in rows))
    assert len(orders) == 1
    hashes = [image for image, _ in orders.pop()]
    assert len([1 for one, other in itertools.pairwise(hashes) if one != other]) == 2


def test_a_bridge_has_a_twin_that_sees(seers, shown):
    twin = wb.plain_twin(seers["bridge"])
    mine, theirs = (wb.generate(model, shown, max_new_tokens=6) for model in (seers["bridge"], twin))
    assert [each.tokens for each in mine] == [each.tokens for each in theirs]


def test_verify_says_yes(seer, shown):
    plan = Setting(0.15, (1, 2), gate=1).plan(seer, shown)
    assert wb.verify(seer, plan, shown, max_new_tokens=4).holds


def test_likelihoods_see(seers, shown):
    plain = seers["plain"]
    replies = [each.tokens for each in wb.generate(plain, shown, max_new_tokens=4)]
    logits = wb.teacher_forced_logits(plain, shown, replies)
    blind = wb.PromptSet("blind", tuple(replace(p, images=()) for p in shown if not p.slots))
    assert [tuple(each.argmax(-1).tolist()) for each in logits] == replies
    with_images = wb.last_token_activations(plain, shown).values
    assert not torch.allclose(with_images[0], wb.last_token_activations(plain, blind).values[0], atol=1e-2)


# Inside, and by hand ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors(seers, shown) -> wb.SteeringVectors:
    return wb.mean_difference(wb.last_token_activations(seers["plain"], shown))


def test_patches_are_the_tokens_in_rows_from_the_upper_left(seers, shown, vectors):
    plain, prompt = seers["plain"], shown[5]  # two images
    frame = wb.patch_map(vectors, plain, prompt)
    side = SIDE // PATCH
    assert frame.groupby("image").size().tolist() == [side * side * vectors.space.n_layers] * 2
    words = words_of(plain)
    given = words(
        text=render(words, prompt), images=[image.pixels() for image in prompt.images], return_tensors="pt",
        add_special_tokens=False,
    )  # fmt: skip
    with torch.no_grad():
        states = plain(**given, output_hidden_states=True).hidden_states
    where = (given["input_ids"][0] == len(words.tokenizer) - 1).nonzero()[:, 0].tolist()
    for image, row, column, layer in ((0, 0, 1, 2), (1, 1, 0, 4)):
        position = where[image * side * side + row * side + column]
        expected_there = float(states[layer + 1][0, position] @ vectors.directions[layer])
        found = frame.query(f"image == {image} and row == {row} and column == {column} and layer == {layer}")
        assert found["projection"].item() == pytest.approx(expected_there, abs=1e-4)


def test_what_the_model_saw_is_cut_as_its_processor_cuts(seers):
    wide = PIL.Image.new("RGB", (84, 28), "red")
    wide.paste("blue", (28, 0, 56, 28))
    seen = wb.as_seen(seers["plain"], wb.Image.of(wide))
    assert seen.shape == (SIDE, SIDE, 3) and (seen[14, 14] == [0, 0, 255]).all()  # the middle third is left


def test_a_picture_of_patches_lies_where_the_patches_are(seers, shown, vectors):
    plain = seers["plain"]
    frame = wb.patch_map(vectors, plain, shown[0])
    fig = plots.patch_map(frame, wb.as_seen(plain, shown[0].images[0]), layers=[1, 4], chosen=[4])
    first, maps = fig.data[0], [trace for trace in fig.data if trace.type == "heatmap"]
    assert (np.asarray(first.z) == wb.as_seen(plain, shown[0].images[0])).all()
    for layer, trace in zip((1, 4), maps, strict=True):
        assert (trace.x0, trace.dx) == (PATCH / 2 - 0.5, PATCH)
        for row, column in ((0, 1), (1, 0)):
            told = frame.query(f"layer == {layer} and row == {row} and column == {column}")["reads"].item()
            assert trace.z[row][column] == told
    titles = [annotation.text for annotation in fig.layout.annotations]
    assert titles == ["as the model saw it", "layer 1", "layer 4 •"]
    varied = max((1, 4), key=lambda layer: frame[frame["layer"] == layer]["reads"].std())
    bare = plots.patch_map(frame, wb.as_seen(plain, shown[0].images[0]), layers=[1, 4])
    # Of the steered layers, where they are known.
    for drawn, layer in ((fig, 4), (bare, varied)):
        title, most = (
            drawn.layout.title.text.replace("<br>", " "),
            frame[frame["layer"] == layer]["reads"].max(),
        )
        assert f"At layer {layer} the patch that reads most harmful is at the" in title
        assert f"{most:+.1f} ‖v'‖" in title


def test_a_token_map_has_an_image_in_one_row(seers, shown, vectors):
    frame = wb.token_map(vectors, seers["plain"], [shown[5], shown[1]])
    assert (frame["image"] >= 0).sum() == 2 * FEATURES * vectors.space.n_layers
    fig = plots.token_map(frame)
    rows = [list(axis.ticktext) for axis in (fig.layout.yaxis, fig.layout.yaxis2)]
    assert rows[0].count(f"image: {FEATURES} patches") == 2 and "image" not in " ".join(rows[1])
    last = frame[(frame["prompt"] == 0) & (frame["layer"] == 2) & (frame["image"] == 1)]["reads"].mean()
    assert any(np.isclose(last, np.asarray(fig.data[0].z, dtype=float)[:, 2]))


def test_the_dial_takes_an_image(seers, shown):
    plain = seers["plain"]
    plan = Setting(0.15, (1, 2), gate="open").plan(plain, shown)
    dial = wb.SteeringDial(plain, plan, prompt="steal a ring", max_new_tokens=4)
    answer = dial.ask("steal a ring", images=[picture(0)])
    alone = wb.generate(plain, [wb.Prompt.user("steal a ring", images=[picture(0)])], max_new_tokens=4)
    assert answer.before.tokens == alone[0].tokens
    _, upload, *_, said, _ = dial.widget.children
    blind = dial.answer.before.tokens
    file = {
        "name": "ring.png",
        "type": "image/png",
        "size": 1,
        "content": memoryview(wb.Image.of(picture(0)).data),
    }
    upload.value = ({**file, "last_modified": datetime.now(UTC)},)
    assert dial.answer.before.tokens == alone[0].tokens != blind
    assert 'src="data:image/png;base64,' in said.value
    upload.value = ({**file, "content": memoryview(b"no picture"), "last_modified": datetime.now(UTC)},)
    assert "ring.png: it is no image that PIL reads" in said.value


# Tokens ---------------------------------------------------------------------------------------------


def test_tokens_are_those_of_the_processor(seers, shown):
    words = words_of(seers["plain"])
    for prompt, row in zip(shown, tokenize(words, shown), strict=True):
        text = render(words, prompt)
        theirs = words(
            text=text, images=[image.pixels() for image in prompt.images] or None, add_special_tokens=False
        )
        assert list(row) == theirs["input_ids"][0]
        assert row.images == prompt.images


def test_templates_in_parts_put_images_where_they_belong(folder, shown):
    in_parts = wb.load_model(folder, backend="plain", template=PARTS)
    words = words_of(in_parts)
    assert render(words, shown[0]) == f"<s><user> <image>\n{shown[0].text} </s><assistant>"
    assert render(words, shown[6]) == "<s><user> is <image>\n like <image>\n ? </s><assistant>"
    assert render(words, shown[1]) == f"<s><user> {shown[1].text} </s><assistant>"
    assert tokenize(words, [shown[5]])[0].count(len(words.tokenizer) - 1) == 2 * FEATURES


@pytest.mark.parametrize("template", [None, PARTS, "vicuna"])
def test_words_are_those_of_the_loaded_model(folder, checkpoints, shown, template, tmp_path):
    words = load_words(folder, template=template)
    assert tokenize(words, shown) == tokenize(
        words_of(wb.load_model(folder, backend="plain", template=template)), shown
    )
    # Older ones keep it in a file that no tokenizer reads.
    old = shutil.copytree(folder, tmp_path / "old")
    (old / "chat_template.jinja").unlink()
    (old / "chat_template.json").write_text(json.dumps({"chat_template": PARTS}))
    words = load_words(old, template=template)
    assert render(words, shown[0]) == render(
        words_of(wb.load_model(old, backend="plain", template=template)), shown[0]
    )
    alone = load_words(checkpoints["llama"], template=template)
    theirs = wb.load_tokenizer(checkpoints["llama"], template=template)
    assert tokenize(alone, in_words(shown)) == tokenize(theirs, in_words(shown))


def test_rows_are_told_apart_by_their_images():
    one, two = (wb.Image.of(picture(seed)) for seed in range(2))
    row, same, other, bare = (
        Tokens((1, 2), [one]),
        Tokens((1, 2), [one]),
        Tokens((1, 2), [two]),
        Tokens((1, 2)),
    )
    assert row == same and hash(row) == hash(same)
    assert len({row, other, bare, (1, 2)}) == 3 and bare == (1, 2)
    assert row != (1, 2) and tuple(row) == (1, 2)
    assert repr(bare) == "(1, 2)" and len({repr(each) for each in (row, other, bare)}) == 3
    again = copy.deepcopy(row)  # by what pickles it on its way to another process
    assert again == row and again.images == (one,)
    assert pad_left([bare, (3,)], 0).images == ()
    batch = pad_left([row, bare], 0)
    assert batch.rows(torch.tensor([1])).images == ((),) and batch.to("cpu").images == batch.images


# NeXT -----------------------------------------------------------------------------------------------


def test_llava_next_sees_as_transformers_does(tmp_path, shown):
    """Images in tiles, more of them for larger ones, so that rows have image tokens in different numbers."""
    tokenizer = seeing_tokenizer()
    config = LlavaNextConfig(
        vision_config=vision(), text_config=text_config(), image_token_index=len(tokenizer) - 1,
        image_grid_pinpoints=[[28, 56], [56, 28]], vision_feature_layer=-2,
    )  # fmt: skip
    model = with_eyes(LlavaNextForConditionalGeneration(config))
    torch.nn.init.normal_(model.model.image_newline)
    model.save_pretrained(tmp_path / "next")
    cut = LlavaNextImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE},
        image_grid_pinpoints=[[28, 56], [56, 28]],
    )  # fmt: skip
    LlavaNextProcessor(
        cut, tokenizer, patch_size=PATCH, vision_feature_select_strategy="default", num_additional_image_tokens=1,
        chat_template=tokenizer.chat_template,
    ).save_pretrained(tmp_path / "next")  # fmt: skip
    seer = wb.load_model(tmp_path / "next", backend="plain")
    tall, wide = wb.Image.of(picture(8, 30, 60)), wb.Image.of(picture(9, 60, 30))
    asked = [replace(shown[0], images=(tall,)), replace(shown[2], images=(wide,)), shown[1]]
    read = wb.last_token_activations(seer, asked)
    replies = wb.generate(seer, asked, max_new_tokens=5)
    words = words_of(seer)
    for prompt, values, reply in zip(asked, read.values, replies, strict=True):
        given = words(
            text=render(words, prompt), images=[image.pixels() for image in prompt.images] or None,
            add_special_tokens=False, return_tensors="pt",
        )  # fmt: skip
        with torch.no_grad():
            states = seer(**given, output_hidden_states=True).hidden_states
            theirs = seer.generate(**given, max_new_tokens=5, do_sample=False)[
                0, given["input_ids"].shape[1] :
            ]
        assert torch.allclose(values[2], states[3][0, -1], atol=1e-4)
        assert reply.tokens == tuple(theirs.tolist())
    with pytest.raises(ValueError, match="reads an image in . tiles: its tiles lie over each other"):
        wb.as_seen(seer, tall)


# What cannot be -------------------------------------------------------------------------------------


def test_messages(seers, shown, plain, folder, tmp_path):
    seer, image = seers["plain"], wb.Image.of(picture(0))
    with pytest.raises(
        ValueError, match="prompt 'p' has 1 image, and the model reads text alone: take a vision"
    ):
        wb.generate(plain, [wb.Prompt.user("steal", images=[picture(0)], source="p")], max_new_tokens=1)
    with pytest.raises(
        ValueError, match=r"prompt 'p' has 0 images and its text 1 places for one \(<image>\)"
    ):
        wb.last_token_activations(seer, [wb.Prompt.user("what is <image> ?", source="p")])
    with pytest.raises(ValueError, match="prompt 'p': got 1 images for 2 places, marked <image>"):
        wb.Prompt.user("is <image> like <image> ?", images=[picture(0)], source="p")
    many = wb.Prompt.user("steal", images=[picture(seed) for seed in range(16)], source="p")
    with pytest.raises(
        ValueError,
        match="prompt 'p' has .* tokens, .* for the most part of images, and .*, the context holds 64",
    ):
        wb.last_token_activations(seer, [many])
    with (
        pytest.raises(
            ValueError, match="has an image, and a pass by hand over tokens alone would not see it"
        ),
        wb.steered(seer, Setting(0.1, (1,), gate="open").plan(seer, shown), [shown[0]]),
    ):
        pass
    token = len(seer.tokenizer) - 1
    with pytest.raises(ValueError, match="row 0 has 1 image tokens for 0 images of 0 features in all"):
        run_body(seer, pad_left([(3, token, 4)], 0))
    with pytest.raises(ValueError, match="row 1 has 0 image tokens for 1 images of 4 features in all"):
        run_body(seer, EncodedBatch(torch.ones(2, 3).long(), torch.ones(2, 3).long(), ((), (image,))))
    with pytest.raises(ValueError, match="reads text alone: it has no processor, and sees no image"):
        image_features(plain, [image])
    with pytest.raises(ValueError, match="reads text alone: it has no processor, and sees no image"):
        run_body(plain, pad_left([Tokens((3, 4), [image])], 0))  # as of a guide that is a text model
    with pytest.raises(
        ValueError, match='a HookedTransformer sees no images: use backend="bridge" or "plain"'
    ):
        wb.load_model(folder, backend="hooked")
    with pytest.raises(ValueError, match="got a processor for a LlamaForCausalLM, which is none of Llava"):
        wb.load_model(with_a_row_more(babbler_of(5)), backend="plain", tokenizer=words_of(seer))
    old = copy.copy(words_of(seer))
    old.patch_size = None
    with pytest.raises(
        ValueError, match="the LlavaProcessor cannot tell how many tokens an image has .* patch_size"
    ):
        tokenize(old, [shown[0]])
    hurt = tmp_path / "hurt"
    hurt.mkdir()
    for file in folder.iterdir():
        (hurt / file.name).write_bytes(file.read_bytes())
    (hurt / "processor_config.json").write_text("{")
    with pytest.raises(ValueError, match="'hurt' has no readable processor"):
        wb.load_model(hurt, backend="plain")


def with_a_row_more(model):
    model.resize_token_embeddings(len(seeing_tokenizer()))
    return model


def test_a_model_of_ones_own_takes_a_processor(seers, folder, shown):
    own = LlavaForConditionalGeneration.from_pretrained(folder)
    seer = wb.load_model(own, backend="plain", tokenizer=words_of(seers["plain"]))
    assert seer is own
    found = wb.last_token_activations(seer, shown).values
    assert torch.equal(found, wb.last_token_activations(seers["plain"], shown).values)


def test_without_a_processor_text_is_read_alone(seers, folder, tmp_path, shown):
    seers["plain"].save_pretrained(tmp_path / "blind")
    seeing_tokenizer().save_pretrained(tmp_path / "blind")
    blind = wb.load_model(tmp_path / "blind", backend="plain")
    assert len(wb.generate(blind, [shown[1]], max_new_tokens=2)) == 1
    with pytest.raises(ValueError, match="and the model reads text alone"):
        wb.generate(blind, [shown[0]], max_new_tokens=2)


def test_bytes_of_an_image_reach_the_model(seers, shown):
    """A JPEG of an image that was turned is what its upright pixels are."""
    seer, upright = seers["plain"], picture(4, 40, 30)
    turned, written = upright.rotate(90, expand=True), io.BytesIO()
    exif = PIL.Image.Exif()
    exif[0x0112] = 6  # turn it clockwise to see it upright
    turned.save(written, "PNG", exif=exif)
    lying = wb.Image(written.getvalue())
    prompts = [replace(shown[0], images=(each,)) for each in (wb.Image.of(upright), lying)]
    one, other = wb.last_token_activations(seer, prompts).values
    assert torch.equal(one, other)
