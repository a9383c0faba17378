"""De-identification: removal of identifying data from headers and images (PS3.15 Annex E)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
