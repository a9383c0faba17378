"""Geometry of a radiograph from the ``run.json`` of ``medvit drr``: direction, pixel size, magnification."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from medvit.errors import GeometryError
from medvit.reconstruction.views.dicom_geometry import ViewHeader, ViewPosition

__all__ = ["facts_from_drr"]


def facts_from_drr(path: Path, slot: ViewPosition) -> ViewHeader:
    """Read the geometry of a radiograph from the ``run.json`` beside it; empty if ``medvit drr`` did not write the file.

    Args:
        path: file of the picture.
        slot: the view for which the picture is given.

    Raises:
        GeometryError: the picture was taken from another direction.
    """
    record = _record_of(path)
    return ViewHeader() if record is None else _facts(record, path, slot)


def _record_of(path: Path) -> dict[str, Any] | None:
    """Return the record of the ``medvit drr`` run that wrote this picture (same sha256), or None."""
    try:
        record = json.loads((path.parent / "run.json").read_text())
        stated = record["files"][path.name]
        _ = record["geometry"]["views_deg"], record["geometry"]["pixel_spacing_mm"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return dict(record) if hashlib.sha256(path.read_bytes()).hexdigest() == stated else None


def _facts(record: dict[str, Any], path: Path, slot: ViewPosition) -> ViewHeader:
    geometry = record["geometry"]
    try:
        angle = float(path.stem.removeprefix("drr_")) % 360
    except ValueError:
        return ViewHeader()
    wanted = {"AP": (0.0, 180.0), "lateral": (90.0, 270.0)}[slot]
    if angle not in wanted:
        other = {"AP": "{lat}", "lateral": "{ap}"}[slot] if angle % 90 == 0 else "another picture"
        remedy = f"Give it as {other}."
        raise GeometryError(
            f"a radiograph taken at {angle:g} degrees as {slot} view",
            f"it must be {wanted[0]:g} or {wanted[1]:g}",
            remedy,
            option=("ap", "lat"),
        )
    # at 180 or 270 degrees, columns run in the opposite direction
    across = {"AP": ("L", "R"), "lateral": ("P", "A")}[slot][wanted.index(angle)]
    near, far = float(geometry["source_to_isocenter_mm"]), float(geometry["isocenter_to_detector_mm"])
    down, wide = (float(v) for v in geometry["pixel_spacing_mm"])
    return ViewHeader(
        pixel_mm=(down, wide),
        magnification=(near + far) / near,
        source_to_patient_mm=near,
        orientation=(across, "F"),
        patient=str(record.get("source", {}).get("sha256")) or None,
        record=True,
    )
