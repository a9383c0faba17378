"""Checks of a source before pixels are read: its series, their volumes, and findings about them."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
