"""MR from fewer lines of k-space: a scan with larger pixels, and its interpolation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from medvit.errors import ImageError
from medvit.physics.degradations.checks import checked_image, require, slices_of
from medvit.physics.kspace import truncate_kspace, zero_fill

__all__ = ["TruncatedMR"]


@dataclass(frozen=True)
class TruncatedMR:
    """Truncation of k-space in every slice to its centre, 1 / ``factor`` of it along both in-plane axes.

    Frequencies with |k| < M / 2 along both axes are kept, where M = N / factor is the number of coarse pixels along an
    axis. They are not windowed, so edges ring, as on scanners without a filter. This is the usual simulation of low
    resolution for MR super-resolution (Y. Chen et al., Brain MRI Super Resolution Using 3D Deep Densely Connected
    Neural Networks, ISBI 2018, arXiv 1801.02728, section 2.1). Slices do not become thicker; ``LowResolutionMR``
    simulates that for any voxel size, but without a coarse grid.

    The image is assumed to be real, without phase. Coarse and fine pixels cover the same extent (see
    ``medvit.physics.kspace``).

    Attributes:
        factor: coarse pixel size divided by fine pixel size, 1 or more; sides of a slice must be multiples of it.
        noise: standard deviation of the noise of the real and the imaginary part on the coarse grid, in the image's
            unit. With noise the coarse image is a magnitude (Rician), else the real part.
        seed: the same seed, parameters and image give the same noise.
    """

    factor: int = 2
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.factor >= 1, "factor", self.factor, "a whole number of 1 or more")
        require(self.noise >= 0, "noise", self.noise, "0 or more")

    def with_factor(self, factor: int, seed: int | None = None) -> TruncatedMR:
        """Return the same degradation with another factor."""
        return replace(self, factor=factor, seed=self.seed if seed is None else seed)

    def coarse(self, image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
        """Compute the coarse scan.

        Args:
            image: (i, j) or (i, j, k), magnitude in any unit; slices are along k.
            spacing_mm: voxel sides along its axes.

        Returns:
            (i / factor, j / factor[, k]) float32, in the image's unit.

        Raises:
            ShapeError, ImageError: see ``checked_image``; also for sides that are not multiples of the factor, or, with
                noise, for negative values.
        """
        volume, _ = checked_image(image, spacing_mm)
        if self.noise and volume.min() < 0:
            raise ImageError(
                f"values down to {volume.min():g}",
                "a magnitude image has no values below 0",
                "Give it before any normalisation.",
            )
        acquired = truncate_kspace(volume, self.factor)
        if self.noise:
            for n, part in enumerate(slices_of(acquired)):  # views; one random stream per slice
                rng = np.random.default_rng([self.seed, n])
                real = part + self.noise * rng.standard_normal(part.shape)
                part[:] = np.hypot(real, self.noise * rng.standard_normal(part.shape))
        return acquired

    def __call__(self, image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
        """Compute the coarse scan and interpolate it to the image's grid by zero filling of k-space.

        Args and errors as for ``coarse``.

        Returns:
            The image's shape, float32, its unit.
        """
        return zero_fill(self.coarse(image, spacing_mm), self.factor)
