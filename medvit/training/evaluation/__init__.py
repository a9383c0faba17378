"""Evaluation of bundles through the same steps as users' runs; configs/evaluate.json states the measures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
