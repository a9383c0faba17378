"""Reader for pictures: PNG, JPEG, TIFF, BMP, WebP, and HEIC where pillow-heif is installed.

Orientation: EXIF (CIPA DC-008), tag 274. Memory: the size is checked before any pixel is decoded.
"""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvit.errors import ImageError, SourceError
from medvit.io.memory_limits import check_image_memory
from medvit.io.scan import Scan

if TYPE_CHECKING:
    from PIL.Image import Image as Picture

__all__ = ["PICTURE_SUFFIXES", "read_picture"]

_HEIC = (".heic", ".heif")
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", *_HEIC)
"""File extensions of pictures, in lower case."""

_ORIENTATION = 274
"""EXIF tag that states how a picture must be turned before it is shown; 1 means not at all."""

_TURNS = {
    2: "mirrored from left to right",
    3: "turned by 180 degrees",
    4: "mirrored from top to bottom",
    5: "mirrored and turned by 90 degrees",
    6: "turned by 90 degrees clockwise",
    7: "mirrored and turned by 90 degrees",
    8: "turned by 90 degrees counter-clockwise",
}
"""Words for the values of the tag."""


def read_picture(path: Path) -> Scan:
    """Read a picture as viewers show it: turned as its EXIF orientation says, which a note records.

    Args:
        path: a PNG, JPEG, TIFF, BMP, WebP or HEIC file.

    Returns:
        The picture, float32 (channel, row, column): one channel for grey pictures, three for colours.

    Raises:
        SourceError: HEIC is not read, since the package pillow-heif is not installed.
        ImageError: the file holds several pictures.
        TooLargeError: the picture would exceed the memory limit.
    """
    with _opened(path) as picture:
        count = getattr(picture, "n_frames", 1)
        if count > 1:
            raise ImageError(f"{count} pictures in {path.name}", "one is needed", "Save one page and run again.")
        check_image_memory(picture.size[::-1], "a picture", values=3)  # where check_stated_size found no size
        turn = picture.getexif().get(_ORIENTATION, 1)
        deep = picture.mode in ("I", "F", "L", "1") or picture.mode.startswith("I;16")
        pixels = np.asarray(picture if deep else picture.convert("RGB"), dtype=np.float32)
    notes: tuple[str, ...] = ()
    if turn in _TURNS:
        pixels = np.ascontiguousarray(_turned(pixels, turn))
        notes = (f"The picture was {_TURNS[turn]}, as its EXIF orientation ({turn}) says.",)
    channels = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
    return Scan(array=channels, affine=np.eye(4), kind="picture", name=path.name, notes=notes)


def _turned(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Turn pixels (row, column, ...) so that the first row is the top of the picture and the first column its left."""
    if turn >= 5:  # rows of the file are columns of the picture
        pixels = pixels.swapaxes(0, 1)
    if turn in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return pixels[:, ::-1] if turn in (2, 3, 6, 7) else pixels


def _opened(path: Path) -> Picture:
    """Open a picture without decoding it.

    Pillow's classes are called directly, since ``Image.open`` refuses sizes that the memory limit allows.
    """
    from PIL import BmpImagePlugin, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin, WebPImagePlugin

    with path.open("rb") as file:
        start = file.read(12)
    if start.startswith(b"\x89PNG\r\n\x1a\n"):
        return PngImagePlugin.PngImageFile(path)
    if start.startswith(b"\xff\xd8\xff"):
        return JpegImagePlugin.JpegImageFile(path)
    if start[:4] in (b"II*\0", b"MM\0*"):
        return TiffImagePlugin.TiffImageFile(path)
    if start.startswith(b"BM"):
        return BmpImagePlugin.BmpImageFile(path)
    if start.startswith(b"RIFF") and start.endswith(b"WEBP"):
        return WebPImagePlugin.WebPImageFile(path)
    if path.suffix.lower() in _HEIC:
        if find_spec("pillow_heif") is None:
            raise SourceError(
                f"{path.name}, a HEIC picture",
                "the package pillow-heif is needed to read it, which is not installed",
                "Install it (pip install pillow-heif), or save the picture as PNG.",
            )
        pillow_heif = import_module("pillow_heif")

        pillow_heif.register_heif_opener()
    return Image.open(path)
