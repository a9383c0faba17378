"""Readers of label files from any program (SEG, RTSTRUCT, label maps), which return a ``LabelSet``; and writers of
label sets.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
