"""Digitally reconstructed radiographs (DRR): X-ray projections computed from a CT."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
