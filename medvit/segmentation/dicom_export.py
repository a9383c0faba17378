"""DICOM objects of a result: each is written to a staging folder, read back and compared with its input."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvit._version import __version__
from medvit.segmentation.result_protocol import SegmentationResult

if TYPE_CHECKING:
    from pydicom import Dataset

    from medvit.io.dicom.write import AlgorithmInfo, SourceImages
    from medvit.labels import Label
    from medvit.reports import Overlay

__all__ = ["DICOM_WRITERS", "DicomExport", "study_blockers"]


@dataclass(frozen=True)
class DicomExport:
    """Data shared by the DICOM objects of one save.

    Attributes:
        result: the result to write.

    Examples:
        >>> import medvit
        >>> from medvit.segmentation import DicomExport
        >>> export = DicomExport(medvit.segment("series"))  # doctest: +SKIP
        >>> [label.name for label in export.labels]  # doctest: +SKIP
    """

    result: SegmentationResult

    @cached_property
    def labels(self) -> list[Label]:
        """Labels present on the slices."""
        found = set(np.unique(self.array).tolist())
        return [label for label in self.result.requested_labels if label.id in found]

    @cached_property
    def tracking(self) -> Mapping[str, str]:
        """Tracking UID of each label, the same in SEG and SR."""
        from medvit.io.dicom.write import tracking_uids

        return tracking_uids(self.labels)

    @property
    def author(self) -> AlgorithmInfo:
        """Algorithm information: the bundle and its weights."""
        from medvit.io.dicom.write import AlgorithmInfo

        bundle = self.result.bundle
        name = f"{bundle.name} {bundle.version}"
        return AlgorithmInfo(
            bundle=name, weights=bundle.weights_sha256, software=__version__, intended_use=bundle.intended_use
        )

    @property
    def array(self) -> np.ndarray:
        """Labels on the original slices, (column, row, slice)."""
        return self.result.on_source_slices()

    @property
    def image(self) -> np.ndarray:
        """Original slices in their own unit, (column, row, slice) float32."""
        original = self.result.scan.original
        grey: np.ndarray = self.result.scan.array[0] if original is None else original.values
        return grey

    @cached_property
    def slices(self) -> SourceImages:
        """Source images that the objects refer to."""
        from medvit.io.dicom.write import source_of

        return source_of(self.result.scan)


def _write_seg(export: DicomExport, folder: Path) -> None:
    from medvit.io.dicom.write import check_seg, write_seg

    path = folder / "seg.dcm"
    write_seg(path, export.array, export.slices, export.labels, export.author, export.tracking)
    check_seg(path, export.array, export.slices.planes, export.labels)


def _write_rtstruct(export: DicomExport, folder: Path) -> None:
    from medvit.io.dicom.write import check_rtstruct, write_rtstruct

    path = folder / "rtstruct.dcm"
    write_rtstruct(path, export.array, export.slices, export.labels, export.author)
    check_rtstruct(path, export.array, export.slices.planes, export.labels)


def _write_sr(export: DicomExport, folder: Path) -> None:
    """Write and check the measurement report; ``seg.dcm`` must be in the same folder."""
    from medvit.io.dicom.write import MeasurementReport, SegmentMeasurements, check_sr, write_sr

    path, seg = folder / "sr.dcm", folder / "seg.dcm"
    rows = {row.name: row for row in export.result.statistics()}
    findings = [
        SegmentMeasurements(label, rows[label.name], number, export.tracking[label.name])
        for number, label in enumerate(export.labels, 1)
    ]
    report = MeasurementReport(
        findings, export.result.intensity_unit, len(findings) == len(export.result.requested_labels)
    )
    write_sr(path, seg, export.slices, report, export.author)
    check_sr(path, seg, findings)


def _write_sc(export: DicomExport, folder: Path) -> None:
    from medvit.io.dicom.write import check_sc, write_sc

    within, slices = folder / "sc", export.slices
    within.mkdir()
    overlay = _overlay(export)
    pictures = (overlay.draw(k) for k in range(len(slices.planes)))
    check_sc(within, write_sc(within, pictures, overlay.spacing_mm, slices, export.author), slices)


def _overlay(export: DicomExport) -> Overlay:
    from medvit.reports import Overlay

    bundle, scan = export.result.bundle, export.result.scan
    window = bundle.config.get("intensity_range") if scan.modality in bundle.facts.modalities else None
    low, high = window or np.percentile(export.image, (1, 99)).tolist()
    nothing = () if export.labels else ("No label was found",)
    lines = (*nothing, bundle.intended_use, f"{bundle.name} {bundle.version}")
    return Overlay(
        image=export.image,
        array=export.array,
        labels=export.labels,
        window=(float(low), float(high)),
        pixel_mm=export.slices.pixel_mm,
        lines=lines,
    )


def study_blockers(slices: Sequence[Dataset]) -> list[str]:
    """List the reasons why not even a secondary capture can be written for these slices.

    A secondary capture belongs to a patient, who may be unnamed, and to one study; it needs no position in the patient
    (PS3.3 A.8.1).

    Args:
        slices: headers of the slices.

    Returns:
        Reasons in plain words; empty if a secondary capture can be written.

    Examples:
        >>> from pydicom import Dataset
        >>> from medvit.segmentation import study_blockers
        >>> study_blockers([Dataset()])
        ['slices have no StudyInstanceUID']
    """
    studies = {str(header.get("StudyInstanceUID") or "") for header in slices}
    lacking = ["slices have no StudyInstanceUID"] if "" in studies else []
    return lacking + ([f"the slices state {len(studies)} different StudyInstanceUIDs"] if len(studies) > 1 else [])


DICOM_WRITERS: Mapping[str, Callable[[DicomExport, Path], None]] = {
    "dicom-seg": _write_seg,
    "rtstruct": _write_rtstruct,
    "sr": _write_sr,
    "sc": _write_sc,
}
"""Writer of each output type, ordered so that an object comes after those it refers to."""
