"""From a CT to radiographs on disk: what ``medvit drr`` does, usable from Python."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from medvit.errors import GeometryError, ImageError, ModalityError, OutputError
from medvit.io import Scan, open_source
from medvit.io.staging import explained, hashes_within, publish, write_aside
from medvit.progress import Progress
from medvit.reports.record import versions

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.reconstruction.drr import Geometry

__all__ = ["DRR_OUTPUT_TYPES", "DrrSettings", "Radiographs", "check_drr_settings", "radiographs", "save_radiographs"]

DRR_OUTPUT_TYPES = ("png", "nifti", "dicom")
"""What radiographs can be written as."""

INTENDED_USE = "For research use, not for diagnosis"

_LOWEST_AT_MOST, _HIGHEST_AT_LEAST = -500.0, 100.0
"""HU that every CT reaches: air and bone or contrast."""

_MOST_PIXELS = 2**26
"""Pixels of one view; more is a slip of the spacing."""


@dataclass(frozen=True)
class DrrSettings:
    """Where source and detector stand and what is integrated.

    Attributes:
        views_deg: rotation of each view; see ``medvit.reconstruction.drr.Geometry``.
        source_to_isocenter_mm: from the focal spot to the axis of rotation.
        isocenter_to_detector_mm: from the axis of rotation to the detector.
        pixel_spacing_mm: side of a detector pixel.
        detector_shape: rows, columns; None takes as many as the volume's shadow needs.
        energy_kev: photon energy at which water's attenuation is taken.
        preset: a name in ``medvit.reconstruction.drr.PRESETS``, which then sets all of the above but the views.
        as_published: with a preset, its faults too: uncorrected pixel size, Hounsfield units above zero integrated in
            16 bits, each view stretched to 0..255.
        force: take a source that does not look like CT; recorded.
    """

    views_deg: tuple[float, ...] = (0.0, 90.0)
    source_to_isocenter_mm: float = 1000.0
    isocenter_to_detector_mm: float = 500.0
    pixel_spacing_mm: float = 1.0
    detector_shape: tuple[int, int] | None = None
    energy_kev: float = 60.0
    preset: str | None = None
    as_published: bool = False
    force: bool = False


@dataclass(frozen=True, eq=False)
class Radiographs:
    """Pictures of one CT.

    Attributes:
        values: (view, row, column), float32: line integrals of the attenuation, pure numbers (0 where nothing is in the
            way; the share of photons that arrive is exp(-value)); as published, grey values 0..255.
        geometry: where source and detector stood.
        isocenter_mm: RAS+, around which they turned.
        settings: as asked for.
        scan: the source.
        notes: what a reader must know.
        progress: holds the seconds of each stage.
    """

    values: np.ndarray
    geometry: Geometry
    isocenter_mm: tuple[float, float, float]
    settings: DrrSettings
    scan: Scan
    notes: tuple[str, ...]
    progress: Progress


def check_drr_settings(settings: DrrSettings, types: Sequence[str]) -> None:
    """Refuse mistakes before anything is read.

    Raises:
        GeometryError: a view given twice, or ``as_published`` without a preset. OutputError: an unknown output type.
    """
    for name in types:
        if name not in DRR_OUTPUT_TYPES:
            raise OutputError(
                f"Found output type {name!r}; radiographs are written as {' or '.join(DRR_OUTPUT_TYPES)}. Correct -ot."
            )
    names = [f"{view:g}" for view in settings.views_deg]
    if len(set(names)) != len(names):
        raise GeometryError(f"Found views {', '.join(names)}; each angle can be given once. Remove the double one.")
    if settings.as_published and settings.preset is None:
        raise GeometryError(
            "Found as-published without a preset; it stands for a preset's faults. Add --preset swin-x2s."
        )


def _require_ct(scan: Scan, force: bool) -> tuple[str, ...]:
    if scan.is_picture or scan.array.shape[0] != 1:
        raise ImageError(
            f"Found an image of shape {'x'.join(map(str, scan.array.shape))}; one CT volume is needed. Give a CT."
        )
    low, high = float(scan.array.min()), float(scan.array.max())
    reason = None
    if scan.modality not in (None, "CT"):
        reason = f"modality {scan.modality}, where CT in Hounsfield units is needed"
    elif low > _LOWEST_AT_MOST or high < _HIGHEST_AT_LEAST:
        reason = f"values from {low:g} to {high:g}, where a CT in Hounsfield units reaches air (-1000) and bone"
    if reason is None:
        return ()
    if not force:
        raise ModalityError(f"Found {reason}. Give a CT, or project it all the same with --force.")
    return (f"Forced: {reason}.",)


def _geometry(scan: Scan, settings: DrrSettings) -> Geometry:
    from medvit.reconstruction.drr import Geometry, preset_geometry

    extent = tuple(n * s for n, s in zip(scan.array.shape[1:], scan.spacing_mm, strict=True))
    if settings.preset is not None:
        found = preset_geometry(settings.preset, extent, as_published=settings.as_published)
        return replace(found, views_deg=settings.views_deg)
    pitch = (settings.pixel_spacing_mm, settings.pixel_spacing_mm)
    plain = Geometry(
        settings.source_to_isocenter_mm, settings.isocenter_to_detector_mm, (1, 1), pitch, settings.views_deg
    )
    shape = settings.detector_shape or plain.covering(scan.affine, scan.array.shape[1:])
    if shape[0] * shape[1] > _MOST_PIXELS:
        raise GeometryError(
            f"Found a detector of {shape[0]} x {shape[1]} pixels; at most {_MOST_PIXELS} can be projected. Use larger pixels."
        )
    return replace(plain, detector_shape=shape)


def radiographs(
    source: str | os.PathLike[str] | MetaTensor | Scan,
    settings: DrrSettings | None = None,
    progress: Progress | None = None,
) -> Radiographs:
    """Radiographs of the body in a CT.

    Args:
        source: anything ``open_source`` reads as one CT volume.
        settings: geometry and energy.
        progress: told which view is under way; can cancel.

    Raises:
        MedvitError: any of its kinds, each with what was found, what is needed and one step to take.
    """
    settings = settings or DrrSettings()
    progress = progress or Progress()
    check_drr_settings(settings, ())
    with progress.stage("read"):
        scan = open_source(source, None, progress)
    notes = (*scan.notes, *_require_ct(scan, settings.force))
    geometry = _geometry(scan, settings)
    import torch

    from medvit.reconstruction.drr import (
        Projector,
        attenuation_per_mm,
        published_integrand,
        published_pixels,
        volume_centre_mm,
    )

    shape = scan.array.shape[1:]
    hounsfield = torch.from_numpy(np.ascontiguousarray(scan.array[0]))
    integrand = (
        published_integrand(hounsfield)
        if settings.as_published
        else attenuation_per_mm(hounsfield, settings.energy_kev)
    )
    views = []
    with progress.stage("project"), torch.inference_mode():
        for done, view in enumerate(geometry.views_deg):
            progress.report("project", done, len(geometry.views_deg))
            views.append(Projector(replace(geometry, views_deg=(view,)), scan.affine, shape)(integrand))
        values = torch.cat(views)
        if settings.as_published:
            values = published_pixels(values, as_published=True).float()
    return Radiographs(values.numpy(), geometry, volume_centre_mm(scan.affine, shape), settings, scan, notes, progress)


def save_radiographs(
    pictures: Radiographs, folder: str | os.PathLike[str], types: Sequence[str] = ("png",)
) -> list[str]:
    """Write one file a view and type, and ``run.json``, all or nothing; return the names.

    PNGs and DICOM images (CR) have 16 bits, all views on one scale: value times ``line_integral_per_unit`` in ``run.json`` is the line
    integral. As published they have 8. NIfTIs hold the line integrals as float32, (column, row, 1), with the affine of
    the detector plane in RAS+ mm.

    Raises:
        OutputError: an unknown type, or the folder cannot be written.
    """
    check_drr_settings(pictures.settings, types)
    final = Path(folder)
    with explained(final), write_aside(final) as staging:
        with pictures.progress.stage("write"):
            unit = 1.0 if pictures.settings.as_published else max(float(pictures.values.max()), 1e-12) / 65535
            if "dicom" in types:
                _write_dicom(staging, pictures, unit)
            for view, values in zip(pictures.geometry.views_deg, pictures.values, strict=True):
                pictures.progress.check()
                if "png" in types:
                    _write_png(staging / f"drr_{view:g}.png", values, unit, pictures.settings.as_published)
                if "nifti" in types:
                    affine = pictures.geometry.detector_affine(view, pictures.isocenter_mm)
                    _write_nifti(staging / f"drr_{view:g}.nii.gz", values, affine)
        files = hashes_within(staging)
        (staging / "run.json").write_text(json.dumps(_record(pictures, files, unit), indent=2) + "\n")
        pictures.progress.check()
        publish(staging, final, _earlier(final))
    return sorted([*files, "run.json"])


def _earlier(folder: Path) -> list[str]:
    """Radiographs that an earlier run wrote there, by its own record."""
    try:
        files = json.loads((folder / "run.json").read_text())["files"]
        return [str(name) for name in files if str(name).startswith("drr_") and Path(name).name == name]
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _write_png(path: Path, values: np.ndarray, unit: float, as_published: bool) -> None:
    from PIL import Image

    pixels = values.astype(np.uint8) if as_published else np.round(values / unit).clip(0, 65535).astype(np.uint16)
    Image.fromarray(pixels).save(path)


def _write_dicom(folder: Path, pictures: Radiographs, unit: float) -> None:
    from pydicom.uid import generate_uid

    import medvit
    from medvit.io.cr import CrSeries, write_cr

    geometry, source = pictures.geometry, pictures.scan.slices[0] if pictures.scan.slices else None
    words = "Grey values as published" if pictures.settings.as_published else f"Line integral = pixel x {unit:.6g}"
    series = CrSeries(
        generate_uid(prefix=None),
        generate_uid(prefix=None),
        source,
        geometry.pixel_spacing_mm,
        geometry.source_to_isocenter_mm,
        geometry.source_to_isocenter_mm + geometry.isocenter_to_detector_mm,
        medvit.__version__,
        f"{words}. {INTENDED_USE}.",
        INTENDED_USE,
    )
    for number, (view, values) in enumerate(zip(geometry.views_deg, pictures.values, strict=True), 1):
        pixels = np.round(values / unit).clip(0, 65535).astype(np.uint16)
        write_cr(folder / f"drr_{view:g}.dcm", pixels, view, number, series)


def _write_nifti(path: Path, values: np.ndarray, affine: np.ndarray) -> None:
    import nibabel as nib

    image = nib.Nifti1Image(np.ascontiguousarray(values.T[:, :, None]).astype(np.float32), affine)
    image.set_sform(affine, 1)
    image.set_qform(affine, 1)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _record(pictures: Radiographs, files: dict[str, str], unit: float) -> dict[str, Any]:
    """What goes into ``run.json``; the source is named by a fingerprint of its voxels alone."""
    from medvit.reconstruction.drr import water_attenuation_per_mm

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
        "intended_use": INTENDED_USE,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "machine": {"system": platform.system(), "processor": platform.machine()},
        "preset": settings.preset,
        "as_published": settings.as_published,
        "forced": settings.force,
        "geometry": {
            **asdict(pictures.geometry),
            "isocenter_mm": [round(v, 3) for v in pictures.isocenter_mm],
            "magnification": round(pictures.geometry.magnification, 6),
        },
        "attenuation": integrand,
        "source": {
            "kind": scan.kind,
            "modality": scan.modality,
            "shape": list(scan.array.shape),
            "spacing_mm": [round(s, 4) for s in scan.spacing_mm],
            "sha256": scan.fingerprint(),
        },
        "notes": list(pictures.notes),
        "seconds": {k: round(v, 3) for k, v in pictures.progress.seconds.items()},
        "files": files,
    }
