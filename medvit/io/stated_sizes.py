"""Check of the image sizes that file headers state against the memory limit, before anything is decompressed.

PNG: ISO/IEC 15948, 11.2.2. JPEG and JPEG-LS: ITU-T T.81, B.2.2, and T.87, C.2.2. JPEG 2000: ITU-T T.800, A.5.1 and
I.5.3.1.
"""

from __future__ import annotations

import contextlib
import gzip
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from medvit.errors import MedvitError
from medvit.io.memory_limits import check_image_memory

__all__ = ["check_stated_size", "picture_size"]

_NIFTI_HEADERS = {348: "Nifti1Header", 540: "Nifti2Header"}
"""Lengths in bytes that a NIfTI header states for itself, with nibabel's class for each."""

_PICTURE_HEAD = 2**20
"""Number of leading bytes of a picture that contain its size; the data before it (EXIF, thumbnails, profiles) is
shorter.
"""

_START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG and JPEG-LS that are followed by the size; C4, C8 and CC are tables and extensions."""

_BARE_MARKERS = frozenset({0x01, 0xFF, *range(0xD0, 0xD9)})
"""Markers that are not followed by a length."""


def check_stated_size(path: Path) -> None:
    """Refuse an image file whose header states a size above the memory limit.

    Files whose header cannot be read pass, since the reader reports the fault more precisely.

    Args:
        path: a NIfTI, MGH, NRRD, MetaImage, PNG or JPEG file; other files pass.

    Raises:
        TooLargeError: the image would exceed the memory limit.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import check_stated_size, limit_memory, write_volume
        >>> write_volume(Path("large.nii"), np.zeros((20, 20, 20), np.uint8), np.eye(4))
        >>> with limit_memory("1kB"):
        ...     check_stated_size(Path("large.nii"))
        Traceback (most recent call last):
            ...
        medvit.errors.TooLargeError: Found a NIfTI of 20 x 20 x 20 voxels, which takes 32.4 kB of memory; ...
    """
    name = path.name.lower()
    try:
        if name.endswith((".nii", ".nii.gz", ".hdr")):
            _check_nifti(path)
        elif name.endswith((".nrrd", ".nhdr", ".mha", ".mhd")):
            _check_itk(path)
        elif name.endswith((".mgh", ".mgz")):
            _check_mgh(path)
        elif name.endswith((".png", ".jpg", ".jpeg")):
            with path.open("rb") as file:
                size = picture_size(file.read(_PICTURE_HEAD))
            if size is not None:
                check_image_memory(size, "a picture", values=3)
    except MedvitError:
        raise
    except Exception:
        return


def _check_nifti(path: Path) -> None:
    import nibabel as nib

    with _unpacked(path) as file:
        start = file.read(540)
    length = next(
        (n for n in _NIFTI_HEADERS for order in ("little", "big") if int.from_bytes(start[:4], order) == n), 0
    )
    if not length:
        return
    header = getattr(nib, _NIFTI_HEADERS[length])(start[:length], check=False)
    # extensions precede the voxels and are decompressed with them; the reader refuses a fourth axis
    check_image_memory(header.get_data_shape()[:3], "a NIfTI", beside=max(0, int(header["vox_offset"])))


def _check_mgh(path: Path) -> None:
    with _unpacked(path) as file:
        start = file.read(20)
    sides = [int.from_bytes(start[at : at + 4], "big", signed=True) for at in (4, 8, 12, 16)]
    check_image_memory(sides, "an MGH file")


@contextlib.contextmanager
def _unpacked(path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
        raw.seek(0)
        if not packed:
            yield raw
            return
        with gzip.GzipFile(fileobj=raw) as file:
            yield file


def _check_itk(path: Path) -> None:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.ReadImageInformation()
    kind = "an NRRD" if path.suffix.lower() in (".nrrd", ".nhdr") else "a MetaImage"
    check_image_memory(reader.GetSize(), kind, values=reader.GetNumberOfComponents())


def picture_size(start: bytes) -> tuple[int, int] | None:
    """Read the size that the header of a picture states.

    Args:
        start: the first bytes of a PNG, JPEG, JPEG-LS or JPEG 2000 file or codestream.

    Returns:
        Rows and columns; None where the bytes contain no such header.
    """
    if start.startswith(b"\x89PNG\r\n\x1a\n") and len(start) >= 24:
        return int.from_bytes(start[20:24], "big"), int.from_bytes(start[16:20], "big")
    if start.startswith(b"\xff\xd8"):
        return _jpeg_size(start)
    return _jpeg2000_size(start)


def _jpeg_size(start: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(start) and start[at] == 0xFF:
        marker = start[at + 1]
        if marker in _START_OF_FRAME:
            return int.from_bytes(start[at + 5 : at + 7], "big"), int.from_bytes(start[at + 7 : at + 9], "big")
        if marker == 0xFF:
            at += 1  # fill bytes before a marker
        elif marker in _BARE_MARKERS:
            at += 2
        else:
            at += 2 + int.from_bytes(start[at + 2 : at + 4], "big")
    return None


def _jpeg2000_size(start: bytes) -> tuple[int, int] | None:
    at = start.find(b"\xff\x4f\xff\x51", 0, 4096)
    if at < 0 or (at > 0 and start[4:8] != b"jP  ") or len(start) < at + 24:
        return None
    right, bottom, left, top = (int.from_bytes(start[at + n : at + n + 4], "big") for n in (8, 12, 16, 20))
    return bottom - top, right - left
