"""Volumes from radiographs, and radiographs from volumes."""

from medvit.reconstruction.swin_x2s import SWIN_X2S_SIZES, StackedSwinX2S, SwinX2S, SwinX2SSize, fuse_views, swin_x2s

__all__ = ["SWIN_X2S_SIZES", "StackedSwinX2S", "SwinX2S", "SwinX2SSize", "fuse_views", "swin_x2s"]
