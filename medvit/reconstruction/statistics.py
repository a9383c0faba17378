"""Measures of reconstructed bodies in millimetres."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from medvit.labels import Label

if TYPE_CHECKING:
    from medvit.io import Surface

__all__ = ["ShapeMeasures", "measure_shapes", "write_shapes"]


@dataclass(frozen=True, kw_only=True)
class ShapeMeasures:
    """Measures of one label; None for a label without voxels. Positions and directions are RAS+.

    Attributes:
        id, name, title: as in the bundle.
        voxels: number of voxels of the label.
        volume_ml: voxels times voxel volume.
        surface_mm2, surface_volume_ml: area of the smoothed surface and volume enclosed by it.
        centroid_mm: centroid.
        extent_mm: full size along the principal axes, longest spread first.
        size_mm: full size along right, anterior and superior.
        axes: principal axes, longest spread first, unit vectors.
        tilt_deg: angle between the longest axis and the vertical, to the right seen from the front and to the front
            seen from the side; see ``BoneMeasures``. It is not meaningful for bodies about as wide as long.
        touches_border: True if the label reaches the edge of the field of view, so that part may be missing.
        structure: "femur", "hip", "vertebra" or "rib", or None.
        morphometry: measures of such a bone, mm and degrees by name; see ``medvit.reports.morphometry``.
        not_measured: reason for each measure that could not be taken, by its name.

    Examples:
        >>> import medvit
        >>> for shape in medvit.reconstruct("ap.dcm", "lat.dcm").statistics():  # doctest: +SKIP
        ...     print(shape.name, shape.volume_ml, shape.extent_mm)
    """

    id: int
    name: str
    title: str
    voxels: int = 0
    volume_ml: float = 0.0
    surface_mm2: float | None = None
    surface_volume_ml: float | None = None
    centroid_mm: tuple[float, ...] | None = None
    extent_mm: tuple[float, ...] | None = None
    size_mm: tuple[float, ...] | None = None
    axes: tuple[tuple[float, ...], ...] | None = None
    tilt_deg: tuple[float, ...] | None = None
    touches_border: bool = False
    structure: str | None = None
    morphometry: dict[str, float] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)


def measure_shapes(
    array: NDArray[np.integer], affine: NDArray[np.float64], labels: Sequence[Label], surfaces: Mapping[str, Surface]
) -> list[ShapeMeasures]:
    """Measure each label in (x, y, z) labels."""
    from medvit.reports.morphometry import StructureMeasures, measure_bones, measure_structure

    found = {bone.id: bone for bone in measure_bones(array, affine, [label.id for label in labels])}
    shapes = []
    for label in labels:
        bone, mask = found.get(label.id), array == label.id
        own = measure_structure(mask, affine, label, surfaces.get(label.name)) or StructureMeasures("")
        shape = ShapeMeasures(
            id=label.id,
            name=label.name,
            title=label.title,
            structure=own.structure or None,
            morphometry=own.values,
            not_measured=own.absent,
        )
        if bone is not None:
            surface, index = surfaces[label.name], np.argwhere(mask)
            shape = replace(
                shape,
                voxels=bone.voxels,
                volume_ml=round(bone.volume_ml, 2),
                surface_mm2=round(surface.area_mm2, 1),
                surface_volume_ml=round(surface.volume_ml, 2),
                centroid_mm=_rounded(bone.centroid_mm),
                extent_mm=_rounded(bone.extents_mm),
                size_mm=_rounded(bone.size_mm),
                axes=tuple(tuple(round(float(v), 4) for v in axis) for axis in bone.axes),
                tilt_deg=_rounded(bone.tilt_deg),
                touches_border=bool((index == 0).any() or (index == np.array(array.shape) - 1).any()),
            )
        shapes.append(shape)
    return shapes


def _rounded(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(float(v), 2) for v in values)


def write_shapes(path: Path, shapes: Sequence[ShapeMeasures]) -> None:
    """Write a CSV with one line per label; vectors have one column per axis, and each bone measure has its own
    column."""
    rows = []
    special = list(dict.fromkeys(name for shape in shapes for name in (*shape.morphometry, *shape.not_measured)))
    for shape in shapes:
        flat = asdict(shape)
        del flat["morphometry"], flat["not_measured"]
        axes = flat.pop("axes")
        for key, names in (("centroid_mm", "xyz"), ("extent_mm", "123"), ("size_mm", "xyz")):
            values = flat.pop(key) or (None, None, None)
            flat |= {f"{key.removesuffix('_mm')}_{a}_mm": v for a, v in zip(names, values, strict=True)}
        front, side = flat.pop("tilt_deg") or (None, None)
        flat |= {"tilt_front_deg": front, "tilt_side_deg": side}
        for n in range(3):
            axis = axes[n] if axes else (None, None, None)
            flat |= {f"axis_{n + 1}_{a}": v for a, v in zip("xyz", axis, strict=True)}
        flat |= {name: shape.morphometry.get(name) for name in special}
        rows.append(flat)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
