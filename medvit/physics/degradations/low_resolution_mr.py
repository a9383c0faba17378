"""Low-resolution MR: fewer samples of k-space, thicker slices, and the noise of the acquisition."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import ImageError, ShapeError
from medvit.physics.degradations.checks import checked_image, require

__all__ = ["LowResolutionMR"]


@dataclass(frozen=True, kw_only=True)
class LowResolutionMR:
    """Simulation of an MR scan with larger voxels, resampled to the image's own grid.

    Along encoded axes k-space is cut off at 1 / (2 · voxel) and filled with zeros (with ringing, as in scanners). Along
    ``slice_axis``, which is selected by excitation rather than encoded, the image is averaged with the slice profile at
    each slice's centre and interpolated linearly back. The image is assumed to be real, without phase.

    Attributes:
        voxel_mm: acquired voxel side along each axis; None leaves an axis unchanged.
        slice_axis: axis of excited slices, or None for 3-D encoding.
        profile: "box" (ideal) or "gaussian" (with this full width at half maximum).
        noise: standard deviation of the noise of the real and the imaginary part, in the image's unit, white over the
            acquired part of k-space. With noise the result is the magnitude (Rician), else the real part.
        seed: the same seed, parameters and image give the same noise.
    """

    voxel_mm: tuple[float | None, ...]
    slice_axis: int | None = None
    profile: str = "gaussian"
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        given = [v for v in self.voxel_mm if v is not None]
        require(all(v > 0 for v in given), "voxel_mm", self.voxel_mm, "a positive side, or None, for each axis")
        axes = range(len(self.voxel_mm))
        require(self.slice_axis is None or self.slice_axis in axes, "slice_axis", self.slice_axis, "an axis or None")
        require(self.profile in ("box", "gaussian"), "profile", self.profile, "'box' or 'gaussian'")
        require(self.noise >= 0, "noise", self.noise, "0 or more")

    def __call__(self, image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
        """Simulate the scan.

        Args:
            image: (i, j) or (i, j, k), magnitude in any unit.
            spacing_mm: voxel sides along its axes.

        Returns:
            The image's shape, float32, its unit.

        Raises:
            ShapeError, ImageError: see ``checked_image``; also for acquired voxels smaller than the image's, or, with
                noise, for negative values.
        """
        volume, sides = checked_image(image, spacing_mm)
        wanted = self._voxels(sides)
        if self.noise and volume.min() < 0:
            raise ImageError(
                f"values down to {volume.min():g}",
                "a magnitude image has no values below 0",
                "Give it before any normalisation.",
            )
        values = volume.astype(np.float64)
        excite, back = self._slices(values.shape, sides, wanted)
        values = self._along(excite, values)
        kept = self._kept(values.shape, sides, wanted)
        spectrum = np.fft.fftn(values) * kept
        if self.noise:
            rng = np.random.default_rng(self.seed)
            # fftn is not normalised: white noise of this size in k-space gives ``noise`` in each part of the image
            size = self.noise * values.size / math.sqrt(kept.sum())
            white = rng.standard_normal(values.shape) + 1j * rng.standard_normal(values.shape)
            acquired = np.abs(np.fft.ifftn(spectrum + size * white * kept))
        else:
            acquired = np.fft.ifftn(spectrum).real
        return self._along(back, acquired).astype(np.float32)

    def _voxels(self, sides: tuple[float, ...]) -> tuple[float, ...]:
        if len(self.voxel_mm) != len(sides):
            raise ShapeError(
                f"voxel_mm of {len(self.voxel_mm)} axes for an image of {len(sides)}",
                "one number for each axis is needed",
                "Use None for an axis that stays as it is.",
            )
        wanted = tuple(s if v is None else float(v) for v, s in zip(self.voxel_mm, sides, strict=True))
        if any(v < s * (1 - 1e-6) for v, s in zip(wanted, sides, strict=True)):
            raise ShapeError(
                f"acquired voxels of {wanted} mm, finer than the image's {sides} mm",
                "detail cannot be added",
                "Give larger voxels.",
            )
        return wanted

    def _kept(self, shape: tuple[int, ...], sides: tuple[float, ...], wanted: tuple[float, ...]) -> NDArray[np.float64]:
        """Return 1 where k-space is acquired, else 0."""
        kept = np.ones(shape)
        for axis, (n, side, voxel) in enumerate(zip(shape, sides, wanted, strict=True)):
            if axis != self.slice_axis:
                inside = np.abs(np.fft.fftfreq(n, side)) <= (1 + 1e-9) / (2 * voxel)
                kept *= inside.reshape([-1 if a == axis else 1 for a in range(len(shape))])
        return kept

    def _slices(
        self, shape: tuple[int, ...], sides: tuple[float, ...], wanted: tuple[float, ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return the matrices from voxels to excited slices, (slice, voxel), and back, (voxel, slice)."""
        axis = self.slice_axis
        if axis is None or wanted[axis] <= sides[axis] * (1 + 1e-6):
            same = np.eye(shape[axis or 0])
            return same, same
        length, side, thickness = shape[axis], sides[axis], wanted[axis]
        centres = (np.arange(length) + 0.5) * side
        count = max(1, round(length * side / thickness))
        places = (np.arange(count) + 0.5) * (length * side / count)
        weight: NDArray[np.float64] = _profile(centres - places[:, None], side, thickness, self.profile)
        back: NDArray[np.float64] = np.stack([np.interp(centres, places, row) for row in np.eye(count)], 1)
        weight /= weight.sum(1, keepdims=True)
        return weight, back

    def _along(self, matrix: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Apply a matrix along the slice axis."""
        if self.slice_axis is None:
            return values
        moved: NDArray[np.float64] = np.moveaxis(
            np.tensordot(matrix, values, axes=(1, self.slice_axis)), 0, self.slice_axis
        )
        return moved


def _profile(distance: NDArray[np.float64], side: float, thickness: float, kind: str) -> NDArray[np.float64]:
    """Return the weight of each voxel in a slice; ``distance`` is from the slice's centre to the voxel's, in mm."""
    if kind == "gaussian":
        sigma = thickness / (2 * math.sqrt(2 * math.log(2)))
        weight: NDArray[np.float64] = np.exp(-0.5 * (distance / sigma) ** 2)
        return weight
    low = np.maximum(distance - side / 2, -thickness / 2)
    high = np.minimum(distance + side / 2, thickness / 2)
    covered: NDArray[np.float64] = np.maximum(high - low, 0)
    return covered
