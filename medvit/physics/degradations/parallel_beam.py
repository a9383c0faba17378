"""Parallel-beam scanner: line integrals of a slice, and filtered back-projection (Kak and Slaney, chapter 3)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.physics.degradations.checks import require

__all__ = ["ParallelBeam"]

_SLICES = 16
"""Number of slices projected at a time; it limits memory for volumes of any length."""


@dataclass(frozen=True)
class ParallelBeam:
    """Parallel-beam geometry with views spread evenly over half a turn around the slice's centre.

    Detector bins are as wide as the smaller pixel side and cover the slice's diagonal; rays are sampled with the same
    step.

    Attributes:
        views: number of projections over 180 degrees.
        kernel: "ramp" (sharp, with all noise) or "hann" (softer, like body kernels).
    """

    views: int = 360
    kernel: str = "ramp"

    def __post_init__(self) -> None:
        require(self.views >= 1, "views", self.views, "at least 1 view")
        require(self.kernel in ("ramp", "hann"), "kernel", self.kernel, "'ramp' or 'hann'")

    def bin_mm(self, spacing_mm: tuple[float, float]) -> float:
        """Return the width of a detector bin, which is also the step along a ray."""
        return min(spacing_mm)

    def bins(self, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> int:
        """Return the number of bins that cover the diagonal; it is odd, so that one bin is at the centre."""
        diagonal = math.hypot(*(n * s for n, s in zip(shape, spacing_mm, strict=True)))
        return 2 * math.ceil(diagonal / self.bin_mm(spacing_mm) / 2) + 1

    def project(self, slices: Tensor, spacing_mm: tuple[float, float]) -> Tensor:
        """Compute line integrals along parallel rays.

        Args:
            slices: (slice, i, j) float, per millimetre; zero outside.
            spacing_mm: sides of a pixel along i and j.

        Returns:
            (slice, view, bin), in units of ``slices`` times millimetres.
        """
        return torch.cat([self._project(part, spacing_mm) for part in torch.split(slices, _SLICES)])

    def _project(self, slices: Tensor, spacing_mm: tuple[float, float]) -> Tensor:
        shape = (slices.shape[1], slices.shape[2])
        step = self.bin_mm(spacing_mm)
        places = self._places(self.bins(shape, spacing_mm), step, slices)
        along, across = torch.meshgrid(places, places, indexing="ij")
        views = []
        for angle in self._angles(slices):
            i = across * angle.cos() - along * angle.sin()
            j = across * angle.sin() + along * angle.cos()
            # in grid_sample -1 and 1 are the centres of the outermost pixels, and the order is (j, i)
            scaled = [
                2 * p / (s * max(n - 1, 1)) for p, s, n in zip((j, i), spacing_mm[::-1], shape[::-1], strict=True)
            ]
            grid = torch.stack(scaled, -1)[None]
            sampled = F.grid_sample(slices[None], grid, mode="bilinear", padding_mode="zeros", align_corners=True)
            views.append(sampled[0].sum(1) * step)
        return torch.stack(views, 1)

    def reconstruct(self, sinogram: Tensor, shape: tuple[int, int], spacing_mm: tuple[float, float]) -> Tensor:
        """Compute the filtered back-projection, the inverse of ``project`` up to sampling errors.

        Args:
            sinogram: (slice, view, bin), as from ``project`` for slices of this shape and spacing.
            shape: (i, j) of the slices.
            spacing_mm: sides of a pixel along i and j.

        Returns:
            (slice, i, j), per millimetre.
        """
        step = self.bin_mm(spacing_mm)
        bins = sinogram.shape[-1]
        filtered = self._filter(sinogram, step)
        x, y = (
            (torch.arange(n, dtype=sinogram.dtype, device=sinogram.device) - (n - 1) / 2) * s
            for n, s in zip(shape, spacing_mm, strict=True)
        )
        total = sinogram.new_zeros(sinogram.shape[0], shape[0] * shape[1])
        for n, angle in enumerate(self._angles(sinogram)):
            place = (x[:, None] * angle.cos() + y * angle.sin()).reshape(-1) / step + (bins - 1) / 2
            low = place.floor().long().clamp(0, bins - 2)
            view = filtered[:, n]
            total += torch.lerp(view.index_select(1, low), view.index_select(1, low + 1), place - low)
        total *= math.pi / self.views
        return total.view(-1, *shape)

    def _angles(self, like: Tensor) -> Tensor:
        return torch.arange(self.views, dtype=like.dtype, device=like.device) * (math.pi / self.views)

    @staticmethod
    def _places(count: int, step: float, like: Tensor) -> Tensor:
        return (torch.arange(count, dtype=like.dtype, device=like.device) - (count - 1) / 2) * step

    def _filter(self, sinogram: Tensor, step: float) -> Tensor:
        bins = sinogram.shape[-1]
        response = _response(bins, step, self.kernel).to(sinogram)
        length = 2 * (response.shape[0] - 1)
        filtered: Tensor = torch.fft.irfft(torch.fft.rfft(sinogram, n=length) * response, n=length)
        return filtered[..., :bins]


@lru_cache(maxsize=16)
def _response(bins: int, step: float, kernel: str) -> Tensor:
    """Compute the frequency response of the ramp filter from its spatial form (Kak and Slaney, eq. 3.61), which
    preserves constants."""
    length = 1 << (2 * bins - 1).bit_length()
    n = torch.arange(length, dtype=torch.float64)
    n = torch.minimum(n, length - n)
    taps = torch.where(n % 2 == 1, -1 / (math.pi * n.clamp(min=1)).square(), torch.zeros_like(n))
    taps[0] = 0.25
    response: Tensor = torch.fft.rfft(taps).real / step
    if kernel == "hann":
        response = response * 0.5 * (1 + torch.cos(math.pi * torch.linspace(0, 1, len(response), dtype=torch.float64)))
    return response
