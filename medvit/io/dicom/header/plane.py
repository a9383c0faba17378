"""Header values of one plane of a DICOM image."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.io.dicom.header.patient_identity import Identity
from medvit.io.files import DicomFile

__all__ = ["PlaneHeader"]


@dataclass(frozen=True, kw_only=True, slots=True)
class PlaneHeader:
    """One image plane as its header states it; absent values are None or empty.

    Attributes:
        file: the file that contains the plane.
        frame: number within a multi-frame file, from 0; None for a single-frame file.
        position, orientation: ImagePositionPatient and ImageOrientationPatient, LPS millimetres.
        spacing: PixelSpacing, row then column, millimetres.
        thickness, between: SliceThickness and SpacingBetweenSlices, millimetres.
        patient: identity of the patient, as hashes.
        carried: hash of the study attributes that results copy.
        syntax: TransferSyntaxUID.
        bits: BitsAllocated.
        rescale: slope and intercept.
        unit: unit of the rescaled values (RescaleType), where stated.
        unscaled: rescale tags that a CT lacks (a slope of 0 counts as missing); the unit of its values is then unknown.
        packing: BitsStored and HighBit.
        counts: ImagesInAcquisition, NumberOfSeriesRelatedInstances and InConcatenationTotalNumber; 0 where not stated.
        order: (attribute, value) pairs that may separate planes at one position.
        absent: Type 2 attributes that the header lacks.
        space: bytes behind the header, which contain the pixels.
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
        """True where the header states position, orientation and spacing."""
        return self.position is not None and self.orientation is not None and self.spacing is not None
