"""Low-dose CT: quantum and electronic noise, simulated in the projections of a CT."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from medvit.physics.degradations.checks import checked_image, require, slices_of
from medvit.physics.degradations.parallel_beam import ParallelBeam

__all__ = ["LowDoseCT", "attenuation_from_hu", "hu_from_attenuation"]

MU_WATER_PER_MM = 0.0193
"""Linear attenuation of water at 70 keV, about the mean energy of a 120 kV beam (NIST XCOM: 0.193 per cm)."""

_SLICES = 16
"""Number of slices projected at a time; it limits memory for volumes of any length."""


def attenuation_from_hu(hu: NDArray[np.float32], mu_water_per_mm: float = MU_WATER_PER_MM) -> NDArray[np.float32]:
    """Convert Hounsfield units to linear attenuation per millimetre; values below -1000 count as vacuum (0)."""
    mu: NDArray[np.float32] = np.maximum(mu_water_per_mm * (1 + hu / 1000), 0).astype(np.float32)
    return mu


def hu_from_attenuation(mu: NDArray[np.float32], mu_water_per_mm: float = MU_WATER_PER_MM) -> NDArray[np.float32]:
    """Convert linear attenuation to Hounsfield units, the inverse of ``attenuation_from_hu`` (DICOM PS3.3,
    C.11.1.1.2)."""
    hu: NDArray[np.float32] = (1000 * (mu / mu_water_per_mm - 1)).astype(np.float32)
    return hu


@dataclass(frozen=True, kw_only=True)
class LowDoseCT:
    """Simulation of the noise of a scan with few photons.

    Along each ray with line integral p, N ~ Poisson(I0 exp(-b - p)) + Normal(0, σe²) photons are counted, and the
    measured line integral is ln(B / N), where B is the count of the blank scan, the same ray without a patient. The
    difference from p is reconstructed and added to the image, so that without noise the image is unchanged, resolution
    included. Noise that the CT already has remains: dose is relative to a noiseless scan.

    The scanner's fan beam is simulated as a parallel beam; rays are monochromatic, without scatter.

    Attributes:
        photons_per_ray: I0, photons that reach a detector bin without a patient, at the beam's centre. 1e5 to 1e6 is a
            usual full dose; "10 % dose" is a tenth of it: ``at_dose(0.1)``.
        electronic_noise: σe, standard deviation of the detector's electronic noise, in photons.
        bowtie: b at the outermost bin, growing with the square of the distance from the centre; 0 for a flat beam.
        blank_scans: number of blank scans averaged to B, whose noise then causes ring artefacts; 0 for an exact B.
        least_photons: lower limit of the counts, since a count of 0 has no logarithm.
        mu_water_per_mm: attenuation of water per millimetre.
        beam: views and reconstruction kernel.
        seed: the same seed, parameters and image give the same noise.
    """

    photons_per_ray: float = 1e5
    electronic_noise: float = 10.0
    bowtie: float = 0.0
    blank_scans: int = 0
    least_photons: float = 1.0
    mu_water_per_mm: float = MU_WATER_PER_MM
    beam: ParallelBeam = field(default_factory=ParallelBeam)
    seed: int = 0

    def __post_init__(self) -> None:
        require(self.photons_per_ray > 0, "photons_per_ray", self.photons_per_ray, "a positive number of photons")
        require(self.electronic_noise >= 0, "electronic_noise", self.electronic_noise, "0 or more photons")
        require(self.bowtie >= 0, "bowtie", self.bowtie, "an attenuation of 0 or more")
        require(self.blank_scans >= 0, "blank_scans", self.blank_scans, "0 (exact) or a number of scans")
        require(self.least_photons > 0, "least_photons", self.least_photons, "a positive number of photons")
        require(self.mu_water_per_mm > 0, "mu_water_per_mm", self.mu_water_per_mm, "a positive attenuation")

    def at_dose(self, fraction: float, seed: int | None = None) -> LowDoseCT:
        """Return the same scanner with a share ``fraction`` of the photons."""
        require(fraction > 0, "fraction", fraction, "a positive share of the dose")
        scaled = replace(self, photons_per_ray=self.photons_per_ray * fraction)
        return scaled if seed is None else replace(scaled, seed=seed)

    def __call__(self, image: ArrayLike, spacing_mm: Sequence[float]) -> NDArray[np.float32]:
        """Add the noise to a CT.

        Args:
            image: (i, j) or (i, j, k) in Hounsfield units; slices are along k.
            spacing_mm: voxel sides along its axes.

        Returns:
            The image's shape, float32, Hounsfield units.

        Raises:
            ShapeError, ImageError: see ``checked_image``.
        """
        volume, sides = checked_image(image, spacing_mm)
        noisy = volume.copy()
        slices, out = slices_of(volume), slices_of(noisy)
        plane = (sides[0], sides[1])
        for first in range(0, len(slices), _SLICES):
            part = slices[first : first + _SLICES]
            mu = torch.from_numpy(attenuation_from_hu(part, self.mu_water_per_mm))
            lines = self.beam.project(mu, plane)
            noise = torch.from_numpy(self._noise(lines.numpy(), first))
            added = self.beam.reconstruct(noise, (part.shape[1], part.shape[2]), plane).numpy()
            out[first : first + _SLICES] += 1000 * added / self.mu_water_per_mm
        return noisy

    def expected_photons(self, lines: NDArray[np.float32]) -> NDArray[np.float64]:
        """Compute the mean counts (slice, view, bin) for these line integrals."""
        counts: NDArray[np.float64] = self._blank(lines.shape[-1]) * np.exp(-lines.astype(np.float64))
        return counts

    def _blank(self, bins: int) -> NDArray[np.float64]:
        blank: NDArray[np.float64] = self.photons_per_ray * np.exp(-self.bowtie * np.linspace(-1, 1, bins) ** 2)
        return blank

    def _noise(self, lines: NDArray[np.float32], first: int) -> NDArray[np.float32]:
        """Draw measured minus true line integrals, (slice, view, bin)."""
        blank = self._blank(lines.shape[-1])
        measured_blank = blank
        if self.blank_scans:
            rng = np.random.default_rng([self.seed, 0])
            measured_blank = rng.poisson(blank * self.blank_scans) / self.blank_scans
        expected = self.expected_photons(lines)
        noise = np.empty_like(lines)
        for n, mean in enumerate(expected):
            # one random stream per slice, so that the result does not depend on the number of slices at a time
            rng = np.random.default_rng([self.seed, 1, first + n])
            counts = rng.poisson(mean) + self.electronic_noise * rng.standard_normal(mean.shape)
            ratio = np.maximum(measured_blank, self.least_photons) / np.maximum(counts, self.least_photons)
            noise[n] = np.log(ratio) - lines[n]
        return noise
