"""DICOM input and output: headers, pixels, preflight of a series, reading, and writing of objects."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
