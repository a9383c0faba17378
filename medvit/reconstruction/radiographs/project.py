"""Projection of a CT to radiographs for ``medvit drr`` and Python; ``medvit.reconstruction.radiographs.save`` writes
them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from medvit.errors import GeometryError, ImageError, ModalityError, OutputError
from medvit.io import Scan, open_source
from medvit.progress import Progress

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.physics.drr import Geometry

__all__ = ["DRR_OUTPUT_TYPES", "DrrSettings", "Radiographs", "check_drr_settings", "radiographs"]

DRR_OUTPUT_TYPES = ("png", "nifti", "dicom")
"""Output types of radiographs."""

_LOWEST_AT_MOST, _HIGHEST_AT_LEAST = -500.0, 100.0
"""HU below and above which every CT has values: air, and bone or contrast."""

_MOST_PIXELS = 2**26
"""Largest number of pixels of a view; more is taken as a mistake in the pixel spacing."""


@dataclass(frozen=True, kw_only=True)
class DrrSettings:
    """Geometry and energy of computed radiographs.

    Attributes:
        views_deg: rotation of each view; see ``medvit.physics.drr.Geometry``.
        source_to_isocenter_mm: distance from the focal spot to the axis of rotation.
        isocenter_to_detector_mm: distance from the axis of rotation to the detector.
        pixel_spacing_mm: side of a detector pixel.
        detector_shape: rows, columns; None for as many as the projection of the volume needs.
        energy_kev: photon energy for the attenuation of water.
        preset: name in ``medvit.physics.drr.PRESETS``; it sets all of the above except the views.
        as_published: with a preset, also reproduce its errors: uncorrected pixel size, Hounsfield units above zero
            integrated in 16 bits, each view stretched to 0..255.
        force: accept a source that does not look like CT; recorded.
        geometry: "sform" or "qform" of a NIfTI; see ``medvit.RunSettings``.
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
    geometry: str | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Radiographs:
    """Radiographs of one CT.

    Attributes:
        values: (view, row, column), float32: line integrals of the attenuation, without unit (0 for air; the share of
            photons that arrive is exp(-value)); with ``as_published``, grey values 0..255.
        geometry: positions of source and detector.
        isocenter_mm: centre of rotation, RAS+.
        settings: the requested settings.
        scan: the source.
        notes: notes for readers.
        progress: has the seconds of each stage.
    """

    values: np.ndarray
    geometry: Geometry
    isocenter_mm: tuple[float, float, float]
    settings: DrrSettings
    scan: Scan
    notes: tuple[str, ...]
    progress: Progress


def check_drr_settings(settings: DrrSettings, types: Sequence[str]) -> None:
    """Refuse invalid settings before anything is read.

    Raises:
        GeometryError: a view is given twice, or ``as_published`` without a preset.
        OutputError: an output type is unknown.
    """
    for name in types:
        if name not in DRR_OUTPUT_TYPES:
            raise OutputError(
                f"output type {name!r}",
                f"radiographs are written as {' or '.join(DRR_OUTPUT_TYPES)}",
                "Correct {output_types}.",
                option="output_types",
            )
    names = [f"{view:g}" for view in settings.views_deg]
    if len(set(names)) != len(names):
        raise GeometryError(f"views {', '.join(names)}", "each angle can be given once", "Remove the duplicate.")
    if settings.as_published and settings.preset is None:
        raise GeometryError(
            "as-published without a preset",
            "it reproduces a preset's faults",
            "Add {preset=swin-x2s}.",
            option="preset",
        )


def _require_ct(scan: Scan, force: bool) -> tuple[str, ...]:
    if scan.is_picture or scan.array.shape[0] != 1:
        raise ImageError(
            f"an image of shape {'x'.join(map(str, scan.array.shape))}", "one CT volume is needed", "Give a CT."
        )
    low, high = float(scan.array.min()), float(scan.array.max())
    reason = None
    if scan.modality not in (None, "CT"):
        reason = f"modality {scan.modality}, where CT in Hounsfield units is needed"
    elif low > _LOWEST_AT_MOST or high < _HIGHEST_AT_LEAST:
        reason = f"values from {low:g} to {high:g}, where a CT in Hounsfield units reaches air (-1000) and bone"
        if scan.unscaled:
            reason += f"; its headers have no {' and no '.join(scan.unscaled)}"
    if reason is None:
        return ()
    if not force:
        raise ModalityError(reason, remedy="Give a CT, or project it all the same with {force=True}.", option="force")
    return (f"Forced: {reason}.",)


def _geometry(scan: Scan, settings: DrrSettings) -> Geometry:
    from medvit.physics.drr import Geometry, preset_geometry

    extent = tuple(n * s for n, s in zip(scan.array.shape[1:], scan.spacing_mm, strict=True))
    if settings.preset is not None:
        found = preset_geometry(settings.preset, extent, as_published=settings.as_published)
        return replace(found, views_deg=settings.views_deg)
    pitch = (settings.pixel_spacing_mm, settings.pixel_spacing_mm)
    plain = Geometry(
        source_to_isocenter_mm=settings.source_to_isocenter_mm,
        isocenter_to_detector_mm=settings.isocenter_to_detector_mm,
        detector_shape=(1, 1),
        pixel_spacing_mm=pitch,
        views_deg=settings.views_deg,
    )
    shape = settings.detector_shape or plain.covering(scan.affine, scan.array.shape[1:])
    if shape[0] * shape[1] > _MOST_PIXELS:
        raise GeometryError(
            f"a detector of {shape[0]} x {shape[1]} pixels",
            f"at most {_MOST_PIXELS} can be projected",
            "Use larger pixels.",
        )
    return replace(plain, detector_shape=shape)


def radiographs(
    source: str | os.PathLike[str] | MetaTensor | Scan,
    settings: DrrSettings | None = None,
    progress: Progress | None = None,
) -> Radiographs:
    """Compute radiographs of the body in a CT.

    Args:
        source: any source of one CT volume for ``open_source``.
        settings: geometry and energy.
        progress: receives the number of the current view; can cancel.

    Raises:
        MedvitError: any of its kinds, with what was found, what is needed and one step to take.
    """
    settings = settings or DrrSettings()
    progress = progress or Progress()
    check_drr_settings(settings, ())
    with progress.stage("read"):
        scan = open_source(source, None, progress, geometry=settings.geometry)
    notes = (*scan.notes, *scan.excluded, *_require_ct(scan, settings.force))
    geometry = _geometry(scan, settings)
    import torch

    from medvit.physics.drr import (
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
    return Radiographs(
        values=values.numpy(),
        geometry=geometry,
        isocenter_mm=volume_centre_mm(scan.affine, shape),
        settings=settings,
        scan=scan,
        notes=notes,
        progress=progress,
    )
