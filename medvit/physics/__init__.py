"""Physics of imaging: k-space, radiographs from a CT, and degradations with known parameters."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
