"""Checks whether a source can be restored, and the default policy for irregular stacks; does not import torch."""

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
"""First words of the description in a NIfTI that a restoration wrote."""

PROCESSING = "109102"
"""DICOM's code for processing equipment (CID 7005), under which a derived series names its bundle."""


def earlier_restoration(scan: Scan) -> str | None:
    """Return the evidence that an image is the result of an earlier restoration, or None."""
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
    """Return why an image in HU has too few grey values to show noise, or None."""
    if scan.header is not None and hasattr(scan.header, "get_data_dtype"):
        dtype = scan.header.get_data_dtype()
        return f"values of {dtype}" if dtype.itemsize == 1 else None
    bits = [int(header.get("BitsAllocated") or 16) for header in scan.slices[:1]]
    return "pixels of 8 bits" if bits and bits[0] == 8 else None


def reasons_to_refuse(scan: Scan, bundle: Bundle) -> list[str]:
    """List the reasons against restoring an image that otherwise suits the bundle.

    Args:
        scan: the opened source.
        bundle: the restoration bundle.

    Returns:
        Reasons in plain words; empty if there are none.

    Examples:
        >>> import medvit
        >>> from medvit.restoration import reasons_to_refuse
        >>> reasons_to_refuse(medvit.open_source("restored.nii.gz"), medvit.open_bundle("ct_denoise_restore_rwkv"))  # doctest: +SKIP
    """
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
    """Refuse a tilted or uneven stack for a bundle that increases the in-plane resolution.

    Raises:
        GeometryError: the slices are not on the regular grid to which they were resampled.
    """
    if scan.original is not None:
        raise GeometryError(
            "a tilted or uneven stack of slices for a bundle that makes images finer in their plane",
            "a regular stack is needed",
            "Use {on_irregular=split}, which takes the longest regular part, or convert that part to NIfTI.",
            option="on_irregular",
        )


def is_slice_wise(bundle: Bundle) -> bool:
    """Return True if a bundle's network takes single slices (or a slice and its neighbours) and keeps their grid.

    Such a bundle can restore an irregular stack.
    """
    steps = bundle.config.get("preprocessing", {}).get("transforms", [])
    if any(str(step.get("_target_", "")).endswith(".ZeroFillUpsampled") for step in steps):
        return False
    return str(bundle.config.get("inferer", {}).get("_target_", "")).endswith(".SliceWise")


def context_slices(bundle: Bundle) -> int:
    """Return the number of neighbouring slices on each side that a bundle's network takes as channels.

    Args:
        bundle: the restoration bundle.

    Returns:
        The number, 0 for none.

    Examples:
        >>> import medvit
        >>> from medvit.restoration import context_slices
        >>> context_slices(medvit.open_bundle("ct_denoise_restore_rwkv"))  # doctest: +SKIP
        1
    """
    return int(bundle.config.get("inferer", {}).get("context", 0))


def with_irregular_policy(bundle: Bundle, settings: RunSettings, on_irregular: str | None) -> RunSettings:
    """Set the policy for irregular stacks: as requested, else "resample" if the bundle's network takes single slices,
    else "fail".

    Args:
        bundle: the restoration bundle.
        settings: settings of the run.
        on_irregular: requested policy, "fail", "resample" or "split", or None.

    Returns:
        The settings with this policy.

    Examples:
        >>> import medvit
        >>> from medvit.restoration import with_irregular_policy
        >>> bundle = medvit.open_bundle("ct_denoise_restore_rwkv")
        >>> with_irregular_policy(bundle, medvit.RunSettings(), "split").on_irregular
        'split'
    """
    return replace(settings, on_irregular=on_irregular or ("resample" if is_slice_wise(bundle) else "fail"))
