"""Pictures of slices: grey values in a contrast window, outlines in the labels' colours, the intended use in a corner."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from medvit.labels import Label

__all__ = ["Overlay"]

_SIDE = 512
"""Smallest length of the longer side, in pixels, so that outlines are fine and the text is legible."""

_SHORT_SIDE, _LARGEST = 256, 2048
"""Desired length of the shorter side, and the largest length of the longer side, in pixels."""

_FILL = 0.2
"""Weight of a label's colour over the grey inside its outline."""

_TEXT = (255, 204, 102)


@dataclass(frozen=True, kw_only=True, eq=False)
class Overlay:
    """Pictures of a labelled series, drawn one by one.

    Attributes:
        image: (column, row, slice) float32 in the image's own unit.
        array: (column, row, slice) label ids.
        labels: the labels to draw.
        window: contrast window: the values drawn black and white.
        pixel_mm: (down, across): distance of rows and of columns.
        lines: text for the lower left corner.

    Examples:
        >>> import numpy as np
        >>> from medvit.io.labels import make_label
        >>> from medvit.reports import Overlay
        >>> pictures = Overlay(
        ...     image=np.zeros((8, 8, 2), np.float32),
        ...     array=np.ones((8, 8, 2), np.uint8),
        ...     labels=[make_label(1, "Liver")],
        ...     window=(-160.0, 240.0),
        ...     pixel_mm=(1.0, 1.0),
        ...     lines=("For research use",),
        ... )
        >>> pictures.draw(0).shape
        (512, 512, 3)
    """

    image: NDArray[np.float32]
    array: NDArray[np.integer]
    labels: Sequence[Label]
    window: tuple[float, float]
    pixel_mm: tuple[float, float]
    lines: tuple[str, ...]

    @cached_property
    def shape(self) -> tuple[int, int]:
        """(row, column) of the pictures: enlarged by an integer factor, and along one axis to make pixels square."""
        columns, rows = self.image.shape[:2]
        down, across = (side / min(self.pixel_mm) for side in self.pixel_mm)
        high, wide = rows * down, columns * across
        factor = max(1, -(-_SIDE // max(high, wide)))
        wished = max(factor, -(-_SHORT_SIDE // min(high, wide)))
        factor = int(max(factor, min(wished, _LARGEST // max(high, wide))))
        return round(high * factor), round(wide * factor)

    @property
    def spacing_mm(self) -> tuple[float, float]:
        """(down, across) size of the pictures' pixels, so that the pictures cover the original slice exactly."""
        columns, rows = self.image.shape[:2]
        return self.pixel_mm[0] * rows / self.shape[0], self.pixel_mm[1] * columns / self.shape[1]

    def draw(self, k: int) -> NDArray[np.uint8]:
        """Draw slice k as (row, column, 3) RGB; original pixels are repeated, not interpolated."""
        low, high = self.window
        columns, rows = self.image.shape[:2]
        down = np.arange(self.shape[0]) * rows // self.shape[0]
        across = np.arange(self.shape[1]) * columns // self.shape[1]
        scaled = np.clip((self.image[:, :, k].T - low) / max(high - low, 1e-6), 0, 1)
        grey = np.round(scaled * 255).astype(np.uint8)[np.ix_(down, across)]
        picture = np.repeat(grey[:, :, None], 3, axis=2)
        marks = self._numbers[self.array[:, :, k].T][np.ix_(down, across)]
        if marks.any():
            colors = self._colors[marks]
            inside = marks > 0
            mixed = picture[inside] * (1 - _FILL) + colors[inside] * _FILL
            picture[inside] = np.round(mixed).astype(np.uint8)
            edge = inside & self._edge(marks)
            picture[edge] = colors[edge]
        return self._stamp(picture)

    @cached_property
    def _numbers(self) -> NDArray[np.uint16]:
        """Table from label ids to 1..N in the order of ``labels``; other ids become 0."""
        table = np.zeros(max(int(self.array.max()), *(label.id for label in self.labels), 0) + 1, np.uint16)
        for number, label in enumerate(self.labels, 1):
            table[label.id] = number
        return table

    @cached_property
    def _colors(self) -> NDArray[np.uint8]:
        return np.array([(0, 0, 0), *(label.color for label in self.labels)], np.uint8)

    def _edge(self, marks: NDArray[np.uint16]) -> NDArray[np.bool_]:
        """Return the pixels nearer to another label than the thickness of an outline, about a 400th of the picture."""
        from scipy.ndimage import maximum_filter, minimum_filter

        size = 2 * max(1, round(max(marks.shape) / 400)) + 1
        padded = np.pad(marks, 1)  # closes outlines at the picture's edge
        differs = maximum_filter(padded, size) != minimum_filter(padded, size)
        return np.asarray(differs[1:-1, 1:-1])

    def _stamp(self, picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
        from PIL import Image

        stamp = self._words
        canvas = Image.fromarray(picture)
        canvas.paste(stamp, (0, picture.shape[0] - stamp.height))
        return np.array(canvas)

    @cached_property
    def _words(self):  # type: ignore[no-untyped-def]
        """Image of the corner's text on black, with line breaks where the picture is narrow."""
        from PIL import Image, ImageDraw, ImageFont

        rows, columns = self.shape
        font = ImageFont.load_default(size=max(12, min(rows, columns) // 32))
        margin = 4
        lines: list[str] = []
        for text in self.lines:
            line = ""
            for word in text.split():
                longer = f"{line} {word}".strip()
                if line and font.getlength(longer) > columns - 2 * margin:
                    lines.append(line)
                    longer = word
                line = longer
            lines.append(line)
        text = "\n".join(lines)
        left, top, right, bottom = ImageDraw.Draw(Image.new("RGB", (1, 1))).multiline_textbbox((0, 0), text, font=font)
        size = (min(columns, int(right - left) + 2 * margin + 1), int(bottom - top) + 2 * margin + 1)
        stamp = Image.new("RGB", size)
        ImageDraw.Draw(stamp).multiline_text((margin - left, margin - top), text, font=font, fill=_TEXT)
        return stamp
