from .cache import cache_folder as cache_folder
from .openvino import graph_of as graph_of
from .selection import Wanted as Wanted
from .selection import choose as choose
from .selection import devices as devices
from .selection import may_convert as may_convert
