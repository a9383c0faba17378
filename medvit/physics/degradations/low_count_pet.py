"""Low-count PET: the noise of fewer coincidences, simulated in the projections of a PET image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from medvit.errors import ImageError
from medvit.physics.degradations.checks import checked_image, require, slices_of
from medvit.physics.degradations.parallel_beam import ParallelBeam

__all__ = ["LowCountPET"]


@dataclass(frozen=True)
class LowCountPET:
    """Simulation of the noise of a scan with few coincidences.

    The image is projected and scaled so that all bins together expect ``counts`` true coincidences. A uniform
    background of randoms and scatter is added, Poisson counts are drawn, and the expected background is subtracted. The
    difference from the expected counts is reconstructed and added to the image, so that the image is unchanged in the
    limit of infinite counts.

    Attenuation, detector blur, time of flight and positron range are not simulated. The reconstruction is filtered
    back-projection, slice by slice, so the noise is spread more evenly than by the iterative reconstructions of
    scanners. Noise that the image already has remains.

    Attributes:
        counts: expected number of true coincidences in the whole image.
        background: randoms and scatter as a share of the true coincidences.
        beam: views and reconstruction kernel.
        seed: the same seed, parameters and image give the same noise.
    """

    counts: float = 1e6
    background: float = 0.3
    beam: ParallelBeam = field(default_factory=lambda: ParallelBeam(180, "hann"))
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.counts > 0, "counts", self.counts, "a positive number of coincidences")
        require(self.background >= 0, "background", self.background, "a share of 0 or more")

    def at_counts(self, fraction: float, seed: int | None = None) -> LowCountPET:
        """Return the same scan with a share ``fraction`` of the coincidences."""
        require(fraction > 0, "fraction", fraction, "a positive share of the counts")
        scaled = replace(self, counts=self.counts * fraction)
        return scaled if seed is None else replace(scaled, seed=seed)

    def __call__(self, image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
        """Add the noise to a PET image.

        Args:
            image: (i, j) or (i, j, k), activity in any unit (SUV, Bq/mL), 0 or more; slices are along k.
            spacing_mm: voxel sides along its axes.

        Returns:
            The image's shape, float32, its unit. Noise makes some values negative, as in any unconstrained
            reconstruction.

        Raises:
            ShapeError, ImageError: see ``checked_image``; also for an image without activity or with negative values.
        """
        volume, sides = checked_image(image, spacing_mm)
        expected, scale = self.expected_counts(volume, sides)
        drawn = self.draw(expected)
        plane = (sides[0], sides[1])
        noise = torch.from_numpy(((drawn - expected) / scale).astype(np.float32))
        slices = slices_of(volume)
        added = self.beam.reconstruct(noise, (slices.shape[1], slices.shape[2]), plane).numpy()
        noisy = volume.copy()
        slices_of(noisy)[:] += added
        return noisy

    def expected_counts(
        self, volume: NDArray[np.float32], spacing_mm: tuple[float, ...]
    ) -> tuple[NDArray[np.float64], float]:
        """Return the expected true coincidences of each bin, (slice, view, bin), and the counts per unit of line
        integral."""
        if volume.min() < 0 or not volume.any():
            raise ImageError(
                f"activities from {volume.min():g} to {volume.max():g}",
                "0 or more, and some above 0, are needed",
                "Give the image in its own unit, before any normalisation.",
            )
        slices = np.ascontiguousarray(slices_of(volume))
        lines = self.beam.project(torch.from_numpy(slices), (spacing_mm[0], spacing_mm[1])).numpy().astype(np.float64)
        scale = self.counts / float(lines.sum())
        return lines * scale, scale

    def draw(self, expected: NDArray[np.float64]) -> NDArray[np.float64]:
        """Draw a measurement with these expected counts; the background is drawn with them and its mean subtracted."""
        flat = self.background * expected.sum() / expected.size
        drawn = np.empty_like(expected)
        for n, mean in enumerate(expected):
            drawn[n] = np.random.default_rng([self.seed, n]).poisson(mean + flat) - flat
        return drawn
