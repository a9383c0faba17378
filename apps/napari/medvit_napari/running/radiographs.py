"""Reconstruction of bones from two radiographs: the request and the resulting layers. It needs no Qt."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medvit.errors import GeometryError
from medvit.progress import Progress
from medvit.reconstruction.views import ViewGeometry
from medvit_napari.reading.layers import LayerTuple, reconstructed_layers
from medvit_napari.running.job import load_triton

__all__ = ["XrayRequest", "parse_number", "run_views"]


@dataclass(frozen=True, kw_only=True)
class XrayRequest:
    """Two radiographs, and their geometry as the user states it."""

    ap: str
    lat: str
    bundle: str
    flags: ViewGeometry = field(default_factory=ViewGeometry)
    force: bool = False


def run_views(request: XrayRequest, progress: Progress) -> list[LayerTuple]:
    """Reconstruct bones; return labels, surfaces, both pictures, and over each picture the millimetres of bone along
    its rays.

    Raises:
        MedvitError: see ``medvit.reconstruct``.
    """
    load_triton()
    from medvit import reconstruct

    how = {"ap_flags": request.flags, "lat_flags": request.flags, "force": request.force, "progress": progress}
    result = reconstruct(request.ap, request.lat, request.bundle, **how)  # type: ignore[arg-type]
    layers = reconstructed_layers(result)
    sides, shape = np.linalg.norm(result.affine[:3, :3], axis=0), result.array.shape
    for view, picture, shadow, across in zip(result.views, result.pictures, result.reprojections, (0, 1), strict=True):
        pixel = [sides[axis] * shape[axis] / count for axis, count in zip((2, across), picture.shape, strict=True)]
        look = {"visible": False, "units": ("mm", "mm"), "scale": pixel}
        layers.append((picture, {"name": f"{view.slot} view", **look}, "image"))
        over = {"colormap": "magenta", "blending": "additive", "opacity": 0.6, **look}
        layers.append((shadow, {"name": f"{view.slot} view, projected again (mm of bone)", **over}, "image"))
    return layers


def parse_number(text: str) -> float | None:
    """Parse a number from a field; return None for an empty field.

    Raises:
        GeometryError: the text is not a number.
    """
    if not text.strip():
        return None
    try:
        return float(text)
    except ValueError:
        raise GeometryError(f"{text!r}", "a number is needed, such as 0.15", "Correct it.") from None
