from .openvino import graph_of as graph_of
from .openvino import openvino_core as openvino_core
from .selection import BackendRequest as BackendRequest
from .selection import SelectedBackend as SelectedBackend
from .selection import devices as devices
from .selection import may_need_conversion as may_need_conversion
from .selection import select_backend as select_backend
