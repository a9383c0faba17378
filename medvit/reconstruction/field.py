"""Resampling of two views to the network's field of view, and notes on differences and missing parts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit.reconstruction.views import View

__all__ = ["coverage_notes", "difference_notes", "field_of", "on_field"]

_PIXELS_PER_VOXEL = 2
"""Number of pixels per voxel side, as in the radiographs computed for training; preprocessing resamples further."""

_AIR = 0.05
"""Grey values up to this share of the range above the darkest are treated as air."""

_SAME = 0.005
"""Relative difference of pixel sizes or magnifications below which two views count as equal."""


def field_of(bundle: Bundle) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """Return the network's grid, (x, y, z) voxels and their sides in mm, from the bundle's config.

    Raises:
        BundleError: the config does not state them.
    """
    try:
        x, y, z = (int(n) for n in bundle.config["img_size"])
        a, b, c = (float(s) for s in bundle.config["spacing_mm"])
    except (KeyError, TypeError, ValueError):
        raise BundleError(
            f"no img_size and spacing_mm of three numbers in {bundle.name}",
            "they define the field of the views",
            "Add them to configs/inference.json.",
        ) from None
    return (x, y, z), (a, b, c)


def on_field(view: View, size: tuple[int, int], sides_mm: tuple[float, float]) -> tuple[NDArray[np.float32], float]:
    """Resample a view to the network's field of view, centred on the middle of the picture.

    Args:
        view: the radiograph; its middle is taken as the projection of the field's middle.
        size: number of voxels of the field along rows (z) and columns (x or y).
        sides_mm: sides of a voxel, in the same order.

    Returns:
        (row, column) float32 with two pixels per voxel, smoothed first to avoid aliasing; outside the picture it has
        the picture's darkest grey. Also the share of the field that is visible: outside an edge that shows air counts
        as air.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    steps = [side / _PIXELS_PER_VOXEL / pixel for side, pixel in zip(sides_mm, view.pixel_mm, strict=True)]
    counts = [n * _PIXELS_PER_VOXEL for n in size]
    blur = [0.5 * np.sqrt(max(step**2 - 1, 0.0)) for step in steps]
    values = gaussian_filter(view.values.astype(np.float64), blur, mode="nearest")
    places = [
        (np.arange(n) - (n - 1) / 2) * step + (m - 1) / 2
        for n, step, m in zip(counts, steps, view.values.shape, strict=True)
    ]
    outside = [(p < -0.5) | (p > m - 0.5) for p, m in zip(places, view.values.shape, strict=True)]
    dark, bright = (float(v) for v in np.percentile(view.values, (0.5, 99.5)))
    picture = map_coordinates(values, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    picture[outside[0]] = dark
    picture[:, outside[1]] = dark
    share = 1.0
    for axis, beyond in enumerate(outside):
        edges = np.take(view.values, [0, -1], axis=axis)
        if float(np.percentile(edges, 99)) > dark + _AIR * (bright - dark):  # the body extends beyond the edge
            share *= 1 - float(beyond.mean())
    return picture.astype(np.float32), share


def difference_notes(views: Sequence[View]) -> list[str]:
    """Describe differences in pixel size and magnification between two views, which resampling has removed."""
    a, b = views
    words = []
    if max(abs(p / q - 1) for p, q in zip(a.pixel_mm, b.pixel_mm, strict=True)) > _SAME:
        words.append(
            f"pixels of {a.pixel_mm[0]:.3g} x {a.pixel_mm[1]:.3g} mm and {b.pixel_mm[0]:.3g} x {b.pixel_mm[1]:.3g} mm in the patient"
        )
    if abs(a.magnification / b.magnification - 1) > _SAME:
        words.append(f"magnifications of {a.magnification:.3f} and {b.magnification:.3f}")
    return [f"The two views have {' and '.join(words)}; both were resampled to the network's field."] if words else []


def coverage_notes(
    views: Sequence[View], covered: Sequence[float], size: Sequence[int], sides: Sequence[float]
) -> list[str]:
    """Describe each view that shows less than the network's field of view."""
    notes = []
    for view, share, across in zip(views, covered, (0, 1), strict=True):
        if share < 1:
            height, width = view.size_mm
            notes.append(
                f"The {view.slot} view shows {width:.0f} x {height:.0f} mm in the patient, where the network's field is "
                f"{size[across] * sides[across]:.0f} x {size[2] * sides[2]:.0f} mm; the rest was taken for air."
            )
    return notes
