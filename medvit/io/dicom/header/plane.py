"""The header of one plane of a DICOM image."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.io.dicom.header.patient_identity import Identity
from medvit.io.files import DicomFile

__all__ = ["PlaneHeader"]


@dataclass(frozen=True, slots=True)
class PlaneHeader:
    """One image plane as its header states it; absent values are None or empty.

    Attributes:
        file: where it lies.
        frame: its number within a multi-frame file, from 0; None in a file of its own.
        position, orientation: ImagePositionPatient and ImageOrientationPatient, LPS millimetres.
        spacing: PixelSpacing, row then column, millimetres.
        patient: who the header says it is, as hashes.
        carried: a hash of what results carry on of the study.
        rescale: slope and intercept.
        unit: what rescaling gives (RescaleType), where stated.
        unscaled: rescale tags that a CT lacks, or a slope of 0, so that its values are in no known unit.
        packing: BitsStored and HighBit.
        counts: ImagesInAcquisition, NumberOfSeriesRelatedInstances and InConcatenationTotalNumber; 0 where not stated.
        order: what may tell apart planes at one position: (attribute, value) pairs.
        absent: Type 2 attributes that are not there at all.
        space: bytes behind the header, where the pixels should be.
    """

    file: DicomFile
    frame: int | None
    sop_class: str
    sop_instance: str
    study: str
    series: str
    frame_of_reference: str
    patient: Identity
    carried: int
    modality: str
    image_type: tuple[str, ...]
    syntax: str
    rows: int
    columns: int
    frames: int
    samples: int
    bits: int
    photometric: str
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    spacing: tuple[float, ...] | None
    thickness: float | None
    between: float | None
    rescale: tuple[float, float]
    unit: str
    unscaled: tuple[str, ...]
    packing: tuple[int, int]
    counts: tuple[int, int, int]
    lossy: bool
    instance: int
    order: tuple[tuple[str, str], ...]
    absent: tuple[str, ...]
    space: int

    @property
    def placed(self) -> bool:
        """Whether it states where it lies in the patient."""
        return self.position is not None and self.orientation is not None and self.spacing is not None
