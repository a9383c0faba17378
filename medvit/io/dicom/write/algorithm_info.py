"""The algorithm behind a result, with its codes and tracking identifiers, as DICOM objects state them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.sr.coding import Code as DicomCode

from medvit.labels import Code, Label

__all__ = ["AlgorithmInfo", "SegmentOrigin", "to_dicom_code", "tracking_uids"]


@dataclass(frozen=True, kw_only=True)
class SegmentOrigin:
    """Origin of a segment, as its file states it; empty where the file states nothing.

    Attributes:
        algorithm_type: "AUTOMATIC", "SEMIAUTOMATIC" or "MANUAL" (PS3.3 C.8.20.2, 0062,0008).
        algorithm_name: name of the algorithm of an automatic segment.
        tracking_id, tracking_uid: identifiers of the segmented object in the patient (PS3.3 C.8.20.2, 0062,0020 and
            0062,0021).
        interpreted: kind of the ROI, "ORGAN", "GTV" and the like (PS3.3 C.8.8.8, 3006,00A4).
    """

    algorithm_type: str = ""
    algorithm_name: str = ""
    tracking_id: str = ""
    tracking_uid: str = ""
    interpreted: str = ""


@dataclass(frozen=True, kw_only=True)
class AlgorithmInfo:
    """The algorithm and software that made an object.

    Attributes:
        bundle: the bundle's name and version, e.g. "headneck_ct_swin_unetr 0.1.0".
        weights: sha256 of the weights.
        software: medvit's version.
        intended_use: the sentence that every object carries.
        origins: by label name, the origin of labels that were copied from elsewhere rather than made by this algorithm.
    """

    bundle: str
    weights: str
    software: str
    intended_use: str
    origins: Mapping[str, SegmentOrigin] = field(default_factory=dict)

    def equipment(self) -> dict[str, str]:
        """Return the Enhanced General Equipment module (PS3.3 C.7.5.2) as keyword arguments for highdicom."""
        return {
            "manufacturer": "medvit",
            "manufacturer_model_name": self.bundle,
            "software_versions": self.software,
            "device_serial_number": self.weights[:16] or self.software,
        }


def to_dicom_code(code: Code) -> DicomCode:
    """Convert a bundle's code to pydicom's ``Code``, which highdicom accepts."""
    return DicomCode(code.value, code.scheme, code.meaning)


def tracking_uids(labels: Sequence[Label]) -> dict[str, str]:
    """Generate a tracking UID for each label, by name; one call for each save, so that all its objects share the UIDs."""
    import highdicom as hd

    return {label.name: str(hd.UID()) for label in labels}
