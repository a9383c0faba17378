"""Measurements of each label on the source's own grid."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from medvit.io import Scan, world
from medvit.labels import Label, LabelMeasures
from medvit.reports.diameter import longest_diameter

__all__ = ["measure", "write_csv"]


def measure(array: np.ndarray, scan: Scan, labels: Sequence[Label]) -> list[LabelMeasures]:
    """Measure each label of a label map.

    Args:
        array: label ids, (i, j, k), or (row, column) for pictures.
        scan: the image on the same grid, for intensities and geometry.
        labels: the labels to measure.

    Returns:
        Measurements of each label, in the same order; those of an absent label are empty.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan
        >>> from medvit.io.labels import make_label
        >>> from medvit.reports import measure
        >>> scan = Scan(array=np.full((1, 10, 10, 10), 55, np.float32), affine=np.eye(4), kind="array")
        >>> array = np.zeros((10, 10, 10), np.uint8)
        >>> array[2:7, 2:7, 2:6] = 1
        >>> (liver,) = measure(array, scan, [make_label(1, "Liver")])
        >>> liver.volume_ml, liver.mean
        (0.1, 55.0)
    """
    from scipy.ndimage import find_objects

    voxel_ml = None if scan.is_picture else float(abs(np.linalg.det(scan.affine[:3, :3]))) / 1000
    boxes = find_objects(array, max_label=max((label.id for label in labels), default=0))
    return [_measure(array, boxes[label.id - 1], scan, label, voxel_ml) for label in labels]


def _measure(
    array: np.ndarray, box: tuple[slice, ...] | None, scan: Scan, label: Label, voxel_ml: float | None
) -> LabelMeasures:
    """Measure one label within its bounding box."""
    if box is None:
        volume = None if voxel_ml is None else 0.0
        return LabelMeasures(
            id=label.id,
            name=label.name,
            title=label.title,
            voxels=0,
            volume_ml=volume,
            mean=None,
            std=None,
            centroid_mm=None,
            extent_mm=None,
            longest_diameter_mm=None,
            touches_border=False,
        )
    inside = array[box] == label.id
    # the mean over channels: for colours their mean, for one channel the value itself
    values = scan.array[(slice(None), *box)][:, inside].mean(0, dtype=np.float64)
    low = np.array([side.start for side in box])
    high = np.array([side.stop - 1 for side in box])
    index = np.argwhere(inside) + low
    border = bool((low == 0).any() or (high == np.array(array.shape) - 1).any())
    centroid = extent = diameter = None
    if not scan.is_picture:
        centroid = tuple(round(float(v), 2) for v in world(scan.affine, index.mean(0))[0])
        extent = tuple(round(float(v), 2) for v in (high - low + 1) * np.array(scan.spacing_mm))
        diameter = round(longest_diameter(inside, scan.affine[:3, :3]), 2)
    return LabelMeasures(
        id=label.id,
        name=label.name,
        title=label.title,
        voxels=len(index),
        volume_ml=None if voxel_ml is None else round(len(index) * voxel_ml, 3),
        mean=round(float(values.mean()), 2),
        std=round(float(values.std()), 2),
        centroid_mm=centroid,
        extent_mm=extent,
        longest_diameter_mm=diameter,
        touches_border=border,
    )


def write_csv(path: Path, rows: Sequence[LabelMeasures]) -> None:
    """Write measurements as CSV: one line for each label, one column for each component of a vector.

    Args:
        path: the file to write.
        rows: measurements of each label.

    Examples:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from medvit.io import Scan
        >>> from medvit.io.labels import make_label
        >>> from medvit.reports import measure, write_csv
        >>> scan = Scan(array=np.zeros((1, 4, 4, 4), np.float32), affine=np.eye(4), kind="array")
        >>> write_csv(Path("statistics.csv"), measure(np.ones((4, 4, 4), np.uint8), scan, [make_label(1, "Liver")]))
        >>> Path("statistics.csv").read_text().splitlines()[1][:19]
        '1,liver,Liver,64,0.'
    """
    with path.open("w", newline="") as file:
        writer = None
        for row in rows:
            flat = asdict(row)
            for key, axes in (("centroid_mm", "xyz"), ("extent_mm", "ijk")):
                values = flat.pop(key) or (None, None, None)
                flat |= {f"{key.removesuffix('_mm')}_{a}_mm": v for a, v in zip(axes, values, strict=True)}
            if writer is None:
                writer = csv.DictWriter(file, list(flat))
                writer.writeheader()
            writer.writerow(flat)
