"""Opening of radiographs as views of a patient: pixels with bright bone, pixel size in the patient, direction.

A view's geometry comes from flags, its DICOM header, or the ``run.json`` that ``medvit drr`` writes beside its
pictures, in this order. It is never guessed: a view without pixel size or magnification is refused, since sizes would
be unknown.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit.errors import GeometryError, ImageError, MedvitError, ModalityError, SourceError
from medvit.io import Scan, is_image_name, open_source
from medvit.io.dicom.header import examined_regions, read_dataset
from medvit.progress import Progress
from medvit.reconstruction.views.dicom_geometry import ViewHeader, ViewPosition, header_facts, to_standard_orientation
from medvit.reconstruction.views.drr_record import facts_from_drr

__all__ = ["View", "ViewGeometry", "ViewPosition", "open_view", "require_one_patient"]

_CUT_OFF = 0.2
"""Share of an 8-bit picture's pixels at its largest value above which the bright part, bone, counts as clipped."""

_WRAPPED = 0.005
"""Share of neighbouring pixels of an 8-bit picture that differ by most of its range, above which values count as
wrapped around."""


@dataclass(frozen=True, kw_only=True)
class ViewGeometry:
    """Geometry of a view as stated by a user; None takes the value from the file.

    Attributes:
        pixel_spacing_mm: side of a pixel on the detector.
        magnification: magnification of the patient's middle on the detector.
        source_to_detector_mm, source_to_patient_mm: distances from the focal spot; together they give the
            magnification.
        invert: True if bone is dark in the picture.

    Raises:
        GeometryError: a number is not positive, or the magnification is below 1.

    Examples:
        >>> from medvit import ViewGeometry
        >>> ViewGeometry(pixel_spacing_mm=0.15, magnification=1.1).invert
        False
    """

    pixel_spacing_mm: float | None = None
    magnification: float | None = None
    source_to_detector_mm: float | None = None
    source_to_patient_mm: float | None = None
    invert: bool = False

    def __post_init__(self) -> None:
        for name in ("pixel_spacing_mm", "magnification", "source_to_detector_mm", "source_to_patient_mm"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise GeometryError(f"{name} = {value:g}", "it must be positive", "Correct it.")
        if self.magnification is not None and self.magnification < 1:
            raise GeometryError(
                f"a magnification of {self.magnification:g}",
                "on a detector behind the patient it is 1 or more",
                "Give source-to-detector divided by source-to-patient distance.",
            )


@dataclass(frozen=True, kw_only=True, eq=False)
class View:
    """One radiograph in the orientation of the network's training: head up, columns from the patient's right to left,
    or front to back.

    Attributes:
        slot: "AP" or "lateral".
        values: (row, column) float32, bone bright.
        pixel_mm: height and width of a pixel at the patient's middle, not on the detector.
        magnification: magnification at the patient's middle.
        source_to_patient_mm: distance from the focal spot; None if only the magnification is known.
        geometry_from: "flags", "header" or "drr record".
        patient: fingerprint that is equal for views of one patient, or None if the file names no patient.
        study: the same for the study.
        modality: DICOM's Modality, or None.
        fingerprint: sha256 of pixels and size; it identifies no patient.
        notes: assumptions and changes, in plain words.
        regions: body regions named in the header, see ``medvit.io.dicom.header.body_part.examined_regions``.
    """

    slot: ViewPosition
    values: NDArray[np.float32]
    pixel_mm: tuple[float, float]
    magnification: float
    source_to_patient_mm: float | None
    geometry_from: str
    patient: str | None
    study: str | None
    modality: str | None
    fingerprint: str
    notes: tuple[str, ...] = ()
    regions: frozenset[str] | None = None

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the picture at the patient's middle."""
        rows, columns = self.values.shape
        return rows * self.pixel_mm[0], columns * self.pixel_mm[1]


def open_view(
    path: str | os.PathLike[str],
    slot: ViewPosition,
    bundle: Bundle,
    flags: ViewGeometry | None = None,
    force: bool = False,
    progress: Progress | None = None,
    series: str | None = None,
) -> View:
    """Open a radiograph as one of a patient's two views.

    Args:
        path: a DICOM image (CR, DX), PNG or JPEG.
        slot: "AP" (or PA) or "lateral".
        bundle: bundle that states the accepted modalities.
        flags: geometry as stated by the user.
        force: accept another modality, or a picture that looks damaged or inverted; the notes mention it.
        progress: receives the progress of reading.
        series: as for ``open_source``, if a folder has several.

    Raises:
        SourceError: the file cannot be read.
        ModalityError: it is not a radiograph.
        GeometryError: it is another view than the slot's, or has no pixel size or magnification.
        ImageError: it has colours, no contrast, or damaged pixels.
    """
    flags, where = flags or ViewGeometry(), Path(path)
    scan = open_source(where, series, progress or Progress())
    facts = _facts(where, slot, series)
    reasons = _objections(scan, slot, bundle)
    notes = [f"The {slot} view: {note}" for note in (*scan.notes, *facts.notes)]
    values = _grey(scan, slot)
    if facts.linear:
        values = -np.log(np.maximum(values, 1.0))
        notes.append(f"The {slot} view states pixels proportional to the X-ray intensity; their logarithm was taken.")
    if flags.invert:
        values = values.max() + values.min() - values
        notes.append(f"The {slot} view was inverted, as asked for.")
    reasons += _spoilt(values, slot, stated=facts.is_dicom)
    if reasons and not force:
        first = reasons[0]
        remedy = f"{first.remedy} Use it all the same with {{force=True}}.".lstrip()
        raise type(first)(first.found, first.needed, remedy, option=(*first.option, "force"))
    notes += [f"Forced: {reason.found}{'; ' if reason.needed else ''}{reason.needed}." for reason in reasons]
    turn, down, across = to_standard_orientation(values, facts, slot)
    pixel, magnification, distance, source = _geometry(flags, facts, slot)
    pixel = (pixel[1], pixel[0]) if facts.lies_on_its_side else pixel
    notes += [] if facts.orientation or facts.record else [_assumed(slot)]
    return View(
        slot=slot,
        values=np.ascontiguousarray(turn, dtype=np.float32),
        pixel_mm=pixel,
        magnification=magnification,
        source_to_patient_mm=distance,
        geometry_from=source,
        patient=facts.patient,
        study=facts.study,
        modality=scan.modality,
        fingerprint=scan.fingerprint(),
        notes=(*notes, *((f"The {slot} view was {_listed(down, across)}.",) if down or across else ())),
        regions=examined_regions(scan.slices),
    )


def _listed(down: bool, across: bool) -> str:
    words = [w for w, said in (("turned upside down", down), ("mirrored", across)) if said]
    return f"{' and '.join(words)} to lie as the network's views do"


def _assumed(slot: ViewPosition) -> str:
    way = "the patient's right to the left" if slot == "AP" else "front to back"
    return f"The {slot} view states no orientation; its rows are taken to run from head to feet and its columns from {way}."


def _facts(path: Path, slot: ViewPosition, series: str | None) -> ViewHeader:
    """Read the facts about the view from the file, or from the record beside it."""
    if path.is_file() and is_image_name(path):
        return facts_from_drr(path, slot)

    from medvit.io.dicom import run_preflight
    from medvit.io.dicom.preflight import choose_volume

    first = choose_volume(run_preflight(path), series, path.name).volume.first
    header = read_dataset(BytesIO(first.file.read()), stop_before_pixels=True, force=True)
    return header_facts(header, slot)


def _objections(scan: Scan, slot: ViewPosition, bundle: Bundle) -> list[MedvitError]:
    if not scan.is_picture:
        raise ModalityError(
            f"a volume as {slot} view",
            "a radiograph is needed",
            "Give one picture, or make them of a CT: {medvit.reconstruction.radiographs()}.",
            option="medvit.reconstruction.radiographs()",
        )
    facts = bundle.facts
    if scan.modality is not None and scan.modality not in facts.modalities:
        wanted = " or ".join(facts.modalities)
        return [
            ModalityError(
                f"modality {scan.modality} as {slot} view, where {bundle.name} is made for {wanted}", remedy=""
            )
        ]
    return []


def _grey(scan: Scan, slot: ViewPosition) -> NDArray[np.float32]:
    array = scan.array
    if len(array) > 1 and not (array == array[:1]).all():
        raise ImageError(
            f"colours in the {slot} view (a photograph?)",
            "one grey value per pixel is needed",
            "Give the radiograph itself.",
        )
    plane: NDArray[np.float32] = array[0]
    return plane


def _spoilt(values: NDArray[np.float32], slot: ViewPosition, stated: bool) -> list[ImageError]:
    """List signs that a picture is damaged or inverted; DICOM states the display, so its inversion is not checked."""
    found: list[ImageError] = []
    narrow = values.max() <= 255 and values.min() >= 0 and bool((values == np.rint(values)).all())
    jumps = max(float((np.abs(np.diff(values, axis=axis)) >= 192).mean()) for axis in (0, 1))
    if narrow and values.max() > 192 and jumps > _WRAPPED:
        found.append(
            ImageError(
                f"an 8-bit {slot} view in which {100 * jumps:.1f} % of neighbouring pixels jump from black to white: data "
                "of more bits that wrapped around",
                remedy="Export it with 16 bits.",
            )
        )
    corner = max(2, values.shape[0] // 12), max(2, values.shape[1] // 12)
    corners = [float(np.median(part)) for part in (values[: corner[0], : corner[1]], values[: corner[0], -corner[1] :])]
    dark, bright = (float(v) for v in np.percentile(values, (0.5, 99.5)))
    if not stated and min(corners) > (dark + bright) / 2:
        found.append(
            ImageError(
                f"a {slot} view whose upper corners are bright, as where bone is dark",
                "bone must be bright",
                "Add {invert=True}.",
                option="invert",
            )
        )
    elif narrow and values.max() == 255 and float((values == 255).mean()) > _CUT_OFF:
        found.append(
            ImageError(
                f"an 8-bit {slot} view with {100 * float((values == 255).mean()):.0f} % of its pixels at 255: data of more "
                "bits that was cut off where it is brightest",
                remedy="Export it with 16 bits.",
            )
        )
    return found


def _geometry(
    flags: ViewGeometry, facts: ViewHeader, slot: ViewPosition
) -> tuple[tuple[float, float], float, float | None, str]:
    """Return pixel size in the patient, magnification, distance of the source, and the origin of these values."""
    source = "drr record" if facts.record else "header"
    near = flags.source_to_patient_mm or facts.source_to_patient_mm
    far = flags.source_to_detector_mm or facts.source_to_detector_mm
    larger = flags.magnification
    if larger is None and (flags.source_to_patient_mm or flags.source_to_detector_mm) and near and far:
        larger = far / near
    by_flag = flags.pixel_spacing_mm is not None or larger is not None
    larger = larger or facts.magnification or (far / near if near and far else None)
    at_patient = facts.pixel_in_patient and flags.pixel_spacing_mm is None
    pitch = (flags.pixel_spacing_mm,) * 2 if flags.pixel_spacing_mm is not None else facts.pixel_mm
    if pitch is None:
        raise GeometryError(
            f"no pixel spacing of the {slot} view",
            "sizes in mm cannot be computed without it",
            "Give the side of a detector pixel: {pixel_spacing_mm}.",
            option="pixel_spacing_mm",
        )
    if larger is None and at_patient:
        larger = 1.0
    if larger is None:
        raise GeometryError(
            f"no magnification of the {slot} view",
            "a body in front of the detector appears larger than it is",
            "Give {magnification}, or both {source_to_detector_mm} and {source_to_patient_mm}.",
            option=("magnification", "source_to_detector_mm", "source_to_patient_mm"),
        )
    if larger < 1:
        raise GeometryError(
            f"a magnification of {larger:.3g} of the {slot} view",
            "on a detector behind the patient it is 1 or more",
            "Correct {source_to_detector_mm} and {source_to_patient_mm}.",
            option=("source_to_detector_mm", "source_to_patient_mm"),
        )
    down, across = pitch
    if not at_patient:
        down, across = down / larger, across / larger
    return (float(down), float(across)), float(larger), near, "flags" if by_flag else source


def require_one_patient(views: Sequence[View], force: bool) -> tuple[str, ...]:
    """Refuse views of different patients; messages never contain an identifier.

    Returns:
        Notes for readers: that the check was impossible, that studies differ, or that it was forced.

    Raises:
        SourceError: both views name a patient, and the names differ.
    """
    first, second = views
    if first.patient is None or second.patient is None:
        return ("Whether both views are of one patient cannot be checked: not both name one.",)
    if first.patient != second.patient:
        if not force:
            raise SourceError(
                "views of two different patients (their identifiers differ)",
                "both must be of one",
                "Check which files belong together, or go on with {force=True}.",
                option="force",
            )
        return ("Forced: the views name two different patients.",)
    if first.study != second.study:
        return ("The two views are of different studies: the patient may have moved or changed in between.",)
    return ()
