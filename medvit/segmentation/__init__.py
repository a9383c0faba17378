"""Networks that label every voxel or pixel."""

from medvit.segmentation.swin_unetr import SwinUNETR

__all__ = ["SwinUNETR"]
