"""Sizes of labelled bones: of any body, and what is measured of femora, hip bones, vertebrae and ribs."""

from medvit.reconstruction.morphometry.answer import Measured
from medvit.reconstruction.morphometry.bones import BoneMeasures, measure_bones
from medvit.reconstruction.morphometry.structures import STRUCTURES, measure_structure, structure_of

__all__ = ["STRUCTURES", "BoneMeasures", "Measured", "measure_bones", "measure_structure", "structure_of"]
