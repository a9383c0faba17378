"""The one path: open a source, run a bundle on it, give back a result. Every door calls ``run``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.bundles import DEFAULT_BUNDLE, Bundle, Label, open_bundle
from medvit.errors import BackendError, ImageError, ModalityError
from medvit.io import Scan, open_source
from medvit.io.repair import repair_uids
from medvit.model import Model, apply, choose_device, load_model, model_around
from medvit.progress import Progress
from medvit.region import check_region
from medvit.restored import Restored
from medvit.result import Result
from medvit.settings import RunSettings

__all__ = [
    "Model",
    "Ready",
    "RunSettings",
    "check_settings",
    "choose_device",
    "load_model",
    "model_around",
    "open_for",
    "run",
    "run_model",
    "run_ready",
    "segment",
]


@dataclass(frozen=True, eq=False)
class Ready:
    """A source opened and found fit for a bundle, and what had to be forced or repaired for it."""

    scan: Scan
    forced: tuple[str, ...] = ()
    repaired: tuple[str, ...] = ()


def check_fit(scan: Scan, bundle: Bundle) -> str | None:
    """Why an image is not what the bundle was made for, or None.

    DICOM states its modality. Other formats do not, so their values must reach where the bundle's images reach
    (a CT holds air below -500 HU).
    """
    facts = bundle.facts
    stated = facts.misfit(bundle.name, scan.is_picture, scan.modality)
    if stated is None and scan.unit is not None and facts.values and facts.values.unit == "HU":
        return f"CT values in {scan.unit!r} (RescaleType), where {bundle.name} is made for Hounsfield units"
    if stated is not None or scan.modality is not None:
        return stated
    if facts.values and not scan.is_picture:
        low, high = float(scan.array.min()), float(scan.array.max())
        if low > facts.values.lowest_at_most or high < facts.values.highest_at_least:
            return (
                f"values from {low:g} to {high:g}, where {bundle.name} is made for {' or '.join(facts.modalities)} in "
                f"{facts.values.unit} (at most {facts.values.lowest_at_most:g} and at least {facts.values.highest_at_least:g} occur)"
            )
    return None


def _require_fit(scan: Scan, bundle: Bundle, force: bool) -> tuple[str, ...]:
    reason = check_fit(scan, bundle)
    if reason is None:
        return ()
    if scan.is_picture != (bundle.facts.dimensions == 2):
        raise ImageError(f"Found {reason}. Choose a bundle for it: medvit bundles list.")
    if not force:
        raise ModalityError(
            f"Found {reason}. Choose a bundle for it (medvit bundles list), or run all the same with --force."
        )
    return (f"Forced: {reason}.",)


def run(
    bundle: str | os.PathLike[str] | Bundle,
    source: str | os.PathLike[str] | MetaTensor | Scan,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
    *,
    geometry: str | None = None,
) -> Result | Restored:
    """Run a bundle on a source.

    Args:
        bundle: a bundle's name or folder.
        source: a path (DICOM folder, zip, NIfTI, NRRD, MHA, PNG, JPEG) or a MetaTensor (1, i, j, k).
        settings: device and switches.
        progress: told where the run stands; can cancel it.
        geometry: "sform" or "qform" of a NIfTI to take, in place of the settings' own; see ``RunSettings``.

    Returns:
        The result on the source's own grid: labels, or intensities from a bundle that restores.

    Raises:
        MedvitError: any of its kinds, each with what was found, what is needed and one step to take.
    """
    settings = settings or RunSettings()
    if geometry is not None:
        settings = replace(settings, geometry=geometry)
    progress = progress or Progress()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    if opened.facts.task == "restoration":
        from medvit.restoring import run_restoration

        return run_restoration(opened, source, settings, progress)
    return _run_labels(opened, source, settings, progress)


def _run_labels(
    opened: Bundle, source: str | os.PathLike[str] | MetaTensor | Scan, settings: RunSettings, progress: Progress
) -> Result:
    wanted = check_settings(opened, settings)
    opened.require_trained()
    ready = open_for(opened, source, settings, progress)
    with progress.stage("load"):
        model = load_model(opened, settings.device, settings.fast, settings.backend, settings.precision)
    return run_ready(model, ready, wanted, settings, progress)


def run_model(
    model: Model,
    source: str | os.PathLike[str] | MetaTensor | Scan,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> Result:
    """``run`` with a model that is there already: one kept between cases, or one around a network in training.

    Args, result and errors as ``run``; device and overlap are the model's.

    Raises:
        BackendError: the settings ask for a device, an overlap, a backend or a precision that the model was not made with.
    """
    settings = settings or RunSettings(fast=model.fast)
    progress = progress or Progress()
    made = (getattr(model.inferer, "backend", "auto"), getattr(model.inferer, "precision", "fp32"))
    if (settings.backend, settings.precision) not in (("auto", "fp32"), made):
        raise BackendError(
            f"Found settings for backend {settings.backend!r} and precision {settings.precision!r} beside a model that is made already. "
            "Make the model with them: load_model(bundle, device, fast, backend, precision)."
        )
    asked = model.device if settings.device == "auto" else choose_device(settings.device)
    if (asked.type, asked.index or 0) != (model.device.type, model.device.index or 0) or settings.fast != model.fast:
        raise BackendError(
            f"Found settings for {asked} (fast: {settings.fast}) and a model on {model.device} (fast: {model.fast}); nothing is "
            "moved or replaced. Make the model with them: load_model(bundle, device, fast)."
        )
    wanted = check_settings(model.bundle, settings)
    return run_ready(model, open_for(model.bundle, source, settings, progress), wanted, settings, progress)


def check_settings(bundle: Bundle, settings: RunSettings) -> tuple[Label, ...]:
    """The labels asked for, of a bundle that makes labels of one image, once the settings are seen to mean something."""
    bundle.require_task("segmentation")
    check_region(settings.roi_crop)
    return tuple(bundle.label(name) for name in settings.roi_subset) or bundle.facts.labels


def open_for(
    bundle: Bundle, source: str | os.PathLike[str] | MetaTensor | Scan, settings: RunSettings, progress: Progress
) -> Ready:
    """Open a source and see that it is what a bundle was made for: the first step of every door, whatever its task.

    Raises:
        SourceError: it cannot be opened. ModalityError, ImageError: it is not what the bundle was made for.
    """
    with progress.stage("read"):
        scan = open_source(source, settings.series, progress, settings.on_irregular, settings.geometry)
    forced = _require_fit(scan, bundle, settings.force)
    repaired: tuple[str, ...] = ()
    if settings.repair_tags:
        scan, repaired = repair_uids(scan)
    return Ready(scan, forced, repaired)


def run_ready(
    model: Model, ready: Ready, wanted: tuple[Label, ...], settings: RunSettings, progress: Progress
) -> Result:
    """A model on a source that is open: the last step of ``run``, ``run_model`` and ``run_many``."""
    scan = ready.scan
    how = {"roi_crop": settings.roi_crop, "low_memory": settings.low_memory}
    labels = _as_labels(apply(model, {"image": scan.meta_tensor()}, progress, **how), scan)  # type: ignore[arg-type]
    if settings.roi_subset:
        ids = torch.tensor([label.id for label in wanted], dtype=labels.dtype)
        labels = labels * torch.isin(labels.as_tensor(), ids)
    if scan.original is not None:  # nothing was measured there
        labels = labels * torch.from_numpy(scan.original.covered)
    entropy, mirrored = progress.entropy, None
    if settings.quality_map:
        from medvit.doubt import mirrored_labels

        mirrored = mirrored_labels(model, scan, progress)
    record = {
        "device": str(model.device),
        "device_asked": settings.device,
        "backend": progress.facts.get("backend", "eager"),
        "backend_asked": getattr(model.inferer, "backend", "eager"),
        "backend_reason": progress.facts.get("backend_reason", "the bundle's inferer takes no backend"),
        "precision": progress.facts.get("precision", "fp32"),
        "fast": model.fast,
        "overlap": float(getattr(model.inferer, "overlap", 0)),
        "mirrored": getattr(model.inferer, "mirrored", None) is not None,
        "roi_subset": list(settings.roi_subset),
        "forced": bool(ready.forced),
        "repaired": list(ready.repaired),
        "on_irregular": settings.on_irregular,
        "geometry": settings.geometry,
        "quality_map": settings.quality_map,
        "roi_crop": settings.roi_crop,
        "low_memory": settings.low_memory,
        "threads": torch.get_num_threads(),
    }
    own = () if model.weights_sha256 else ("The network was given in memory; its weights are not the bundle's.",)
    cropped = f"Only windows that touch the region {settings.roi_crop} were run; outside it all is background."
    notes = (
        *scan.notes,
        *scan.set_aside,
        *ready.forced,
        *ready.repaired,
        *own,
        *([cropped] if settings.roi_crop else []),
    )
    return Result(
        labels,
        scan,
        model.bundle,
        wanted,
        record,
        notes,
        progress,
        mirrored,
        entropy,
        model.calibration,
        model.validation,
    )


def _as_labels(made: Tensor, scan: Scan) -> MetaTensor:
    """Ids as the integers they are; never for intensities, which rounding would spoil."""
    plain = made.as_tensor().clone() if isinstance(made, MetaTensor) else made.clone()
    if plain.dtype not in (torch.uint8, torch.int16):
        plain = plain.round().to(torch.int16)  # ids are whole numbers, whatever a bundle's last step makes of them
    return MetaTensor(plain, affine=torch.from_numpy(np.array(scan.affine)), meta={"space": "RAS"})


def segment(
    source: str | os.PathLike[str] | MetaTensor | Scan,
    bundle: str | os.PathLike[str] | Bundle = DEFAULT_BUNDLE,
    *,
    device: str = "auto",
    fast: bool = False,
    force: bool = False,
    roi_subset: Sequence[str] = (),
    repair_tags: bool = False,
    series: str | None = None,
    on_irregular: str = "fail",
    quality_map: bool = False,
    backend: str = "auto",
    precision: str = "fp32",
    roi_crop: str = "",
    low_memory: bool = False,
    geometry: str | None = None,
    progress: Progress | None = None,
) -> Result:
    """Label the anatomy in a scan.

    Example:
        >>> result = medvit.segment("scan.nii.gz")  # doctest: +SKIP
        >>> result.save("out", output_types=("nifti",), preview=True)  # doctest: +SKIP

    Args and errors as ``run``; ``bundle`` must be one for segmentation.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    opened.require_task("segmentation")
    switches = (device, fast, force, tuple(roi_subset), repair_tags, series, on_irregular, quality_map)
    settings = RunSettings(*switches, backend, precision, roi_crop, low_memory, geometry)
    return _run_labels(opened, source, settings, progress or Progress())
