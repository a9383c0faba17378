"""Reader of label maps: NIfTI, NRRD (3D Slicer's included) and MetaImage, with one whole number in each voxel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ImageError, SourceError
from medvit.io.dicom.write import SegmentOrigin
from medvit.io.geometry import check_affine
from medvit.io.images import read_image, read_layers
from medvit.io.label_ids import TOLERANCE, storage_step, whole_numbers
from medvit.io.labels.label_set import Grid, LabelMask, LabelSet
from medvit.io.labels.name_tables import LARGEST_ID, NamesFound, distinct_names, from_header, from_sidecar, from_slicer
from medvit.io.labels.names import Named, by_name, make_label, unique
from medvit.io.scan import Scan
from medvit.labels import Label

__all__ = ["embedded_names", "read_map"]

_MOST_UNNAMED = 256
"""Largest number of different values without names; a file with more is an image, not labels."""


def read_map(
    path: Path,
    table: Sequence[Label] = (),
    geometry: str | None = None,
    names: Mapping[int, str] | None = None,
    strict: bool = False,
) -> LabelSet:
    """Read a label map as masks on its own grid.

    The name of a value comes from ``names``, else from the file (3D Slicer's fields, medvit's NIfTI extension,
    ``labels.json`` beside it). The table's label with that name is used, whatever its number. A value without a name
    gets the table's label of its number, else the name ``label_N`` with generic codes and a note.

    Args:
        path: a NIfTI, NRRD (also with several layers, as 3D Slicer writes overlapping segments) or MetaImage file.
        table: labels whose ids, names, colours and codes are used.
        geometry: the form of a NIfTI to use, "sform" or "qform"; None uses the sform where it is stated.
        names: name of each value, as the sender of the file states them.
        strict: True to refuse values with voxels that the table lacks.

    Raises:
        ImageError: fractions, negative values or too many values, as in an image.
        SourceError: the file is damaged or a picture; with ``strict``, the table lacks a label.
        GeometryError: the file has no usable affine.
    """
    slicer, segments_told = from_slicer(_nrrd_fields(path))
    remarks = segments_told
    scan, layers = read_layers(path) if slicer else (read_image(path, geometry), None)
    if scan.is_picture:
        raise SourceError(
            f"{path.name}, a picture",
            "labels need a place in the patient, which pictures lack",
            "Give a NIfTI, NRRD, SEG or RTSTRUCT.",
        )
    check_affine(scan.affine)
    own = {(segment.layer, segment.value): segment.label for segment in slicer}
    if not slicer:
        stated = (
            embedded_names(path, scan) if names is None else NamesFound({n: make_label(n, t) for n, t in names.items()})
        )
        own, remarks = (
            {(0, number): label for number, label in stated.labels.items()},
            tuple(dict.fromkeys((*remarks, *stated.notes))),
        )
    found, rounded = _values(scan, layers, path.name, own, {label.id for label in table})
    rows = [row for row, _, _ in found]
    if strict:
        _require_named(rows, names is not None or bool(slicer), segments_told)
    labels, notes = by_name(rows, table, strict)
    told = distinct_names(labels, "the file")
    distinct = unique(labels)
    segments = [
        LabelMask(label, start, voxels, SegmentOrigin())
        for label, (_, start, voxels) in zip(distinct, found, strict=True)
    ]
    there = {label.id for label in distinct}
    nothing = np.zeros((0, 0, 0), dtype=bool)
    segments += [LabelMask(label, (0, 0, 0), nothing, SegmentOrigin()) for label in table if label.id not in there]
    segments.sort(key=lambda segment: segment.label.id)
    said = (*scan.notes, *rounded, *remarks, *notes, *told.notes)
    return LabelSet(
        segments=tuple(segments),
        grid=Grid.of(scan),
        kind=scan.kind,
        header=scan.header,
        notes=said,
        flags=scan.excluded,
    )


def _values(
    scan: Scan,
    layers: Sequence[NDArray[np.float32]] | None,
    name: str,
    own: Mapping[tuple[int, int], Label],
    numbers: set[int],
) -> tuple[list[tuple[Named, tuple[int, int, int], NDArray[np.bool_]]], list[str]]:
    """Return the values of each layer with their own names and masks, and notes on rounding."""
    found = []
    rounded: list[str] = []
    for layer, voxels in enumerate(layers if layers is not None else (scan.array[0],)):
        named = {value: label for (place, value), label in own.items() if place == layer}
        array, values, notes = _whole(replace(scan, array=voxels[None]), name, set(named) | numbers)
        rounded += notes
        boxes = _boxes(array, max([*values, 0]))
        for value in sorted({*values, *named}):
            found.append((Named(value, named.get(value), value in values), *_cut(array, boxes, value)))
    return found, rounded


def _require_named(rows: Sequence[Named], stated: bool, remarks: Sequence[str]) -> None:
    """Refuse values that the sender's names leave out, and values with several names, which may mean different labels."""
    left = [str(row.value) for row in rows if row.present and row.own is None] if stated else []
    if left:
        raise SourceError(
            f"the value(s) {', '.join(left[:8])} in the label map, which have no name among those sent with it",
            "each value needs its name",
            "Send the number and name of each segment.",
        )
    if remarks:
        raise SourceError(
            "segments of one file that share a name or value",
            "each needs a name and a value of its own",
            f"{remarks[0]} Correct them and save them again.",
        )


def _nrrd_fields(path: Path) -> dict[str, str]:
    """Read the header fields of an NRRD; return none for other files and for unreadable ones, which the reader reports."""
    if path.suffix.lower() not in (".nrrd", ".nhdr"):
        return {}
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
    except RuntimeError:
        return {}
    return {key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()}


def embedded_names(path: Path, scan: Scan) -> NamesFound:
    """Read the label names that a file contains; return none for an image, and for a label map without names.

    Args:
        path: the file.
        scan: the file's content, opened.
    """
    if scan.kind == "nifti":
        inside, beside = from_header(scan.header), from_sidecar(path)
        return NamesFound({**inside.labels, **beside.labels}, (*inside.notes, *beside.notes))
    if scan.kind == "nrrd":
        segments, notes = from_slicer(_nrrd_fields(path))
        found = distinct_names([segment.label for segment in segments], "the header")
        return NamesFound(found.labels, (*notes, *found.notes))
    return NamesFound({})


def _whole(scan: Scan, name: str, known: set[int]) -> tuple[NDArray[Any], list[int], list[str]]:
    """Convert voxels to whole numbers, (i, j, k) uint8 or uint16; return them, the values that occur, and notes on
    rounding.
    """
    values: NDArray[Any] = scan.array[0]
    if not np.isfinite(values).all():
        raise ImageError(
            f"NaN or infinite values in {name}", "labels are whole numbers", "Replace them with 0 and run again."
        )
    rounded = whole_numbers(values, storage_step(scan.header))
    if rounded is None or values.size == 0 or rounded[0].min() < 0 or rounded[0].max() > LARGEST_ID:
        shown = f"{values.min():g} to {values.max():g}" if values.size else "none"
        if rounded is None:
            shown += f", among them {values.flat[int(np.abs(values - np.rint(values)).argmax())]:g},"
        raise ImageError(
            f"values from {shown} in {name}",
            f"labels are whole numbers from 0 to {LARGEST_ID} (within {TOLERANCE:g})",
            "Give the label map, not the image it belongs to.",
        )
    values, note = rounded
    array = values.astype(np.uint8 if values.max() < 256 else np.uint16)
    found = [int(v) for v in np.flatnonzero(np.bincount(array.ravel())) if v]
    stray = [v for v in found if v not in known]
    if len(stray) > _MOST_UNNAMED:
        raise ImageError(
            f"{len(stray)} different values without a name in {name}",
            f"that is an image, not labels (at most {_MOST_UNNAMED} unnamed ones)",
            "Give the label map, or name its values with {table=...}.",
            option="table",
        )
    return array, found, [note] if note else []


def _boxes(array: NDArray[Any], largest: int) -> list[Any]:
    from scipy.ndimage import find_objects

    found: list[Any] = find_objects(array.astype(np.int32), largest)
    return found


def _cut(array: NDArray[Any], boxes: list[Any], number: int) -> tuple[tuple[int, int, int], NDArray[np.bool_]]:
    box = boxes[number - 1] if number <= len(boxes) else None
    if box is None:
        return (0, 0, 0), np.zeros((0, 0, 0), dtype=bool)
    i, j, k = (int(part.start) for part in box)
    return (i, j, k), array[box] == number
