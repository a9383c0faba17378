"""Saving of radiographs as PNG, NIfTI or DICOM, with the run record."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from medvit.io import write_volume
from medvit.reconstruction.radiographs.project import Radiographs, check_drr_settings
from medvit.reports import record_header, source_facts, stage_seconds
from medvit.tasks import SavePlan, Writer, publish_files

__all__ = ["save_radiographs"]

INTENDED_USE = "For research use, not for diagnosis"


def save_radiographs(
    pictures: Radiographs, folder: str | os.PathLike[str], types: Sequence[str] = ("png",)
) -> list[str]:
    """Write one file per view and type, and ``run.json``, all or none; return the names.

    PNGs and DICOM images (CR) have 16 bits, with one scale for all views: value times ``line_integral_per_unit`` in
    ``run.json`` is the line integral. With ``as_published`` they have 8 bits. NIfTIs have the line integrals as
    float32, (column, row, 1), with the affine of the detector plane in RAS+ mm.

    Raises:
        OutputError: a type is unknown, or the folder cannot be written.
    """
    check_drr_settings(pictures.settings, types)
    unit = 1.0 if pictures.settings.as_published else max(float(pictures.values.max()), 1e-12) / 65535
    views = list(zip(pictures.geometry.views_deg, pictures.values, strict=True))
    writers: list[Writer] = [partial(_write_dicom, pictures, unit)] if "dicom" in types else []
    if "png" in types:
        writers += [partial(_write_png, view, values, unit, pictures.settings.as_published) for view, values in views]
    if "nifti" in types:
        writers += [partial(_write_nifti, view, values, pictures) for view, values in views]
    plan = SavePlan(writers=writers, output_files=_earlier(Path(folder)), overwrite=True)
    saved = publish_files(folder, plan, lambda files, _: _record(pictures, files, unit), pictures.progress)
    return list(saved.files)


def _earlier(folder: Path) -> list[str]:
    """List the radiographs of an earlier run in the folder, from its ``run.json``."""
    try:
        files = json.loads((folder / "run.json").read_text())["files"]
        return [str(name) for name in files if str(name).startswith("drr_") and Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write_png(view: float, values: np.ndarray, unit: float, as_published: bool, staging: Path) -> None:
    from PIL import Image

    pixels = values.astype(np.uint8) if as_published else np.round(values / unit).clip(0, 65535).astype(np.uint16)
    Image.fromarray(pixels).save(staging / f"drr_{view:g}.png")


def _write_dicom(pictures: Radiographs, unit: float, staging: Path) -> None:
    from pydicom.uid import generate_uid

    from medvit._version import __version__
    from medvit.io.dicom.write import RadiographSeries, write_radiograph

    geometry, source = pictures.geometry, pictures.scan.slices[0] if pictures.scan.slices else None
    words = "Grey values as published" if pictures.settings.as_published else f"Line integral = pixel x {unit:.6g}"
    series = RadiographSeries(
        uid=generate_uid(prefix=None),
        study_uid=generate_uid(prefix=None),
        source=source,
        pixel_spacing_mm=geometry.pixel_spacing_mm,
        source_to_patient_mm=geometry.source_to_isocenter_mm,
        source_to_detector_mm=geometry.source_to_isocenter_mm + geometry.isocenter_to_detector_mm,
        software=__version__,
        words=f"{words}. {INTENDED_USE}.",
        intended_use=INTENDED_USE,
    )
    for number, (view, values) in enumerate(zip(geometry.views_deg, pictures.values, strict=True), 1):
        pixels = np.round(values / unit).clip(0, 65535).astype(np.uint16)
        write_radiograph(staging / f"drr_{view:g}.dcm", pixels, view, number, series)


def _write_nifti(view: float, values: np.ndarray, pictures: Radiographs, staging: Path) -> None:
    affine = pictures.geometry.detector_affine(view, pictures.isocenter_mm)
    write_volume(
        staging / f"drr_{view:g}.nii.gz", np.ascontiguousarray(values.T[:, :, None]).astype(np.float32), affine
    )


def _record(pictures: Radiographs, files: dict[str, str], unit: float) -> dict[str, Any]:
    """Make the content of ``run.json``; the source is identified only by a fingerprint of its voxels."""
    from medvit.physics.drr import water_attenuation_per_mm

    settings, scan = pictures.settings, pictures.scan
    if settings.as_published:
        integrand: dict[str, Any] = {"quantity": "Hounsfield units above zero, stretched to 0..255 (as published)"}
    else:
        integrand = {
            "quantity": "linear attenuation, water * (1 + HU / 1000), 1/mm",
            "energy_kev": settings.energy_kev,
            "water_per_mm": round(water_attenuation_per_mm(settings.energy_kev), 6),
            "line_integral_per_unit": unit,
        }
    return {
        **record_header(INTENDED_USE),
        "preset": settings.preset,
        "as_published": settings.as_published,
        "forced": settings.force,
        "settings": {"geometry": settings.geometry},
        "geometry": {
            **asdict(pictures.geometry),
            "isocenter_mm": [round(v, 3) for v in pictures.isocenter_mm],
            "magnification": round(pictures.geometry.magnification, 6),
        },
        "attenuation": integrand,
        "source": source_facts(scan),
        "notes": list(pictures.notes),
        "seconds": stage_seconds(pictures.progress),
        "files": files,
    }
