"""How to run a bundle. Light to import, so that a command can refuse a mistake before torch is loaded."""

from __future__ import annotations

import re
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
    "region_sides",
]

DEFAULT_BUNDLE = "headneck_ct_swin_unetr"
"""What ``medvit segment`` runs when no bundle is named."""

DEFAULT_RESTORATION = "ct_denoise_restore_rwkv"
"""The same for ``medvit restore``."""

DEFAULT_RECONSTRUCTION = "headneck_xray_swin_x2s"
"""The same for ``medvit reconstruct``."""

BACKENDS = ("auto", "eager", "compiled", "openvino", "cuda")
PRECISIONS = ("fp32", "bf16")
GEOMETRIES = ("sform", "qform")
"""Which of a NIfTI's two affines may be chosen."""

_BOX = re.compile(r"(\d+):(\d+),(\d+):(\d+),(\d+):(\d+)")


@dataclass(frozen=True)
class RunSettings:
    """How to run a bundle.

    Attributes:
        device: "auto" (a GPU if there is one, said in the record), "cpu", "gpu", "gpu:N", "cuda:N" or "mps".
        fast: the bundle's lighter overlap, where it states one.
        force: run on a modality the bundle was not made for; recorded.
        roi_subset: names of the labels to keep; empty keeps all.
        repair_tags: give DICOM slices with missing or contradicting UIDs consistent ones; recorded.
        series: number or UID, where the source holds several series.
        quality_map: also run on the mirror image and say where both answers differ; takes twice the time.
        on_irregular: "fail", "resample" or "split" a tilted or uneven DICOM stack; recorded.
        backend: how the network is run: "auto", "eager", "compiled", "openvino" or "cuda"; what ran is recorded.
        precision: "fp32", or "bf16" where the bundle's gate has passed.
        roi_crop: where the answer matters: "body", or a box of source voxels "i0:i1,j0:j1,k0:k1"; empty for everywhere. Only
            windows that touch it are run, and all else is background; recorded.
        low_memory: hold as little as possible: one window at a time, logits in planes or in a file; slower.
        geometry: "sform" or "qform" of a NIfTI to take; None for the sform where it is stated, which is flagged where the
            qform shows other axes or the mirror image; recorded.
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
    geometry: str | None = None


def check_names(backend: str, precision: str) -> None:
    """Refuse a name that is none.

    Raises:
        BackendError: with the names that are there.
    """
    if backend not in BACKENDS:
        raise BackendError(
            f"inference backend {backend!r}",
            f"it must be one of {', '.join(BACKENDS)}",
            "Use backend='auto' to let medvit choose.",
        )
    if precision not in PRECISIONS:
        raise BackendError(f"precision {precision!r}", "it must be fp32 or bf16", "Leave it out for fp32.")
    if precision == "bf16" and backend in ("eager", "compiled"):
        raise BackendError(
            f"precision 'bf16' for the {backend!r} backend, which computes in fp32",
            "openvino (CPU) and cuda take bf16",
            "Use backend='auto', or leave the precision out.",
        )


def check_geometry(geometry: str | None) -> None:
    """Refuse a geometry that NIfTI does not have.

    Raises:
        GeometryError: with the names that are there.
    """
    if geometry is not None and geometry not in GEOMETRIES:
        raise GeometryError(
            f"geometry {geometry!r}",
            f"it must be {' or '.join(GEOMETRIES)}",
            "Leave --geometry out to take the sform where there is one.",
        )


def check_region(text: str) -> None:
    """Refuse a region of interest that is neither "body" nor a box.

    Raises:
        SelectionError: with the two forms.
    """
    if text in ("", "body"):
        return
    found = _BOX.fullmatch(text.replace(" ", ""))
    if not found or any(low >= high for low, high in region_sides(text)):
        raise SelectionError(
            f"the region {text!r}",
            "it must be body, or a box of source voxels such as 0:128,40:200,0:64 (first:last+1 along each axis)",
            "Correct --roi-crop.",
        )


def region_sides(text: str) -> list[tuple[int, int]]:
    """Return the first and the last voxel plus one of a box along each axis."""
    numbers = [int(n) for n in re.findall(r"\d+", text)]
    return list(zip(numbers[::2], numbers[1::2], strict=True))
