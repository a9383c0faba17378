"""The algorithm that made a result, and its codes and tracking identifiers, as DICOM objects state them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from pydicom.sr.coding import Code as DicomCode

from medvit.labels import Code, Label

__all__ = ["AlgorithmInfo", "SegmentOrigin", "to_dicom_code", "tracking_uids"]


@dataclass(frozen=True)
class SegmentOrigin:
    """How a segment came about, in the words of its file; empty where it does not say.

    Attributes:
        algorithm_type: "AUTOMATIC", "SEMIAUTOMATIC" or "MANUAL" (PS3.3 C.8.20.2, 0062,0008).
        algorithm_name: what made an automatic one.
        tracking_id, tracking_uid: which thing in the patient it is (PS3.3 C.8.20.2, 0062,0020 and 0062,0021).
        interpreted: the ROI's kind, "ORGAN", "GTV" and the like (PS3.3 C.8.8.8, 3006,00A4).
    """

    algorithm_type: str = ""
    algorithm_name: str = ""
    tracking_id: str = ""
    tracking_uid: str = ""
    interpreted: str = ""


@dataclass(frozen=True)
class AlgorithmInfo:
    """What made an object, as it is written into it.

    Attributes:
        bundle: the bundle's name and version, e.g. "headneck_ct_swin_unetr 0.1.0".
        weights: sha256 of the weights.
        software: medvit's version.
        intended_use: the sentence every object carries.
        origins: by label name, how labels came about that this author did not make but carries over.
    """

    bundle: str
    weights: str
    software: str
    intended_use: str
    origins: Mapping[str, SegmentOrigin] = field(default_factory=dict)

    def equipment(self) -> dict[str, str]:
        """The Enhanced General Equipment module (PS3.3 C.7.5.2) as highdicom takes it."""
        return {
            "manufacturer": "medvit",
            "manufacturer_model_name": self.bundle,
            "software_versions": self.software,
            "device_serial_number": self.weights[:16] or self.software,
        }


def to_dicom_code(code: Code) -> DicomCode:
    """A bundle's code as highdicom takes it."""
    return DicomCode(code.value, code.scheme, code.meaning)


def tracking_uids(labels: Sequence[Label]) -> dict[str, str]:
    """A new tracking UID for each label, by name: made once a save, so that all its objects speak of the same finding."""
    import highdicom as hd

    return {label.name: str(hd.UID()) for label in labels}
