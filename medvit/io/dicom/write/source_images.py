"""The original DICOM slices that results refer to: headers, frames and positions, normalised for highdicom."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from medvit.io.creation_dates import TODAY, Creation
from medvit.io.dicom.header import PATIENT_STUDY_TYPE_2, add_empty
from medvit.io.scan import Scan

__all__ = ["LOOKED_INTO", "SourceImages", "source_of"]

LOOKED_INTO = (
    "SliceThickness SpacingBetweenSlices PatientAge PatientSize PatientWeight PatientComments "
    "StudyDescription IssuerOfPatientID PatientIdentityRemoved DeidentificationMethod AcquisitionNumber ContentDate "
    "ContentTime SeriesDate SeriesTime AcquisitionDate AcquisitionTime RescaleSlope RescaleIntercept KVP"
).split()
"""Further attributes that the writers read."""

_SAME_COSINE = 1e-5
"""Largest difference between direction cosines that counts as rounding."""

_ELSEWHERE_MM = 1e6
"""Position, in millimetres along each axis, given to frames that a volume does not use, so that no result refers to
them.
"""


@dataclass(frozen=True, eq=False)
class SourceImages:
    """The slices that a SEG, RTSTRUCT, SR or secondary capture refers to.

    Attributes:
        headers: headers without pixels, in the order of the slices; a single one for all frames of a multi-frame file.
        frames: for a multi-frame file, the frame (from 0) of each slice; else empty.
        planes: (slice, 4, 4), index (column, row, 0) to LPS millimetres.
        creation: the rule for dates in objects that refer to them.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[int, ...]
    planes: NDArray[np.float64]
    creation: Creation = TODAY

    def __repr__(self) -> str:
        """Return the number of slices; headers are left out, since they contain a patient's name."""
        return f"Slices({len(self.planes)})"

    @property
    def first(self) -> Dataset:
        """The header from which patient, study and series are read."""
        return self.headers[0]

    def header(self, k: int) -> Dataset:
        """Return the header of slice k."""
        return self.headers[0] if len(self.headers) == 1 else self.headers[k]

    def reference(self, k: int) -> Dataset:
        """Return an item that refers to slice k (PS3.3 table 10-3)."""
        item = Dataset()
        item.ReferencedSOPClassUID = self.header(k).SOPClassUID
        item.ReferencedSOPInstanceUID = self.header(k).SOPInstanceUID
        if self.frames:
            item.ReferencedFrameNumber = self.frames[k] + 1
        return item

    @property
    def pixel_mm(self) -> tuple[float, float]:
        """Pixel sides down a column and across a row, in the order of PixelSpacing."""
        across, down = np.linalg.norm(self.planes[0, :3, :2], axis=0)
        return float(down), float(across)

    @property
    def spacing_mm(self) -> float | None:
        """Distance between slices of a regular stack; None for an uneven or tilted stack, or a single slice."""
        steps = np.diff(self.planes[:, :3, 3], axis=0)
        if not len(steps) or np.abs(steps - steps[0]).max() > 0.05 * np.linalg.norm(steps[0]):
            return None
        normal = np.cross(self.planes[0, :3, 0], self.planes[0, :3, 1])
        return float(abs(steps[0] @ normal) / np.linalg.norm(normal))

    def normalised_headers(self, count: int | None = None) -> list[Dataset]:
        """Copy the headers, or the first ``count`` of them, and normalise the copies for highdicom; the originals are not
        changed.

        Absent Type 2 attributes are added empty; orientation and pixel spacing, which agree up to rounding, are made
        equal; thickness and spacing are set from the positions.
        """
        copies = [deepcopy(header) for header in self.headers[:count]]
        for copy in copies:
            add_empty(copy, (*PATIENT_STUDY_TYPE_2, "SeriesNumber"))
            if not copy.get("SpecificCharacterSet", "absent"):
                del copy.SpecificCharacterSet  # empty means the default set, but highdicom refuses it as unknown
        if self.frames:
            _share(copies[0], self)
            return copies
        orientation, pixel, spacing = self._stated(copies[0])
        for copy in copies:
            copy.ImageOrientationPatient, copy.PixelSpacing = orientation, pixel
            copy.SliceThickness = copy.get("SliceThickness") or _short(spacing or self._thickness())
            copy.pop("SpacingBetweenSlices", None)
            if spacing is not None:
                copy.SpacingBetweenSlices = _short(spacing)
        return copies

    def _stated(self, first: Dataset) -> tuple[list[Any], list[Any], float | None]:
        """Return orientation, pixel spacing and the distance between slices.

        Orientation and pixel spacing come from the first header; from the planes where the header states none, or where
        its directions were corrected.
        """
        sides = np.linalg.norm(self.planes[0, :3, :2], axis=0)
        cosines = (self.planes[0, :3, :2] / sides).T.ravel()
        orientation = list(first.get("ImageOrientationPatient") or [])
        if len(orientation) != 6 or np.abs(np.array(orientation, float) - cosines).max() > _SAME_COSINE:
            orientation = [_short(v) for v in cosines]
        pixel = list(first.get("PixelSpacing") or [_short(v) for v in self.pixel_mm])
        return orientation, pixel, self.spacing_mm

    def _thickness(self) -> float:
        return float(np.linalg.norm(self.planes[0, :3, 2])) or 1.0


def _short(value: float) -> str:
    return f"{value:.10g}"


def _share(header: Dataset, slices: SourceImages) -> None:
    """Move orientation and measures of the used frames to the shared groups; move unused frames out of the way."""
    if not header.get("SharedFunctionalGroupsSequence"):
        header.SharedFunctionalGroupsSequence = Items([Dataset()])
    shared = header.SharedFunctionalGroupsSequence[0]
    plane = slices.planes[0]
    sides = np.linalg.norm(plane[:3, :2], axis=0)
    orientation, measures = Dataset(), Dataset()
    orientation.ImageOrientationPatient = [_short(v) for v in (plane[:3, :2] / sides).T.ravel()]
    measures.PixelSpacing = [_short(float(sides[1])), _short(float(sides[0]))]
    measures.SliceThickness = _short(slices.spacing_mm or slices._thickness())
    if slices.spacing_mm is not None:
        measures.SpacingBetweenSlices = _short(slices.spacing_mm)
    used = set(slices.frames)
    for n, own in enumerate(header.PerFrameFunctionalGroupsSequence):
        own.pop("PlaneOrientationSequence", None)
        own.pop("PixelMeasuresSequence", None)
        if n not in used:
            place = Dataset()
            place.ImagePositionPatient = [_ELSEWHERE_MM] * 3
            own.PlanePositionSequence = Items([place])
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = Items([orientation]), Items([measures])


def source_of(scan: Scan) -> SourceImages:
    """Return the slices of a DICOM scan."""
    return SourceImages(scan.slices, scan.frames, scan.planes_lps(), scan.creation)
