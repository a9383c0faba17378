"""Repair of UIDs that are missing or contradict each other among the slices of a scan, on the user's request.

The new UIDs are derived from the image itself (its fingerprint, PS3.5 B.2), so that repairing the same series twice
gives the same UIDs. Only copies of the headers change; the source files are not touched.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from pydicom import Dataset
from pydicom.uid import (
    CTImageStorage,
    MRImageStorage,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from medvit.io.dicom.header import is_uid
from medvit.io.dicom.preflight import SEVERAL_FILES
from medvit.io.scan import Scan

__all__ = ["repair_uids", "repairable"]

_CLASSES = {"MR": MRImageStorage, "PT": PositronEmissionTomographyImageStorage}
"""Storage class by modality; other modalities get the class of CT, the modality of the default bundle."""

_SHARED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""Attributes with one value for all slices."""


def repair_uids(scan: Scan) -> tuple[Scan, tuple[str, ...]]:
    """Return the scan with valid UIDs, so that DICOM objects can refer to it, and the changes in plain words.

    Args:
        scan: a DICOM scan; other scans, and scans without fault, are returned unchanged.
    """
    if not repairable(scan.blockers):
        return scan, ()
    seed = scan.fingerprint()
    headers = [deepcopy(header) for header in scan.slices]
    changes = [change for keyword in _SHARED if (change := _share(headers, keyword, seed))]
    changes += _number(headers, seed)
    changes += _class(headers)
    kept = tuple(reason for reason in scan.blockers if reason.endswith(SEVERAL_FILES))
    return replace(scan, slices=tuple(headers), blockers=kept), tuple(changes)


def repairable(blockers: tuple[str, ...]) -> bool:
    """Return True if a repair would remove at least one of the reasons against DICOM objects."""
    return any(not reason.endswith(SEVERAL_FILES) for reason in blockers)


def _uid(header: Dataset, keyword: str) -> str:
    """Return a UID of a header; empty where it is missing or not a valid UID."""
    text = str(header.get(keyword) or "")
    return text if is_uid(text) else ""


def _class(headers: list[Dataset]) -> list[str]:
    """Set the storage class of the modality in headers that state none; return the change in plain words."""
    lacking = [header for header in headers if not _uid(header, "SOPClassUID")]
    for header in lacking:
        header.SOPClassUID = _CLASSES.get(str(header.get("Modality")), CTImageStorage)
    return [f"Repaired: SOPClassUID had no value in {len(lacking)} slices and got the modality's."] if lacking else []


def _share(headers: list[Dataset], keyword: str, seed: str) -> str | None:
    found = {_uid(h, keyword) for h in headers}
    if len(found) == 1 and "" not in found:
        return None
    uid = generate_uid(entropy_srcs=[seed, keyword])
    for header in headers:
        setattr(header, keyword, uid)
    lacking = "no value" if found == {""} else f"{len(found - {''})} values"
    return f"Repaired: {keyword} had {lacking} and got one for all {len(headers)} slices."


def _number(headers: list[Dataset], seed: str) -> list[str]:
    found = [_uid(h, "SOPInstanceUID") for h in headers]
    if "" not in found and len(set(found)) == len(found):
        return []
    for k, header in enumerate(headers):
        header.SOPInstanceUID = generate_uid(entropy_srcs=[seed, "SOPInstanceUID", str(k)])
    return [f"Repaired: SOPInstanceUID was missing or shared and got one for each of the {len(headers)} slices."]
