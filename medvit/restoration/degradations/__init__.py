"""From a good image to a poor one, by physics with numbers: what a restoration network is trained and judged on.

Each degradation is a frozen dataclass of physical parameters and a seed, called as ``degrade(image, spacing_mm)``; the
same parameters, seed and image give the same result. None of them needs a network.
"""

from medvit.restoration.degradations.low_count_pet import LowCountPET
from medvit.restoration.degradations.low_dose_ct import LowDoseCT
from medvit.restoration.degradations.low_resolution_mr import LowResolutionMR
from medvit.restoration.degradations.parallel_beam import ParallelBeam
from medvit.restoration.degradations.truncated_mr import TruncatedMR

__all__ = ["LowCountPET", "LowDoseCT", "LowResolutionMR", "ParallelBeam", "TruncatedMR"]
