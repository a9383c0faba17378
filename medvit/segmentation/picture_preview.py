"""Preview of a picture's result: outlines on the picture, legend, the research-use line."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from medvit.reports import new_preview, save_preview, unit_color, write_preview_footer, write_preview_title

if TYPE_CHECKING:
    from medvit.segmentation.result_protocol import SegmentationResult

__all__ = ["draw_picture_preview"]


def draw_picture_preview(path: Path, result: SegmentationResult) -> None:
    """Write ``preview.png`` of a picture's result: the picture on the left, with outlines on the right."""
    from medvit.transforms import scale_to_unit_rgb

    picture = scale_to_unit_rgb(result.scan.array).transpose(1, 2, 0)
    height, width = picture.shape[:2]
    tall = min(12.0, max(3.0, 6.5 * height / width)) + 1.2
    figure = new_preview(14, tall)
    axes = figure.subplots(1, 2, gridspec_kw={"left": 0.01, "right": 0.99, "top": 0.9, "bottom": 0.08, "wspace": 0.02})
    for side in axes:
        side.imshow(picture, interpolation="nearest")
        side.set_axis_off()
    found = []
    for measures, label in zip(result.statistics(), result.requested_labels, strict=True):
        mask = result.array == label.id
        color = unit_color(label)
        if mask.any() and min(mask.shape) > 1:  # contours need two rows and two columns
            axes[1].contour(mask.astype(float), levels=[0.5], colors=[color], linewidths=1.2)
        share = 100 * measures.voxels / mask.size
        found.append(
            (f"{label.title}: {share:.1f} % of pixels" if measures.voxels else f"{label.title}: not found", color)
        )
    bundle = result.bundle
    write_preview_title(figure, bundle, 0.94)
    for at, (words, color) in zip(np.linspace(0.5, 0.95, len(found), endpoint=False), found, strict=True):
        figure.text(at, 0.94, words, color=color, fontsize=12)
    said = f"{bundle.intended_use}.  {bundle.name} {bundle.version}.  Rating: {result.quality()['rating']}"
    write_preview_footer(figure, said, 0.02)
    save_preview(figure, path)
