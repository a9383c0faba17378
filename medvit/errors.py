"""The family of errors. Each keeps the built-in kind it is, so ``except ValueError`` still works.

Every message says what was found, what is needed and one step to take.
"""

from __future__ import annotations

import errno

__all__ = [
    "BackendError",
    "BundleError",
    "CheckpointError",
    "ChecksumError",
    "DivergedError",
    "ExportError",
    "FetchError",
    "GeometryError",
    "ImageError",
    "MedvitError",
    "ModalityError",
    "OutputError",
    "RoundTripError",
    "SelectionError",
    "ShapeError",
    "SourceError",
    "StoppedError",
    "StoreError",
    "system_words",
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


class CheckpointError(MedvitError, ValueError):
    """A file of weights cannot be read, or holds other tensors than the network's."""


class ExportError(MedvitError, RuntimeError):
    """A network cannot be written in an exchange format, or the written one answers differently."""


class DivergedError(MedvitError, FloatingPointError):
    """A training run's loss is no number any more."""


class StoppedError(MedvitError, RuntimeError):
    """A training run was interrupted; it can go on."""


class StoreError(MedvitError, OSError):
    """The store of fetched bundles cannot be read or written."""


class FetchError(MedvitError, OSError):
    """What was to be fetched did not arrive, is not what was published, or was not agreed to."""


class OutputError(MedvitError, OSError):
    """Results cannot be written."""


class RoundTripError(MedvitError, RuntimeError):
    """What was written does not read back as what was meant; nothing was published."""


def system_words(error: OSError) -> tuple[str, str]:
    """What the system refused to write for, and the first thing to try."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "no space left" if full else f"{error.strerror or error}"
    return what, "Free some space" if full else "Check its permissions"
