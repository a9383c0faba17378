"""Preview of a result: three planes, outlines, legend, the research-use line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.labels import Label, LabelMeasures
from medvit.reports import (
    BACKGROUND_COLOR,
    NOTE_COLOR,
    TEXT_COLOR,
    hide_ticks,
    new_preview,
    save_preview,
    unit_color,
    write_preview_footer,
    write_preview_title,
)

if TYPE_CHECKING:
    from medvit.segmentation.result_protocol import SegmentationResult

__all__ = ["draw_preview"]

_MARGIN_MM = 45.0
"""Margin shown around the labels."""

_PLANES = (
    # name, axis cut, axis drawn across, axis drawn upwards; radiological: the patient's right on the viewer's left
    ("Axial", 2, 0, 1, "RL", "AP"),
    ("Coronal", 1, 0, 2, "RL", "SI"),
    ("Sagittal", 0, 1, 2, "AP", "SI"),
)


@dataclass(frozen=True, kw_only=True)
class _View:
    """Data drawn in the three planes, on the closest RAS axes, cropped to the labels."""

    image: np.ndarray
    marks: np.ndarray
    sides_mm: np.ndarray
    window: tuple[float, float]
    labels: Sequence[Label]


def draw_preview(path: Path, result: SegmentationResult) -> None:
    """Write ``preview.png`` of a result."""
    if result.scan.is_picture:
        from medvit.segmentation.picture_preview import draw_picture_preview

        draw_picture_preview(path, result)
        return
    bundle, view = result.bundle, _view(result)
    figure = new_preview(15, 6.4)
    grid = figure.add_gridspec(
        1, 4, width_ratios=[1, 1, 1, 0.62], left=0.01, right=0.99, top=0.88, bottom=0.09, wspace=0.04
    )
    for column, plane in enumerate(_PLANES):
        _draw_plane(figure.add_subplot(grid[0, column]), plane, view)
    _draw_legend(figure.add_subplot(grid[0, 3]), result.statistics(), result.requested_labels)
    write_preview_title(figure, bundle, 0.945)
    words = f"{bundle.intended_use}.  {bundle.name} {bundle.version}.  Rating: {result.quality()['rating']}"
    write_preview_footer(figure, words, 0.025)
    save_preview(figure, path)


def _view(result: SegmentationResult) -> _View:
    """Turn image and labels to RAS axes; crop them to the labels with a margin, or keep all if there are no labels."""
    import nibabel as nib

    scan = result.scan
    turn = nib.io_orientation(scan.affine)
    image = nib.orientations.apply_orientation(scan.array[0], turn)
    marks = nib.orientations.apply_orientation(result.array, turn)
    sides = np.empty(3)
    sides[turn[:, 0].astype(int)] = scan.spacing_mm
    box = []
    for axis in range(3):
        at = np.flatnonzero((marks > 0).any(tuple(a for a in range(3) if a != axis)))
        margin = round(_MARGIN_MM / sides[axis])
        low = max(0, int(at[0]) - margin) if len(at) else 0
        box.append(slice(low, int(at[-1]) + 1 + margin if len(at) else image.shape[axis]))
    image, marks = image[tuple(box)], marks[tuple(box)]
    window = result.bundle.config.get("intensity_range") or np.percentile(image, (1, 99)).tolist()
    return _View(
        image=image,
        marks=marks,
        sides_mm=sides,
        window=(float(window[0]), float(window[1])),
        labels=result.requested_labels,
    )


def _slice_at(marks: np.ndarray, axis: int) -> int:
    """Return the slice with the largest sum over labels of the square root of their share of area; the middle without
    labels."""
    others = tuple(a for a in range(3) if a != axis)
    ids = [i for i in np.unique(marks) if i]
    if not ids:
        return int(marks.shape[axis] // 2)
    areas = np.stack([(marks == i).sum(others) for i in ids]).astype(float)
    shares = areas / areas.max(1, keepdims=True)
    best: int = int(np.sqrt(shares).sum(0).argmax())
    return best


def _draw_plane(axes: Any, plane: tuple[Any, ...], view: _View) -> None:
    name, cut, across, up, sideways, vertical = plane
    at = _slice_at(view.marks, cut)

    def flat(volume: np.ndarray) -> np.ndarray:
        # x is drawn mirrored (the patient's right on the left), and y too (the front on the left of a sagittal plane)
        mirrored: np.ndarray = np.take(volume, at, axis=cut).T[:, ::-1]
        return mirrored

    low, high = view.window
    aspect = view.sides_mm[up] / view.sides_mm[across]
    axes.imshow(
        flat(view.image), cmap="gray", vmin=low, vmax=high, origin="lower", aspect=aspect, interpolation="bilinear"
    )
    axes.autoscale(False)
    # a margin of one voxel closes outlines at the edge, and makes a single row of voxels wide enough for a contour
    outlines = np.pad(flat(view.marks), 1)
    rows, columns = (np.arange(-1, n - 1) for n in outlines.shape)
    for label in view.labels:
        mask = (outlines == label.id).astype(float)
        if mask.any():
            color = unit_color(label)
            axes.contour(columns, rows, mask, levels=[0.5], colors=[color], linewidths=1.6)
            axes.contourf(columns, rows, mask, levels=[0.5, 1.5], colors=[color], alpha=0.25)
    axes.set_title(name, color=TEXT_COLOR, fontsize=12)
    axes.set_facecolor(BACKGROUND_COLOR)
    hide_ticks(axes)
    corners = ((sideways[0], 0.02, 0.5), (sideways[1], 0.98, 0.5), (vertical[0], 0.5, 0.97), (vertical[1], 0.5, 0.03))
    for text, x, y in corners:
        axes.text(x, y, text, transform=axes.transAxes, color=NOTE_COLOR, ha="center", va="center", fontsize=11)


_LEGEND_SIZE, _LEGEND_WIDTH = 11, 25
"""Font size in points, and the number of characters of title and volume that fit in a row at that size."""


def _draw_legend(axes: Any, measures: Sequence[LabelMeasures], labels: Sequence[Label]) -> None:
    from matplotlib.patches import Rectangle

    axes.set_axis_off()
    step = min(0.08, 0.9 / max(1, len(labels)))
    volumes = [f"{found.volume_ml:.1f} mL" if found.voxels else "not found" for found in measures]
    longest = max((len(label.title) + len(v) for label, v in zip(labels, volumes, strict=True)), default=0)
    size = min(_LEGEND_SIZE, _LEGEND_SIZE * _LEGEND_WIDTH / max(1, longest))
    for row, (volume, label) in enumerate(zip(volumes, labels, strict=True)):
        y = 0.95 - row * step
        axes.add_patch(Rectangle((0.0, y - step * 0.25), 0.08, step * 0.5, color=unit_color(label)))
        axes.text(0.12, y, label.title, color=TEXT_COLOR, fontsize=size, va="center", transform=axes.transAxes)
        axes.text(1.0, y, volume, color=TEXT_COLOR, fontsize=size, va="center", ha="right", transform=axes.transAxes)
