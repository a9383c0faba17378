"""A source on a grid finer in its slices' plane: the steps of bundles that make an image finer, and the scan they restore.

A bundle states how many times finer in its preprocessing (``ZeroFilledd``, ``factor``); nothing else does.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import Compose, MapTransform

from medvit.errors import GeometryError, ShapeError
from medvit.io.scan import Scan
from medvit.kspace import finer_index, measured_part, zero_filled
from medvit.model import Model

__all__ = ["IntensityOnFinerd", "ZeroFilledd", "at_factor", "finer_by", "finer_scan"]


class ZeroFilledd(MapTransform):  # type: ignore[misc]
    """Interpolate each slice by zeros around its k-space; slices lie across k, as stored. See ``medvit.kspace``.

    Args:
        keys: images, MetaTensor (1, i, j, k).
        factor: how many times finer along i and j, 1 or more.
    """

    def __init__(self, keys: KeysCollection, factor: int, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.factor = int(factor)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each image by MetaTensor (1, factor * i, factor * j, k) float32 whose affine says where it lies."""
        out = dict(data)
        for key in self.key_iterator(out):
            image = out[key]
            values = torch.from_numpy(zero_filled(image.as_tensor()[0].numpy(), self.factor))[None]
            affine = torch.as_tensor(image.affine, dtype=torch.float64) @ torch.from_numpy(finer_index(self.factor))
            meta = {k: v for k, v in image.meta.items() if k != "affine"}
            out[key] = MetaTensor(values, affine=affine, meta=meta)
        return out


class IntensityOnFinerd(MapTransform):  # type: ignore[misc]
    """A network's image to intensities on the finer grid, in the source's unit.

    With ``keep_measured`` the part of k-space that the source holds is put back as it was: the network adds what lies
    beyond it and changes nothing that was measured, the mean least of all. Values below the lowest that the source's kind
    of image takes (``ToUnitOwnRanged``) are raised to it.

    Args:
        keys: network outputs, (1, i, j, k), scaled as the image.
        factor: as of ``ZeroFilledd``.
        keep_measured: whether the network may change what the source holds.
        image_key: the preprocessed image.

    Raises:
        ShapeError: an output of another size.
    """

    def __init__(
        self,
        keys: KeysCollection,
        factor: int,
        keep_measured: bool = True,
        image_key: str = "image",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.factor, self.keep_measured, self.image_key = int(factor), keep_measured, image_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace each output by MetaTensor (1, i, j, k) float32, affine of the finer grid, in the source's unit."""
        out = dict(data)
        image = out[self.image_key]
        low, high, least = (float(v) for v in torch.as_tensor(out[f"{self.image_key}_range"]).reshape(-1))
        affine = torch.as_tensor(image.affine, dtype=torch.float64).reshape(4, 4)
        interpolated = image.as_tensor()[0].cpu().numpy()
        for key in self.key_iterator(out):
            values = (out[key].as_tensor() if isinstance(out[key], MetaTensor) else out[key]).cpu().float()
            if tuple(values.shape[1:]) != interpolated.shape:
                raise ShapeError(
                    f"Found an output of {tuple(values.shape[1:])} for an image of {interpolated.shape}; they must be equal. Check the inferer."
                )
            restored = values[0].numpy()
            if self.keep_measured:
                restored = restored + measured_part(interpolated - restored, self.factor)
            scaled = torch.from_numpy(np.maximum(restored * (high - low) + low, least).astype(np.float32))[None]
            meta = {
                "filename_or_obj": image.meta.get("filename_or_obj", "image"),
                "original_affine": affine,
                "space": "RAS",
            }
            out[key] = MetaTensor(scaled, affine=affine, meta=meta)
        return out


def finer_by(model: Model) -> int:
    """How many times finer in plane than its source a model's image is; 1 for one on the source's own grid."""
    return next((step.factor for step in model.preprocessing.transforms if isinstance(step, ZeroFilledd)), 1)


def at_factor(model: Model, factor: int) -> Model:
    """The same model for a source whose pixels are another number of times wider than the image it makes."""

    def changed(steps: Compose) -> Compose:
        return type(steps)([_at(step, factor) for step in steps.transforms])

    return replace(model, preprocessing=changed(model.preprocessing), postprocessing=changed(model.postprocessing))


def _at(step: Any, factor: int) -> Any:
    if isinstance(step, ZeroFilledd):
        return ZeroFilledd(step.keys, factor, step.allow_missing_keys)
    if isinstance(step, IntensityOnFinerd):
        return IntensityOnFinerd(step.keys, factor, step.keep_measured, step.image_key, step.allow_missing_keys)
    return step


def finer_scan(scan: Scan, factor: int) -> Scan:
    """The scan interpolated onto the finer grid, as the network sees it: what a finer image is compared with and written beside.

    Values are those of ``zero_filled``, raised to 0 where the scan has none below it; the geometry, a NIfTI header's two
    affines and the planes of DICOM slices are the finer grid's. The headers of DICOM slices stay the source's.

    Raises:
        GeometryError: a stack that was resampled onto a true grid: its slices do not lie on it.
    """
    if scan.original is not None:
        raise GeometryError(
            "Found a tilted or uneven stack of slices for a bundle that makes images finer in their plane; a regular one is needed. "
            "Use --on-irregular split, which takes the longest regular part, or convert that part to NIfTI."
        )
    values = zero_filled(scan.array[0], factor)
    if scan.array.min() >= 0:
        values = np.maximum(values, 0)
    index = finer_index(factor)
    planes = None if scan.planes is None else scan.planes @ index
    header = _finer_header(scan.header, values.shape, index)
    return replace(scan, array=values[None], affine=scan.affine @ index, planes=planes, header=header)


def _finer_header(header: Any, shape: tuple[int, ...], index: np.ndarray) -> Any:
    """A NIfTI header with both of its affines on the finer grid, codes and units kept; others as they are."""
    import nibabel as nib

    if not isinstance(header, nib.Nifti1Header):
        return header
    moved = header.copy()
    sform, sform_code = header.get_sform(coded=True)
    qform, qform_code = header.get_qform(coded=True)
    moved.set_data_shape(shape)
    moved.set_zooms([side * step for side, step in zip(header.get_zooms()[:3], np.diag(index)[:3], strict=True)])
    if qform_code:
        moved.set_qform(qform @ index, int(qform_code))
    if sform_code:
        moved.set_sform(sform @ index, int(sform_code))
    return moved
