"""Array operators, each with a plain reference and fast paths; they are independent of file formats and bundles."""

from medvit.kernels.bi_wkv import bi_wkv
from medvit.kernels.bi_wkv.image_2d import bi_wkv_2d
from medvit.kernels.occupied_windows import occupied_windows
from medvit.kernels.overlap_add import overlap_add
from medvit.kernels.resample_argmax import resample_argmax
from medvit.kernels.window_attention import window_attention

__all__ = ["bi_wkv", "bi_wkv_2d", "occupied_windows", "overlap_add", "resample_argmax", "window_attention"]
