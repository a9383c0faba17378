"""Reconstruction through the one path: two radiographs opened, brought onto the network's field, labels out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray

from medvit.bundles import Bundle
from medvit.errors import BundleError
from medvit.inference import LoadedBundle, apply, load_model
from medvit.progress import Progress
from medvit.reconstruction.result import Reconstructed
from medvit.reconstruction.views import View, require_one_patient

__all__ = ["ReconstructionSettings", "on_field", "reconstruct_views", "run_reconstruction_model"]

_PIXELS_PER_VOXEL = 2
"""As finely as radiographs are computed for training; the bundle's preprocessing does the rest."""

_AIR = 0.05
"""Grey values up to this share above the darkest are taken for air."""

_SAME = 0.005
"""Relative difference of pixel sizes or magnifications below which two views count as alike."""


@dataclass(frozen=True)
class ReconstructionSettings:
    """How to run: ``device`` as in ``RunSettings``, ``force`` takes unfit views, recorded."""

    device: str = "auto"
    force: bool = False


def reconstruct_views(
    views: tuple[View, View], bundle: Bundle, settings: ReconstructionSettings, progress: Progress
) -> Reconstructed:
    """``reconstruct`` of views that are open already, AP first."""
    bundle.require_task("reconstruction")
    bundle.require_trained()
    notes = require_one_patient(views, settings.force)
    with progress.stage("load"):
        model = load_model(bundle, settings.device)
    return _reconstructed(model, views, settings, notes, progress)


def run_reconstruction_model(
    model: LoadedBundle,
    views: tuple[View, View],
    settings: ReconstructionSettings | None = None,
    progress: Progress | None = None,
) -> Reconstructed:
    """``reconstruct_views`` with a model that is there already."""
    settings = settings or ReconstructionSettings()
    model.bundle.require_task("reconstruction")
    notes = require_one_patient(views, settings.force)
    return _reconstructed(model, views, settings, notes, progress or Progress())


def _reconstructed(
    model: LoadedBundle,
    views: tuple[View, View],
    settings: ReconstructionSettings,
    notes: tuple[str, ...],
    progress: Progress,
) -> Reconstructed:
    bundle = model.bundle
    size, sides = _field(bundle)
    made = [
        on_field(view, (size[2], size[across]), (sides[2], sides[across]))
        for view, across in zip(views, (0, 1), strict=True)
    ]
    pictures, covered = [picture for picture, _ in made], [share for _, share in made]
    data = {
        name: MetaTensor(torch.from_numpy(picture[None].copy()))
        for name, picture in zip(("coronal", "sagittal"), pictures, strict=True)
    }
    prediction = apply(model, data, progress, entropy_map=True)
    labels, bits = prediction.output, prediction.entropy_map
    assert isinstance(labels, MetaTensor)  # as the bundle's postprocessing makes them
    # a postprocessing that moves the labels to another grid leaves nothing to lay the map on
    entropy_map = None if bits is None or bits.shape != labels.shape[1:] else bits
    record = {
        "device": str(model.device),
        "device_asked": settings.device,
        "precision": "fp32",
        "forced": settings.force,
        "threads": torch.get_num_threads(),
    }
    own = () if model.weights_sha256 else ("The network was given in memory; its weights are not the bundle's.",)
    said = (
        *(note for view in views for note in view.notes),
        *notes,
        *_differences(views),
        *_coverage(views, covered, size, sides),
    )
    return Reconstructed(
        labels=labels,
        requested_labels=bundle.facts.labels,
        pictures=(pictures[0], pictures[1]),
        field_coverage=(covered[0], covered[1]),
        views=views,
        bundle=bundle,
        settings=record,
        notes=(*said, *own),
        progress=progress,
        entropies=prediction.entropies,
        calibration=model.calibration,
        entropy_map=entropy_map,
        validation=model.validation,
    )


def _field(bundle: Bundle) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """The network's grid, (x, y, z) voxels and their sides, as the bundle states them."""
    try:
        x, y, z = (int(n) for n in bundle.config["img_size"])
        a, b, c = (float(s) for s in bundle.config["spacing_mm"])
    except (KeyError, TypeError, ValueError):
        raise BundleError(
            f"Found no img_size and spacing_mm of three numbers in {bundle.name}; views are brought onto that field. Add them to "
            "configs/inference.json."
        ) from None
    return (x, y, z), (a, b, c)


def on_field(view: View, size: tuple[int, int], sides_mm: tuple[float, float]) -> tuple[NDArray[np.float32], float]:
    """A view's picture on exactly the network's field, around the middle of the picture.

    Args:
        view: the radiograph; its middle is taken for the projection of the field's middle.
        size: voxels of the field along rows (z) and columns (x or y).
        sides_mm: of a voxel, in the same order.

    Returns:
        (row, column) float32 with two pixels a voxel, smoothed first where detail would alias, beyond the picture its
        darkest grey; and the share of the field that is seen: what lies beyond edges that show air counts as air.
    """
    from scipy.ndimage import gaussian_filter, map_coordinates

    steps = [side / _PIXELS_PER_VOXEL / pixel for side, pixel in zip(sides_mm, view.pixel_mm, strict=True)]
    counts = [n * _PIXELS_PER_VOXEL for n in size]
    blur = [0.5 * np.sqrt(max(step**2 - 1, 0.0)) for step in steps]
    values = gaussian_filter(view.values.astype(np.float64), blur, mode="nearest")
    places = [
        (np.arange(n) - (n - 1) / 2) * step + (m - 1) / 2
        for n, step, m in zip(counts, steps, view.values.shape, strict=True)
    ]
    outside = [(p < -0.5) | (p > m - 0.5) for p, m in zip(places, view.values.shape, strict=True)]
    dark, bright = (float(v) for v in np.percentile(view.values, (0.5, 99.5)))
    picture = map_coordinates(values, np.meshgrid(*places, indexing="ij"), order=1, mode="nearest")
    picture[outside[0]] = dark
    picture[:, outside[1]] = dark
    share = 1.0
    for axis, beyond in enumerate(outside):
        edges = np.take(view.values, [0, -1], axis=axis)
        if float(np.percentile(edges, 99)) > dark + _AIR * (bright - dark):  # the body goes on beyond the edge
            share *= 1 - float(beyond.mean())
    return picture.astype(np.float32), share


def _differences(views: Sequence[View]) -> list[str]:
    """That two views are not alike, which resampling has made good."""
    a, b = views
    words = []
    if max(abs(p / q - 1) for p, q in zip(a.pixel_mm, b.pixel_mm, strict=True)) > _SAME:
        words.append(
            f"pixels of {a.pixel_mm[0]:.3g} x {a.pixel_mm[1]:.3g} mm and {b.pixel_mm[0]:.3g} x {b.pixel_mm[1]:.3g} mm in the patient"
        )
    if abs(a.magnification / b.magnification - 1) > _SAME:
        words.append(f"magnifications of {a.magnification:.3f} and {b.magnification:.3f}")
    return [f"The two views have {' and '.join(words)}; both were resampled to the network's field."] if words else []


def _coverage(
    views: Sequence[View], covered: Sequence[float], size: Sequence[int], sides: Sequence[float]
) -> list[str]:
    notes = []
    for view, share, across in zip(views, covered, (0, 1), strict=True):
        if share < 1:
            height, width = view.size_mm
            notes.append(
                f"The {view.slot} view shows {width:.0f} x {height:.0f} mm in the patient, where the network's field is "
                f"{size[across] * sides[across]:.0f} x {size[2] * sides[2]:.0f} mm; the rest was taken for air."
            )
    return notes
