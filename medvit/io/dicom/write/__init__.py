"""Writers of DICOM objects: SEG, RTSTRUCT, SR, derived series, secondary captures and radiographs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
