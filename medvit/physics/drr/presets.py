"""The geometry and the pixels of the published Swin-X2S radiographs, with their faults named.

The generator of arXiv 2501.05961's repository turns the CT about its middle in front of ITK's ray caster. What to know:

- Source at 1800 mm, detector at 200 mm: the patient appears 1.11 times larger on the detector. The pixels are as large
  as the volume's voxels all the same, so picture and label volume do not lie on each other. ``swin_x2s_geometry``
  makes pixels larger by the magnification, so that a pixel at the isocenter is a voxel, unless ``as_published``.
- The radiographs that were released with the results do not show that magnification: they fit an earlier version of
  the generator, with the source at 500 times the volume's longest side, practically a parallel beam (preset
  "swin-x2s-released").
- Integrals are kept in 16 bits (larger ones stay at 32767 HU mm), stretched from the lowest to the highest of each
  picture to 0..255, and resized by a cubic whose overshoot wraps around at 0 and 255: white specks in black and black
  specks in white. ``published_pixels`` does both only ``as_published``.
- Label volumes were stretched in the same way, which changes the ids wherever the highest one is absent. Nothing here
  does that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import GeometryError, ShapeError
from medvit.physics.drr.geometry import Geometry

__all__ = ["PRESETS", "preset_geometry", "published_pixels", "swin_x2s_geometry", "swin_x2s_released_geometry"]

_DETECTOR = (160, 128)
_HIGHEST = 32767.0


def _longest(extent_mm: Sequence[float]) -> float:
    return max(float(e) for e in extent_mm)


def swin_x2s_geometry(
    extent_mm: Sequence[float], detector_shape: tuple[int, int] = _DETECTOR, *, as_published: bool = False
) -> Geometry:
    """The published cone beam for a volume of these sides in mm: AP and left lateral, 1800 mm + 200 mm.

    Args:
        extent_mm: the volume's sides; the longest fills the rows.
        detector_shape: rows, columns.
        as_published: leave the pixels uncorrected for the magnification of 1.11.
    """
    pitch = _longest(extent_mm) / detector_shape[0]
    plain = Geometry(
        source_to_isocenter_mm=1800.0,
        isocenter_to_detector_mm=200.0,
        detector_shape=detector_shape,
        pixel_spacing_mm=(pitch, pitch),
    )
    if as_published:
        return plain
    pitch *= plain.magnification
    return Geometry(
        source_to_isocenter_mm=1800.0,
        isocenter_to_detector_mm=200.0,
        detector_shape=detector_shape,
        pixel_spacing_mm=(pitch, pitch),
    )


def swin_x2s_released_geometry(
    extent_mm: Sequence[float], detector_shape: tuple[int, int] = _DETECTOR, *, as_published: bool = False
) -> Geometry:
    """The practically parallel beam that the released radiographs show; its magnification of 1.001 is left as it is."""
    longest = _longest(extent_mm)
    pitch = longest / detector_shape[0]
    return Geometry(
        source_to_isocenter_mm=500 * longest,
        isocenter_to_detector_mm=longest / 2,
        detector_shape=detector_shape,
        pixel_spacing_mm=(pitch, pitch),
    )


PRESETS: dict[str, Callable[..., Geometry]] = {
    "swin-x2s": swin_x2s_geometry,
    "swin-x2s-released": swin_x2s_released_geometry,
}
"""Geometries by name, each a function of the volume's sides in mm."""


def preset_geometry(name: str, extent_mm: Sequence[float], **options: Any) -> Geometry:
    """The preset of that name.

    Raises:
        GeometryError: no such preset.
    """
    if name not in PRESETS:
        raise GeometryError(
            f"preset {name!r}", f"it must be one of {', '.join(PRESETS)}", "Correct it or leave it out."
        )
    return PRESETS[name](extent_mm, **options)


def published_pixels(integrals: Tensor, size: tuple[int, int] | None = None, *, as_published: bool = False) -> Tensor:
    """Line integrals (view, row, column) of ``published_integrand`` to pixels 0..255, each view stretched by itself.

    Args:
        integrals: in HU mm.
        size: rows and columns to resize to by a cubic; None leaves them.
        as_published: cut integrals off at 32767 HU mm and let overshoot wrap around; otherwise neither happens.

    Returns:
        uint8, (view, row, column).

    Raises:
        ShapeError: not three axes, or a view without contrast.
    """
    if integrals.ndim != 3:
        raise ShapeError(
            f"integrals of shape {tuple(integrals.shape)}", "(view, row, column) is needed", "Pass one patient's views."
        )
    if as_published:
        integrals = integrals.clamp(max=_HIGHEST).trunc()
    low, high = integrals.amin((1, 2), keepdim=True), integrals.amax((1, 2), keepdim=True)
    if bool((low == high).any()):
        raise ShapeError(
            "a view with the same value everywhere, which cannot be stretched", remedy="Aim it at the patient."
        )
    pixels = (integrals - low) / (high - low) * 255
    if size is not None and tuple(size) != tuple(pixels.shape[1:]):
        pixels = F.interpolate(pixels.trunc()[None], size=size, mode="bicubic", align_corners=False)[0]
    if as_published:
        return pixels.trunc().to(torch.int64).remainder(256).to(torch.uint8)
    return pixels.clamp(0, 255).round().to(torch.uint8)
