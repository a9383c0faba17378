"""Attributes that describe the derivation of a restored series, common to single-frame and multi-frame objects."""

from __future__ import annotations

from dataclasses import dataclass

from pydicom import Dataset
from pydicom.sequence import Sequence as Items

from medvit.io.dicom.write.algorithm_info import AlgorithmInfo
from medvit.io.dicom.write.coded_items import SOURCE_IMAGE, coded_item
from medvit.io.dicom.write.source_images import SourceImages
from medvit.labels import Code

__all__ = ["Derivation", "first_pixel_position", "upsampled_pixel_measures"]


@dataclass(frozen=True)
class Derivation:
    """The origin of restored values.

    Attributes:
        author: the bundle and its weights.
        title: the bundle's name for people.
        code: code of the operation, from DICOM's CID 7203; None omits the code.
        upsampled: True where the new pixels are finer, within the slices' plane, than those of the source.
    """

    author: AlgorithmInfo
    title: str
    code: Code | None = None
    upsampled: bool = False

    def words(self) -> str:
        """Return the sentence for DerivationDescription."""
        author = self.author
        finer = " Pixels are finer than acquired." if self.upsampled else ""
        return f"{self.title} by {author.bundle}, medvit {author.software}.{finer} {author.intended_use}."


def upsampled_pixel_measures(slices: SourceImages) -> list[str]:
    """Return PixelSpacing from the planes: down a column, across a row."""
    return [f"{side:.10g}" for side in slices.pixel_mm]


def first_pixel_position(slices: SourceImages, k: int) -> list[str]:
    """Return ImagePositionPatient from the planes: the centre of the first pixel of slice k."""
    return [f"{v:.10g}"[:16] for v in slices.planes[k, :3, 3]]


def derivation_items(slices: SourceImages, k: int, derivation: Derivation) -> tuple[Items, Items | None]:
    """Return the reference to slice k as a source image, and the code of the derivation."""
    source = slices.reference(k)
    source.SpatialLocationsPreserved = "NO" if derivation.upsampled else "YES"  # of pixels, by row and column
    source.PurposeOfReferenceCodeSequence = Items([coded_item(*SOURCE_IMAGE)])
    code = derivation.code
    return Items([source]), Items([coded_item(code.value, code.scheme, code.meaning)]) if code else None


def _refer(dataset: Dataset, slices: SourceImages, k: int, derivation: Derivation) -> None:
    """Refer to the slice from which this one was derived, by instance and by series."""
    dataset.SourceImageSequence, code = derivation_items(slices, k, derivation)
    dataset.pop("DerivationCodeSequence", None)
    if code is not None:
        dataset.DerivationCodeSequence = code
    dataset.ReferencedSeriesSequence = referenced_series(slices, k)


def referenced_series(slices: SourceImages, k: int) -> Items:
    """Return the Common Instance Reference module's item for the series of slice k (PS3.3 C.12.2)."""
    series, instance = Dataset(), Dataset()
    instance.ReferencedSOPClassUID = slices.header(k).SOPClassUID
    instance.ReferencedSOPInstanceUID = slices.header(k).SOPInstanceUID
    series.SeriesInstanceUID = slices.header(k).SeriesInstanceUID
    series.ReferencedInstanceSequence = Items([instance])
    return Items([series])
