from .bones import measure_bones as measure_bones
from .measured import Measured as Measured
from .structures import measure_structure as measure_structure
