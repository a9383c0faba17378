"""Writer of a computed radiograph as a CR image (PS3.3 A.2), with the geometry of its view in the standard attributes."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ComputedRadiographyImageStorage, ExplicitVRLittleEndian, generate_uid

from medvit.io.dicom.write.derived_series import has_laterality
from medvit.io.dicom.write.patient_study import copy_patient_study

__all__ = ["RadiographSeries", "write_radiograph"]

_VIEWS = {0.0: ("AP", ["L", "F"]), 90.0: ("RL", ["P", "F"]), 180.0: ("PA", ["R", "F"]), 270.0: ("LL", ["A", "F"])}
"""ViewPosition and PatientOrientation by angle; with the source on the left, the right side is next to the detector
(RL).
"""


@dataclass(frozen=True, kw_only=True, eq=False)
class RadiographSeries:
    """Properties common to the views of one run.

    Attributes:
        uid: SeriesInstanceUID.
        study_uid: StudyInstanceUID, used where the source has none.
        source: a header of the CT, for patient and study; None for other formats.
        pixel_spacing_mm: on the detector, between rows and columns.
        source_to_patient_mm, source_to_detector_mm: distances from the focal spot.
        software: medvit's version.
        words: meaning of the pixel values, for the description.
        intended_use: sentence for the description.
    """

    uid: str
    study_uid: str
    source: Dataset | None
    pixel_spacing_mm: tuple[float, float]
    source_to_patient_mm: float
    source_to_detector_mm: float
    software: str
    words: str
    intended_use: str


def write_radiograph(
    path: Path, pixels: NDArray[np.uint16], view_deg: float, number: int, series: RadiographSeries
) -> None:
    """Write one view.

    Args:
        path: the file to write.
        pixels: (row, column), bone bright.
        view_deg: angle of the view in degrees, as in ``medvit.physics.drr.Geometry``.
        number: InstanceNumber.
        series: properties common to all views.
    """
    dataset, now = Dataset(), datetime.now()
    blank = Dataset()
    blank.StudyInstanceUID = series.study_uid
    copy_patient_study(dataset, series.source if series.source is not None else blank)
    dataset.StudyInstanceUID = dataset.StudyInstanceUID or series.study_uid
    dataset.SOPClassUID, dataset.SOPInstanceUID = ComputedRadiographyImageStorage, generate_uid(prefix=None)
    dataset.Modality, dataset.SeriesInstanceUID, dataset.SeriesNumber = "CR", series.uid, 9006
    dataset.SeriesDescription = f"Computed radiographs; {series.intended_use}"[:64]
    dataset.Manufacturer, dataset.ManufacturerModelName = "medvit", "medvit drr"
    dataset.SoftwareVersions = series.software
    position, orientation = _VIEWS.get(view_deg % 360, ("", None))
    dataset.BodyPartExamined = series.source.get("BodyPartExamined", "") if series.source is not None else ""
    dataset.ViewPosition, dataset.PatientOrientation = position, orientation
    if has_laterality(dataset):
        dataset.Laterality = ""
    dataset.ImageType, dataset.InstanceNumber = ["DERIVED", "SECONDARY"], number
    dataset.DerivationDescription = f"Radiograph computed from a CT at {view_deg:g} degrees. {series.words}"
    dataset.ImageComments, dataset.BurnedInAnnotation = series.intended_use, "NO"
    dataset.KVP = None
    dataset.ImagerPixelSpacing = [f"{v:.8g}" for v in series.pixel_spacing_mm]
    dataset.DistanceSourceToDetector = f"{series.source_to_detector_mm:.8g}"
    dataset.DistanceSourceToPatient = f"{series.source_to_patient_mm:.8g}"
    larger = series.source_to_detector_mm / series.source_to_patient_mm
    dataset.EstimatedRadiographicMagnificationFactor = f"{larger:.8g}"
    dataset.ContentDate = dataset.InstanceCreationDate = dataset.SeriesDate = now.strftime("%Y%m%d")
    dataset.ContentTime = dataset.InstanceCreationTime = dataset.SeriesTime = now.strftime("%H%M%S")
    _fill(dataset, pixels)
    dataset.save_as(path, enforce_file_format=True)


def _fill(dataset: Dataset, pixels: NDArray[np.uint16]) -> None:
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.BitsAllocated = dataset.BitsStored = 16
    dataset.HighBit, dataset.PixelRepresentation = 15, 0
    top = max(int(pixels.max()), 2)
    dataset.WindowCenter, dataset.WindowWidth = str(top / 2), str(top)
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PixelData = np.ascontiguousarray(pixels.astype("<u2")).tobytes()
    dataset["PixelData"].VR = "OW"
