"""The original DICOM slices that results refer to: their headers, frames and places, made fit to be referred to."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from medvit.io.creation_dates import TODAY, Creation
from medvit.io.scan import Scan

__all__ = ["SourceImages", "source_of"]

_TYPE_2 = (
    "PatientName PatientID PatientBirthDate PatientSex StudyDate StudyTime AccessionNumber ReferringPhysicianName "
    "StudyID SeriesNumber"
).split()
"""Attributes every object carries over from its study, empty where the source leaves them out (PS3.5 7.4.3)."""

_LOOKED_INTO = (
    "InstanceNumber SliceThickness SpacingBetweenSlices PatientAge PatientSize PatientWeight PatientComments "
    "StudyDescription IssuerOfPatientID PatientIdentityRemoved DeidentificationMethod AcquisitionNumber ContentDate "
    "ContentTime SeriesDate SeriesTime AcquisitionDate AcquisitionTime RescaleSlope RescaleIntercept KVP"
).split()

_SAME_COSINE = 1e-5
"""Directions closer than this are the same but for rounding."""

_ELSEWHERE_MM = 1e6
"""Where frames that a volume does not use are put, so that no result refers to them."""


@dataclass(frozen=True, eq=False)
class SourceImages:
    """What a SEG, RTSTRUCT, SR or capture refers to.

    Attributes:
        headers: without pixels, in the order of the slices; one alone for all frames of a multi-frame file.
        frames: for a multi-frame file, the frame (from 0) of each slice; else empty.
        planes: (slice, 4, 4) voxel index (column, row, 0) to LPS millimetres.
        creation: the rule for dates in what refers to them.
    """

    headers: tuple[Dataset, ...]
    frames: tuple[int, ...]
    planes: NDArray[np.float64]
    creation: Creation = TODAY

    def __repr__(self) -> str:
        """Their number: headers hold a patient's name."""
        return f"Slices({len(self.planes)})"

    @property
    def first(self) -> Dataset:
        """The header that patient, study and series are read from."""
        return self.headers[0]

    def header(self, k: int) -> Dataset:
        """The header of slice k."""
        return self.headers[0] if len(self.headers) == 1 else self.headers[k]

    def reference(self, k: int) -> Dataset:
        """An item that refers to slice k (PS3.3 table 10-3)."""
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
        """Distance between slices where it is the same throughout; None for an uneven or tilted stack, or one slice."""
        steps = np.diff(self.planes[:, :3, 3], axis=0)
        if not len(steps) or np.abs(steps - steps[0]).max() > 0.05 * np.linalg.norm(steps[0]):
            return None
        normal = np.cross(self.planes[0, :3, 0], self.planes[0, :3, 1])
        return float(abs(steps[0] @ normal) / np.linalg.norm(normal))

    def normalised_headers(self) -> list[Dataset]:
        """Copies of the headers as highdicom needs them; the originals stay as they are.

        Absent Type 2 attributes are present and empty; orientation and pixel spacing, which agree up to rounding, are
        equal; thickness and spacing say what the positions say.
        """
        copies = [deepcopy(header) for header in self.headers]
        for copy in copies:
            for keyword in _TYPE_2:
                if keyword not in copy:
                    setattr(copy, keyword, None if keyword == "SeriesNumber" else "")
            if not copy.get("SpecificCharacterSet", "absent"):
                del copy.SpecificCharacterSet  # stated but empty is the default one, which highdicom takes for unknown
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
        """Orientation and pixel spacing as the first header states them, or as the planes have them where it states none
        or its directions had to be straightened; and the distance between slices."""
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
    """Orientation and measures of the frames used into the shared groups; frames not used out of the way."""
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
    """The slices of a DICOM scan."""
    return SourceImages(scan.slices, scan.frames, scan.planes_lps(), scan.creation)
