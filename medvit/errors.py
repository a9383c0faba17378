"""The family of errors. Each keeps the built-in kind it is, so ``except ValueError`` still works.

Every message says what was found, what is needed and one step to take.
"""

from __future__ import annotations

__all__ = [
    "BackendError",
    "BundleError",
    "ChecksumError",
    "GeometryError",
    "ImageError",
    "MedvitError",
    "ModalityError",
    "OutputError",
    "RoundTripError",
    "SelectionError",
    "ShapeError",
    "SourceError",
]


class MedvitError(Exception):
    """Anything medvit refuses to do, with its reason."""


class SourceError(MedvitError, ValueError):
    """The source cannot be read as one image."""


class SelectionError(SourceError):
    """The source holds several images and none was chosen."""


class GeometryError(SourceError):
    """Spacing, orientation or slice positions do not make a regular volume."""


class ImageError(SourceError):
    """The pixels cannot be used: wrong number of axes, NaN, constant."""


class ModalityError(MedvitError, ValueError):
    """The image is of another modality than the bundle was made for."""


class ShapeError(MedvitError, ValueError):
    """Array sizes do not fit each other."""


class BackendError(MedvitError, RuntimeError):
    """A device or an operator's path cannot be used."""


class BundleError(MedvitError, ValueError):
    """A bundle is unknown, incomplete or not trained."""


class ChecksumError(BundleError):
    """A file is not the one that was recorded."""


class OutputError(MedvitError, OSError):
    """Results cannot be written."""


class RoundTripError(MedvitError, RuntimeError):
    """What was written does not read back as what was meant; nothing was published."""
