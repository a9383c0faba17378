"""Command line: one module for each command; heavy libraries are imported inside the commands."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
