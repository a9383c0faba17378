"""Writer of secondary capture series (PS3.3 A.8.1): pictures for viewers that show neither SEG nor RTSTRUCT."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import RLELossless, SecondaryCaptureImageStorage, generate_uid

from medvit.io.dicom.write.algorithm_info import AlgorithmInfo
from medvit.io.dicom.write.coded_items import SOURCE_IMAGE, coded_item
from medvit.io.dicom.write.patient_study import copy_patient_study, ensure_utf8
from medvit.io.dicom.write.source_images import SourceImages

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["sc_name", "write_sc"]

_LOSSY = ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod")


@dataclass(frozen=True)
class _Series:
    """Properties common to all pictures of the series."""

    uid: str
    author: AlgorithmInfo
    placed: bool
    now: datetime


def sc_name(k: int) -> str:
    """Return the file name of slice k (from 0): 0001.dcm and so on."""
    return f"{k + 1:04d}.dcm"


def write_sc(
    folder: Path,
    pictures: Iterable[NDArray[np.uint8]],
    spacing_mm: tuple[float, float],
    slices: SourceImages,
    author: AlgorithmInfo,
) -> list[str]:
    """Write one RGB picture for each slice, with outlines and the intended use burned in, RLE Lossless.

    The pictures keep patient and study; they get the position of their slice if all slices share one frame of
    reference.

    Args:
        folder: an existing folder; gets ``0001.dcm``, ``0002.dcm``, ... in the order of the slices.
        pictures: (row, column, 3) RGB, one for each slice in the order of the slices; consumed one by one.
        spacing_mm: (down, across) of the pictures' pixels; the pictures cover the slices.
        slices: the source's slices, with one StudyInstanceUID.
        author: the algorithm that made the outlines.

    Returns:
        sha256 of each picture's (row, column, 3) bytes, in the order of k, for ``check_sc``.
    """
    frames = {str(header.get("FrameOfReferenceUID") or "") for header in slices.headers}
    series = _Series(generate_uid(prefix=None), author, len(frames) == 1 and "" not in frames, datetime.now())
    digests = []
    for k, picture in zip(range(len(slices.planes)), pictures, strict=True):
        header = slices.header(k)
        digests.append(hashlib.sha256(picture.tobytes()).hexdigest())
        dataset = _frame(header, k, series)
        _place(dataset, header, slices.planes[k], spacing_mm, slices.pixel_mm, series.placed)
        _refer(dataset, slices, k)
        _fill(dataset, picture)
        slices.creation.restate(dataset, required=False)
        ensure_utf8(dataset)
        dataset.save_as(folder / sc_name(k), enforce_file_format=True)
    return digests


def _frame(header: Dataset, k: int, series: _Series) -> Dataset:
    """Create a data set with patient, study, series and equipment."""
    dataset, author = Dataset(), series.author
    copy_patient_study(dataset, header)
    dataset.SOPClassUID, dataset.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid(prefix=None)
    dataset.Modality = "OT"
    dataset.ConversionType = "WSD"
    dataset.SeriesInstanceUID = series.uid
    dataset.SeriesNumber = 9004
    dataset.Laterality = header.get("Laterality") or ""  # empty: unknown whether the part is paired
    dataset.SeriesDescription = f"Overlay; {author.intended_use}"[:64]
    dataset.Manufacturer = dataset.SecondaryCaptureDeviceManufacturer = "medvit"
    dataset.ManufacturerModelName = dataset.SecondaryCaptureDeviceManufacturerModelName = author.bundle
    dataset.SoftwareVersions = dataset.SecondaryCaptureDeviceSoftwareVersions = author.software
    dataset.InstanceNumber = k + 1
    dataset.ImageType = ["DERIVED", "SECONDARY"]
    dataset.DerivationDescription = f"Outlines by {author.bundle}, drawn into the image. {author.intended_use}."
    dataset.BurnedInAnnotation = "YES"
    dataset.ImageComments = author.intended_use
    day, time = series.now.strftime("%Y%m%d"), series.now.strftime("%H%M%S")
    dataset.InstanceCreationDate = dataset.ContentDate = dataset.SeriesDate = dataset.DateOfSecondaryCapture = day
    dataset.InstanceCreationTime = dataset.ContentTime = dataset.SeriesTime = dataset.TimeOfSecondaryCapture = time
    for keyword in _LOSSY:  # lossy pixels stay lossy, whatever the new encoding
        if header.get(keyword):
            setattr(dataset, keyword, header.get(keyword))
    dataset.file_meta = FileMetaDataset()
    return dataset


def _place(
    dataset: Dataset,
    header: Dataset,
    plane: np.ndarray,
    spacing_mm: tuple[float, float],
    slice_spacing_mm: tuple[float, float],
    placed: bool,
) -> None:
    """Set pixel size and orientation, and the slice's position in the patient (Image Plane, PS3.3 C.7.6.2)."""
    cosines = (plane[:3, :2] / np.linalg.norm(plane[:3, :2], axis=0)).T.ravel()
    dataset.PatientOrientation = [_letters(cosines[:3]), _letters(cosines[3:])]
    down, across = spacing_mm
    dataset.PixelSpacing = [_short(down), _short(across)]
    if not placed:
        return
    dataset.FrameOfReferenceUID = header.FrameOfReferenceUID
    dataset.PositionReferenceIndicator = header.get("PositionReferenceIndicator", "") or ""
    dataset.ImageOrientationPatient = [_short(v) for v in cosines]
    # ImagePositionPatient is the centre of the first pixel, which for smaller pixels is nearer to the corner
    shift = cosines[:3] * (across - slice_spacing_mm[1]) / 2 + cosines[3:] * (down - slice_spacing_mm[0]) / 2
    origin = plane[:3, 3] + shift
    dataset.ImagePositionPatient = [_short(v) for v in origin]
    dataset.SliceThickness = header.get("SliceThickness", None)


def _short(value: float) -> str:
    """Format a number with as many digits as fit the 16 characters of a decimal string."""
    return next(text for n in range(14, 0, -1) if len(text := f"{value:.{n}g}") <= 16)


def _letters(direction: np.ndarray) -> str:
    """Return the letters of a direction in LPS, the strongest axis first (PS3.3 C.7.6.1.1.1)."""
    order = np.argsort(-np.abs(direction))
    names = ("RL", "AP", "FH")
    return "".join(names[axis][int(direction[axis] > 0)] for axis in order if abs(direction[axis]) > 0.05)


def _refer(dataset: Dataset, slices: SourceImages, k: int) -> None:
    """Refer to the slice that the picture shows, where it has a SOPInstanceUID."""
    header = slices.header(k)
    if not (header.get("SOPInstanceUID") and header.get("SOPClassUID")):
        return
    source = slices.reference(k)
    source.PurposeOfReferenceCodeSequence = [coded_item(*SOURCE_IMAGE)]
    dataset.SourceImageSequence = [source]


def _fill(dataset: Dataset, picture: np.ndarray) -> None:
    dataset.Rows, dataset.Columns = picture.shape[:2]
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
    dataset.BitsAllocated = dataset.BitsStored = 8
    dataset.HighBit, dataset.PixelRepresentation = 7, 0
    dataset.file_meta.TransferSyntaxUID = RLELossless
    dataset.PixelData = encapsulate([_rle_frame(picture)])


def _rle_frame(picture: NDArray[np.uint8]) -> bytes:
    """Encode a (row, column, 3) RGB picture as an RLE Lossless frame, the compression that every DICOM viewer reads.

    The plugin is named, since pydicom would try GDCM first, whose encoder ends the process at some picture sizes.
    """
    from pydicom.pixels import get_encoder

    rows, columns, samples = picture.shape
    frame: bytes = get_encoder(RLELossless).encode(
        picture, rows=rows, columns=columns, samples_per_pixel=samples, number_of_frames=1, bits_allocated=8, bits_stored=8,
        pixel_representation=0, photometric_interpretation="RGB", planar_configuration=0, encoding_plugin="pylibjpeg",
    )  # fmt: skip
    return frame
