"""A labelled bone with the data that its measures need: voxels, surface and cross-sections, in RAS+ millimetres."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medvit.io import Affine, Surface, spacing_mm, world
from medvit.reports.surfaces import surface_of

__all__ = ["Body", "Sections", "body_of", "sections", "unit"]

_WHOLE = 0.9
"""Smallest share of a label's voxels in its largest connected piece for it to be measured as one bone."""


@dataclass(frozen=True, eq=False)
class Body:
    """The largest connected piece of a label.

    Attributes:
        mask: (i, j, k), its bounding box padded with background.
        affine: (4, 4), voxel index of ``mask`` to RAS+ mm.
        surface: closed and smoothed, RAS+ mm.
        cut: True where it touches the edge of the image, so that part of the bone may be missing.
    """

    mask: NDArray[np.bool_]
    affine: Affine
    surface: Surface
    cut: bool

    @cached_property
    def places(self) -> NDArray[np.float64]:
        """Centres of the bone's voxels, (n, 3) RAS+ mm."""
        return world(self.affine, np.argwhere(self.mask).astype(np.float64))

    @cached_property
    def normals(self) -> NDArray[np.float64]:
        """Outward unit normals at the surface's vertices, (n, 3): means over the adjacent triangles, weighted by area."""
        vertices, faces = self.surface.vertices, self.surface.faces
        a, b, c = (vertices[faces[:, n]] for n in range(3))
        crossed, summed = np.cross(b - a, c - a), np.zeros_like(vertices)
        for corner in range(3):
            np.add.at(summed, faces[:, corner], crossed)
        found: NDArray[np.float64] = summed / np.maximum(np.linalg.norm(summed, axis=1, keepdims=True), 1e-12)
        return found

    @property
    def side_mm(self) -> float:
        """Longest side of a voxel, the limit of resolution."""
        return max(spacing_mm(self.affine))

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³."""
        return abs(float(np.linalg.det(self.affine[:3, :3])))

    def inside(self, points: NDArray[np.float64]) -> NDArray[np.bool_]:
        """Return True for points, (..., 3) RAS+ mm, inside the bone; linearly interpolated between voxel centres."""
        index = (points - self.affine[:3, 3]) @ np.linalg.inv(self.affine[:3, :3]).T
        values = ndimage.map_coordinates(self.mask.astype(np.float32), np.moveaxis(index, -1, 0), order=1)
        found: NDArray[np.bool_] = values > 0.5
        return found


def body_of(mask: NDArray[np.bool_], affine: Affine, surface: Surface | None = None) -> Body | str:
    """Return a label's voxels as one bone, or the reason why they are not one.

    Args:
        mask: (i, j, k), at least one voxel.
        affine: (4, 4), voxel index to RAS+ mm.
        surface: surface of the whole mask, if already computed.
    """
    numbered, count = ndimage.label(mask, np.ones((3, 3, 3)))
    if count > 1:
        sizes = np.bincount(numbered.ravel())[1:]
        if sizes.max() < _WHOLE * sizes.sum():
            return f"the label lies in {count} pieces"
        mask, surface = numbered == sizes.argmax() + 1, None
    index = np.argwhere(mask)
    low, high = index.min(0), index.max(0) + 1
    cut = bool((low == 0).any() or (high == np.array(mask.shape)).any())
    box = np.pad(mask[tuple(slice(a, b) for a, b in zip(low, high, strict=True))], 1)
    moved = np.array(affine, dtype=np.float64)
    moved[:3, 3] = world(moved, (low - 1.0)[None])[0]
    return Body(box, moved, surface or surface_of(box, moved), cut)


@dataclass(frozen=True, eq=False)
class Sections:
    """Cross-sections of a bone: slabs perpendicular to a direction.

    Attributes:
        at_mm: position of each slab's middle along the direction, (slab,).
        areas_mm2: volume divided by thickness, (slab,).
        middles: mean position of the voxels, (slab, 3).
    """

    at_mm: NDArray[np.float64]
    areas_mm2: NDArray[np.float64]
    middles: NDArray[np.float64]

    def __getitem__(self, chosen: NDArray[np.bool_] | slice) -> Sections:
        return Sections(self.at_mm[chosen], self.areas_mm2[chosen], self.middles[chosen])


def sections(places: NDArray[np.float64], voxel_mm3: float, along: NDArray[np.float64], step_mm: float) -> Sections:
    """Compute the cross-sections of voxels; leave out empty slabs.

    Args:
        places: centres of the voxels, (n, 3).
        voxel_mm3: volume of a voxel.
        along: position of each voxel along the direction, (n,).
        step_mm: distance of slabs. A voxel is shared between its two nearest slabs, since whole rows of voxels would
            otherwise fall into one or the other.
    """
    number = (along - along.min()) / step_mm
    low = number.astype(np.int64)
    share = number - low
    slabs, weights = np.concatenate([low, low + 1]), np.concatenate([1 - share, share])
    counts = np.bincount(slabs, weights)
    there = counts > 1e-9
    summed = [np.bincount(slabs, weights * np.tile(places[:, axis], 2))[there] for axis in range(3)]
    middles = np.stack(summed, 1) / counts[there, None]
    at = along.min() + np.flatnonzero(there) * step_mm
    return Sections(at, np.asarray(counts[there] * voxel_mm3 / step_mm, np.float64), np.asarray(middles, np.float64))


def unit(vector: NDArray[np.float64]) -> NDArray[np.float64]:
    """Scale a vector to length 1."""
    made: NDArray[np.float64] = np.asarray(vector, dtype=np.float64) / max(float(np.linalg.norm(vector)), 1e-12)
    return made
