"""Closed, smooth surfaces of labelled voxels.

Marching cubes (W. E. Lorensen, H. E. Cline, SIGGRAPH 1987, as scikit-image has it) on the mask with a rim of background: on
masks, Lewiner's variant lets four triangles meet in an edge where voxels touch at edges alone. Then Taubin's smoothing (G. Taubin, "A signal processing approach to fair surface design", SIGGRAPH 1995), which
takes the steps of the voxels away without shrinking the body.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medvit.errors import ShapeError
from medvit.io.geometry import Affine, world

__all__ = ["Surface", "surface_of"]

_INWARD, _OUTWARD = 0.5, -0.53
"""Taubin's factors: a step towards the neighbours' mean, and a slightly larger one back."""


@dataclass(frozen=True, eq=False)
class Surface:
    """Triangles, their corners anticlockwise as seen from outside.

    Attributes:
        vertices: (vertex, 3) float64, RAS+ mm.
        faces: (face, 3) int64.
    """

    vertices: NDArray[np.float64]
    faces: NDArray[np.int64]

    @property
    def is_closed(self) -> bool:
        """Whether every edge belongs to exactly two triangles that run through it in opposite ways: no hole, no flap."""
        edges = np.concatenate([self.faces[:, [0, 1]], self.faces[:, [1, 2]], self.faces[:, [2, 0]]])
        there, counts = np.unique(edges, axis=0, return_counts=True)
        back = np.unique(edges[:, ::-1], axis=0)
        return bool((counts == 1).all() and np.array_equal(there, back))

    @property
    def area_mm2(self) -> float:
        """Of all triangles."""
        return float(np.linalg.norm(self._normals, axis=1).sum() / 2)

    @property
    def volume_ml(self) -> float:
        """Enclosed, by the divergence theorem."""
        corner = self.vertices[self.faces[:, 0]] - self.vertices.mean(0)
        return float((corner * self._normals).sum() / 6) / 1000

    @property
    def _normals(self) -> NDArray[np.float64]:
        a, b, c = (self.vertices[self.faces[:, n]] for n in range(3))
        crossed: NDArray[np.float64] = np.cross(b - a, c - a)
        return crossed


def surface_of(mask: NDArray[np.bool_], affine: Affine, smoothing: int = 10) -> Surface:
    """The surface of a mask.

    Args:
        mask: (i, j, k).
        affine: voxel index to RAS+ mm, 4x4.
        smoothing: pairs of Taubin's steps; 0 leaves the voxels' own surface.

    Raises:
        ShapeError: not three axes, or nothing in it.
    """
    from skimage.measure import marching_cubes

    mask = np.asarray(mask, dtype=bool)
    if mask.ndim != 3 or not mask.any():
        raise ShapeError(
            f"Found a mask of shape {mask.shape} with {int(mask.sum())} voxels; three axes and something in it are needed."
        )
    corners, faces, _, _ = marching_cubes(np.pad(mask, 1).astype(np.float32), 0.5, method="lorensen")
    vertices = world(np.asarray(affine, dtype=np.float64), corners.astype(np.float64) - 1)
    surface = Surface(vertices, faces.astype(np.int64))
    if surface.volume_ml < 0:  # the affine mirrors, or the triangles face inwards
        surface = Surface(vertices, surface.faces[:, ::-1].copy())
    return Surface(_smoothed(surface, smoothing), surface.faces)


def _smoothed(surface: Surface, pairs: int) -> NDArray[np.float64]:
    from scipy.sparse import coo_array

    count, faces = len(surface.vertices), surface.faces
    a = np.concatenate([faces[:, 0], faces[:, 1], faces[:, 2]])
    b = np.concatenate([faces[:, 1], faces[:, 2], faces[:, 0]])
    near = coo_array((np.ones(2 * len(a)), (np.r_[a, b], np.r_[b, a])), (count, count)).tocsr()
    near.data[:] = 1  # an edge counts once, though two triangles have it
    many = np.maximum(np.asarray(near.sum(1)), 1.0)[:, None]
    vertices = surface.vertices
    for _ in range(pairs):
        for factor in (_INWARD, _OUTWARD):
            vertices = vertices + factor * (near @ vertices / many - vertices)
    return np.asarray(vertices, dtype=np.float64)
