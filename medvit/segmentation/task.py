"""Segmentation task: from one scan or picture to labels on its grid."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from medvit import inference
from medvit.bundles import Bundle
from medvit.io import GridImage, plain_tensor
from medvit.labels import Label
from medvit.progress import Progress
from medvit.segmentation.result import Result
from medvit.settings import RunSettings, check_region
from medvit.tasks import PreparedScan, ScanTask

if TYPE_CHECKING:
    from torch import Tensor

    from medvit.inference import LoadedBundle, Prediction

__all__ = ["SegmentationTask"]


class SegmentationTask(ScanTask):
    """Steps of a bundle that labels voxels or pixels; see ``medvit.tasks.Task``.

    Examples:
        >>> from medvit.segmentation import SegmentationTask
        >>> SegmentationTask().name
        'segmentation'
    """

    name: ClassVar[str] = "segmentation"

    def check(self, bundle: Bundle, settings: RunSettings) -> None:
        """Refuse a bundle of another task, unknown labels, backends and geometries, and an invalid region."""
        super().check(bundle, settings)
        check_region(settings.roi_crop)
        _requested(bundle, settings)

    def predict(
        self, loaded: LoadedBundle, prepared: PreparedScan, settings: RunSettings, progress: Progress
    ) -> Prediction:
        """Label the scan, and with ``quality_map`` its mirror image too."""
        prediction = inference.apply(
            inference.with_run_settings(loaded, settings),
            prepared.data,
            progress,
            roi_crop=settings.roi_crop,
            low_memory=settings.low_memory,
        )
        if not settings.quality_map:
            return prediction
        return replace(prediction, mirrored=inference.mirrored_labels(loaded, prepared.scan, progress))

    def result(
        self,
        loaded: LoadedBundle,
        prepared: PreparedScan,
        prediction: Prediction,
        settings: RunSettings,
        progress: Progress,
    ) -> Result:
        """Keep the requested labels, on resampled stacks only between the original slices; add notes and the record of the run."""
        import torch

        scan, requested = prepared.scan, _requested(loaded.bundle, settings)
        labels = _as_labels(prediction.output)
        if settings.roi_subset:
            ids = torch.tensor([label.id for label in requested], dtype=labels.dtype)
            labels = labels * torch.isin(labels, ids)
        if scan.original is not None:  # background outside the original slices
            labels = labels * torch.from_numpy(scan.original.covered)
        region = f"Only windows that touch the region {settings.roi_crop} were run; outside it all is background."
        return Result(
            labels=GridImage(values=labels, affine=torch.from_numpy(np.array(scan.affine)), meta={"space": "RAS"}),
            scan=scan,
            bundle=loaded.bundle,
            requested_labels=requested,
            settings=_record(loaded, prepared, prediction, settings),
            notes=(
                *prepared.notes,
                *prepared.forced,
                *prepared.repaired,
                *loaded.notes,
                *([region] if settings.roi_crop else []),
            ),
            progress=progress,
            mirrored=prediction.mirrored,
            entropies=prediction.entropies,
            calibration=loaded.calibration,
            validation=loaded.validation,
        )


def _requested(bundle: Bundle, settings: RunSettings) -> tuple[Label, ...]:
    return tuple(bundle.label(name) for name in settings.roi_subset) or bundle.facts.labels


def _record(
    loaded: LoadedBundle, prepared: PreparedScan, prediction: Prediction, settings: RunSettings
) -> dict[str, Any]:
    import torch

    return {
        "device": str(loaded.device),
        "device_asked": settings.device,
        "backend": prediction.backend,
        "backend_asked": getattr(loaded.inferer, "backend", "eager"),
        "backend_reason": prediction.reason,
        "precision": prediction.precision,
        "fast": loaded.fast,
        "overlap": float(getattr(loaded.inferer, "overlap", 0)),
        "mirrored": getattr(loaded.inferer, "mirrored", None) is not None and not settings.no_mirroring,
        "roi_subset": list(settings.roi_subset),
        "forced": bool(prepared.forced),
        "repaired": list(prepared.repaired),
        "on_irregular": settings.on_irregular,
        "geometry": settings.geometry,
        "quality_map": settings.quality_map,
        **({"nnunet_rounding": True} if settings.nnunet_rounding else {}),
        "roi_crop": settings.roi_crop,
        "low_memory": settings.low_memory,
        "threads": torch.get_num_threads(),
    }


def _as_labels(made: GridImage | Tensor) -> Tensor:
    """Return ids as integers; never used for intensities, which rounding would change."""
    import torch

    plain = plain_tensor(made).clone()
    if plain.dtype not in (torch.uint8, torch.int16):
        plain = plain.round().to(torch.int16)  # the last step of a bundle may return ids as floating-point numbers
    return plain
