"""Closed, smooth surfaces of masks.

The surface is computed by marching cubes (W. E. Lorensen, H. E. Cline, SIGGRAPH 1987, as implemented in scikit-image)
on the mask padded with background. Lewiner's variant is not used: where voxels of a mask touch only at an edge, four of
its triangles would share that edge. Taubin's smoothing (G. Taubin, "A signal processing approach to fair surface
design", SIGGRAPH 1995) then removes the voxel steps without shrinking the surface.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ShapeError
from medvit.io import Affine, Surface, world

__all__ = ["surface_of"]

_INWARD, _OUTWARD = 0.5, -0.53
"""Factors of Taubin's smoothing: a step towards the mean of the neighbours, and a slightly larger step back."""


def surface_of(mask: NDArray[np.bool_], affine: Affine, smoothing: int = 10) -> Surface:
    """Compute the closed, smoothed surface of a mask.

    Args:
        mask: (i, j, k) bool.
        affine: (4, 4), voxel index to RAS+ mm.
        smoothing: number of pairs of Taubin's steps; 0 keeps the voxel steps.

    Returns:
        The surface in RAS+ mm, with normals outwards.

    Raises:
        ShapeError: the mask does not have three axes, or is empty.

    Examples:
        >>> import numpy as np
        >>> from medvit.reports import surface_of
        >>> surface = surface_of(np.ones((8, 8, 8), dtype=bool), np.eye(4))
        >>> surface.is_closed
        True
    """
    from skimage.measure import marching_cubes

    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 3 or not mask.any():
        raise ShapeError(
            f"a mask of shape {mask.shape} with {int(mask.sum())} voxels",
            "three axes and at least one voxel are needed",
        )
    corners, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, method="lorensen")
    vertices = world(np.asarray(affine, dtype=np.float64), corners.astype(np.float64) - 1)
    surface = Surface(vertices, faces.astype(np.int64))
    if surface.volume_ml < 0:  # the triangles face inwards, as under a mirroring affine
        surface = Surface(vertices, surface.faces[:, ::-1].copy())
    return Surface(_smoothed(surface, smoothing), surface.faces)


def _smoothed(surface: Surface, pairs: int) -> NDArray[np.float64]:
    from scipy.sparse import coo_array

    count, faces = len(surface.vertices), surface.faces
    a = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    b = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])
    near = coo_array((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), (count, count)).tocsr()
    near.data[:] = 1  # an edge counts once, although two triangles share it
    many = np.maximum(np.asarray(near.sum(1)), 1.0)[:, None]
    vertices = surface.vertices
    for _ in range(pairs):
        for factor in (_INWARD, _OUTWARD):
            vertices = vertices + factor * (near @ vertices / many - vertices)
    return np.asarray(vertices, dtype=np.float64)
