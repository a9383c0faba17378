"""Writer of DICOM measurement reports (Comprehensive 3D SR, PS3.3 A.35.13; templates TID 1500 and 1411 of PS3.16)."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import highdicom as hd
import pydicom
from highdicom import sr
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import generate_uid

from medvit.io.dicom.header import functional_group, shared_groups
from medvit.io.dicom.write.algorithm_info import AlgorithmInfo, to_dicom_code
from medvit.io.dicom.write.patient_study import copy_patient_study, ensure_utf8, strip_for_highdicom
from medvit.io.dicom.write.source_images import SourceImages
from medvit.labels import Label

if TYPE_CHECKING:
    from medvit.labels import LabelMeasures

__all__ = ["MeasurementReport", "SegmentMeasurements", "write_sr"]

_VOLUME = Code("118565006", "SCT", "Volume")
_DIAMETER = Code("L0JK", "IBSI", "Maximum 3D Diameter of a Mesh")
_MEAN = Code("373098007", "SCT", "Mean")
_DEVIATION = Code("386136009", "SCT", "Standard Deviation")
_MILLILITRE = Code("ml", "UCUM", "milliliter")
_MILLIMETRE = Code("mm", "UCUM", "millimeter")
_NO_UNITS = Code("1", "UCUM", "no units")

_UNITS = {
    "HU": Code("[hnsf'U]", "UCUM", "Hounsfield unit"),
    "Bq/ml": Code("Bq/ml", "UCUM", "Becquerels/milliliter"),
    "counts": Code("{counts}", "UCUM", "Counts"),
    "counts/s": Code("{counts}/s", "UCUM", "Counts per second"),
    "proportional to counts": Code("{propcounts}", "UCUM", "Proportional to counts"),
    "proportional to counts/s": Code("{propcounts}/s", "UCUM", "Proportional to counts per second"),
    "%": Code("%", "UCUM", "Percent"),
    "g/ml": Code("g/ml", "UCUM", "Gram/milliliter"),
    "g/ml (SUVbw)": Code("g/ml{SUVbw}", "UCUM", "Standardized Uptake Value body weight"),
    "g/ml (SUVlbm)": Code("g/ml{SUVlbm}", "UCUM", "Standardized Uptake Value lean body mass (James)"),
    "g/ml (SUVibw)": Code("g/ml{SUVibw}", "UCUM", "Standardized Uptake Value ideal body weight"),
    "cm2/ml (SUVbsa)": Code("cm2/ml{SUVbsa}", "UCUM", "Standardized Uptake Value body surface area"),
    "cm2": Code("cm2", "UCUM", "Centimeter**2"),
    "cm2/ml": Code("cm2/ml", "UCUM", "Centimeter**2/milliliter"),
    "mg/min/ml": Code("mg/min/ml", "UCUM", "Milligrams/minute/milliliter"),
    "umol/min/ml": Code("umol/min/ml", "UCUM", "Micromole/minute/milliliter"),
    "umol/ml": Code("umol/ml", "UCUM", "Micromole/milliliter"),
    "ml/min/g": Code("ml/min/g", "UCUM", "Milliliter/minute/gram"),
    "ml/g": Code("ml/g", "UCUM", "Milliliter/gram"),
    "1/cm": Code("/cm", "UCUM", "/Centimeter"),
}
"""Codes of the units of image values (PS3.16 CID 84 and 85); other units have no code."""

_HOW = (
    "volume: sum of whole voxels; standard deviation: population; "
    "diameter: largest distance between centres of outer voxel faces"
)
"""Definitions of the measurements, stated as a parameter of the algorithm since dcmqi cannot read an item for the
method.
"""

_INTENSITY = {
    "CT": Code("112031", "DCM", "Attenuation Coefficient"),
    "MR": Code("110852", "DCM", "MR signal intensity"),
    "PT": Code("110821", "DCM", "Nuclear Medicine Tomographic Activity"),
}
"""Name of the image's values, by modality (PS3.16 CID 7469)."""

_ANY_INTENSITY = Code("intensity", "99MEDVIT", "Image intensity")

_PROCEDURE = {
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
    "NM": Code("49118-3", "LN", "NM unspecified body region"),
}
"""Code of the examination by modality, without a body region (PS3.16 CID 100)."""

_ANY_PROCEDURE = Code("363679005", "SCT", "Imaging procedure")


@dataclass(frozen=True)
class SegmentMeasurements:
    """A label with its segment and its measurements.

    Attributes:
        label: a label of the bundle.
        measures: measurements, as in statistics.json.
        segment: number of the segment in the SEG.
        tracking_uid: tracking UID of that segment.
    """

    label: Label
    measures: LabelMeasures
    segment: int
    tracking_uid: str


@dataclass(frozen=True)
class MeasurementReport:
    """Content of a measurement report.

    Attributes:
        findings: labels, with one measurement group for each.
        unit: unit of the image's values, as in statistics.json ("HU", "Bq/ml"), or "as stored".
        complete: True where every requested label was found.
    """

    findings: Sequence[SegmentMeasurements]
    unit: str
    complete: bool


def write_sr(path: Path, seg: Path, slices: SourceImages, report: MeasurementReport, author: AlgorithmInfo) -> None:
    """Write the measurements of each segment of a SEG: volume, mean and deviation of intensity, longest diameter.

    The numbers are those of statistics.json: millilitres by counting voxels, population standard deviation, and the
    maximum 3D diameter of the mesh in millimetres. The content is marked complete where all labels were found; the
    report is marked preliminary and unverified.

    Args:
        path: the file to write.
        seg: the SEG on the same slices, as written by ``write_seg``.
        slices: the source's slices, with all UIDs.
        report: the content.
        author: the algorithm that made the labels.
    """
    headers, segmentation = slices.normalised_headers(), pydicom.dcmread(seg)
    first = deepcopy(headers[0])
    strip_for_highdicom(headers)
    modality = str(headers[0].get("Modality") or "")
    context = sr.ObservationContext(observer_device_context=_observer(author))
    intensity = _Intensity.of(modality, report.unit)
    content = sr.MeasurementReport(
        observation_context=context,
        procedure_reported=_PROCEDURE.get(modality, _ANY_PROCEDURE),
        imaging_measurements=_groups(report.findings, segmentation, intensity, author),
    )
    root = content[0].ContentSequence
    root.insert(len(root) - 1, _library(slices))  # before the measurements, as TID 1500 orders them
    root.append(_statement(author))
    document = sr.Comprehensive3DSR(
        evidence=[*headers, segmentation],
        content=content[0],
        series_instance_uid=hd.UID(),
        series_number=9003,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        **author.equipment(),
        series_description=f"Measurements; {author.intended_use}"[:64],
        is_complete=report.complete,
        specific_character_set=None,
    )
    copy_patient_study(document, first)
    slices.creation.restate(document, required=True)
    ensure_utf8(document)
    pydicom.dcmwrite(path, document, enforce_file_format=True)


@dataclass(frozen=True)
class _Intensity:
    """Name and unit of the image's values."""

    name: Code
    unit: Code

    @classmethod
    def of(cls, modality: str, unit: str) -> _Intensity:
        """Choose name and unit by the image's modality and the unit in statistics.json."""
        known = _ANY_INTENSITY if modality == "CT" and unit != "HU" else _INTENSITY.get(modality, _ANY_INTENSITY)
        return cls(known, _UNITS.get(unit, _NO_UNITS))


def _observer(author: AlgorithmInfo) -> sr.ObserverContext:
    """Return the observing device: medvit with this bundle and these weights, always with the same UID."""
    attributes = sr.DeviceObserverIdentifyingAttributes(
        uid=generate_uid(entropy_srcs=["medvit", author.software, author.bundle, author.weights]),
        name="medvit",
        manufacturer_name="medvit",
        model_name=author.bundle,
        serial_number=author.weights[:16],
    )
    return sr.ObserverContext(codes.DCM.Device, attributes)


def _library(slices: SourceImages) -> sr.ContainerContentItem:
    """Return the list of measured images (TID 1600): one group with their common attributes."""
    first, (down, across) = slices.first, slices.pixel_mm
    context, pixels = "HAS ACQ CONTEXT", Code("{pixels}", "UCUM", "Pixels")
    shared = [
        sr.UIDRefContentItem(codes.DCM.FrameOfReferenceUID, first.FrameOfReferenceUID, context),
        sr.NumContentItem(codes.DCM.PixelDataRows, int(first.Rows), pixels, relationship_type=context),
        sr.NumContentItem(codes.DCM.PixelDataColumns, int(first.Columns), pixels, relationship_type=context),
        sr.NumContentItem(codes.DCM.HorizontalPixelSpacing, across, _MILLIMETRE, relationship_type=context),
        sr.NumContentItem(codes.DCM.VerticalPixelSpacing, down, _MILLIMETRE, relationship_type=context),
    ]
    source = Code("260753009", "SCT", "Source")
    images = [
        sr.ImageContentItem(source, h.SOPClassUID, h.SOPInstanceUID, None, None, "CONTAINS") for h in slices.headers
    ]
    group = sr.ContainerContentItem(codes.DCM.ImageLibraryGroup, relationship_type="CONTAINS")
    group.ContentSequence = sr.ContentSequence([*shared, *images])
    library = sr.ContainerContentItem(codes.DCM.ImageLibrary, relationship_type="CONTAINS")
    library.ContentSequence = sr.ContentSequence([group])
    return library


def _groups(
    findings: Sequence[SegmentMeasurements], segmentation: Dataset, intensity: _Intensity, author: AlgorithmInfo
) -> list[sr.VolumetricROIMeasurementsAndQualitativeEvaluations]:
    drawn_on = _sources(segmentation)
    kind, uid = segmentation.SOPClassUID, segmentation.SOPInstanceUID
    return [
        _group(f, sr.ReferencedSegment(kind, uid, f.segment, None, drawn_on[f.segment]), intensity, author)
        for f in findings
    ]


def _group(
    finding: SegmentMeasurements, segment: sr.ReferencedSegment, intensity: _Intensity, author: AlgorithmInfo
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    """Create one label's measurement group (TID 1411)."""
    label, numbers = finding.label, finding.measures
    sites = None
    if label.laterality is not None:
        sites = [sr.FindingSite(to_dicom_code(label.type), laterality=to_dicom_code(label.laterality))]
    measured = (
        (_VOLUME, numbers.volume_ml, _MILLILITRE, None),
        (intensity.name, numbers.mean, intensity.unit, _MEAN),
        (intensity.name, numbers.std, intensity.unit, _DEVIATION),
        (_DIAMETER, numbers.longest_diameter_mm, _MILLIMETRE, None),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=finding.tracking_uid, identifier=label.name),
        referenced_segment=segment,
        finding_category=to_dicom_code(label.category),
        finding_type=to_dicom_code(label.type),
        finding_sites=sites,
        algorithm_id=sr.AlgorithmIdentification(
            name=author.bundle,
            version=author.bundle.rpartition(" ")[2],
            parameters=[f"weights_sha256={author.weights}", _HOW],
        ),
        measurements=[
            sr.Measurement(name=name, value=value, unit=unit, derivation=derivation)
            for name, value, unit, derivation in measured
        ],
    )


def _sources(segmentation: Dataset) -> dict[int, list[sr.SourceImageForSegmentation]]:
    """Return the slices on which each segment was drawn, by its number.

    ``ReferencedSegment.from_segmentation`` fails on a SEG with a single segment, whose number is in the shared groups.
    """
    shared = shared_groups(segmentation)
    found: dict[int, dict[str, str]] = {}
    for frame in segmentation.PerFrameFunctionalGroupsSequence:
        named, derived = (
            functional_group(shared, frame, name) or Dataset()
            for name in ("SegmentIdentificationSequence", "DerivationImageSequence")
        )
        drawn_on = found.setdefault(int(named.ReferencedSegmentNumber), {})
        for source in derived.SourceImageSequence:
            drawn_on[str(source.ReferencedSOPInstanceUID)] = str(source.ReferencedSOPClassUID)
    return {
        number: [sr.SourceImageForSegmentation(kind, uid) for uid, kind in images.items()]
        for number, images in found.items()
    }


def _statement(author: AlgorithmInfo) -> Dataset:
    """Return the intended use as text within the qualitative evaluations, the part of TID 1500 that allows text."""
    container = sr.ContainerContentItem(
        name=Code("C0034375", "UMLS", "Qualitative Evaluations"), relationship_type="CONTAINS"
    )
    comment = sr.TextContentItem(name=codes.DCM.Comment, value=author.intended_use, relationship_type="CONTAINS")
    container.ContentSequence = sr.ContentSequence([comment])
    return container
