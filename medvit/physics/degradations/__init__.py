"""Degradations of images by physical models with known parameters, for training and evaluation of restoration networks.

Each degradation is a frozen dataclass of physical parameters and a seed, called as ``degrade(image, spacing_mm)``; the
same parameters, seed and image give the same result. None of them needs a network.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
