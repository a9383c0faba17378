"""Measures of labelled bones: general sizes, and specific measures of femora, hip bones, vertebrae and ribs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
