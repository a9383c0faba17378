"""The one path: open a source, run a bundle on it, give back a result. Every door calls ``run``."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from monai.data import MetaTensor

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BackendError, MedvitError
from medvit.inference import (
    LoadedBundle,
    choose_device,
    load_model,
    loaded_bundle_for,
)
from medvit.io import Scan
from medvit.progress import Cancelled, Progress
from medvit.reconstruction import Reconstructed, ReconstructionSettings, reconstruct_views
from medvit.reconstruction.views import ViewGeometry, open_view
from medvit.restoration import Restored, run_restoration, with_irregular_policy
from medvit.segmentation import Result, check_settings, predict_scan
from medvit.settings import DEFAULT_BUNDLE, DEFAULT_RECONSTRUCTION, DEFAULT_RESTORATION, RunSettings
from medvit.tasks import PreparedScan, open_for

__all__ = [
    "CaseResult",
    "LoadedBundle",
    "RunSettings",
    "choose_device",
    "load_model",
    "loaded_bundle_for",
    "reconstruct",
    "restore",
    "run",
    "run_many",
    "run_model",
    "segment",
]


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
        from medvit.restoration import run_restoration

        return run_restoration(opened, source, settings, progress)
    return _run_labels(opened, source, settings, progress)


def _run_labels(
    opened: Bundle, source: str | os.PathLike[str] | MetaTensor | Scan, settings: RunSettings, progress: Progress
) -> Result:
    requested_labels = check_settings(opened, settings)
    opened.require_trained()
    ready = open_for(opened, source, settings, progress)
    with progress.stage("load"):
        model = load_model(opened, settings.device, settings.fast, settings.backend, settings.precision)
    return predict_scan(model, ready, requested_labels, settings, progress)


def run_model(
    model: LoadedBundle,
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
    requested_labels = check_settings(model.bundle, settings)
    return predict_scan(model, open_for(model.bundle, source, settings, progress), requested_labels, settings, progress)


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


def restore(
    source: str | os.PathLike[str] | MetaTensor | Scan,
    bundle: str | os.PathLike[str] | Bundle = DEFAULT_RESTORATION,
    *,
    device: str = "auto",
    fast: bool = False,
    force: bool = False,
    repair_tags: bool = False,
    series: str | None = None,
    on_irregular: str | None = None,
    geometry: str | None = None,
    progress: Progress | None = None,
) -> Restored:
    """Restore a scan: take its noise or blur away, in its own unit and on its own grid, or one as much finer as its bundle says.

    Example:
        >>> result = medvit.restore("series")  # doctest: +SKIP
        >>> result.save("out", output_types=("nifti", "dicom"), preview=True)  # doctest: +SKIP

    Args and errors as ``medvit.run``; ``bundle`` must be one for restoration. ``on_irregular`` left out lets a network
    that looks at single slices restore the slices of a tilted or uneven stack where they lie, and refuses such a stack
    for any other.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    opened.require_task("restoration")
    settings = RunSettings(device, fast, force, (), repair_tags, series, geometry=geometry)
    return run_restoration(
        opened, source, with_irregular_policy(opened, settings, on_irregular), progress or Progress()
    )


def reconstruct(
    ap: str | os.PathLike[str],
    lat: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | Bundle = DEFAULT_RECONSTRUCTION,
    *,
    ap_flags: ViewGeometry | None = None,
    lat_flags: ViewGeometry | None = None,
    device: str = "auto",
    force: bool = False,
    progress: Progress | None = None,
) -> Reconstructed:
    """Reconstruct bones in three dimensions from two radiographs.

    Example:
        >>> flags = ViewGeometry(pixel_spacing_mm=0.15, magnification=1.1)  # doctest: +SKIP
        >>> result = medvit.reconstruct("ap.png", "lat.png", ap_flags=flags, lat_flags=flags)  # doctest: +SKIP

    Args:
        ap, lat: the AP (or PA) and the lateral view: DICOM (CR, DX), PNG or JPEG.
        bundle: one for reconstruction.
        ap_flags, lat_flags: geometry that the files do not state, or that is to go before it.
        device: "auto", "cpu", "gpu", "gpu:N" or "mps".
        force: take views that look unfit; recorded.
        progress: told where the run stands; can cancel it.

    Raises:
        MedvitError: any of its kinds, each with what was found, what is needed and one step to take.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    progress = progress or Progress()
    opened.require_task("reconstruction")
    opened.require_trained()
    with progress.stage("read"):
        views = (
            open_view(ap, "AP", opened, ap_flags, force, progress),
            open_view(lat, "lateral", opened, lat_flags, force, progress),
        )
    return reconstruct_views(views, opened, ReconstructionSettings(device, force), progress)


Source = str | os.PathLike[str]


@dataclass(frozen=True)
class CaseResult:
    """One of many sources, and what came of it: a result, or the reason why there is none.

    Attributes:
        source: as it was given.
        result: the labels; None where the case failed.
        error: why it failed; None where it did not.
    """

    source: Source
    result: Result | None = None
    error: MedvitError | None = None


def run_many(
    bundle: str | os.PathLike[str] | Bundle,
    sources: Iterable[Source],
    settings: RunSettings | None = None,
    progress: Progress | None = None,
) -> Iterator[CaseResult]:
    """Run a bundle on many sources, in their order; the model is loaded once and stays.

    Sources are taken one ahead, so a list, a folder's listing or a queue will do. A case that fails does not stop the others.

    Args:
        bundle: a bundle's name or folder.
        sources: paths as ``run`` takes them.
        settings: device and switches, for all.
        progress: its ``cancel`` stops after the window at hand; each result has seconds of its own.

    Raises:
        MedvitError: what is wrong for all cases: bundle, device, backend. Cancelled: if asked for.
    """
    settings = settings or RunSettings()
    watching = progress or Progress()
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    wanted = check_settings(opened, settings)
    model = load_model(opened, settings.device, settings.fast, settings.backend, settings.precision)
    waiting = iter(sources)
    with ThreadPoolExecutor(1, "medvit-next-case") as reader:

        def begin() -> tuple[Source, Progress, Future[PreparedScan]] | None:
            for source in waiting:
                own = watching.child()
                return source, own, reader.submit(open_for, opened, source, settings, own)
            return None

        coming = begin()
        while coming is not None:
            source, own, reading = coming
            try:
                ready = reading.result()
                coming = begin()
                yield CaseResult(source, predict_scan(model, ready, wanted, settings, own))
            except Cancelled:
                raise
            except MedvitError as error:
                if coming is not None and coming[2] is reading:
                    coming = begin()
                yield CaseResult(source, error=error)
