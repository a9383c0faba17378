"""Segmentation of one scan by a loaded bundle."""

from __future__ import annotations

import numpy as np
import torch
from monai.data import MetaTensor
from torch import Tensor

from medvit.bundles import Bundle
from medvit.inference import LoadedBundle, apply, check_region
from medvit.io import Scan
from medvit.labels import Label
from medvit.progress import Progress
from medvit.segmentation.result import Result
from medvit.settings import RunSettings
from medvit.tasks import PreparedScan

__all__ = ["check_settings", "predict_scan"]


def check_settings(bundle: Bundle, settings: RunSettings) -> tuple[Label, ...]:
    """The labels asked for, of a bundle that makes labels of one image, once the settings are seen to mean something."""
    bundle.require_task("segmentation")
    check_region(settings.roi_crop)
    return tuple(bundle.label(name) for name in settings.roi_subset) or bundle.facts.labels


def predict_scan(
    model: LoadedBundle,
    ready: PreparedScan,
    requested_labels: tuple[Label, ...],
    settings: RunSettings,
    progress: Progress,
) -> Result:
    """A model on a source that is open: the last step of ``run``, ``run_model`` and ``run_many``."""
    scan = ready.scan
    how = {"roi_crop": settings.roi_crop, "low_memory": settings.low_memory}
    prediction = apply(model, {"image": scan.meta_tensor()}, progress, **how)  # type: ignore[arg-type]
    labels = _as_labels(prediction.output, scan)
    if settings.roi_subset:
        ids = torch.tensor([label.id for label in requested_labels], dtype=labels.dtype)
        labels = labels * torch.isin(labels.as_tensor(), ids)
    if scan.original is not None:  # nothing was measured there
        labels = labels * torch.from_numpy(scan.original.covered)
    mirrored = None
    if settings.quality_map:
        from medvit.inference import mirrored_labels

        mirrored = mirrored_labels(model, scan, progress)
    record = {
        "device": str(model.device),
        "device_asked": settings.device,
        "backend": prediction.backend,
        "backend_asked": getattr(model.inferer, "backend", "eager"),
        "backend_reason": prediction.reason,
        "precision": prediction.precision,
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
        *scan.excluded,
        *ready.forced,
        *ready.repaired,
        *own,
        *([cropped] if settings.roi_crop else []),
    )
    return Result(
        labels=labels,
        scan=scan,
        bundle=model.bundle,
        requested_labels=requested_labels,
        settings=record,
        notes=notes,
        progress=progress,
        mirrored=mirrored,
        entropies=prediction.entropies,
        calibration=model.calibration,
        validation=model.validation,
    )


def _as_labels(made: Tensor, scan: Scan) -> MetaTensor:
    """Ids as the integers they are; never for intensities, which rounding would spoil."""
    plain = made.as_tensor().clone() if isinstance(made, MetaTensor) else made.clone()
    if plain.dtype not in (torch.uint8, torch.int16):
        plain = plain.round().to(torch.int16)  # ids are whole numbers, whatever a bundle's last step makes of them
    return MetaTensor(plain, affine=torch.from_numpy(np.array(scan.affine)), meta={"space": "RAS"})
