"""Reading of labels of any kind: the file's format is detected, and the labels are placed on the requested grid."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from medvit.errors import MedvitError, SelectionError, SourceError
from medvit.io.dicom import read_dicom
from medvit.io.dicom.header import read_dataset
from medvit.io.dicom.preflight import choose_volume, inspect_files
from medvit.io.files import DicomFile, one_file
from medvit.io.images import is_image_name
from medvit.io.labels.dicom_objects import dicom_errors_as_source_errors, is_dicom, open_object
from medvit.io.labels.grid_mapping import resample_to
from medvit.io.labels.label_map_reader import read_map
from medvit.io.labels.label_set import Grid, LabelSet
from medvit.io.labels.names import rename, require_known
from medvit.io.labels.object_search import header_series, label_objects
from medvit.io.labels.rtstruct_reader import read_rtstruct
from medvit.io.labels.seg_reader import read_seg
from medvit.io.scan import Scan
from medvit.io.sources import open_source
from medvit.labels import Label
from medvit.progress import Progress

if TYPE_CHECKING:
    from monai.data import MetaTensor

__all__ = ["ReadOptions", "read_label_set", "read_labels"]

_MOST_FILES = 20_000
"""Largest number of files searched for the series that an object refers to."""


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options for reading labels.

    Attributes:
        like: the image on whose grid to place the labels: any source that medvit opens.
        series: number or UID, where ``like`` holds several series; by default the series that the labels refer to.
        threshold: smallest share of the maximum that belongs to a segment of a FRACTIONAL SEG.
        table: labels whose names, ids, colours and codes are used.
        force: True to accept positions in another frame of reference, with a flag.
        on_irregular: treatment of a tilted or uneven stack: "fail", "resample" or "split".
        search: True to search for the image beside the labels where ``like`` is not given.
        geometry: form to use, "sform" or "qform", for NIfTI labels and a NIfTI ``like``.
        names: name of each value of a label map, as its sender states them; names take precedence over numbers.
        strict: True to refuse labels with voxels that ``table`` lacks, and two labels of one name.
    """

    like: str | os.PathLike[str] | MetaTensor | Scan | None = None
    series: str | None = None
    threshold: float = 0.5
    table: tuple[Label, ...] = ()
    force: bool = False
    on_irregular: str = "fail"
    search: bool = False
    geometry: str | None = None
    names: Mapping[int, str] | None = None
    strict: bool = False


def read_labels(
    source: str | os.PathLike[str],
    like: str | os.PathLike[str] | MetaTensor | Scan | None = None,
    threshold: float = 0.5,
    *,
    series: str | None = None,
    table: Sequence[Label] = (),
    force: bool = False,
    on_irregular: str = "fail",
    geometry: str | None = None,
) -> LabelSet:
    """Read labels that any program wrote: DICOM SEG, RTSTRUCT, or a NIfTI, NRRD or MetaImage label map.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> import medvit
        >>> from medvit.io import write_volume
        >>> array = np.zeros((8, 8, 4), np.uint8)
        >>> array[2:5, 2:5, 1:3] = 3
        >>> write_volume(Path("segmented.nii.gz"), array, np.eye(4))
        >>> found = medvit.read_labels("segmented.nii.gz")
        >>> found
        LabelSet(nifti, 8 x 8 x 4: label_3)
        >>> int(found.mask("label_3").sum())
        18

    Args:
        source: the file, or a folder that contains exactly one SEG or RTSTRUCT.
        like: the image on whose grid to place the labels: any source that medvit opens. Without it, a SEG or label map
            keeps
            its own grid, and an RTSTRUCT gets that of the series it was drawn on, if that series is in the same folder.
        threshold: for a FRACTIONAL SEG, the smallest share of its maximum that belongs to a segment, above 0 and at
            most 1.
        series: number or UID, where ``like`` holds several series.
        table: labels whose ids, names, colours and codes to use, for example ``open_bundle(...).facts.labels``. Where
            the file
            names its labels, the table's label of that name is used, whatever its number.
        force: True to accept positions although the frames of reference differ.
        on_irregular: treatment of a tilted or uneven stack ``like``: "fail", "resample" or "split" (see
            ``medvit.open_source``).
        geometry: form to use, "sform" or "qform", for NIfTI labels and a NIfTI ``like``; None uses the sform where it
            is stated.

    Returns:
        The segments on one grid; ``array`` is (i, j, k) with its affine to RAS+ millimetres.

    Raises:
        SourceError: the file does not exist, is damaged, or contains no labels.
        GeometryError: the labels do not fit the grid of ``like``.
        ImageError: a label map contains values that are not labels.
        SelectionError: an RTSTRUCT without ``like``, or several files or series to choose from.
    """
    return read_label_set(
        Path(source),
        ReadOptions(
            like=like,
            series=series,
            threshold=threshold,
            table=tuple(table),
            force=force,
            on_irregular=on_irregular,
            geometry=geometry,
        ),
        Progress(),
    )


def read_label_set(source: Path, how: ReadOptions, progress: Progress) -> LabelSet:
    """Read labels as ``read_labels`` does, with its settings in one object."""
    if not 0 < how.threshold <= 1:
        raise SourceError(
            f"a threshold of {how.threshold:g}",
            "it is a share of the maximum, above 0 and at most 1",
            "Correct {threshold}.",
            option="threshold",
        )
    if not source.exists():
        raise SourceError(f"nothing at {source}", "a SEG, RTSTRUCT or label map is needed", "Check the path.")
    path = _only_object(source) if source.is_dir() else source
    if is_image_name(path):
        found = read_map(path, how.table, how.geometry, how.names, how.strict)
        if how.like is None:
            return found
        scan = _open(how, (), progress)
        return replace(resample_to(found, Grid.of(scan)), reference=scan).with_notes(*scan.notes, flags=scan.excluded)
    return _read_object(path, how, progress)


def _read_object(path: Path, how: ReadOptions, progress: Progress) -> LabelSet:
    header = open_object(path, stop_before_pixels=True)
    with dicom_errors_as_source_errors(path.name, "a DICOM object"):
        modality = str(header.get("Modality", "") or "")
        series = header_series(header)
    if modality not in ("SEG", "RTSTRUCT"):
        raise SourceError(
            f"{path.name}, a DICOM object of modality {modality or 'unknown'}",
            "a SEG or RTSTRUCT is needed",
            "To give an image as the grid, use {like}.",
            option="like",
        )
    notes: tuple[str, ...] = ()
    if how.like is not None:
        scan: Scan | None = _open(how, series, progress)
    elif how.search or modality == "RTSTRUCT":
        scan = _beside(path, series, how.on_irregular, progress)
        notes = ("The grid is that of the series it was drawn on, found beside it.",) if scan is not None else ()
    else:
        scan = None
    if modality == "SEG":
        found = read_seg(path, scan, how.threshold, how.force)
    else:
        found = read_rtstruct(path, scan, how.force)
    if scan is not None:
        found = replace(found, reference=scan).with_notes(*notes, *scan.notes, flags=scan.excluded)
    if how.table:
        found = rename(found, how.table)
    return require_known(found, how.table) if how.strict else found


def _only_object(folder: Path) -> Path:
    """Return the only SEG or RTSTRUCT in a folder."""
    found = label_objects(folder, _MOST_FILES)
    if len(found) == 1:
        return found[0]
    listing = "\n".join(f"  {path.relative_to(folder)}" for path in found[:20])
    what = f"{len(found)} SEG and RTSTRUCT files" if found else "no SEG or RTSTRUCT"
    raise SelectionError(f"{what} in {folder}", "one is needed", "Give the file itself.", listing=listing)


def _open(how: ReadOptions, series: tuple[str, ...], progress: Progress) -> Scan:
    """Open the reference; of several series, take the chosen one, else the one that the labels refer to."""
    like = how.like
    assert like is not None
    if how.series is None and len(series) == 1:
        try:
            return _volume(open_source(like, None, progress, how.on_irregular, how.geometry))
        except SelectionError:
            return _volume(open_source(like, series[0], progress, how.on_irregular, how.geometry))
    return _volume(open_source(like, how.series, progress, how.on_irregular, how.geometry))


def _volume(scan: Scan) -> Scan:
    if scan.is_picture:
        raise SourceError(
            "a picture as the reference",
            "a volume is needed",
            "Give a DICOM series or NIfTI with {like=...}.",
            option="like",
        )
    return scan


def _beside(path: Path, series: tuple[str, ...], on_irregular: str, progress: Progress) -> Scan | None:
    """Read the series that an object refers to from the object's folder or one below it; return None where it is not
    there.
    """
    if not series:
        return None
    files = [p for pattern in ("*", "*/*") for p in path.parent.glob(pattern) if p.is_file()]
    wanted: list[DicomFile] = []
    for file in sorted(files)[:_MOST_FILES]:
        progress.check()
        try:
            if file == path or not is_dicom(file):
                continue
            tags = read_dataset(file, stop_before_pixels=True, specific_tags=["SeriesInstanceUID", "Modality"])
        except Exception:
            continue
        if str(tags.get("SeriesInstanceUID", "")) == series[0]:
            wanted.append(one_file(file))
    if not wanted:
        return None
    try:
        chosen = choose_volume(inspect_files(wanted, progress), series[0], path.parent.name)
        return read_dicom(chosen.volume, on_irregular, progress=progress).check()
    except MedvitError as error:
        raise error.framed(before=f"The series beside {path.name} cannot be its grid.") from error
