"""Networks that label every voxel or pixel."""

from medvit.segmentation.barlow_swin import BarlowSwin
from medvit.segmentation.swin_unetr import SwinUNETR

__all__ = ["BarlowSwin", "SwinUNETR"]
