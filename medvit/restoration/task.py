"""Restoration through the one path: a source opened, run through a bundle, intensities on its own grid or a finer one."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.data import MetaTensor

from medvit.bundles import Bundle
from medvit.errors import GeometryError, ImageError
from medvit.inference import LoadedBundle, SliceWise, apply, load_model
from medvit.io import Scan, axis_codes, flip_lps_ras
from medvit.io.dicom import resample_to_grid
from medvit.progress import Progress
from medvit.restoration.preconditions import reasons_to_refuse
from medvit.restoration.result import Restored
from medvit.restoration.super_resolution import upsampled_scan, upsampling_factor
from medvit.settings import RunSettings
from medvit.tasks import PreparedScan, open_for

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["run_restoration", "run_restoration_model"]


def _require_unspoilt(ready: PreparedScan, bundle: Bundle, force: bool) -> PreparedScan:
    reasons = reasons_to_refuse(ready.scan, bundle)
    if reasons and not force:
        raise ImageError(f"Found {reasons[0]}. Give the original series, or run all the same with --force.")
    return replace(ready, forced=(*ready.forced, *(f"Forced: {reason}." for reason in reasons)))


def run_restoration(
    bundle: Bundle,
    source: str | os.PathLike[str] | MetaTensor | Scan,
    settings: RunSettings,
    progress: Progress,
) -> Restored:
    """``medvit.run`` for a bundle that restores; see there.

    Raises:
        ImageError: beside what ``run`` raises, an image that was restored before or squeezed into 8 bits.
    """
    bundle.require_task("restoration")
    bundle.require_trained()
    ready = _require_unspoilt(open_for(bundle, source, settings, progress), bundle, settings.force)
    with progress.stage("load"):
        model = load_model(bundle, settings.device, settings.fast)
    return _restored(model, ready, settings, progress)


def run_restoration_model(
    model: LoadedBundle,
    source: str | os.PathLike[str] | MetaTensor | Scan,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> Restored:
    """``run_restoration`` with a model that is there already; settings of device and overlap are the model's."""
    settings, progress = settings or RunSettings(fast=model.fast), progress or Progress()
    model.bundle.require_task("restoration")
    ready = _require_unspoilt(open_for(model.bundle, source, settings, progress), model.bundle, settings.force)
    return _restored(model, ready, settings, progress)


def _restored(model: LoadedBundle, ready: PreparedScan, settings: RunSettings, progress: Progress) -> Restored:
    scan = ready.scan
    if scan.is_picture:
        raise ImageError(
            f"Found a picture for {model.bundle.name}; restoration takes volumes, a single slice as a volume one voxel thick. "
            "Save it so."
        )
    factor = upsampling_factor(model)
    if factor > 1:
        return _finer(model, ready, settings, progress, factor)
    slices: NDArray[np.float32] | None = None
    if scan.original is None:
        values = _values(apply(model, {"image": scan.meta_tensor()}, progress).output)
    else:
        slices = _each_slice(model, scan, progress)
        values = resample_to_grid(slices, scan.original.grid)
        values = np.where(scan.original.covered, values, scan.array[0])[None]
    record = _record(model, ready, settings)
    notes = _notes(model, ready)
    return Restored(
        image=_image(values, scan),
        slices=slices,
        scan=scan,
        bundle=model.bundle,
        settings=record,
        notes=notes,
        progress=progress,
        calibration=model.calibration,
        validation=model.validation,
    )


def _finer(
    model: LoadedBundle, ready: PreparedScan, settings: RunSettings, progress: Progress, factor: int
) -> Restored:
    """The same on a grid finer in plane; the source is interpolated onto it, to be compared with and written beside."""
    scan = ready.scan
    interpolated = upsampled_scan(scan, factor)
    values = _values(apply(model, {"image": scan.meta_tensor()}, progress).output)
    record = {**_record(model, ready, settings), "in_plane_factor": factor}
    was, now = scan.spacing_mm, interpolated.spacing_mm
    words = (
        f"Pixels are {factor} times finer in the slices' plane: {now[0]:.4g} x {now[1]:.4g} mm where the source has "
        f"{was[0]:.4g} x {was[1]:.4g} mm; the distance between slices is the source's."
    )
    return Restored(
        image=_image(values, interpolated),
        scan=interpolated,
        bundle=model.bundle,
        settings=record,
        notes=(*_notes(model, ready), words),
        progress=progress,
        calibration=model.calibration,
        source_scan=scan,
        validation=model.validation,
    )


def _image(values: NDArray[np.float32], scan: Scan) -> MetaTensor:
    return MetaTensor(torch.from_numpy(values), affine=torch.from_numpy(np.array(scan.affine)), meta={"space": "RAS"})


def _notes(model: LoadedBundle, ready: PreparedScan) -> tuple[str, ...]:
    own = () if model.weights_sha256 else ("The network was given in memory; its weights are not the bundle's.",)
    return (*ready.scan.notes, *ready.scan.excluded, *ready.forced, *ready.repaired, *own)


def _record(model: LoadedBundle, ready: PreparedScan, settings: RunSettings) -> dict[str, Any]:
    return {
        "device": str(model.device),
        "device_asked": settings.device,
        "precision": getattr(model.inferer, "precision", "fp32"),
        "fast": model.fast,
        "forced": bool(ready.forced),
        "repaired": list(ready.repaired),
        "on_irregular": settings.on_irregular,
        "geometry": settings.geometry,
        "threads": torch.get_num_threads(),
    }


def _values(made: torch.Tensor) -> NDArray[np.float32]:
    plain = made.as_tensor() if isinstance(made, MetaTensor) else made
    values: NDArray[np.float32] = plain.float().numpy()
    return values


def _each_slice(model: LoadedBundle, scan: Scan, progress: Progress) -> NDArray[np.float32]:
    """A tilted or uneven stack's own slices, (column, row, slice), as a network that looks at one at a time restores them.

    Where the slices lie says nothing to such a network, so nothing needs to be resampled before it. One that sees a slice's
    neighbours is given those of the stack, a little shifted or farther away as they may be.
    """
    original, inferer = scan.original, model.inferer
    assert original is not None
    # the network's slices lie across one of the patient's axes; those of the stack must lie across the same
    across = axis_codes(flip_lps_ras(original.grid.affine))[2]
    if not isinstance(inferer, SliceWise) or across not in ("RL", "PA", "SI")[inferer.axis]:
        raise GeometryError(
            f"Found an irregular stack for {model.bundle.name}, which does not look at its single slices; values between the "
            "slices would have to be made up. Use --on-irregular split, which takes the longest regular part."
        )
    flat = replace(scan, array=original.values[None], affine=flip_lps_ras(original.grid.affine), original=None)
    slices: NDArray[np.float32] = _values(apply(model, {"image": flat.meta_tensor()}, progress).output)[0]
    return slices
