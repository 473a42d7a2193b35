"""Images: looked at in full when they are read, upright and in RGB, equal by their bytes, kept beside their prompts."""

import io
import json
from dataclasses import replace

import numpy as np
import PIL.Image
import pytest

import workbench as wb
from workbench import images


def written(image: PIL.Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def colours(mode: str = "RGB", size: tuple[int, int] = (7, 5)) -> PIL.Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    return PIL.Image.fromarray(values).convert(mode)


@pytest.mark.parametrize(
    ("mode", "kind"), [("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("1", "PNG"), ("CMYK", "TIFF")]
)
def test_every_mode_is_read_as_rgb(mode, kind):
    image = colours(mode)
    pixels = wb.Image(written(image, kind)).pixels()
    assert pixels.mode == "RGB" and pixels.size == (7, 5)
    assert np.array_equal(np.asarray(pixels), np.asarray(image.convert("RGB")))


def test_a_cmyk_jpeg_is_read():
    pixels = wb.Image(written(colours("CMYK"), "JPEG", quality=95)).pixels()
    assert pixels.mode == "RGB" and np.asarray(pixels).std() > 10


def test_sixteen_bits_are_not_clipped():
    grey = PIL.Image.fromarray(np.array([[0, 128 * 256, 65535]], dtype=np.uint16))
    assert np.asarray(wb.Image(written(grey)).pixels())[0, :, 0].tolist() == [0, 128, 255]


def test_what_is_transparent_is_white():
    clear = PIL.Image.new("RGBA", (2, 1), (255, 0, 0, 0))
    clear.putpixel((0, 0), (255, 0, 0, 255))
    assert np.asarray(wb.Image(written(clear)).pixels())[0].tolist() == [[255, 0, 0], [255, 255, 255]]


def test_a_photograph_that_was_turned_is_upright():
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = wb.Image(written(colours(size=(7, 5)), "PNG", exif=exif))
    assert image.pixels().size == (5, 7) and image.size == (7, 5)


def test_what_pil_holds_is_kept_without_loss():
    image = colours()
    assert np.array_equal(np.asarray(wb.Image.of(image).pixels()), np.asarray(image))


def test_images_are_equal_by_their_bytes(tmp_path):
    (tmp_path / "a.png").write_bytes(written(colours()))
    (tmp_path / "b.png").write_bytes(written(colours()))
    one, same, other = (
        wb.Image.read(tmp_path / "a.png"),
        wb.Image.read(tmp_path / "b.png"),
        wb.Image.of(colours("L")),
    )
    assert one == same and one != other and len({one, same, other}) == 2
    assert one.source.endswith("a.png") and one.suffix == ".png"
    assert wb.Image(written(colours(), "JPEG")).suffix == ".jpg"


def test_prompts_with_images_come_back_from_disk(tmp_path):
    picture, other = colours(), colours("L")
    asked = wb.PromptSet(
        "seen",
        (
            wb.Prompt.user("what is it", images=[picture], label="harmless", source="a"),
            wb.Prompt.user("is <image> like <image> ?", images=[picture, other], source="b"),
            wb.Prompt.user("in words", source="c"),
        ),
    )
    asked.save(tmp_path / "seen.jsonl")
    read = wb.load_prompts(tmp_path / "seen.jsonl")
    assert read.prompts == asked.prompts and read.hash == asked.hash
    assert len(list((tmp_path / "seen-images").iterdir())) == 2  # one file for an image, whoever shows it
    assert "images" not in json.loads((tmp_path / "seen.jsonl").read_text().splitlines()[2])
    swapped = replace(asked[0], images=(wb.Image.of(other),))
    assert wb.PromptSet("seen", (swapped, *asked.prompts[1:])).hash != asked.hash


def test_one_question_of_two_images_is_two_prompts():
    one, two = (wb.Prompt.user("what is it", images=[image]) for image in (colours(), colours("L")))
    assert one != two
    train = wb.PromptSet("t", (replace(one, label="harmful"), wb.Prompt.user("a", label="harmless")))
    wb.ContrastSet("c", train, wb.PromptSet("v", (two,)), wb.PromptSet("e", (wb.Prompt.user("b"),)))
    again, test = wb.PromptSet("v", (one,)), wb.PromptSet("e", (wb.Prompt.user("b"),))
    with pytest.raises(ValueError, match=r"'what is it' is in \.train and in \.val"):
        wb.ContrastSet("c", train, again, test)


def test_splits_tell_prompts_apart_by_their_images():
    shades = [wb.Image.of(PIL.Image.new("L", (2, 2), shade)) for shade in range(12)]
    bad, good = (
        wb.PromptSet(label, tuple(wb.Prompt.user("open it", images=[shade], label=label) for shade in half))
        for label, half in (("harmful", shades[:6]), ("harmless", shades[6:]))
    )
    pairs = wb.paper_split(bad, good, n_train=2)
    assert (len(pairs.train), len(pairs.test)) == (4, 8)
    assert not {prompt.images for prompt in pairs.train} & {prompt.images for prompt in pairs.test}
    with pytest.raises(ValueError, match="a prompt is either harmful or harmless"):
        wb.paper_split(bad, wb.PromptSet("g", tuple(replace(p, label="harmless") for p in bad)), n_train=2)


def test_messages(tmp_path, monkeypatch):
    data = written(PIL.Image.effect_noise((200, 200), 90))
    with pytest.raises(FileNotFoundError, match=r"no image file .*gone.png: check the path"):
        wb.Image.read(tmp_path / "gone.png")
    with pytest.raises(ValueError, match="x: it is empty: expected a PNG, JPEG, WebP or the like"):
        wb.Image(b"", "x")
    with pytest.raises(ValueError, match="x: it is no image that PIL reads"):
        wb.Image(b"a text and no picture", "x")
    with pytest.raises(ValueError, match="x is damaged or cut off .*: fetch or save it again"):
        wb.Image(data[: len(data) // 2], "x")
    film = written(colours(), "GIF", save_all=True, append_images=[colours("L")])
    with pytest.raises(ValueError, match="x is animated, with 2 frames: save the one that is meant"):
        wb.Image(film, "x")
    with pytest.raises(TypeError, match="got a ndarray, expected a path, an image of PIL or a wb.Image"):
        wb.Image.of(np.zeros((2, 2, 3)))
    with pytest.raises(ValueError, match="x is animated, with 2 frames"):
        wb.Image.of(PIL.Image.open(io.BytesIO(film)), "x")
    for values in (np.array([[200]], dtype=np.int32), np.array([[0.9]], dtype=np.float32)):
        with pytest.raises(ValueError, match="x has 32 bits a pixel, of which nothing says what is white"):
            wb.Image(written(PIL.Image.fromarray(values), "TIFF"), "x")
    with pytest.raises(
        TypeError, match=r"got images='photo.jpg', expected a list of images: pass \['photo.jpg'\]"
    ):
        wb.Prompt.user("x", images="photo.jpg")
    monkeypatch.setattr(images, "MAX_PIXELS", 1000)
    with pytest.raises(ValueError, match="x has 200 x 200 pixels, more than 1,000: save a smaller one"):
        wb.Image(data, "x")


def test_a_line_that_names_no_image_is_told_by_its_number(tmp_path):
    line = {"messages": [{"role": "user", "content": "what is it"}], "images": ["gone.png"]}
    (tmp_path / "p.jsonl").write_text(json.dumps(line) + "\n")
    with pytest.raises(FileNotFoundError, match=r"p.jsonl, line 1: no image file .*gone.png"):
        wb.load_prompts(tmp_path / "p.jsonl")
    (tmp_path / "q.jsonl").write_text(json.dumps(line | {"images": "gone.png"}) + "\n")
    with pytest.raises(ValueError, match="q.jsonl, line 1: got images 'gone.png', expected a list of paths"):
        wb.load_prompts(tmp_path / "q.jsonl")
    (tmp_path / "gone.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"p.jsonl, line 1: .*gone.png: it is no image that PIL reads"):
        wb.load_prompts(tmp_path / "p.jsonl")
