"""Training of bundles: data, objectives, the training loop, evaluation and fine-tuning."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
