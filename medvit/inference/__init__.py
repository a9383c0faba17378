"""Running a network over volumes larger than its window."""

from medvit.inference.sliding_window import SlidingWindow

__all__ = ["SlidingWindow"]
