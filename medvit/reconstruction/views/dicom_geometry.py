"""Geometry of a radiograph from its DICOM header: direction, pixel size, magnification (PS3.3 C.8.1.2, C.8.11,
10.7)."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset

from medvit.errors import GeometryError

__all__ = ["ViewHeader", "ViewPosition", "header_facts", "to_standard_orientation"]

ViewPosition = Literal["AP", "lateral"]

_LATERAL = ("LL", "RL", "LAT", "LATERAL", "LLD", "RLD", "LLO", "RLO")
_FRONTAL = ("AP", "PA")


@dataclass(frozen=True, kw_only=True)
class ViewHeader:
    """Facts stated about a view; None or empty where nothing is stated.

    Attributes:
        pixel_mm: height and width of a pixel, on the detector unless ``pixel_in_patient``.
        pixel_in_patient: True if the pixel size is already corrected for magnification.
        magnification: magnification at the patient's middle.
        source_to_detector_mm, source_to_patient_mm: distances from the focal spot.
        orientation: directions of rows and columns, first letters of PatientOrientation.
        patient, study: fingerprints.
        linear: True if pixels are proportional to the X-ray intensity.
        is_dicom: True for DICOM files, which state how the pixels are displayed.
        record: True if the facts come from a record of ``medvit drr``.
        notes: conclusions, in plain words.
    """

    pixel_mm: tuple[float, float] | None = None
    pixel_in_patient: bool = False
    magnification: float | None = None
    source_to_detector_mm: float | None = None
    source_to_patient_mm: float | None = None
    orientation: tuple[str, str] | None = None
    patient: str | None = None
    study: str | None = None
    linear: bool = False
    is_dicom: bool = False
    record: bool = False
    notes: tuple[str, ...] = ()

    @property
    def lies_on_its_side(self) -> bool:
        """True if the rows of the picture run along the body."""
        return self.orientation is not None and self.orientation[0] in "HF"


def header_facts(header: Dataset, slot: ViewPosition) -> ViewHeader:
    """Read the facts about a view from its header.

    Raises:
        GeometryError: the header states another view than the slot's.
    """
    orientation = _orientation(header)
    _require_slot(str(header.get("ViewPosition") or "").upper(), orientation, slot)
    pixel, in_patient = _pixel(header)
    notes = []
    if str(header.get("ViewPosition") or "").upper() == "PA":
        notes.append(
            "taken from behind (PA): what lies in front appears smaller than in an AP view, which is not corrected."
        )
    return ViewHeader(
        pixel_mm=pixel,
        pixel_in_patient=in_patient,
        magnification=_number(header, "EstimatedRadiographicMagnificationFactor"),
        source_to_detector_mm=_number(header, "DistanceSourceToDetector"),
        source_to_patient_mm=_number(header, "DistanceSourceToPatient"),
        orientation=orientation,
        patient=_fingerprint(header, "PatientID", "IssuerOfPatientID"),
        study=_fingerprint(header, "StudyInstanceUID"),
        linear=str(header.get("PixelIntensityRelationship") or "").upper() == "LIN",
        is_dicom=True,
        notes=tuple(notes),
    )


def _number(header: Dataset, keyword: str) -> float | None:
    try:
        value = float(header.get(keyword))
    except (TypeError, ValueError):
        return None
    return value if np.isfinite(value) and value > 0 else None


def _fingerprint(header: Dataset, *keywords: str) -> str | None:
    values = [str(header.get(keyword) or "").strip() for keyword in keywords]
    return hashlib.sha256("\0".join(values).encode()).hexdigest() if values[0] else None


def _pair(value: Any) -> tuple[float, float] | None:
    try:
        down, across = (float(v) for v in value)
    except (TypeError, ValueError):
        return None
    return (down, across) if down > 0 and across > 0 else None


def _pixel(header: Dataset) -> tuple[tuple[float, float] | None, bool]:
    """Return the pixel size, and True if it is the size in the patient: a calibrated PixelSpacing (PS3.3 10.7.1.3)."""
    imager, pixel = _pair(header.get("ImagerPixelSpacing")), _pair(header.get("PixelSpacing"))
    calibrated = str(header.get("PixelSpacingCalibrationType") or "") in ("GEOMETRY", "FIDUCIAL")
    if pixel is not None and calibrated:
        return pixel, True
    return imager or pixel, False


def _orientation(header: Dataset) -> tuple[str, str] | None:
    found = [str(v or "")[:1].upper() for v in header.get("PatientOrientation") or []]
    return (found[0], found[1]) if len(found) == 2 and all(v in "LRAPHF" and v for v in found) else None


def _require_slot(position: str, orientation: tuple[str, str] | None, slot: ViewPosition) -> None:
    wanted, others = (_FRONTAL, _LATERAL) if slot == "AP" else (_LATERAL, _FRONTAL)
    across = "LR" if slot == "AP" else "AP"
    sideways = [letter for letter in orientation or () if letter not in "HF"]
    wrong = position in others and f"ViewPosition {position}"
    if not wrong and position not in wanted and len(sideways) == 1 and sideways[0] not in across:
        wrong = f"a PatientOrientation along {sideways[0]}"
    if wrong:
        raise GeometryError(
            f"{wrong} in the view given as {slot}",
            "it marks the other view",
            "Exchange {ap} and {lat}, or give the right files.",
            option=("ap", "lat"),
        )
    if orientation is not None and len(sideways) != 1:
        raise GeometryError(
            f"a PatientOrientation of {'/'.join(orientation)} in the {slot} view",
            "one axis must run along the body and one across it",
            "Correct the header.",
        )


def to_standard_orientation(
    values: NDArray[np.float32], facts: ViewHeader, slot: ViewPosition
) -> tuple[NDArray[np.float32], bool, bool]:
    """Turn the picture: head up, columns to the patient's left (AP) or back (lateral). Also return whether rows and
    columns were flipped."""
    if facts.orientation is None:
        return values, False, False
    rows, columns = facts.orientation
    if facts.lies_on_its_side:
        values, rows, columns = values.T, columns, rows
    down, across = columns == "H", rows != {"AP": "L", "lateral": "P"}[slot]
    flipped: NDArray[np.float32] = values[:: -1 if down else 1, :: -1 if across else 1]
    return flipped, down, across
