"""Files of a label: reading labels in the formats of all clients, and writing them on the image's grid."""

from __future__ import annotations

import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

import medvit
from medvit.conversion import save_labels
from medvit.errors import GeometryError, MedvitError, OutputError
from medvit.io import check_stated_size, write_labels, write_volume
from medvit.io.labels import Named, ReadOptions, by_name, make_label
from medvit.io.labels.read import read_label_set
from medvit.labels import Label
from medvit.progress import Progress
from medvit.settings import GEOMETRIES
from medvit_label.errors import RequestError
from medvit_label.images.source import LabelImage

if TYPE_CHECKING:
    from medvit.io import Scan

__all__ = ["label_map", "read_scribbles", "write_label"]

_BACKGROUND = 255
"""Value of background in scribbles."""

_MOST_IDS = 255
"""Largest id in a picture's label, which is stored as a PNG of 8 bits."""


def write_label(
    image: LabelImage, file: Path, folder: Path, table: tuple[Label, ...], names: Mapping[int, str] | None
) -> tuple[Path, tuple[str, ...]]:
    """Write a label into a folder: its map on the image's grid and, for DICOM, a SEG.

    Args:
        image: the labelled image.
        file: NIfTI, NRRD, MetaImage, DICOM SEG or, for pictures, PNG; ``.bin`` for bare voxels as OHIF sends them.
        folder: folder for the files.
        table: permitted labels; empty for any.
        names: name of each number in the file, as the client states them; a ``.seg.nrrd`` or SEG holds its own names.

    Returns:
        The file of the map, and notes.

    Raises:
        RequestError: a label that is not in the table, or two labels of one name.
        MedvitError: the file is damaged or does not fit the image; the message names the image.
    """
    try:
        if image.is_picture:
            return _write_picture(image, file, folder, table, names)
        return _write_volume(image, file, folder, table, names)
    except RequestError:
        raise
    except MedvitError as error:
        raise error.framed(before=f"The label of image {image.id[:80]!r} was not kept.") from error


def _write_volume(
    image: LabelImage, file: Path, folder: Path, table: tuple[Label, ...], names: Mapping[int, str] | None
) -> tuple[Path, tuple[str, ...]]:
    scan = image.open()
    source = _from_bare(file, scan, folder.parent) if file.suffix == ".bin" else file
    try:
        found = read_label_set(
            source,
            ReadOptions(like=scan, table=table, names=names, strict=bool(table), geometry=image.geometry),
            Progress(),
        )
    finally:
        if source != file:
            source.unlink()
    if found.overlaps:
        first, second, count = found.overlaps[0]
        raise GeometryError(
            f"{first} and {second} sharing {count} voxels",
            "one label a voxel is kept",
            "Take the shared voxels out of one of them.",
        )
    if not found.present():
        write_labels(folder / "labels.nii.gz", np.zeros(found.shape, np.uint8), scan, table)
        return folder / "labels.nii.gz", (*found.notes, "The label is empty: the annotator saw none of the structures.")
    types = ("nifti", "dicom-seg") if scan.kind == "dicom" else ("nifti",)
    made = save_labels(found, folder, output_types=types, overwrite=True)
    return folder / "labels.nii.gz", (*made.notes, *made.flags)


def _from_bare(file: Path, scan: Scan, folder: Path) -> Path:
    """Write bare voxels (one byte each, i fastest, as OHIF sends them) as NIfTI on the image's grid."""
    shape = scan.array.shape[1:]
    values = np.frombuffer(file.read_bytes(), np.uint8)
    if values.size != int(np.prod(shape)):
        raise GeometryError(
            f"{values.size} bare voxels, where the image has {int(np.prod(shape))}",
            "one byte a voxel is needed",
            "Send NIfTI or NRRD.",
        )
    with tempfile.NamedTemporaryFile(suffix=".nii.gz", dir=folder, delete=False) as made:
        write_volume(Path(made.name), values.reshape(shape, order="F"), scan.affine)
    return Path(made.name)


def _write_picture(
    image: LabelImage, file: Path, folder: Path, table: tuple[Label, ...], names: Mapping[int, str] | None
) -> tuple[Path, tuple[str, ...]]:
    """Write a picture's label as a PNG of ids."""
    from PIL import Image as Pictures

    wanted = medvit.open_source(image.path).array.shape[1:]
    ids = _picture_ids(file)
    if ids.shape != wanted:
        raise GeometryError(
            f"a label of {ids.shape} pixels, where the picture has {wanted}",
            "they must be equal",
            "Save it at full size.",
        )
    ids, notes = _renumbered(ids, table, names)
    Pictures.fromarray(ids.astype(np.uint8)).save(folder / "labels.png")
    return folder / "labels.png", notes


def _picture_ids(file: Path) -> NDArray[np.integer]:
    """Read the ids of a picture's label or scribbles from a client's file.

    Raises:
        RequestError: the file is neither PNG nor NIfTI, or holds numbers that are not ids. OutputError: the file is
            damaged.
    """
    if not file.name.endswith((".png", ".nii", ".nii.gz")):
        raise RequestError(
            f"a label of a picture as {''.join(file.suffixes)}",
            "a PNG of the picture's size with one number a pixel is needed",
            "Send that.",
        )
    ids = label_map(file)
    whole = ids.astype(np.int64) if np.isfinite(ids).all() else np.full(1, -1)
    if whole.min(initial=0) < 0 or whole.max(initial=0) > _MOST_IDS or not np.array_equal(whole, ids):
        raise RequestError(
            "a label of a picture with numbers that are not ids",
            f"whole numbers from 0 to {_MOST_IDS} are needed",
            "Save ids, not values.",
        )
    return whole


def _renumbered(
    ids: NDArray[np.integer], table: tuple[Label, ...], names: Mapping[int, str] | None
) -> tuple[NDArray[np.integer], tuple[str, ...]]:
    """Return a picture's label with the ids of the table, matched by the names that its sender states."""
    values = [int(value) for value in np.unique(ids) if value]
    stated = {number: make_label(number, title) for number, title in (names or {}).items()}
    left = [value for value in values if value not in stated]
    if names is not None and left:
        raise GeometryError(
            f"the value(s) {', '.join(map(str, left[:8]))}, which label_info leaves out",
            "each value needs its name",
            "Send all.",
        )
    rows = [Named(value, stated.get(value), True) for value in values]
    labels, notes = by_name(rows, table, strict=bool(table))
    moved = np.zeros(int(ids.max(initial=0)) + 1, np.uint16)
    for row, label in zip(rows, labels, strict=True):
        moved[row.value] = label.id
    return moved[ids], tuple(notes)


def read_scribbles(
    file: Path, scan: Scan, table: tuple[Label, ...], names: Mapping[int, str] | None
) -> NDArray[np.integer]:
    """Read scribbles on an image's grid as ids of the bundle's labels, 255 for background.

    Args:
        file: label map with the scribbles.
        scan: the image.
        table: labels of the bundle.
        names: name of each number, as the client states them; None for the bundle's own ids.

    Raises:
        SourceError: a name that the bundle does not have, or a number without a name.
    """
    known = (*table, make_label(_BACKGROUND, "background"))
    stated = None if names is None else {**names, _BACKGROUND: "background"}
    if scan.is_picture:
        ids = _picture_ids(file)
        return ids if stated is None else _renumbered(ids, known, stated)[0]
    taken = scan.geometry if scan.geometry in GEOMETRIES else None  # drawn on this image, so it has the same geometry
    if stated is None:
        return medvit.read_labels(file, scan, geometry=taken).array
    return read_label_set(
        file, ReadOptions(like=scan, table=known, names=stated, strict=True, geometry=taken), Progress()
    ).array


def label_map(path: Path) -> np.ndarray:
    """Return the ids of a label map as stored: (i, j, k), or (row, column) for a PNG."""
    check_stated_size(path)
    if path.suffix.lower() == ".png":
        from PIL import Image as Pictures

        try:
            with Pictures.open(path) as picture:
                ids = np.asarray(picture)
        except OSError as error:
            raise OutputError(
                f"a label that cannot be read as a PNG ({type(error).__name__})", "send a complete one"
            ) from error
        if ids.ndim != 2:
            raise RequestError(
                "a label in colour", "one number a pixel (grey or palette PNG) is needed", "Save ids, not colours."
            )
        return ids.astype(np.uint8) if ids.dtype == bool else ids  # a PNG of 1 bit per pixel
    import nibabel as nib
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError

    try:
        return np.asarray(nib.load(path).dataobj)
    except (OSError, EOFError, ValueError, zlib.error, ImageFileError, HeaderDataError) as error:
        raise OutputError(
            f"a label that cannot be read as NIfTI ({type(error).__name__})", "send a complete one"
        ) from error
