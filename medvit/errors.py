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
    "DeidentificationError",
    "DivergedError",
    "ExportError",
    "FetchError",
    "GeometryError",
    "ImageError",
    "MedvitError",
    "MemoryShortError",
    "ModalityError",
    "OutputError",
    "RoundTripError",
    "SelectionError",
    "ShapeError",
    "SourceError",
    "StoppedError",
    "StoreError",
    "TooLargeError",
    "out_of_space",
    "system_words",
]


class MedvitError(Exception):
    """Anything medvit refuses to do, with its reason."""


class DeidentificationError(MedvitError, ValueError):
    """The secret for pseudonyms cannot be read or is too short."""


class SourceError(MedvitError, ValueError):
    """The source cannot be read as one image."""


class SelectionError(SourceError):
    """The source holds several images and none was chosen."""


class GeometryError(SourceError):
    """Spacing, orientation or slice positions do not make a regular volume."""


class ImageError(SourceError):
    """The pixels cannot be used: wrong number of axes, NaN, constant."""


class TooLargeError(SourceError):
    """The source would take more memory than the limit allows; nothing was unpacked."""


class ModalityError(MedvitError, ValueError):
    """The image is of another modality than the bundle was made for."""


class ShapeError(MedvitError, ValueError):
    """Array sizes do not fit each other."""


class BackendError(MedvitError, RuntimeError):
    """A device or an operator's path cannot be used."""


class MemoryShortError(MedvitError, MemoryError):
    """There is too little memory; the message names the setting to lower."""


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


def out_of_space(error: BaseException | None) -> bool:
    """Whether the system refused for want of space, whatever was raised over it."""
    return isinstance(error, OSError) and _first_refusal(error).errno in (errno.ENOSPC, errno.EDQUOT)


def system_words(error: OSError) -> tuple[str, str]:
    """What the system refused to write for, and the first thing to try."""
    first = _first_refusal(error)
    what = "no space left" if out_of_space(first) else f"{first.strerror or first}"
    return what, "Free some space" if out_of_space(first) else "Check its permissions"


def _first_refusal(error: OSError) -> OSError:
    """What the system itself raised: pydicom raises the kind anew, with its words but without its number."""
    while error.errno is None and isinstance(error.__cause__, OSError):
        error = error.__cause__
    return error
