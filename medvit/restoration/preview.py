"""Preview of a restored image: before, after and difference, with the numbers and the research-use line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from medvit.reports import (
    NOTE_COLOR,
    TEXT_COLOR,
    hide_ticks,
    new_preview,
    save_preview,
    write_preview_footer,
    write_preview_title,
)

if TYPE_CHECKING:
    from medvit.restoration.result_protocol import RestorationResult

__all__ = ["draw_restored_preview"]

_SOFT_TISSUE_HU = (-160.0, 240.0)
_DETAIL = 0.4
"""Share of the sides that the second row shows."""


def draw_restored_preview(path: Path, result: RestorationResult) -> None:
    """Write ``preview.png``: the middle slice and a detail of it, each before, after, and as after minus before.

    It is the middle axial slice, or a slice in the plane of a super-resolution.
    """
    before, after, aspect = _middle(result)
    window = _window(before, result.intensity_unit)
    height = float(np.clip(before.shape[1] * aspect / before.shape[0], 0.5, 1.4))
    figure = new_preview(13.2, 4.35 * (height + 1) + 1.7)
    axes = figure.subplots(
        2, 3, height_ratios=[height, 1],
        gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.9, "bottom": 0.1, "wspace": 0.03, "hspace": 0.03},
    )  # fmt: skip
    box = _detail(before, aspect)
    difference = after - before
    reach = max(float(np.percentile(np.abs(difference), 99.5)), 1e-6)
    for column, (title, plane) in enumerate((("Before", before), ("After", after), ("After minus before", difference))):
        limits = (-reach, reach) if column == 2 else window
        _draw(axes[0, column], plane, limits, aspect, box if column == 0 else None)
        _draw(axes[1, column], plane[box], limits, aspect, None)
        unit = result.intensity_unit
        axes[0, column].set_title(
            f"{title}  ({limits[0]:.0f} to {limits[1]:.0f} {unit})", color=TEXT_COLOR, fontsize=12
        )
    bundle = result.bundle
    write_preview_title(figure, bundle, 0.955)
    figure.text(0.01, 0.055, _numbers(result), color=TEXT_COLOR, fontsize=12)
    write_preview_footer(figure, f"{bundle.intended_use}.  {bundle.name} {bundle.version}", 0.02)
    save_preview(figure, path)


def _middle(result: RestorationResult) -> tuple[NDArray[np.float32], NDArray[np.float32], float]:
    """Return the middle slice before and after, (across, down) in radiological order, and the ratio of pixel height to
    width."""
    import nibabel as nib

    scan = result.scan
    turn = nib.io_orientation(scan.affine)
    pair = [nib.orientations.apply_orientation(v, turn) for v in (scan.array[0], result.array)]
    sides = np.empty(3)
    sides[turn[:, 0].astype(int)] = scan.spacing_mm
    cut = 2 if result.source_scan is None else int(turn[2, 0])
    across, down = (axis for axis in range(3) if axis != cut)
    at = pair[0].shape[cut] // 2
    # axes are drawn reversed: the patient's right on the left, the head at the top, the front at the top or on the left
    before, after = (np.take(v, at, cut)[::-1, ::-1].astype(np.float32) for v in pair)
    box = _body(before)
    return before[box], after[box], float(sides[down] / sides[across])


def _body(plane: NDArray[np.float32]) -> tuple[slice, slice]:
    """Return the box around the foreground, with a margin."""
    from skimage.filters import threshold_otsu

    if plane.min() == plane.max():
        return slice(None), slice(None)
    mask = plane > threshold_otsu(plane)
    box = []
    for axis in range(2):
        at = np.flatnonzero(mask.any(1 - axis))
        margin = max(2, round(0.05 * plane.shape[axis]))
        box.append(slice(max(0, int(at[0]) - margin), int(at[-1]) + 1 + margin))
    return box[0], box[1]


def _window(plane: NDArray[np.float32], unit: str) -> tuple[float, float]:
    if unit == "HU":
        return _SOFT_TISSUE_HU
    low, high = np.percentile(plane, (1, 99)).tolist()
    return float(low), float(max(high, low + 1e-6))


def _detail(plane: NDArray[np.float32], aspect: float) -> tuple[slice, slice]:
    """Return a square around the middle of the foreground, within the picture."""
    mask = plane > np.percentile(plane, 50)
    centre = np.argwhere(mask).mean(0) if mask.any() else np.array(plane.shape) / 2
    wide = max(2, round(plane.shape[0] * _DETAIL))
    sides = min(wide, plane.shape[0]), min(max(2, round(wide / aspect)), plane.shape[1])
    starts = [int(np.clip(round(c - s / 2), 0, n - s)) for c, s, n in zip(centre, sides, plane.shape, strict=True)]
    return slice(starts[0], starts[0] + sides[0]), slice(starts[1], starts[1] + sides[1])


def _draw(
    axes: Any, plane: NDArray[np.float32], limits: tuple[float, float], aspect: float, box: tuple[slice, slice] | None
) -> None:
    from matplotlib.patches import Rectangle

    axes.imshow(plane.T, cmap="gray", vmin=limits[0], vmax=limits[1], aspect=aspect, interpolation="nearest")
    hide_ticks(axes)
    if box is not None:
        corner = box[0].start - 0.5, box[1].start - 0.5
        sides = box[0].stop - box[0].start, box[1].stop - box[1].start
        axes.add_patch(Rectangle(corner, *sides, fill=False, edgecolor=NOTE_COLOR, linewidth=1.2))


def _numbers(result: RestorationResult) -> str:
    change = result.statistics()
    unit = change.unit
    words = []
    if change.noise_before is not None and change.noise_after is not None:
        words.append(f"Noise {change.noise_before:.1f} to {change.noise_after:.1f} {unit}")
    if change.mean_difference is not None:
        words.append(f"mean of soft tissue {change.mean_difference:+.2f} {unit}")
    if change.edge_strength_soft_tissue is not None:
        words.append(f"edges of soft tissue kept {100 * change.edge_strength_soft_tissue:.0f} %")
    return ";  ".join([*words, f"rating {result.quality()['rating']}"])
