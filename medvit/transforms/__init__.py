"""Transforms for the configs of bundles, which name them as ``_target_``."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
