from .swin_x2s_network import SWIN_X2S_SIZES as SWIN_X2S_SIZES
from .swin_x2s_network import StackedSwinX2S as StackedSwinX2S
from .swin_x2s_network import SwinX2S as SwinX2S
from .swin_x2s_network import SwinX2SSize as SwinX2SSize
from .swin_x2s_network import fuse_views as fuse_views
from .swin_x2s_network import swin_x2s as swin_x2s
