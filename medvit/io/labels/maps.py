"""Reading label maps: NIfTI, NRRD (3D Slicer's too) and MetaImage, one whole number a voxel."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medvit.bundles import Label
from medvit.errors import ImageError, SourceError
from medvit.io.geometry import check_affine
from medvit.io.images import read_image
from medvit.io.labels.model import Grid, LabelSet, Origin, Segment
from medvit.io.labels.naming import make_label
from medvit.io.labels.tables import NamesFound, from_header, from_sidecar, from_slicer
from medvit.io.scan import Scan
from medvit.io.whole_numbers import TOLERANCE, storage_step, whole_numbers

__all__ = ["own_names", "read_map"]

_LARGEST = 65535
_MOST_UNNAMED = 256
"""More different values than this, without names for them, are an image and not labels."""


def read_map(path: Path, table: Sequence[Label] = (), geometry: str | None = None) -> LabelSet:
    """Read a label map as masks on its own grid.

    Names come from ``table`` where it has the number, else from the file (our NIfTI extension with ``labels.json``
    beside it, or 3D Slicer's fields), else they are ``label_N`` with generic codes, which the notes say. So do they of ids
    that were rounded (``whole_numbers``) and of a table of names in or beside the file that cannot be read.

    Args:
        path: the file.
        table: labels to use by number.
        geometry: for a NIfTI, "sform" or "qform" to take; None for the sform where it is stated.

    Raises:
        ImageError: fractions, negative or too many values: an image, not labels.
        SourceError: damaged, or a picture. GeometryError: no usable place in the world.
    """
    scan = read_image(path, geometry)
    if scan.is_picture:
        raise SourceError(
            f"Found {path.name}, a picture; labels need a place in the patient, which pictures lack. Give a NIfTI, NRRD, SEG or RTSTRUCT."
        )
    check_affine(scan.affine)
    own = own_names(path, scan)
    known = {**own.labels, **{label.id: label for label in table}}
    array, values, rounded = _whole(scan, path.name, set(known))
    unnamed = [value for value in values if value not in known]
    labels = [known.get(value) or make_label(value, "") for value in values]
    labels += [label for number, label in known.items() if number not in values]
    labels.sort(key=lambda label: label.id)
    boxes = _boxes(array, max([*values, 0]))
    segments = [Segment(label, *_cut(array, boxes, label.id), Origin()) for label in labels]
    notes = [*scan.notes, *rounded, *own.notes]
    if unnamed:
        named = ", ".join(map(str, unnamed[:8])) + (", ..." if len(unnamed) > 8 else "")
        notes.append(
            f"No name is known for {len(unnamed)} label(s) ({named}); they are called label_N with generic codes."
        )
    return LabelSet(
        tuple(segments), Grid.of(scan), scan.kind, header=scan.header, notes=tuple(notes), flags=scan.set_aside
    )


def own_names(path: Path, scan: Scan) -> NamesFound:
    """Read the labels that a file names itself; none for an image, and for a label map without names."""
    if scan.kind == "nifti":
        inside, beside = from_header(scan.header), from_sidecar(path)
        return NamesFound({**inside.labels, **beside.labels}, (*inside.notes, *beside.notes))
    if scan.kind == "nrrd":
        import SimpleITK as sitk

        reader = sitk.ImageFileReader()
        reader.SetFileName(str(path))
        reader.ReadImageInformation()
        return from_slicer({key: reader.GetMetaData(key) for key in reader.GetMetaDataKeys()})
    return NamesFound({})


def _whole(scan: Scan, name: str, known: set[int]) -> tuple[NDArray[Any], list[int], list[str]]:
    """The voxels as whole numbers, (i, j, k) uint8 or uint16, which occur, and a note where they were rounded."""
    values: NDArray[Any] = scan.array[0]
    if not np.isfinite(values).all():
        raise ImageError(
            f"Found NaN or infinite values in {name}; labels are whole numbers. Replace them with 0 and run again."
        )
    rounded = whole_numbers(values, storage_step(scan.header))
    if rounded is None or values.size == 0 or rounded[0].min() < 0 or rounded[0].max() > _LARGEST:
        shown = f"{values.min():g} to {values.max():g}" if values.size else "none"
        raise ImageError(
            f"Found values from {shown} in {name}; labels are whole numbers from 0 to {_LARGEST} (within {TOLERANCE:g}). "
            "Give the label map, not the image it belongs to."
        )
    values, note = rounded
    array = values.astype(np.uint8 if values.max() < 256 else np.uint16)
    found = [int(v) for v in np.flatnonzero(np.bincount(array.ravel())) if v]
    stray = [v for v in found if v not in known]
    if len(stray) > _MOST_UNNAMED:
        raise ImageError(
            f"Found {len(stray)} different values without a name in {name}; that is an image, not labels (at most {_MOST_UNNAMED} "
            "unnamed ones). Give the label map, or name its values with --labels."
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
