from .barlow_swin import BarlowSwin as BarlowSwin
from .input_checks import check_input as check_input
from .swin_unetr import SwinUNETR as SwinUNETR
