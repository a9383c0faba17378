"""Diagram of the slice positions of each volume, which shows gaps, duplicates, tilt and shifts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medvit.io.dicom.preflight import SeriesVolume

__all__ = ["draw_positions"]

_SHOWN = 12
"""Largest number of volumes drawn, starting with the largest; more would be too small to read."""

_COLORS = {"note": "#2f7d4f", "flag": "#b07d12", "tags": "#b07d12", "irregular": "#c25a12", "refused": "#b3202c"}


def draw_positions(path: Path, volumes: Sequence[SeriesVolume]) -> int:
    """Draw the slices of each volume as lines, seen along their rows, and save the diagram as PNG.

    Horizontal: sideways shift of a slice within its plane. Vertical: distance along the normal. Both in millimetres.

    Args:
        path: the file to write.
        volumes: volumes of a preflight; those without geometry are left out.

    Returns:
        The number of volumes drawn.

    Examples:
        >>> from pathlib import Path
        >>> from pydicom.data import get_testdata_file
        >>> from medvit.io.dicom import run_preflight
        >>> from medvit.reports import draw_positions
        >>> found = run_preflight(Path(get_testdata_file("CT_small.dcm")))
        >>> draw_positions(Path("positions.png"), found.volumes)
        1
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    drawn = sorted((v for v in volumes if v.stack is not None), key=lambda v: len(v.planes), reverse=True)[:_SHOWN]
    columns = max(1, min(4, len(drawn)))
    rows = max(1, -(-len(drawn) // columns))
    figure = Figure(figsize=(4.2 * columns, 4.6 * rows), dpi=100, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    for n, volume in enumerate(drawn, 1):
        _draw(figure.add_subplot(rows, columns, n), volume)
    figure.savefig(path, format="png", metadata={"Software": "medvit"})
    return len(drawn)


def _draw(axes: Any, volume: SeriesVolume) -> None:
    stack = volume.stack
    assert stack is not None
    shift = (stack.positions - stack.positions[0]) @ stack.axes[:, :2]
    # the axis along which slices are shifted most; the column axis for unshifted slices
    main = int(np.ptp(shift, axis=0).argmax()) if np.ptp(shift, axis=0).max() > 0.1 else 1
    width = (volume.first.columns if main == 0 else volume.first.rows) * stack.spacing_mm[main]
    gaps = np.diff(stack.distance)
    odd = np.zeros(len(stack.distance), dtype=bool)
    if len(gaps):
        uneven = np.abs(gaps - np.median(gaps)) > 0.05 * max(float(np.median(gaps)), 1e-6)
        odd[:-1] |= uneven
        odd[1:] |= uneven
    for at, moved, is_odd in zip(stack.distance, shift[:, main], odd, strict=True):
        color = _COLORS["irregular"] if is_odd else "#3c6ea5"
        axes.plot([moved, moved + width], [at, at], color=color, linewidth=1.4 if is_odd else 0.9)
    last, apart = -np.inf, 0.05 * float(np.ptp(stack.distance))
    for n in np.flatnonzero(odd[:-1] & odd[1:]) if len(gaps) else []:
        if stack.distance[n] - last < apart:  # avoid overlapping text
            continue
        last = float(stack.distance[n])
        axes.annotate(
            f"{gaps[n]:.2f} mm",
            (shift[n, main] + width, (stack.distance[n] + stack.distance[n + 1]) / 2),
            fontsize=8,
            color=_COLORS["irregular"],
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
        )
    axes.margins(x=0.22, y=0.16)
    axes.set_xlabel(f"along a {('row', 'column')[main]} (mm)", fontsize=8)
    axes.set_ylabel("along the normal (mm)", fontsize=8)
    axes.tick_params(labelsize=8)
    text = f"{volume.number}: {volume.first.modality}, {len(volume.planes)} slices, {volume.plane_name}"
    axes.set_title(text, fontsize=10)
    words = [f.code.replace("_", " ") for f in volume.findings if f.severity != "note"] or ["regular"]
    axes.text(
        0.02, 0.98, "\n".join(words[:6]), transform=axes.transAxes, fontsize=8, va="top", color=_COLORS[volume.worst()]
    )
