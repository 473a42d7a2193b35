"""Pictures of the small world: things and words in eight inks before a ground, from `data/world/pictures.toml`.

An icon is a few shapes on a field of 20 by 20, tested at the centres of pixels: whole numbers in, few colours out, the
same bytes on every machine whatever Pillow's own lines and fonts look like this year.

The trap: half of the icons have holes, and a ground has two colours. What a hole shows is what stands behind it.
"""

import functools
import io
import tomllib
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

from workbench.shipped import shipped_path

_FIELD = 20
_CLEAR, _INK, _DARK, _PALE = range(4)
_PAINTS = {"hole": _CLEAR, "dark": _DARK, "pale": _PALE}
_COLOURS = {_DARK: (36, 36, 40), _PALE: (252, 252, 246)}


@functools.cache
def pictures() -> dict[str, Any]:
    """The lists, as they stand in `data/world/pictures.toml`."""
    return tomllib.loads(shipped_path("world", "pictures.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Placed:
    """A thing (or, `written`, a word) in an ink, whose upper left corner is at `x`, `y`; `size` in pixels."""

    what: str
    ink: str
    x: int
    y: int
    size: int
    written: bool = False


@dataclass(frozen=True)
class Scene:
    """A ground and what stands before it, the last in front."""

    ground: str
    things: tuple[Placed, ...]

    def image(self) -> Image.Image:
        """The picture, in RGB."""
        return Image.fromarray(self.pixels())

    def pixels(self) -> np.ndarray:
        """The picture as bytes, (row, column, colour)."""
        lists, size = pictures(), pictures()["size"]
        ground = lists["scenes"][self.ground]
        canvas = np.empty((size, size, 3), dtype=np.uint8)
        horizon = round(ground["horizon"] * size)
        canvas[:horizon], canvas[horizon:] = ground["above"], ground["below"]
        for thing in self.things:
            mask = _stencil(thing)
            part = canvas[thing.y : thing.y + mask.shape[0], thing.x : thing.x + mask.shape[1]]
            for value, colour in {_INK: lists["inks"][thing.ink], **_COLOURS}.items():
                part[mask == value] = colour
        return canvas

    def png(self) -> bytes:
        """The picture as a PNG file of few colours, some 500 bytes."""
        pixels, file = self.pixels(), io.BytesIO()
        colours, numbers = np.unique(pixels.reshape(-1, 3), axis=0, return_inverse=True)
        image = Image.fromarray(numbers.reshape(pixels.shape[:2]).astype(np.uint8), "P")
        image.putpalette(colours.tobytes())
        image.save(file, "PNG", optimize=True)
        return file.getvalue()

    def cover(self, patch: int) -> np.ndarray:
        """Which thing each patch of `patch` by `patch` pixels shows most of, by its number; -1 where there is none."""
        n = pictures()["size"] // patch
        shares = np.zeros((len(self.things) + 1, n * patch, n * patch))
        shares[-1] = 0.1  # of a patch; less of a thing than that tells nothing of it
        for number, thing in enumerate(self.things):
            mask = _stencil(thing) != _CLEAR
            shares[number, thing.y : thing.y + mask.shape[0], thing.x : thing.x + mask.shape[1]] = mask
        most = shares.reshape(len(shares), n, patch, n, patch).mean((2, 4)).argmax(0)
        return np.where(most == len(self.things), -1, most)


def icons() -> dict[str, str]:
    """The group of every thing that has an icon, in order."""
    return {thing: group for group, found in pictures()["icons"].items() for thing in found}


def written_size(word: str, scale: int) -> tuple[int, int]:
    """Width and height in pixels of a written word, each dot of whose letters is `scale` pixels wide."""
    return (4 * len(word) - 1) * scale, 5 * scale


def _stencil(thing: Placed) -> np.ndarray:
    return _letters(thing.what, thing.size) if thing.written else _icon(thing.what, thing.size)


@functools.lru_cache(maxsize=2048)
def _icon(what: str, size: int) -> np.ndarray:
    centres = (np.arange(size) + 0.5) * _FIELD / size
    x, y = np.meshgrid(centres, centres)
    canvas = np.full((size, size), _CLEAR, dtype=np.uint8)
    for shape in pictures()["icons"][icons()[what]][what]:
        words = shape.split()
        paint = _PAINTS[words.pop(0)] if words[0] in _PAINTS else _INK
        canvas[_inside(words[0], [float(number) for number in words[1:]], x, y)] = paint
    return canvas


def _inside(kind: str, at: list[float], x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which of the points lie inside a shape."""
    if kind == "box":
        return (at[0] <= x) & (x <= at[2]) & (at[1] <= y) & (y <= at[3])
    if kind == "oval":
        wide, high = (at[2] - at[0]) / 2, (at[3] - at[1]) / 2
        return ((x - at[0]) / wide - 1) ** 2 + ((y - at[1]) / high - 1) ** 2 <= 1
    if kind == "line":
        x0, y0, x1, y1, width = at
        along = ((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / ((x1 - x0) ** 2 + (y1 - y0) ** 2)
        along = along.clip(0, 1)
        away = (x - x0 - along * (x1 - x0)) ** 2 + (y - y0 - along * (y1 - y0)) ** 2
        return away <= (width / 2) ** 2
    inside, corners = np.zeros_like(x, dtype=bool), list(zip(at[::2], at[1::2], strict=True))
    for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):  # crossings, even or odd
        if y0 != y1:
            inside ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0) + x0)
    return inside


@functools.lru_cache(maxsize=256)
def _letters(word: str, scale: int) -> np.ndarray:
    rows = [pictures()["letters"][letter].split() for letter in word]
    dots = np.array([[dot == "#" for dot in ".".join(row)] for row in zip(*rows, strict=True)])
    return np.where(dots, _INK, _CLEAR).astype(np.uint8).repeat(scale, 0).repeat(scale, 1)
