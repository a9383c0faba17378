"""The one path: open a source, run a bundle on it, give back a result. Every door calls ``run``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

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
from medvit.result import Result
from medvit.settings import RunSettings

__all__ = [
    "Model",
    "Ready",
    "RunSettings",
    "choose_device",
    "load_model",
    "model_around",
    "open_for",
    "run",
    "run_model",
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
    if scan.is_picture != (facts.dimensions == 2):
        kind = "a 2-D picture" if scan.is_picture else "a volume"
        return f"{kind}, where {bundle.name} takes {'pictures' if facts.dimensions == 2 else 'volumes'}"
    if scan.modality is not None:
        wanted = " or ".join(facts.modalities)
        return (
            None
            if scan.modality in facts.modalities
            else f"modality {scan.modality}, where {bundle.name} is made for {wanted}"
        )
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
) -> Result:
    """Run a bundle on a source.

    Args:
        bundle: a bundle's name or folder.
        source: a path (DICOM folder, zip, NIfTI, NRRD, MHA, PNG, JPEG) or a MetaTensor (1, i, j, k).
        settings: device and switches.
        progress: told where the run stands; can cancel it.

    Returns:
        The result, its labels on the source's own grid.

    Raises:
        MedvitError: any of its kinds, each with what was found, what is needed and one step to take.
    """
    settings = settings or RunSettings()
    progress = progress or Progress()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    wanted = _wanted(opened, settings)
    opened.require_trained()
    ready = open_for(opened, source, settings, progress)
    with progress.stage("load"):
        model = load_model(opened, settings.device, settings.fast)
    return _labelled(model, ready, wanted, settings, progress)


def run_model(
    model: Model,
    source: str | os.PathLike[str] | MetaTensor | Scan,
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> Result:
    """``run`` with a model that is there already: one kept between cases, or one around a network in training.

    Args, result and errors as ``run``; device and overlap are the model's.

    Raises:
        BackendError: the settings ask for another device, or another overlap, than the model was made with.
    """
    settings = settings or RunSettings(fast=model.fast)
    progress = progress or Progress()
    asked = model.device if settings.device == "auto" else choose_device(settings.device)
    if (asked.type, asked.index or 0) != (model.device.type, model.device.index or 0) or settings.fast != model.fast:
        raise BackendError(
            f"Found settings for {asked} (fast: {settings.fast}) and a model on {model.device} (fast: {model.fast}); nothing is "
            "moved or replaced. Make the model with them: load_model(bundle, device, fast)."
        )
    wanted = _wanted(model.bundle, settings)
    return _labelled(model, open_for(model.bundle, source, settings, progress), wanted, settings, progress)


def _wanted(bundle: Bundle, settings: RunSettings) -> tuple[Label, ...]:
    """The labels asked for, of a bundle that makes labels of one image."""
    bundle.require_task("segmentation")
    return tuple(bundle.label(name) for name in settings.roi_subset) or bundle.facts.labels


def open_for(
    bundle: Bundle, source: str | os.PathLike[str] | MetaTensor | Scan, settings: RunSettings, progress: Progress
) -> Ready:
    """Open a source and see that it is what a bundle was made for: the first step of every door, whatever its task.

    Raises:
        SourceError: it cannot be opened. ModalityError, ImageError: it is not what the bundle was made for.
    """
    with progress.stage("read"):
        scan = open_source(source, settings.series, progress, settings.on_irregular)
    forced = _require_fit(scan, bundle, settings.force)
    repaired: tuple[str, ...] = ()
    if settings.repair_tags:
        scan, repaired = repair_uids(scan)
    return Ready(scan, forced, repaired)


def _labelled(
    model: Model, ready: Ready, wanted: tuple[Label, ...], settings: RunSettings, progress: Progress
) -> Result:
    scan = ready.scan
    labels = _as_labels(_infer(model, scan, progress), scan)
    if settings.roi_subset:
        ids = torch.tensor([label.id for label in wanted], dtype=labels.dtype)
        labels = labels * torch.isin(labels.as_tensor(), ids)
    if scan.original is not None:  # nothing was measured there
        labels = labels * torch.from_numpy(scan.original.covered)
    record = {
        "device": str(model.device),
        "device_asked": settings.device,
        "precision": getattr(model.inferer, "precision", "fp32"),
        "fast": model.fast,
        "overlap": float(getattr(model.inferer, "overlap", 0)),
        "roi_subset": list(settings.roi_subset),
        "forced": bool(ready.forced),
        "repaired": list(ready.repaired),
        "on_irregular": settings.on_irregular,
        "threads": torch.get_num_threads(),
    }
    own = () if model.weights_sha256 else ("The network was given in memory; its weights are not the bundle's.",)
    notes = (*scan.notes, *ready.forced, *ready.repaired, *own)
    return Result(labels, scan, model.bundle, wanted, record, notes, progress)


def _infer(model: Model, scan: Scan, progress: Progress) -> Tensor:
    """What the bundle makes of an image, on the scan's own grid: ids for a segmentation, intensities for a restoration."""
    return apply(model, {"image": scan.meta_tensor()}, progress)


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
    settings = RunSettings(device, fast, force, tuple(roi_subset), repair_tags, series, on_irregular)
    return run(opened, source, settings, progress)
