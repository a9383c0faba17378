"""Settings of a run. Light to import, so that commands can refuse a mistake before torch is loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from medvit.errors import BackendError, GeometryError, SelectionError

__all__ = [
    "BACKENDS",
    "DEFAULT_BUNDLE",
    "DEFAULT_RECONSTRUCTION",
    "DEFAULT_RESTORATION",
    "GEOMETRIES",
    "PRECISIONS",
    "RunSettings",
    "check_geometry",
    "check_names",
    "check_region",
    "limit_threads",
    "region_sides",
    "thread_count",
    "wait_passively",
]

DEFAULT_BUNDLE = "headneck_ct_swin_unetr"
"""Default bundle of ``medvit segment``."""

DEFAULT_RESTORATION = "ct_denoise_restore_rwkv"
"""Default bundle of ``medvit restore``."""

DEFAULT_RECONSTRUCTION = "headneck_xray_swin_x2s"
"""Default bundle of ``medvit reconstruct``."""

BACKENDS = ("auto", "eager", "compiled", "openvino", "cuda")
PRECISIONS = ("fp32", "bf16", "int8")
GEOMETRIES = ("sform", "qform")
"""Affines of a NIfTI among which the user may choose."""

_THREADS = "MEDVIT_THREADS"
"""Environment variable with the number of threads of a run; processes started later inherit it."""

_BOX = re.compile(r"(\d+):(\d+),(\d+):(\d+),(\d+):(\d+)")


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Settings of a run, for segmentation and restoration.

    Attributes:
        device: "auto" (a GPU if there is one; the record states the choice), "cpu", "gpu", "gpu:N", "cuda:N" or "mps".
        fast: True for the bundle's smaller window overlap, where it states one.
        force: True to accept a modality that the bundle was not made for; recorded.
        roi_subset: names of the labels to keep; empty keeps all.
        repair_tags: True to give DICOM slices with missing or contradictory UIDs consistent ones; recorded.
        series: number or UID, where the source holds several series.
        on_irregular: treatment of a tilted or uneven DICOM stack: "fail", "resample" or "split"; recorded.
        quality_map: True to run on the mirror image too and mark where the labels differ; takes twice the time.
        backend: backend of the network: "auto", "eager", "compiled", "openvino" or "cuda"; the one used is recorded.
        precision: "fp32", or "bf16" or "int8" for a bundle whose precision check has passed.
        roi_crop: region of interest: "body", or a box of source voxels "i0:i1,j0:j1,k0:k1"; empty for the whole image.
            Only windows that touch the region are run, the rest is background; recorded.
        no_mirroring: True to leave out the bundle's averaging over mirror images, where it has one; recorded.
        nnunet_rounding: True to round sums and resampled logits of an imported nnU-Net to half precision, as nnU-Net does;
            eager backend only; recorded.
        low_memory: True to save memory: one window at a time, logits by planes or in a file; slower.
        geometry: the form of a NIfTI to use, "sform" or "qform"; None uses the sform where it is stated, and sets a
            flag where the qform shows other axes or the mirror image; recorded.
        threads: number of processor threads of the run; None takes ``MEDVIT_THREADS``, else PyTorch's number, one for
            each core; recorded.

    Examples:
        >>> from medvit import RunSettings
        >>> RunSettings(device="cpu", fast=True).precision
        'fp32'
    """

    device: str = "auto"
    fast: bool = False
    force: bool = False
    roi_subset: tuple[str, ...] = ()
    repair_tags: bool = False
    series: str | None = None
    on_irregular: str = "fail"
    quality_map: bool = False
    backend: str = "auto"
    precision: str = "fp32"
    roi_crop: str = ""
    low_memory: bool = False
    no_mirroring: bool = False
    nnunet_rounding: bool = False
    geometry: str | None = None
    threads: int | None = None


def check_names(backend: str, precision: str) -> None:
    """Refuse an unknown backend or precision, and an unsupported combination of the two.

    Raises:
        BackendError: the message states the valid names.
    """
    if backend not in BACKENDS:
        raise BackendError(
            f"inference backend {backend!r}",
            f"it must be one of {', '.join(BACKENDS)}",
            "Use {backend=auto} to let medvit choose.",
            option="backend",
        )
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r}", "it must be fp32, bf16 or int8", "Leave it out for fp32.")
    takes = {"bf16": ("auto", "openvino", "cuda"), "int8": ("auto", "openvino")}
    if precision in takes and backend not in takes[precision]:
        raise BackendError(
            f"precision {precision!r} for the {backend!r} backend, which does not compute in it",
            "openvino (CPU) and cuda take bf16, openvino takes int8",
            "Leave the precision out.",
        )


def check_geometry(geometry: str | None) -> None:
    """Refuse a form of geometry that NIfTI does not have.

    Raises:
        GeometryError: the message states the valid names.
    """
    if geometry is not None and geometry not in GEOMETRIES:
        raise GeometryError(
            f"geometry {geometry!r}",
            f"it must be {' or '.join(GEOMETRIES)}",
            "Leave {geometry} out to take the sform where there is one.",
            option="geometry",
        )


def check_region(text: str) -> None:
    """Refuse a region of interest that is neither "body" nor a box.

    Raises:
        SelectionError: the message states both forms.
    """
    if text in ("", "body"):
        return
    found = _BOX.fullmatch(text.replace(" ", ""))
    if not found or any(low >= high for low, high in region_sides(text)):
        raise SelectionError(
            f"the region {text!r}",
            "it must be body, or a box of source voxels such as 0:128,40:200,0:64 (first:last+1 along each axis)",
            "Correct {roi_crop}.",
            option="roi_crop",
        )


def region_sides(text: str) -> list[tuple[int, int]]:
    """Return the first voxel and one past the last voxel of a box, along each axis."""
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))


def thread_count(threads: int | None = None) -> int | None:
    """Return the number of threads of a run: the given one, else that of ``MEDVIT_THREADS``, else None for PyTorch's.

    Raises:
        BackendError: the number is not a whole number of at least 1.

    Examples:
        >>> from medvit.settings import thread_count
        >>> thread_count(2)
        2
    """
    given = os.environ.get(_THREADS, "").strip()
    if threads is None and given:
        if not (given.isdecimal() and int(given)):
            raise BackendError(
                f"{_THREADS}={given}", "a whole number of at least 1 is needed", "Correct it, or unset it."
            )
        return int(given)
    if threads is not None and threads < 1:
        raise BackendError(
            f"{threads} threads",
            "a run needs at least one",
            "Leave {threads} out to use every core.",
            option="threads",
        )
    return threads


@contextmanager
def limit_threads(threads: int) -> Iterator[None]:
    """Set the number of threads of this process and of the processes it starts, until the block ends.

    ``OMP_NUM_THREADS`` is set too, so that libraries that are imported in the block take the same number.

    Args:
        threads: at least 1.

    Yields:
        None.

    Raises:
        BackendError: the number is below 1.

    Examples:
        >>> from medvit.settings import limit_threads, thread_count
        >>> with limit_threads(2):
        ...     thread_count()
        2
    """
    names = (_THREADS, "OMP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, str(thread_count(threads))))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def wait_passively() -> None:
    """Have the threads of OpenMP wait without spinning, unless ``OMP_WAIT_POLICY`` is set.

    Spinning threads slow other processes down. OpenMP reads the variable when torch is imported, so this must come
    first; processes started later inherit it.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
