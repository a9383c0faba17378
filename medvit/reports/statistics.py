"""Measures of each label on the source's own grid."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from scipy.ndimage import find_objects

from medvit.bundles import Label
from medvit.io.geometry import world
from medvit.io.scan import Scan
from medvit.reports.diameter import longest_diameter

__all__ = ["Measures", "measure", "write_csv"]


@dataclass(frozen=True)
class Measures:
    """One label's numbers; those of an absent label are None.

    Attributes:
        id, name, title: as in the bundle.
        voxels: how many voxels carry the label.
        volume_ml: voxels times voxel volume, in millilitres; None for pictures.
        mean, std: of the image's values inside, in the image's own units (HU for CT; for colours the mean of the
            channels); population deviation.
        centroid_mm: centre of mass, RAS+ millimetres.
        extent_mm: side lengths along i, j, k of the smallest box, in millimetres.
        longest_diameter_mm: largest distance across the label's surface (see ``longest_diameter``); None for pictures.
        touches_border: whether the label reaches the edge of the image, so that part may be missing.
    """

    id: int
    name: str
    title: str
    voxels: int
    volume_ml: float | None
    mean: float | None
    std: float | None
    centroid_mm: tuple[float, ...] | None
    extent_mm: tuple[float, ...] | None
    longest_diameter_mm: float | None
    touches_border: bool


def measure(array: np.ndarray, scan: Scan, labels: Sequence[Label]) -> list[Measures]:
    """Measures of each label in an (i, j, k) label map (or (row, column) for pictures)."""
    voxel_ml = None if scan.is_picture else float(abs(np.linalg.det(scan.affine[:3, :3]))) / 1000
    boxes = find_objects(array, max_label=max((label.id for label in labels), default=0))
    return [_measure(array, boxes[label.id - 1], scan, label, voxel_ml) for label in labels]


def _measure(
    array: np.ndarray, box: tuple[slice, ...] | None, scan: Scan, label: Label, voxel_ml: float | None
) -> Measures:
    """One label's measures, looking only into the box that holds it."""
    if box is None:
        volume = None if voxel_ml is None else 0.0
        return Measures(label.id, label.name, label.title, 0, volume, None, None, None, None, None, False)
    inside = array[box] == label.id
    # colours count as their mean, which is the value itself where there is one channel
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
    return Measures(
        label.id,
        label.name,
        label.title,
        len(index),
        None if voxel_ml is None else round(len(index) * voxel_ml, 3),
        round(float(values.mean()), 2),
        round(float(values.std()), 2),
        centroid,
        extent,
        diameter,
        border,
    )


def write_csv(path: Path, rows: Sequence[Measures]) -> None:
    """One line a label; vectors become one column an axis."""
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
