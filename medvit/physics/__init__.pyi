from .kspace import low_frequency_part as low_frequency_part
from .kspace import upsampled_index as upsampled_index
from .kspace import zero_fill as zero_fill
