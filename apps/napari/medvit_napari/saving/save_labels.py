"""Saving of label layers with the same writers as the command line; each file is read back and compared before it is
published.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvit import Converted, save_labels
from medvit.io.dicom.write import SegmentOrigin
from medvit.io.labels import Grid, LabelMask, LabelSet
from medvit.labels import Label
from medvit.progress import Progress
from medvit_napari.errors import PlaceError
from medvit_napari.looking.notifications import rating_line
from medvit_napari.looking.segment_table import check_names, completed, named_labels, unnamed
from medvit_napari.reading.display_frame import Interpolated
from medvit_napari.reading.layer_info import KEY, LayerInfo, to_smallest_dtype
from medvit_napari.reading.painted_labels import is_corrected, label_place, stored_array

__all__ = ["labels_of", "save_layer", "write_labels_nifti"]


def labels_of(layer: Any) -> LabelSet:
    """Convert a label layer to a ``LabelSet`` for the writers.

    Raises:
        LayerError, PlaceError: no labels that medvit made, another size than their image, or two segments of one name.
    """
    from scipy.ndimage import find_objects

    place, array = label_place(layer), stored_array(layer)
    edited = is_corrected(layer) or not place.made_by
    kind = "SEMIAUTOMATIC" if place.made_by and edited else "AUTOMATIC" if place.made_by else "MANUAL"
    origin = SegmentOrigin(algorithm_type=kind, algorithm_name="" if kind == "MANUAL" else place.made_by)
    if place.origin == "read" and not is_corrected(layer):
        origin = SegmentOrigin()  # the origin stays that of the file, which is not known here
    labels = named_labels(layer)
    check_names(labels)
    boxes = find_objects(np.ascontiguousarray(array).astype(np.int32), max([label.id for label in labels], default=0))
    segments = []
    for label in labels:
        box = boxes[label.id - 1]
        start = (0, 0, 0) if box is None else tuple(int(side.start) for side in box)
        voxels = np.zeros((0, 0, 0), bool) if box is None else array[box] == label.id
        segments.append(LabelMask(label, start, voxels, origin))  # type: ignore[arg-type]
    scan = place.scan()
    return LabelSet(
        segments=tuple(segments),
        grid=Grid(place.grid.shape, scan.affine),  # type: ignore[union-attr]
        kind="array",
        reference=place.image(),
        header=scan.header,
        notes=(*filter(None, [rating_line(place.quality)]), *place.notes, *_without_name(place, labels)),
        flags=place.flags,
    )


def _without_name(place: LayerInfo, labels: Sequence[Label]) -> tuple[str, ...]:
    """Return notes on segments without a name, and on ids that were painted without a row in the table."""
    rows = {label.id for label in place.labels}
    extra = [str(label.id) for label in labels if label.id not in rows]
    plain = [label.title for label in labels if label.title == unnamed(label.id).title]
    notes = [f"Painted without a row in the segment table: id {', '.join(extra)}."] if extra else []
    notes += [f"Without a name, saved with a generic code: {', '.join(plain)}."] if plain else []
    return tuple(notes)


def save_layer(
    layer: Any,
    folder: Path,
    types: Sequence[str] = (),
    *,
    overwrite: bool = False,
    repair_tags: bool = False,
    progress: Progress | None = None,
) -> Converted:
    """Write a label layer as "nifti", "dicom-seg" or "rtstruct"; by default as all types that its image permits.

    Raises:
        MedvitError: a type cannot be written, or a file does not read back as expected; nothing is published then.
    """
    how = {"overwrite": overwrite, "repair_tags": repair_tags}
    return save_labels(labels_of(layer), folder, output_types=types, **how, progress=progress)


def write_labels_nifti(path: str, data: Any, meta: dict[str, Any]) -> list[str]:
    """Write one label layer as NIfTI with its names, on its image's own grid; napari's writer hook.

    Raises:
        PlaceError: the layer does not state its position. LayerError: two segments have the same name.
    """
    from medvit.atomic_write import staging_folder
    from medvit.io import write_labels

    place = meta.get("metadata", {}).get(KEY)
    if not isinstance(place, LayerInfo) or place.grid is None:
        raise PlaceError(
            f"the label layer {meta.get('name', '')!r}, whose image is not known",
            remedy="Save it as TIFF, or make it with medvit.",
        )
    final = Path(path if path.lower().endswith((".nii", ".nii.gz")) else path + ".nii.gz")
    shown = np.asarray(data.source if isinstance(data, Interpolated) else data)
    array = to_smallest_dtype(place.grid.back(shown))
    labels = completed(place.labels, [int(v) for v in np.unique(array) if v], {})
    check_names(labels)
    with staging_folder(final.parent) as staging:
        write_labels(staging / final.name, array, place.scan(), labels)
        (staging / final.name).replace(final)
    return [str(final)]
