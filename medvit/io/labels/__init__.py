"""Readers of label files made elsewhere (SEG, RTSTRUCT, label maps), which give one kind of object on any grid, and
writers.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
