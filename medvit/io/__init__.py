"""Readers and writers of images, labels and DICOM objects. This package does not depend on networks."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
