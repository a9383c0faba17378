"""Preview of a reconstruction: both views with the result projected onto them, its surfaces, and the numbers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

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
    from medvit.reconstruction.result_protocol import ReconstructionResult

__all__ = ["draw_reconstruction_preview"]

_LIGHT = np.array([0.35, -0.75, 0.55])
_MOST_FACES = 60_000


def draw_reconstruction_preview(path: Path, result: ReconstructionResult) -> None:
    """Write ``preview.png``."""
    figure = new_preview(15, 6.2)
    grid = figure.add_gridspec(
        1, 4, width_ratios=[1, 1, 1.25, 0.8], left=0.01, right=0.99, top=0.87, bottom=0.1, wspace=0.04
    )
    letters = (("R", "L"), ("A", "P"))
    for n, (view, picture, shadow) in enumerate(zip(result.views, result.pictures, result.reprojections, strict=True)):
        axes = figure.add_subplot(grid[0, n])
        low, high = np.percentile(picture, (0.5, 99.5))
        axes.imshow(picture, cmap="gray", vmin=low, vmax=max(high, low + 1e-6), interpolation="bilinear")
        if (shadow > 0).any() and (shadow <= 0).any():
            axes.contour(
                shadow, levels=[0.5 * float(np.linalg.norm(result.affine[:3, 2]))], colors=["#ffb000"], linewidths=1.0
            )
        _plain(axes)
        agreement = result.consistency()[view.slot]
        axes.set_title(f"{view.slot} view, result projected again ({agreement:.2f})", color=TEXT_COLOR, fontsize=11)
        for text, x in zip(letters[n], (0.03, 0.97), strict=True):
            axes.text(x, 0.5, text, transform=axes.transAxes, color=NOTE_COLOR, ha="center", va="center", fontsize=11)
    _draw_surfaces(figure.add_subplot(grid[0, 2], projection="3d"), result)
    _draw_numbers(figure.add_subplot(grid[0, 3]), result)
    bundle = result.bundle
    write_preview_title(figure, bundle, 0.94)
    words = f"{bundle.intended_use}. Shapes behind what two pictures show are learnt, not measured.  {bundle.name} {bundle.version}"
    write_preview_footer(figure, words, 0.025)
    save_preview(figure, path)


def _plain(axes: Any) -> None:
    hide_ticks(axes)
    axes.set_facecolor(BACKGROUND_COLOR)


def _draw_surfaces(axes: Any, result: ReconstructionResult) -> None:
    """Draw all surfaces as seen from the front and the patient's right, slightly from above."""
    from mpl_toolkits.mplot3d.art3d import Poly3DCollection

    axes.set_facecolor(BACKGROUND_COLOR)
    axes.set_axis_off()
    light, corners = _LIGHT / np.linalg.norm(_LIGHT), []
    for label in result.requested_labels:
        surface = result.surfaces.get(label.name)
        if surface is None:
            continue
        faces = surface.faces[:: max(1, len(surface.faces) // _MOST_FACES)]
        triangles = surface.vertices[faces]
        normals = np.cross(triangles[:, 1] - triangles[:, 0], triangles[:, 2] - triangles[:, 0])
        normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        shade = 0.35 + 0.65 * np.clip(normals @ light, 0, 1)
        colors = np.clip(np.outer(shade, np.array(label.color) / 255), 0, 1)
        axes.add_collection3d(Poly3DCollection(triangles, facecolors=colors, edgecolors="none", antialiased=False))
        corners.append(surface.vertices)
    if corners:
        points = np.concatenate(corners)
        middle, reach = (points.max(0) + points.min(0)) / 2, float(np.ptp(points, axis=0).max()) / 2
        axes.set(**{f"{a}lim": (m - reach, m + reach) for a, m in zip("xyz", middle, strict=True)})
    axes.set_box_aspect((1, 1, 1), zoom=1.35)
    axes.view_init(elev=12, azim=55)
    axes.set_title("Surfaces, from the front and right", color=TEXT_COLOR, fontsize=11)


def _draw_numbers(axes: Any, result: ReconstructionResult) -> None:
    from matplotlib.patches import Rectangle

    axes.set_axis_off()
    for row, (shape, label) in enumerate(zip(result.statistics(), result.requested_labels, strict=True)):
        y = 0.95 - row * min(0.16, 0.8 / max(1, len(result.requested_labels)))
        axes.add_patch(Rectangle((0.0, y - 0.02), 0.07, 0.04, color=unit_color(label)))
        axes.text(0.11, y, label.title, color=TEXT_COLOR, fontsize=11, va="center", transform=axes.transAxes)
        words = "not found"
        if shape.extent_mm is not None:
            sides = " x ".join(f"{v:.0f}" for v in shape.extent_mm)
            words = f"{shape.volume_ml:.0f} mL, {sides} mm"
        axes.text(0.11, y - 0.06, words, color=TEXT_COLOR, fontsize=10, va="center", transform=axes.transAxes)
    quality = result.quality()
    axes.text(0.0, 0.08, f"Rating: {quality['rating']}", color=NOTE_COLOR, fontsize=12, transform=axes.transAxes)
