"""Checks of a volume's headers for missing or contradictory tags, apart from geometry."""

from __future__ import annotations

from collections.abc import Sequence

from medvit.io.dicom.header import TYPE_2, PlaneHeader, is_uid
from medvit.io.dicom.pixels import missing_decoder
from medvit.io.dicom.preflight.contradictions import patient_finding
from medvit.io.dicom.preflight.findings import Finding
from medvit.io.dicom.preflight.series_volumes import SeriesVolume

__all__ = ["SEVERAL_FILES", "tag_findings"]

_UIDS = {
    "StudyInstanceUID": "study",
    "SeriesInstanceUID": "series",
    "SOPClassUID": "sop_class",
    "SOPInstanceUID": "sop_instance",
    "FrameOfReferenceUID": "frame_of_reference",
}

SEVERAL_FILES = "multi-frame files, to which no object here can refer"
"""Ending of the finding about several multi-frame files. A UID repair cannot fix this fault, so code looks for the
ending.
"""

_LARGEST_PLANE = 2**28
"""Largest number of pixels of a plane, 16384 x 16384; a header that states more is damaged or hostile."""

_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
"""Transfer syntaxes of uncompressed pixels, whose length in the file is known."""


def tag_findings(volume: SeriesVolume) -> list[Finding]:
    """Report all faults of tags and pixels that can be detected without decoding."""
    planes = volume.planes
    found = [*_pixels(planes), *_together(planes)]
    if volume.kind == "volume":
        found += [*_uids(planes), *_files(planes), *_values(volume), *_empty(planes), *_spacing(volume)]
    elif volume.kind == "clip" and planes[0].modality == "NM":
        step = "Convert it to NIfTI, for example with dcm2niix, and give that."
        text = f"a nuclear medicine image of {volume.count} frames, which is not read"
        needed = "CT, MR, PET or another series of slices with their places is needed"
        found.append(Finding(code="nuclear_medicine", severity="refused", found=text, needed=needed, step=step))
    elif volume.kind == "clip":
        needed = "one volume or one picture is needed"
        step = "Export a single frame, or a cross-sectional series, and run again."
        found.append(
            Finding(
                code="time_frames",
                severity="refused",
                found=f"a clip of {volume.count} frames without a place",
                needed=needed,
                step=step,
            )
        )
    return found


def _pixels(planes: Sequence[PlaneHeader]) -> list[Finding]:
    found = []
    largest = max(p.rows * p.columns for p in planes)
    if largest > _LARGEST_PLANE:
        first = next(p for p in planes if p.rows * p.columns == largest)
        size = f"{first.file.name} with {first.rows} rows and {first.columns} columns"
        step = "Its header is damaged: export the series again."
        found.append(
            Finding(
                code="too_large",
                severity="refused",
                found=size,
                needed="at most 16384 x 16384 pixels are taken",
                step=step,
            )
        )
    short = [p for p in planes if p.syntax in _NATIVE and p.space < _least_bytes(p)]
    if short:
        files = len({p.file.name for p in short})
        more = f" (and {files - 1} more)" if files > 1 else ""
        least = min(p.space for p in short)
        what = "it holds no pixel data" if least < 64 else "the file is cut off"
        text = f"{short[0].file.name}{more}, whose pixels cannot be read: {what}"
        step = "Export or copy the series again."
        found.append(
            Finding(code="cut_off", severity="refused", found=text, needed="every slice must be complete", step=step)
        )
    for syntax in sorted({p.syntax for p in planes}):
        lacking = missing_decoder(syntax)
        if lacking:
            text, needed, step = lacking
            found.append(Finding(code="undecodable", severity="refused", found=text, needed=needed, step=step))
    if any(
        "MOSAIC" in p.image_type and p.frames == 1 for p in planes
    ):  # functional groups tell the slices of others apart
        text = "a Siemens mosaic, a picture with all slices of a time point side by side"
        step = "Convert it with dcm2niix and give one volume of the NIfTI."
        found.append(
            Finding(code="mosaic", severity="refused", found=text, needed="one slice an image is needed", step=step)
        )
    if planes[0].samples > 1 and planes[0].placed and planes[0].modality in ("CT", "MR", "PT"):
        step = "Choose another series."
        text = "colour pixels (a photograph or screen capture)"
        found.append(Finding(code="colour", severity="refused", found=text, needed="grey values are needed", step=step))
    return found


def _least_bytes(plane: PlaneHeader) -> int:
    """Return the smallest possible size of the pixels of a plane's file; subsampled colours (YBR 4:2:2, 4:2:0) need
    fewer bytes.
    """
    samples = 1 if plane.photometric.endswith(("_422", "_420")) else plane.samples
    return plane.frames * plane.rows * plane.columns * samples * plane.bits // 8


def _together(planes: Sequence[PlaneHeader]) -> list[Finding]:
    """Report several patients or modalities in a volume, which must have one of each."""
    found: list[Finding] = []
    patient = patient_finding(planes)
    found += [] if patient is None else [patient]
    modalities = sorted({p.modality for p in planes} - {""})
    if len(modalities) > 1:
        text = f"images of {' and '.join(modalities)} under one SeriesInstanceUID"
        found.append(
            Finding(
                code="several_modalities",
                severity="refused",
                found=text,
                needed="a series is of one modality",
                step="Separate the files first.",
            )
        )
    return found


def _files(planes: Sequence[PlaneHeader]) -> list[Finding]:
    """Report volumes whose frames lie in several multi-frame files, to which DICOM objects cannot refer.

    Such files are a concatenation (PS3.3 C.7.6.16.2.2.4), or files with one frame each.
    """
    files = {p.file.name for p in planes if p.frame is not None}
    if len(files) < 2:
        return []
    text = f"the slices are frames of {len(files)} {SEVERAL_FILES}"
    step = "To have DICOM objects, join them into one file first."
    return [Finding(code="several_multiframe_files", severity="tags", found=text, step=step)]


def _uids(planes: Sequence[PlaneHeader]) -> list[Finding]:
    """Report missing, invalid or contradictory UIDs, which a SEG or RTSTRUCT needs to refer to these images."""
    step = "To have DICOM objects, add {repair_tags=True}."
    found = []
    for tag, field in _UIDS.items():
        lacking = sum(1 for p in planes if not getattr(p, field))
        if lacking:
            found.append(
                Finding(
                    code="missing_uid",
                    severity="tags",
                    found=f"{lacking} of {len(planes)} slices have no {tag}",
                    step=step,
                )
            )
        wrong = sum(1 for p in planes if getattr(p, field) and not is_uid(getattr(p, field)))
        if wrong:
            text = f"{wrong} of {len(planes)} slices have a {tag} that is no UID (digits and dots, at most 64)"
            found.append(Finding(code="invalid_uid", severity="tags", found=text, step=step))
    studies = {p.study for p in planes}
    if len(studies) > 1:
        text = f"the slices state {len(studies)} different StudyInstanceUIDs"
        found.append(Finding(code="several_studies", severity="tags", found=text, step=step))
    frames = {p.frame_of_reference for p in planes}
    if len(frames) > 1:
        text = f"the slices state {len(frames)} different FrameOfReferenceUIDs"
        found.append(Finding(code="several_frames_of_reference", severity="tags", found=text, step=step))
    instances = [(p.sop_instance, p.frame) for p in planes if p.sop_instance]
    if len(set(instances)) < len(instances):
        text = "several slices share one SOPInstanceUID"
        found.append(Finding(code="shared_instance_uid", severity="tags", found=text, step=step))
    return found


def _values(volume: SeriesVolume) -> list[Finding]:
    planes, found = volume.planes, []
    if volume.unit is not None:
        found.append(
            Finding(
                code="other_unit",
                severity="note",
                found=f"CT values in {volume.unit!r} (RescaleType), not Hounsfield units",
            )
        )
    if volume.unscaled:
        lacking = sum(1 for p in planes if p.unscaled)
        zero = any(p.rescale[0] == 0 for p in planes)
        words = (f"a {tag} of 0" if zero and tag == "RescaleSlope" else f"no {tag}" for tag in volume.unscaled)
        text = (
            f"{lacking} of {len(planes)} CT slices have {' and '.join(words)}, so that the values may not be in "
            "Hounsfield units; they are read as stored"
        )
        step = "Add the tags, or export the series again with them."
        found.append(Finding(code="no_rescale", severity="flag", found=text, step=step))
    found += _packing(planes)
    if any(p.rescale[0] == 0 for p in planes):
        text = "a RescaleSlope of 0, which would leave nothing of the image; 1 is applied"
        found.append(Finding(code="zero_slope", severity="note", found=text))
    scales = {p.rescale for p in planes}
    if len(scales) > 1:
        text = f"{len(scales)} different pairs of RescaleSlope and RescaleIntercept; each slice's own is applied"
        found.append(Finding(code="mixed_rescale", severity="note", found=text))
    if any(p.lossy for p in planes):
        text = "pixels that were compressed with loss (LossyImageCompression 01)"
        found.append(Finding(code="lossy", severity="note", found=text))
    return found


def _packing(planes: Sequence[PlaneHeader]) -> list[Finding]:
    """Report pixels outside of the lowest bits of their cells, and impossible values of HighBit."""
    odd = sorted({(p.bits, *p.packing) for p in planes if p.packing[1] != p.packing[0] - 1})
    found = []
    for allocated, bits, high in odd:
        if bits <= high < allocated:
            text = (
                f"pixels of {bits} bits in the bits {high + 1 - bits} to {high} of their cells (BitsStored {bits}, HighBit "
                f"{high}); those are read"
            )
        else:
            text = f"a HighBit of {high} that pixels of {bits} bits cannot have; the lowest {bits} bits are read"
        found.append(Finding(code="high_bit", severity="note", found=text))
    return found


def _empty(planes: Sequence[PlaneHeader]) -> list[Finding]:
    absent = [tag for tag in TYPE_2 if any(tag in p.absent for p in planes)]
    if not absent:
        return []
    text = f"no {', '.join(absent)} in the headers; DICOM objects carry them empty"
    return [Finding(code="missing_tags", severity="note", found=text)]


def _spacing(volume: SeriesVolume) -> list[Finding]:
    """Report a SpacingBetweenSlices that differs from the positions. Positions are used, but other tools read the
    attribute.
    """
    stated, stack = volume.first.between, volume.stack
    if not stated or stack is None or len(volume.planes) < 2:
        return []
    actual = stack.spacing_mm[2]
    if abs(abs(stated) - actual) <= 0.05 * actual:
        return []
    text = (
        f"SpacingBetweenSlices of {stated:g} mm, where the positions are {actual:.3g} mm apart; positions are believed"
    )
    return [Finding(code="spacing_disagrees", severity="note", found=text)]
