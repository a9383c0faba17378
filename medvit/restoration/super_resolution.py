"""Super-resolution in the slice plane: the steps of such bundles, and the source on the finer grid.

The factor is stated only in a bundle's preprocessing (``ZeroFillUpsampled``, ``factor``).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from medvit.inference import LoadedBundle
from medvit.io import Scan
from medvit.physics import upsampled_index, zero_fill
from medvit.restoration.preconditions import require_regular
from medvit.transforms import IntensityOnUpsampledGridd, ZeroFillUpsampled

__all__ = ["upsampled_scan", "upsampling_factor", "with_factor"]


def upsampling_factor(model: LoadedBundle) -> int:
    """Return the in-plane upsampling factor of a loaded bundle.

    Args:
        model: the loaded bundle.

    Returns:
        Source pixel size divided by result pixel size; 1 for a bundle that keeps the source grid.

    Examples:
        >>> from medvit.inference import load_model
        >>> from medvit.restoration import upsampling_factor
        >>> upsampling_factor(load_model("mr_superres_restore_rwkv"))  # doctest: +SKIP
        2
    """
    return next((step.factor for step in model.preprocessing.transforms if isinstance(step, ZeroFillUpsampled)), 1)


def with_factor(model: LoadedBundle, factor: int) -> LoadedBundle:
    """Copy a loaded bundle with another in-plane upsampling factor.

    Args:
        model: the loaded bundle.
        factor: source pixel size divided by result pixel size.

    Returns:
        The copy; the network is shared.

    Examples:
        >>> from medvit.inference import load_model
        >>> from medvit.restoration import with_factor
        >>> model = with_factor(load_model("mr_superres_restore_rwkv"), 3)  # doctest: +SKIP
    """

    def changed(steps: Any) -> Any:
        return type(steps)([_at(step, factor) for step in steps.transforms])

    return replace(model, preprocessing=changed(model.preprocessing), postprocessing=changed(model.postprocessing))


def _at(step: Any, factor: int) -> Any:
    if isinstance(step, ZeroFillUpsampled):
        return ZeroFillUpsampled(step.keys, factor, step.allow_missing_keys)
    if isinstance(step, IntensityOnUpsampledGridd):
        return IntensityOnUpsampledGridd(step.keys, factor, step.keep_measured, step.image_key, step.allow_missing_keys)
    return step


def upsampled_scan(scan: Scan, factor: int) -> Scan:
    """Interpolate a scan to the finer grid as the network receives it, for comparison with the result and for its
    geometry.

    Values are those of ``zero_fill``, clipped at 0 if the scan has no negative values. The geometry, both affines of a
    NIfTI header and the planes of DICOM slices are those of the finer grid. The headers of DICOM slices stay the
    source's.

    Args:
        scan: the source.
        factor: in-plane upsampling factor.

    Returns:
        The scan on the finer grid.

    Raises:
        GeometryError: the stack was resampled to a regular grid, on which its slices are not.

    Examples:
        >>> import numpy as np
        >>> from medvit.io import Scan
        >>> from medvit.restoration import upsampled_scan
        >>> scan = Scan(array=np.ones((1, 4, 6, 3), np.float32), affine=np.eye(4), kind="array")
        >>> finer = upsampled_scan(scan, 2)
        >>> finer.array.shape, finer.spacing_mm
        ((1, 8, 12, 3), (0.5, 0.5, 1.0))
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
    """Move both affines of a NIfTI header to the finer grid, with codes and units unchanged; return other headers
    unchanged."""
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
