from .attenuation import attenuation_per_mm as attenuation_per_mm
from .attenuation import published_integrand as published_integrand
from .attenuation import water_attenuation_per_mm as water_attenuation_per_mm
from .geometry import Geometry as Geometry
from .geometry import volume_centre_mm as volume_centre_mm
from .presets import preset_geometry as preset_geometry
from .presets import published_pixels as published_pixels
from .projector import Projector as Projector
