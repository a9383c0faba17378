"""Digitally reconstructed radiographs: what an X-ray of the body in a CT would have shown."""

from medvit.reconstruction.drr.attenuation import attenuation_per_mm, published_integrand, water_attenuation_per_mm
from medvit.reconstruction.drr.geometry import Geometry, volume_centre_mm
from medvit.reconstruction.drr.presets import (
    PRESETS,
    preset_geometry,
    published_pixels,
    swin_x2s_geometry,
    swin_x2s_released_geometry,
)
from medvit.reconstruction.drr.projector import Projector

__all__ = [
    "PRESETS",
    "Geometry",
    "Projector",
    "attenuation_per_mm",
    "preset_geometry",
    "published_integrand",
    "published_pixels",
    "swin_x2s_geometry",
    "swin_x2s_released_geometry",
    "volume_centre_mm",
    "water_attenuation_per_mm",
]
