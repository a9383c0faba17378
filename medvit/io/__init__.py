"""Reading and writing images and results. Knows nothing of networks."""

from medvit.io.scan import Scan
from medvit.io.sources import open_source

__all__ = ["Scan", "open_source"]
