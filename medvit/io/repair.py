"""Consistent UIDs for slices that lack them or contradict each other, when the user asks for it.

The new UIDs are derived from the image itself (its fingerprint, PS3.5 B.2), so repairing the same series twice gives the
same ones. Only copies of the headers change; the files are never touched.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace

from pydicom import Dataset
from pydicom.uid import CTImageStorage, generate_uid

from medvit.io.scan import Scan

__all__ = ["repair_uids"]

_SHARED = ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")
"""One for all slices."""


def repair_uids(scan: Scan) -> tuple[Scan, tuple[str, ...]]:
    """The scan with headers that DICOM objects can refer to, and what was changed, in plain words.

    Args:
        scan: a DICOM scan; any other, and one without fault, comes back as it is.
    """
    if not scan.blockers:
        return scan, ()
    seed = scan.fingerprint()
    headers = [deepcopy(header) for header in scan.slices]
    changes = [change for keyword in _SHARED if (change := _share(headers, keyword, seed))]
    changes += _number(headers, seed)
    for header in headers:
        if not header.get("SOPClassUID"):
            header.SOPClassUID = CTImageStorage
    return replace(scan, slices=tuple(headers), blockers=()), tuple(changes)


def _share(headers: list[Dataset], keyword: str, seed: str) -> str | None:
    found = {str(h.get(keyword) or "") for h in headers}
    if len(found) == 1 and "" not in found:
        return None
    uid = generate_uid(entropy_srcs=[seed, keyword])
    for header in headers:
        setattr(header, keyword, uid)
    lacking = "no value" if found == {""} else f"{len(found - {''})} values"
    return f"Repaired: {keyword} had {lacking} and got one for all {len(headers)} slices."


def _number(headers: list[Dataset], seed: str) -> list[str]:
    found = [str(h.get("SOPInstanceUID") or "") for h in headers]
    if "" not in found and len(set(found)) == len(found):
        return []
    for k, header in enumerate(headers):
        header.SOPInstanceUID = generate_uid(entropy_srcs=[seed, "SOPInstanceUID", str(k)])
    return [f"Repaired: SOPInstanceUID was missing or shared and got one for each of the {len(headers)} slices."]
