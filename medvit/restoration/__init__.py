"""Networks that make a poor image a better one, and the physics that makes a good image a poor one."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
