"""Running a network over volumes larger than its window."""

from medvit.inference.mirrored import Mirrored
from medvit.inference.slice_wise import SliceWise
from medvit.inference.sliding_window import SlidingWindow
from medvit.inference.whole_picture import WholePicture

__all__ = ["Mirrored", "SliceWise", "SlidingWindow", "WholePicture"]
