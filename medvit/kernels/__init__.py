"""Operators that know nothing of medicine."""

from medvit.kernels.bi_wkv import bi_wkv
from medvit.kernels.resample_argmax import resample_argmax
from medvit.kernels.window_attention import window_attention

__all__ = ["bi_wkv", "resample_argmax", "window_attention"]
