from .low_dose_ct import LowDoseCT as LowDoseCT
from .parallel_beam import ParallelBeam as ParallelBeam
from .truncated_mr import TruncatedMR as TruncatedMR
