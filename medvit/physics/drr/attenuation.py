"""Linear attenuation from Hounsfield units."""

from __future__ import annotations

import math

import numpy as np
from torch import Tensor

from medvit.errors import ShapeError

__all__ = ["attenuation_per_mm", "published_integrand", "water_attenuation_per_mm"]

_ENERGY_KEV = (20.0, 30.0, 40.0, 50.0, 60.0, 80.0, 100.0, 150.0, 200.0)
_WATER_PER_CM = (0.8096, 0.3756, 0.2683, 0.2269, 0.2059, 0.1837, 0.1707, 0.1505, 0.1370)
"""Linear attenuation of water, 1 g/cm3, with coherent scattering: J. H. Hubbell, S. M. Seltzer, NISTIR 5632 (NIST)."""


def water_attenuation_per_mm(energy_kev: float) -> float:
    """Return the linear attenuation of water in 1/mm for photons of one energy, 20 to 200 keV; 0.02059 at 60 keV.

    Between the tabulated energies, attenuation is interpolated on logarithmic scales.

    Raises:
        ShapeError: the energy is outside the table.
    """
    if not (math.isfinite(energy_kev) and _ENERGY_KEV[0] <= energy_kev <= _ENERGY_KEV[-1]):
        raise ShapeError(
            f"an energy of {energy_kev:g} keV",
            f"the table of water goes from {_ENERGY_KEV[0]:g} to {_ENERGY_KEV[-1]:g}",
            "Choose one within; 60 stands for a usual radiograph at 100 to 120 kVp.",
        )
    log = np.interp(math.log(energy_kev), np.log(_ENERGY_KEV), np.log(_WATER_PER_CM))
    return float(np.exp(log)) / 10


def attenuation_per_mm(hounsfield: Tensor, energy_kev: float = 60.0) -> Tensor:
    """Convert Hounsfield units to linear attenuation in 1/mm: that of water times 1 + HU/1000, at least zero.

    This is the inverse of the definition of the Hounsfield scale. It is exact at the energy of the scanner's scale; for
    bone at another energy it is approximate, since its photoelectric share differs from that of water.

    Raises:
        ShapeError: see ``water_attenuation_per_mm``.
    """
    return water_attenuation_per_mm(energy_kev) * (1 + hounsfield / 1000).clamp(min=0)


def published_integrand(hounsfield: Tensor) -> Tensor:
    """Return Hounsfield units above zero, the integrand of the published Swin-X2S radiographs; it is not a physical
    quantity."""
    return hounsfield.clamp(min=0)
