"""Images of prompts: the bytes of a file, looked at in full before anything rests on them, and their pixels.

    pixels = upright, RGB, transparent parts on white       what an image processor is given

The trap: a file may begin well and end in the middle, hold a film, or unpack to more than memory. All of it is told
when the file is read, with its name, and not hours later by a model.
"""

import io
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image as PILImage
from PIL import ImageOps

from workbench.provenance import content_hash

MAX_PIXELS = 64_000_000
"""Of one image: a photograph of 64 megapixels takes 192 MB unpacked, and models see a few hundred points a side."""
_DAMAGES = (
    OSError, ValueError, SyntaxError, IndexError, MemoryError, OverflowError, RuntimeError, NotImplementedError,
)  # fmt: skip
_SEVERAL_BUT_STILL = ("MPO",)
"""Formats of cameras that keep previews beside the photograph: the first is what is meant."""

ImageLike: TypeAlias = "Image | str | Path | PILImage.Image"


@dataclass(frozen=True, eq=False)
class Image:
    """One image, as the bytes of its file; equal to another of the same bytes. `source` is for messages.

    Raises `ValueError` for bytes that are no image, or a damaged, animated or too large one.
    """

    data: bytes = field(repr=False)
    source: str = "an image"

    def __post_init__(self) -> None:
        _opened(self.data, self.source)

    @classmethod
    def read(cls, path: str | Path) -> "Image":
        """The image in a file; `FileNotFoundError` where there is none."""
        path = Path(path)
        if not path.is_file():
            raise FileNotFoundError(f"no image file {path}: check the path")
        return cls(path.read_bytes(), str(path))

    @classmethod
    def of(cls, image: ImageLike, source: str = "an image") -> "Image":
        """An image from a path, or from one that PIL holds; kept as PNG there, without loss."""
        if isinstance(image, Image):
            return image
        if isinstance(image, str | Path):
            return cls.read(image)
        if not isinstance(image, PILImage.Image):
            raise TypeError(
                f"got a {type(image).__name__}, expected a path, an image of PIL or a wb.Image; an array is "
                "PIL.Image.fromarray(array)"
            )
        _require_plain(image, source)
        written = io.BytesIO()
        _as_rgb(image).save(written, "PNG")
        return cls(written.getvalue(), source)

    @cached_property
    def hash(self) -> str:
        """A hash of its bytes."""
        return content_hash(self.data)

    @cached_property
    def suffix(self) -> str:
        """How a file of these bytes ends: `.png`, `.jpg`, ..."""
        with PILImage.open(io.BytesIO(self.data)) as image:
            kind = str(image.format).lower()
        return {"jpeg": ".jpg", "mpo": ".jpg"}.get(kind, f".{kind}")

    @cached_property
    def size(self) -> tuple[int, int]:
        """Its height and width, upright."""
        width, height = self.pixels().size
        return height, width

    def pixels(self) -> PILImage.Image:
        """The image upright and in RGB."""
        return _as_rgb(_opened(self.data, self.source))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Image) and self.data == other.data

    def __hash__(self) -> int:
        return hash(self.hash)


def _opened(data: bytes, source: str) -> PILImage.Image:
    """The image, unpacked; every error says which it is."""
    try:
        image = PILImage.open(io.BytesIO(data))
    except (*_DAMAGES, PILImage.DecompressionBombError) as error:
        found = "it is empty" if not data else f"it is no image that PIL reads ({error})"
        raise ValueError(f"{source}: {found}: expected a PNG, JPEG, WebP or the like") from error
    _require_plain(image, source)
    try:
        image.load()
    # PIL's readers raise whatever their formats' damages lead to.
    except _DAMAGES as error:
        raise ValueError(f"{source} is damaged or cut off ({error}): fetch or save it again") from error
    return image


def _require_plain(image: PILImage.Image, source: str) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise ValueError(
            f"{source} has {width:,} x {height:,} pixels, more than {MAX_PIXELS:,}: save a smaller one, models see a "
            "few hundred a side"
        )
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format not in _SEVERAL_BUT_STILL:
        raise ValueError(f"{source} is animated, with {frames} frames: save the one that is meant")
    if image.mode in ("I", "F"):
        raise ValueError(
            f"{source} has 32 bits a pixel, of which nothing says what is white: scale it to 8 or 16 bits"
        )


def _as_rgb(image: PILImage.Image) -> PILImage.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # of which `convert` would keep the upper end alone
        image = PILImage.fromarray((np.asarray(image) >> 8).clip(0, 255).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = PILImage.new("RGBA", image.size, "white")
        image = PILImage.alpha_composite(white, image)
    return image.convert("RGB")
