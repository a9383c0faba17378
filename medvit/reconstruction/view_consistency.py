"""Agreement of a reconstruction with its radiographs: the labels are projected again and compared with each view.

The measure is gradient correlation (G. P. Penney et al., "A comparison of similarity measures for use in 2-D-3-D
medical image registration", IEEE Trans. Medical Imaging 17(4), 1998): the mean of the normalised cross-correlations of
both pictures' gradients along rows and columns. It depends on outlines, not on the brightness of soft tissue between
them: 1 is agreement, 0 none.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvit.io import Affine

__all__ = ["Beam", "gradient_correlation", "project_labels"]

_PLAIN_MM = 1000.0
"""Distance of the source if only the magnification is known; the divergence of the rays is then approximate."""


@dataclass(frozen=True, kw_only=True)
class Beam:
    """Geometry of one view, as needed for projection.

    Attributes:
        view_deg: 0 for AP, 90 for lateral; see ``medvit.physics.drr.Geometry``.
        magnification: magnification at the patient's middle.
        source_to_patient_mm: distance from the focal spot, or None.
        shape: rows, columns of the picture.
        pixel_mm: height and width of a pixel at the patient's middle.
    """

    view_deg: float
    magnification: float
    source_to_patient_mm: float | None
    shape: tuple[int, int]
    pixel_mm: tuple[float, float]


def project_labels(labels: NDArray[np.integer], affine: Affine, beam: Beam) -> NDArray[np.float32]:
    """Compute the length of each ray within labelled voxels, (row, column) in mm.

    Args:
        labels: (x, y, z), 0 for background, with the isocenter at the origin.
        affine: voxel index to RAS+ mm.
        beam: geometry of the view.
    """
    import torch

    from medvit.physics.drr import Geometry, Projector

    near = beam.source_to_patient_mm or _PLAIN_MM
    larger = max(beam.magnification, 1.0 + 1e-6)
    pitch = beam.pixel_mm[0] * larger, beam.pixel_mm[1] * larger
    geometry = Geometry(
        source_to_isocenter_mm=near,
        isocenter_to_detector_mm=near * (larger - 1),
        detector_shape=beam.shape,
        pixel_spacing_mm=pitch,
        views_deg=(beam.view_deg,),
        isocenter_mm=(0.0, 0.0, 0.0),
    )
    with torch.inference_mode():
        made = Projector(geometry, affine, labels.shape)(torch.from_numpy((labels > 0).astype(np.float32)))
    thickness: NDArray[np.float32] = made[0].numpy()
    return thickness


def gradient_correlation(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Compute the gradient correlation of two pictures (row, column) of one size; 0 if either has no edge."""
    found = []
    for axis in (0, 1):
        first, second = (np.gradient(np.asarray(picture, dtype=np.float64), axis=axis).ravel() for picture in (a, b))
        size = float(np.linalg.norm(first - first.mean()) * np.linalg.norm(second - second.mean()))
        found.append(float((first - first.mean()) @ (second - second.mean())) / size if size > 0 else 0.0)
    return round(float(np.mean(found)), 4)
