"""A source on a grid finer in its slices' plane: the steps of bundles that make an image finer, and the scan they restore.

A bundle states how many times finer in its preprocessing (``ZeroFillUpsampled``, ``factor``); nothing else does.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from monai.transforms import Compose

from medvit.inference import LoadedBundle
from medvit.io import Scan
from medvit.physics import upsampled_index, zero_fill
from medvit.restoration.preconditions import require_regular
from medvit.transforms import IntensityOnUpsampledGridd, ZeroFillUpsampled

__all__ = ["upsampled_scan", "upsampling_factor", "with_factor"]


def upsampling_factor(model: LoadedBundle) -> int:
    """How many times finer in plane than its source a model's image is; 1 for one on the source's own grid."""
    return next((step.factor for step in model.preprocessing.transforms if isinstance(step, ZeroFillUpsampled)), 1)


def with_factor(model: LoadedBundle, factor: int) -> LoadedBundle:
    """The same model for a source whose pixels are another number of times wider than the image it makes."""

    def changed(steps: Compose) -> Compose:
        return type(steps)([_at(step, factor) for step in steps.transforms])

    return replace(model, preprocessing=changed(model.preprocessing), postprocessing=changed(model.postprocessing))


def _at(step: Any, factor: int) -> Any:
    if isinstance(step, ZeroFillUpsampled):
        return ZeroFillUpsampled(step.keys, factor, step.allow_missing_keys)
    if isinstance(step, IntensityOnUpsampledGridd):
        return IntensityOnUpsampledGridd(step.keys, factor, step.keep_measured, step.image_key, step.allow_missing_keys)
    return step


def upsampled_scan(scan: Scan, factor: int) -> Scan:
    """The scan interpolated onto the finer grid, as the network sees it: what a finer image is compared with and written beside.

    Values are those of ``zero_fill``, raised to 0 where the scan has none below it; the geometry, a NIfTI header's two
    affines and the planes of DICOM slices are the finer grid's. The headers of DICOM slices stay the source's.

    Raises:
        GeometryError: a stack that was resampled onto a true grid: its slices do not lie on it.
    """
    require_regular(scan)
    values = zero_fill(scan.array[0], factor)
    if scan.array.min() >= 0:
        values = np.maximum(values, 0)
    index = upsampled_index(factor)
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
