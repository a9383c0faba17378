"""Reading others' results: SEG, RTSTRUCT and label maps as one kind of value, on any grid."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
