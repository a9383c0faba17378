"""nnU-Net's preprocessing as a transform: order of the axes, crop to the nonzero box, normalisation, resampling."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from numpy.typing import NDArray
from torch import Tensor

from medvit.errors import ImageError
from medvit.interop.nnunet.resampling import Resampling, coarse_axis, new_size, resample
from medvit.io import spacing_mm

__all__ = ["NnunetGrid", "NnunetPreprocessd"]

_KEY = "nnunet_grid"

_SMALLEST_STD = 1e-8


@dataclass(frozen=True, kw_only=True)
class NnunetGrid:
    """Relation between the network grid and the source grid, in integers.

    Attributes:
        axes: for each network axis, the source axis from which it comes; -1 for the plane axis of a picture.
        flips: for each network axis, 1 if it was reversed.
        source_shape: size of the source along network axes.
        start: first voxel of the nonzero box.
        box: size of the nonzero box, in source voxels.
        size: size after resampling.
        coarse: network axis whose planes are resampled one by one from the network grid to the box; -1 for none.
    """

    axes: tuple[int, ...]
    flips: tuple[int, ...]
    source_shape: tuple[int, ...]
    start: tuple[int, ...]
    box: tuple[int, ...]
    size: tuple[int, ...]
    coarse: int = -1

    def pack(self) -> Tensor:
        """Pack into one int64 tensor, which MONAI's collating and decollating preserve."""
        rows = (self.axes, self.flips, self.source_shape, self.start, self.box, self.size, (self.coarse,) * 3)
        return torch.tensor(rows, dtype=torch.int64)

    @classmethod
    def of(cls, image: Any) -> NnunetGrid:
        """Return the grid that ``NnunetPreprocessd`` stored in an image's meta."""
        rows = [tuple(map(int, row)) for row in torch.as_tensor(image.meta[_KEY]).reshape(7, 3).tolist()]
        axes, flips, source_shape, start, box, size = rows[:6]
        return cls(
            axes=axes, flips=flips, source_shape=source_shape, start=start, box=box, size=size, coarse=rows[6][0]
        )

    def to_source(self, labels: Tensor) -> Tensor:
        """Paste labels of the box, along network axes, into an image of the source's shape and axes."""
        whole = labels.new_zeros(self.source_shape)
        whole[tuple(slice(s, s + n) for s, n in zip(self.start, self.box, strict=True))] = labels
        whole = whole.flip([axis for axis in range(3) if self.flips[axis]])
        if -1 in self.axes:
            whole = whole.select(self.axes.index(-1), 0)
            rest = [axis for axis in self.axes if axis >= 0]
            return whole.permute([rest.index(axis) for axis in range(2)]).contiguous()
        return whole.permute([self.axes.index(axis) for axis in range(3)]).contiguous()


class NnunetPreprocessd:
    """Transform from images of the source to the input of an nnU-Net; its meta stores the way back.

    Args:
        keys: the image, (channel, *spatial) with its affine.
        spacing: spacing of the network grid in mm, in nnU-Net's order of axes; two numbers keep that of the first axis.
        transpose: nnU-Net's ``transpose_forward``.
        normalizations: for each channel ``scheme``, ``use_mask`` and, for CT, ``mean``, ``std``, ``lowest`` and
            ``highest``.
        resampling: fields of ``Resampling`` for the image.
        resampling_logits: likewise for logits.
        orientation: "stored" for the array as it lies in the file, z, y, x; "RAS" for the closest RAS axes; "picture".

    Examples:
        >>> import torch
        >>> from monai.data import MetaTensor
        >>> from medvit.interop.nnunet import NnunetPreprocessd
        >>> step = NnunetPreprocessd(
        ...     "image", spacing=(1, 1, 1), transpose=(0, 1, 2), resampling={"order": 3}, resampling_logits={"order": 1},
        ...     normalizations=[{"scheme": "NoNormalization", "use_mask": False}],
        ... )  # fmt: skip
        >>> step({"image": MetaTensor(torch.ones(1, 4, 5, 6), affine=torch.eye(4))})["image"].shape
        torch.Size([1, 6, 5, 4])
    """

    def __init__(
        self,
        keys: str,
        *,
        spacing: Sequence[float],
        transpose: Sequence[int],
        normalizations: Sequence[Mapping[str, Any]],
        resampling: Mapping[str, Any],
        resampling_logits: Mapping[str, Any],
        orientation: str = "stored",
    ) -> None:
        self.keys = (keys,)
        self.spacing = tuple(float(side) for side in spacing)
        self.transpose = tuple(int(axis) for axis in transpose)
        self.normalizations = tuple(normalizations)
        self.resampling = Resampling(**resampling)
        self.resampling_logits = Resampling(**resampling_logits)
        self.orientation = orientation

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the image by the network's input."""
        out = dict(data)
        for key in self.keys:
            out[key] = self._prepared(out[key])
        return out

    def _prepared(self, image: Any) -> MetaTensor:
        values, affine = image.as_tensor().float(), np.asarray(image.affine, dtype=np.float64)
        if len(values) != len(self.normalizations):
            raise ImageError(
                f"an image of {len(values)} channels",
                f"the model takes {len(self.normalizations)}",
                "Give one image with all of them.",
            )
        values, axes, flips, spacing = self._ordered(values, affine)
        source = tuple(values.shape[1:])
        start, box = nonzero_box(values.numpy())
        values = values[(slice(None), *(slice(s, s + n) for s, n in zip(start, box, strict=True)))].clone()
        self._normalize(values.numpy())
        wanted = (*spacing[: 3 - len(self.spacing)], *self.spacing)
        size = box if self.resampling.kind == "none" else new_size(box, spacing, wanted)
        if min(size) < 1:
            raise ImageError(
                f"an image that is {size} voxels on the network's grid", "at least one is needed", "Check its spacing."
            )
        values = resample(values, size, self.resampling, coarse_axis(self.resampling, spacing, wanted))
        back = coarse_axis(self.resampling_logits, wanted, spacing)
        grid = NnunetGrid(
            axes=axes,
            flips=flips,
            source_shape=source,
            start=start,
            box=box,
            size=size,
            coarse=-1 if back is None else back,
        )
        meta = {k: v for k, v in image.meta.items() if k != "affine"}
        original = meta.get("original_affine", image.affine)
        return MetaTensor(
            values,
            affine=torch.eye(4, dtype=torch.float64),
            meta={**meta, "original_affine": original, _KEY: grid.pack()},
        )

    def _ordered(
        self, values: Tensor, affine: NDArray[np.float64]
    ) -> tuple[Tensor, tuple[int, ...], tuple[int, ...], tuple[float, ...]]:
        """Return the image in nnU-Net's order of axes, with the origin, direction and spacing of each axis."""
        if values.ndim == 3:  # a picture: (channel, row, column) becomes a volume of one plane
            order = [(-1, 0, 1)[axis] for axis in self.transpose]
            planes = values[:, None].permute(0, *(axis + 1 for axis in self.transpose))
            sides = [(999.0, 1.0, 1.0)[axis] for axis in self.transpose]
            return planes.contiguous(), tuple(order), (0, 0, 0), tuple(sides)
        axes, flips = [0, 1, 2], [0, 0, 0]
        if self.orientation == "RAS":
            import nibabel as nib

            turned = nib.io_orientation(affine)
            axes = [int(np.flatnonzero(turned[:, 0] == world)[0]) for world in range(3)]
            flips = [int(turned[axis, 1] < 0) for axis in axes]
        axes, flips = axes[::-1], flips[::-1]  # nnU-Net's arrays are z, y, x
        axes, flips = [axes[a] for a in self.transpose], [flips[a] for a in self.transpose]
        moved = values.permute(0, *(axis + 1 for axis in axes)).flip([a + 1 for a in range(3) if flips[a]])
        sides_mm = [_header_spacing(side) for side in spacing_mm(affine)]
        return moved.contiguous(), tuple(axes), tuple(flips), tuple(sides_mm[axis] for axis in axes)

    def _normalize(self, values: NDArray[np.float32]) -> None:
        """Normalise each channel in place."""
        mask: NDArray[np.bool_] | None = None
        if any(one["scheme"] == "ZScoreNormalization" and one["use_mask"] for one in self.normalizations):
            from scipy.ndimage import binary_fill_holes

            mask = binary_fill_holes((values != 0).any(0))
        for channel, settings in zip(values, self.normalizations, strict=True):
            _NORMALIZE[settings["scheme"]](channel, settings, mask if settings["use_mask"] else None)


def _header_spacing(side: float) -> float:
    """Return a voxel side as a NIfTI header states it, in single precision; that of a turned affine has other last
    digits, which can change the rounded size of the network grid."""
    short = round(side, 4)
    return float(np.float32(short if abs(short - side) < 1e-6 else side))


def nonzero_box(values: NDArray[np.float32]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return first voxel and size of the box of voxels that are not 0 in some channel; the whole image without any."""
    content = (values != 0).any(0)
    start, size = [], []
    for axis in range(content.ndim):
        at = np.flatnonzero(content.any(axis=tuple(a for a in range(content.ndim) if a != axis)))
        start.append(int(at[0]) if len(at) else 0)
        size.append(int(at[-1]) + 1 - start[-1] if len(at) else content.shape[axis])
    return tuple(start), tuple(size)


def _ct(values: NDArray[np.float32], settings: Mapping[str, Any], mask: Any) -> None:
    np.clip(values, settings["lowest"], settings["highest"], out=values)
    values -= settings["mean"]
    values /= max(settings["std"], _SMALLEST_STD)


def _z_score(values: NDArray[np.float32], settings: Mapping[str, Any], mask: NDArray[np.bool_] | None) -> None:
    inside = values if mask is None else values[mask]
    mean, std = inside.mean(), max(float(inside.std()), _SMALLEST_STD)
    if mask is None:
        values -= mean
        values /= std
    else:
        values[mask] = (inside - mean) / std


def _unit_range(values: NDArray[np.float32], settings: Mapping[str, Any], mask: Any) -> None:
    values -= values.min()
    values /= max(float(values.max()), _SMALLEST_STD)


def _colours(values: NDArray[np.float32], settings: Mapping[str, Any], mask: Any) -> None:
    if values.min() < 0 or values.max() > 255:
        raise ImageError(
            f"values from {values.min():g} to {values.max():g}",
            "the model takes colours from 0 to 255",
            "Give an 8-bit picture.",
        )
    values /= 255.0


_NORMALIZE = {
    "CTNormalization": _ct,
    "ZScoreNormalization": _z_score,
    "NoNormalization": lambda values, settings, mask: None,
    "RescaleTo01Normalization": _unit_range,
    "RGBTo01Normalization": _colours,
}
