from .kspace import finer_index as finer_index
from .kspace import measured_part as measured_part
from .kspace import zero_filled as zero_filled
