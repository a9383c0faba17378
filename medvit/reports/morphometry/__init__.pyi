from .bones import measure_bones as measure_bones
from .measured import StructureMeasures as StructureMeasures
from .structures import measure_structure as measure_structure
