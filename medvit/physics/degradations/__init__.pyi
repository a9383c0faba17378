from .low_count_pet import LowCountPET as LowCountPET
from .low_dose_ct import LowDoseCT as LowDoseCT
from .low_resolution_mr import LowResolutionMR as LowResolutionMR
from .parallel_beam import ParallelBeam as ParallelBeam
from .truncated_mr import TruncatedMR as TruncatedMR
