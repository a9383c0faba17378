"""Whether a source can be restored, and how a bundle takes an irregular one. Light: no torch."""

from __future__ import annotations

from dataclasses import replace

from medvit.bundles import Bundle
from medvit.errors import GeometryError
from medvit.io import Scan
from medvit.settings import RunSettings

__all__ = [
    "DESCRIPTION_PREFIX",
    "PROCESSING",
    "context_slices",
    "earlier_restoration",
    "is_slice_wise",
    "reasons_to_refuse",
    "require_regular",
    "with_irregular_policy",
]

DESCRIPTION_PREFIX = "medvit restored"
"""How the description of a NIfTI that a restoration wrote begins."""

PROCESSING = "109102"
"""DICOM's code for processing equipment (CID 7005), under which a derived series names its bundle."""


def earlier_restoration(scan: Scan) -> str | None:
    """What says that an image is the result of an earlier restoration, or None."""
    described = scan.header["descrip"] if scan.header is not None and "descrip" in scan.header else b""
    if bytes(described).startswith(DESCRIPTION_PREFIX.encode()):
        return "its description says that medvit restored it before"
    for header in scan.slices[:1]:
        for item in header.get("ContributingEquipmentSequence") or []:
            purposes = [str(p.get("CodeValue")) for p in item.get("PurposeOfReferenceCodeSequence") or []]
            if item.get("Manufacturer") == "medvit" and PROCESSING in purposes:
                return "its ContributingEquipmentSequence says that medvit restored it before"
    return None


def _few_bits(scan: Scan) -> str | None:
    """Why an image in HU has too few grey values to show noise, or None."""
    if scan.header is not None and hasattr(scan.header, "get_data_dtype"):
        dtype = scan.header.get_data_dtype()
        return f"values of {dtype}" if dtype.itemsize == 1 else None
    bits = [int(header.get("BitsAllocated") or 16) for header in scan.slices[:1]]
    return "pixels of 8 bits" if bits and bits[0] == 8 else None


def reasons_to_refuse(scan: Scan, bundle: Bundle) -> list[str]:
    """What speaks against restoring an image that the bundle otherwise takes."""
    found = []
    before = earlier_restoration(scan)
    if before is not None:
        found.append(f"an image that is restored already ({before}); restoring it again takes away detail")
    values = bundle.facts.values
    few = _few_bits(scan) if values is not None and values.unit == "HU" else None
    if few is not None:
        found.append(f"{few}, where Hounsfield units take 12 bits or more: it was squeezed into 256 grey values")
    return found


def require_regular(scan: Scan) -> None:
    """Refuse a tilted or uneven stack for a bundle that makes images finer in their plane.

    Raises:
        GeometryError: the slices do not lie on the grid that they were resampled onto.
    """
    if scan.original is not None:
        raise GeometryError(
            "a tilted or uneven stack of slices for a bundle that makes images finer in their plane",
            "a regular one is needed",
            "Use --on-irregular split, which takes the longest regular part, or convert that part to NIfTI.",
        )


def is_slice_wise(bundle: Bundle) -> bool:
    """Whether a bundle's network sees one slice at a time, or one between its neighbours, and leaves its grid as it is, so that
    an irregular stack is no hindrance."""
    steps = bundle.config.get("preprocessing", {}).get("transforms", [])
    if any(str(step.get("_target_", "")).endswith(".ZeroFillUpsampled") for step in steps):
        return False
    return str(bundle.config.get("inferer", {}).get("_target_", "")).endswith(".SliceWise")


def context_slices(bundle: Bundle) -> int:
    """How many slices on either side of one a bundle's network sees beside it."""
    return int(bundle.config.get("inferer", {}).get("context", 0))


def with_irregular_policy(bundle: Bundle, settings: RunSettings, on_irregular: str | None) -> RunSettings:
    """Settings with what to do with an irregular stack: as asked, else what the bundle's network can take."""
    return replace(settings, on_irregular=on_irregular or ("resample" if is_slice_wise(bundle) else "fail"))
