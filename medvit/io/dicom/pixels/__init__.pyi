from .decode import AIR_HU as AIR_HU
from .decode import plane_values as plane_values
from .decode import same_pixels as same_pixels
from .decoders import decoding_plugin as decoding_plugin
from .decoders import missing_decoder as missing_decoder
