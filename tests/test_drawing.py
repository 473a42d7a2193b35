"""Pictures: the same bytes for the same scene, holes that show what stands behind, patches that know what they show."""

import hashlib
import io
import string
from itertools import cycle

import numpy as np
import pytest
from PIL import Image

from workbench.organisms.drawing import Placed, Scene, icons, pictures, written_size

CLOCK = Placed("a clock", "red", 8, 8, 40)


def test_a_picture_is_drawn_by_numbers_alone() -> None:
    """Another Pillow, another machine: the same pixels. What they are is pinned by their hash."""
    scenes = [
        Scene(ground, (Placed(thing, ink, 4, 0, 24), Placed("lamp", "blue", 0, 32, 2, written=True)))
        for ground, thing, ink in zip(
            cycle(pictures()["scenes"]), icons(), cycle(pictures()["inks"]), strict=False
        )
    ]
    drawn = hashlib.sha256(b"".join(scene.pixels().tobytes() for scene in scenes)).hexdigest()
    assert drawn[:16] == "330b4797a4ae66a0"


def test_a_png_holds_the_pixels_and_little_else() -> None:
    scene = Scene("meadow", (CLOCK,))
    with Image.open(io.BytesIO(scene.png())) as image:
        assert image.size == (56, 56) and np.array_equal(np.asarray(image.convert("RGB")), scene.pixels())
    assert len(scene.png()) < 700


def test_a_hole_shows_the_ground_on_both_sides_of_the_horizon() -> None:
    wheels = Placed("a bicycle", "red", 8, 4, 40)
    empty, shown = Scene("beach", ()).pixels(), Scene("beach", (wheels,)).pixels()
    inside = np.s_[32:36, 15:19]  # of a wheel, across the horizon at 34
    assert np.array_equal(shown[inside], empty[inside]) and len(np.unique(shown[inside][:, 0], axis=0)) == 2


@pytest.mark.parametrize("ink", ["red", "maple"])
def test_a_thing_is_painted_in_its_ink(ink: str) -> None:
    pixels = Scene("paper", (Placed("a hat", ink, 8, 8, 40),)).pixels()
    assert (pixels == pictures()["inks"][ink]).all(-1).mean() > 0.1
    others = [other for other in pictures()["inks"] if other != ink]
    assert not any((pixels == pictures()["inks"][other]).all(-1).any() for other in others)


@pytest.mark.parametrize("size", [24, 48])
def test_every_thing_looks_different_from_every_other(size: int) -> None:
    seen = {Scene("paper", (Placed(thing, "red", 4, 4, size),)).pixels().tobytes() for thing in icons()}
    assert len(seen) == len(icons()) == 36


def test_every_letter_is_there_and_is_itself() -> None:
    letters = set("".join(pictures()["written"]["words"]))
    assert letters <= set(pictures()["letters"]) <= set(string.ascii_lowercase)
    assert len(set(pictures()["letters"].values())) == len(pictures()["letters"])
    assert all(written_size(word, scale=2)[0] <= 56 for word in pictures()["written"]["words"])


def test_a_patch_knows_what_it_shows_most_of() -> None:
    cover = Scene("paper", (Placed("bread", "red", 0, 0, 24), Placed("a hat", "blue", 32, 32, 24))).cover(8)
    assert set(cover[:3, :3].flatten()) <= {0, -1} and set(cover[4:, 4:].flatten()) <= {1, -1}
    assert (cover[:3, 3:] == -1).all() and (cover[4:, :4] == -1).all()
