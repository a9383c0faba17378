from .openvino import graph_of as graph_of
from .openvino_library import load_openvino as load_openvino
from .openvino_library import openvino_core as openvino_core
from .selection import BackendRequest as BackendRequest
from .selection import SelectedBackend as SelectedBackend
from .selection import devices as devices
from .selection import may_need_conversion as may_need_conversion
from .selection import select_backend as select_backend
