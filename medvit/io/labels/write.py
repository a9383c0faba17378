"""Writers of labels that were read from other files, with notes on the details that a format cannot keep."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medvit._version import __version__
from medvit.io.labels.label_set import LabelMask, LabelSet
from medvit.io.labels.stack_labels import slice_masks
from medvit.labels import Label

if TYPE_CHECKING:
    from medvit.io.dicom.write import AlgorithmInfo

__all__ = ["INTENDED_USE", "write_dicom", "write_each", "write_nifti"]

INTENDED_USE = "Converted; for research use, not for diagnosis"
"""Statement in converted objects. Free text of the source is not copied, since it could hold patient data."""

_LONGEST_TITLE = 64
"""Largest size of a title in bytes; DICOM limits characters (PS3.5 6.2, LO), but some readers limit bytes."""


def write_nifti(found: LabelSet, staging: Path) -> None:
    """Write ``labels.json`` and, unless labels overlap, ``labels.nii.gz``."""
    from medvit.io.nifti import write_label_names, write_labels

    if not found.overlaps:
        write_labels(staging / "labels.nii.gz", found.array, found.scan, found.labels)
    write_label_names(staging / "labels.json", found.labels)


def write_each(found: LabelSet, staging: Path) -> None:
    """Write one NIfTI mask for each label."""
    from medvit.io.nifti import write_labels

    for segment in found.segments:
        mask = found.whole(segment).astype(np.uint8)
        write_labels(staging / f"{segment.label.name}.nii.gz", mask, found.scan, [segment.label])


def write_dicom(found: LabelSet, name: str, staging: Path) -> list[str]:
    """Write a SEG or RTSTRUCT, read it back and compare it; return notes on details that the format cannot keep."""
    from medvit.io.dicom.write import check_rtstruct, check_seg, source_of, write_rtstruct, write_seg

    masks = slice_masks(found)
    segments = [segment for segment, _ in masks]
    labels = _titled(segments)
    slices = source_of(found.scan)
    array = _merged([mask for _, mask in masks], labels)
    author, notes = _author(segments), []
    if name == "dicom-seg":
        write_seg(staging / "seg.dcm", array, slices, labels, author)
        check_seg(staging / "seg.dcm", array, slices.planes, labels)
        if [label.id for label in labels] != list(range(1, len(labels) + 1)):
            notes.append(
                "A SEG numbers its segments from 1 on; names were kept. A table of labels or a bundle gives the ids back."
            )
        if any(not segment.origin.algorithm_type for segment in segments):
            notes.append(
                "The source does not say how its labels were made; the SEG says semiautomatic, by what is not stated."
            )
    else:
        write_rtstruct(staging / "rtstruct.dcm", array, slices, labels, author)
        check_rtstruct(staging / "rtstruct.dcm", array, slices.planes, labels)
    empty = [label.name for label in found.labels if label.name not in {s.label.name for s in segments}]
    if empty:
        notes.append(f"Labels without voxels are not in the DICOM objects: {', '.join(empty)}.")
    return notes


def _merged(masks: Sequence[NDArray[np.bool_]], labels: Sequence[Label]) -> NDArray[np.generic]:
    """Merge masks to a label map (i, j, k), or stack them as (i, j, k, label) where they overlap."""
    array = np.zeros(masks[0].shape, np.uint16)
    for mask, label in zip(masks, labels, strict=True):
        if array[mask].any():
            return np.stack(masks, -1)
        array[mask] = label.id
    return array


def _titled(segments: Sequence[LabelMask]) -> list[Label]:
    """Return labels with titles that are valid in DICOM: short enough, without backslash, and unique."""
    taken: set[str] = set()
    labels = []
    for segment in segments:
        whole = segment.label.title.replace("\\", "/")
        title, count = _shortened(whole, _LONGEST_TITLE), 1
        while title in taken:
            count += 1
            title = f"{_shortened(whole, _LONGEST_TITLE - 5)} {count}"
        taken.add(title)
        labels.append(segment.label.model_copy(update={"title": title}))
    return labels


def _shortened(text: str, most: int) -> str:
    return text.encode()[:most].decode(errors="ignore").strip()


def _author(segments: Sequence[LabelMask]) -> AlgorithmInfo:
    from medvit.io.dicom.write import AlgorithmInfo

    origins = {segment.label.name: segment.origin for segment in segments}
    return AlgorithmInfo(
        bundle=f"medvit convert {__version__}",
        weights="",
        software=__version__,
        intended_use=INTENDED_USE,
        origins=origins,
    )
