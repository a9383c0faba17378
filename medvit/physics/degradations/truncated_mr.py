"""MR from fewer lines of k-space: what a scan with wider pixels would have shown, and how it looks interpolated."""

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
    """Keeps the middle of k-space of every slice, 1 / ``factor`` of it along both axes of its plane.

    The square around k = 0 with |k| < M / 2 stays, where M = N / factor is the number of coarser pixels along an axis; no
    window softens its rim, so edges ring, as they do on scanners without a filter. This is how low resolution is
    simulated in MR super-resolution (Y. Chen et al., Brain MRI Super Resolution Using 3D Deep Densely Connected Neural
    Networks, ISBI 2018, arXiv 1801.02728, section 2.1). Slices are not made thicker; ``LowResolutionMR`` does that, for any voxel size, but has
    no coarse grid.

    The image is taken for real and free of phase. Coarse and fine pixels tile the same box (see ``medvit.physics.kspace``).

    Attributes:
        factor: how many times wider the pixels are, 1 or more; sides of a slice must divide by it.
        noise: standard deviation of the real and of the imaginary part's noise on the coarse grid, in the image's unit.
            With noise the coarse image is a magnitude (Rician), else the real part.
        seed: the same seed, parameters and image give the same noise.
    """

    factor: int = 2
    noise: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.factor >= 1, "factor", self.factor, "a whole number of 1 or more")
        require(self.noise >= 0, "noise", self.noise, "0 or more")

    def with_factor(self, factor: int, seed: int | None = None) -> TruncatedMR:
        """The same with another factor."""
        return replace(self, factor=factor, seed=self.seed if seed is None else seed)

    def coarse(self, image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
        """The coarser scan itself.

        Args:
            image: (i, j) or (i, j, k), magnitude in any unit; slices lie across k.
            spacing_mm: voxel sides along its axes.

        Returns:
            (i / factor, j / factor[, k]) float32, in the image's unit.

        Raises:
            ShapeError, ImageError: see ``checked_image``; also sides that do not divide by the factor, or negative values
                where a magnitude with noise is asked for.
        """
        volume, _ = checked_image(image, spacing_mm)
        if self.noise and volume.min() < 0:
            raise ImageError(
                f"values down to {volume.min():g}",
                "a magnitude image has none below 0",
                "Give it before any normalisation.",
            )
        acquired = truncate_kspace(volume, self.factor)
        if self.noise:
            for n, part in enumerate(slices_of(acquired)):  # views: each slice has a stream of its own
                rng = np.random.default_rng([self.seed, n])
                real = part + self.noise * rng.standard_normal(part.shape)
                part[:] = np.hypot(real, self.noise * rng.standard_normal(part.shape))
        return acquired

    def __call__(self, image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
        """The coarser scan on the image's own grid again, by zeros around its k-space.

        Args and errors as ``coarse``.

        Returns:
            The image's shape, float32, its unit.
        """
        return zero_fill(self.coarse(image, spacing_mm), self.factor)
