"""Geometry and pixel values of the published Swin-X2S radiographs, with their known errors.

The generator in the repository of arXiv 2501.05961 rotates the CT about its centre in ITK's ray caster. Its properties:

- The source is at 1800 mm and the detector at 200 mm, so the patient is magnified by 1.11 on the detector. But pixels
  have the size of the volume's voxels, so picture and label volume do not match. ``swin_x2s_geometry`` enlarges the
  pixels by the magnification, so that a pixel at the isocenter is a voxel, unless ``as_published``.
- The radiographs released with the results do not have this magnification: they match an earlier version of the
  generator, with the source at 500 times the volume's longest side, practically a parallel beam (preset
  "swin-x2s-released").
- Integrals are stored in 16 bits (larger ones become 32767 HU mm), stretched from the minimum to the maximum of each
  picture to 0..255, and resized by cubic interpolation whose overshoot wraps around at 0 and 255, which gives white
  specks in black and black specks in white. ``published_pixels`` does both only ``as_published``.
- Label volumes were stretched in the same way, which changes the ids if the highest one is absent. This package does
  not reproduce that.
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
    """Make the published cone beam for a volume with these sides in mm: AP and left lateral, 1800 mm + 200 mm.

    Args:
        extent_mm: sides of the volume; the longest one fills the rows.
        detector_shape: rows, columns.
        as_published: do not correct the pixels for the magnification of 1.11.
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
    """Make the practically parallel beam of the released radiographs; its magnification of 1.001 is not corrected."""
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
"""Functions from a volume's sides in mm to a geometry, by preset name."""


def preset_geometry(name: str, extent_mm: Sequence[float], **options: Any) -> Geometry:
    """Make the geometry of a preset.

    Raises:
        GeometryError: the preset is unknown.
    """
    if name not in PRESETS:
        raise GeometryError(
            f"preset {name!r}", f"it must be one of {', '.join(PRESETS)}", "Correct it or leave it out."
        )
    return PRESETS[name](extent_mm, **options)


def published_pixels(integrals: Tensor, size: tuple[int, int] | None = None, *, as_published: bool = False) -> Tensor:
    """Convert line integrals (view, row, column) of ``published_integrand`` to pixels 0..255; each view is stretched
    separately.

    Args:
        integrals: line integrals in HU mm.
        size: rows and columns for cubic interpolation; None keeps the size.
        as_published: clip integrals at 32767 HU mm and let overshoot wrap around; by default neither is done.

    Returns:
        uint8, (view, row, column).

    Raises:
        ShapeError: there are not three axes, or a view has no contrast.
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
