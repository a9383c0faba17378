"""Running of bundles: open the images, prepare them, predict, create the result. All interfaces of medvit use this
module.

Importing it loads no torch; a source is opened and checked before the network is loaded.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from medvit import inference, reconstruction, restoration, segmentation
from medvit.bundles import Bundle, open_bundle
from medvit.errors import BackendError, BundleError, MedvitError, SourceError
from medvit.progress import Cancelled, Progress
from medvit.settings import DEFAULT_BUNDLE, DEFAULT_RECONSTRUCTION, DEFAULT_RESTORATION, RunSettings
from medvit.tasks import Input, Inputs, Prepared, Task

if TYPE_CHECKING:
    from monai.data import MetaTensor

    from medvit.inference import LoadedBundle, Prediction
    from medvit.io import Scan
    from medvit.reconstruction import Reconstructed, ReconstructionSettings
    from medvit.reconstruction.views import ViewGeometry
    from medvit.restoration import Restored
    from medvit.segmentation import Result

__all__ = [
    "CaseResult",
    "Predictor",
    "prepare",
    "reconstruct",
    "restore",
    "run",
    "run_many",
    "segment",
    "task_of",
]

AnyTask: TypeAlias = "Task[Any, Any, Any, Result | Restored | Reconstructed]"
Settings: TypeAlias = "RunSettings | ReconstructionSettings"

_Kind = TypeVar("_Kind")


def task_of(bundle: Bundle) -> AnyTask:
    """Return the task of a bundle, without loading torch.

    Raises:
        BundleError: medvit does not support the bundle's task.
    """
    match bundle.facts.task:
        case "segmentation":
            return segmentation.SegmentationTask()
        case "restoration":
            return restoration.RestorationTask()
        case "reconstruction":
            return reconstruction.ReconstructionTask()
        case other:
            raise BundleError(
                f"{bundle.name}, a bundle for {other}",
                "segmentation, restoration or reconstruction is needed",
                "Name another bundle.",
            )


class Predictor:
    """A loaded bundle that turns sources into results; reuse it for several sources.

    Calls from several threads run one after the other.

    Examples:
        >>> import medvit
        >>> predictor = medvit.Predictor("headneck_ct_swin_unetr", device="cpu")  # doctest: +SKIP
        >>> result = predictor("scan.nii.gz")  # doctest: +SKIP

    Args:
        bundle: name or folder of a bundle, or a loaded bundle, such as one with a network in training.
        settings: settings of the bundle's task: ``RunSettings``, or ``ReconstructionSettings`` for two radiographs.
        switches: fields of the settings, which replace those of ``settings``.

    Attributes:
        loaded: the loaded bundle.
        settings: settings of every run.

    Raises:
        MedvitError: bundle, settings, device or backend are not usable for any source.
    """

    def __init__(
        self,
        bundle: str | os.PathLike[str] | Bundle | LoadedBundle,
        settings: Settings | None = None,
        **switches: Any,
    ) -> None:
        if isinstance(bundle, str | os.PathLike | Bundle):
            opened = _bundle(bundle)
            self._task = task_of(opened)
            self.settings = _settings(opened, settings, switches)
            self._task.check(opened, self.settings)  # check before loading torch
            self.loaded = _load(opened, self.settings)
        else:
            self.loaded = bundle
            self._task = task_of(bundle.bundle)
            self.settings = _settings(bundle.bundle, settings, switches, fast=bundle.fast)
            self._task.check(bundle.bundle, self.settings)
            _require_same(bundle, self.settings)
        self._lock = threading.Lock()

    @property
    def bundle(self) -> Bundle:
        """The bundle."""
        return self.loaded.bundle

    def __call__(
        self, source: Inputs | Prepared, progress: Progress | None = None
    ) -> Result | Restored | Reconstructed:
        """Run the bundle on a source; see ``run``."""
        return self.run(source, progress)

    def run(self, source: Inputs | Prepared, progress: Progress | None = None) -> Result | Restored | Reconstructed:
        """Run the bundle on a source.

        Args:
            source: a source of ``medvit.run``, an opened scan or views, or the result of ``prepare``.
            progress: shows the stages; can cancel the run.

        Raises:
            MedvitError: the source or the run failed; the class tells the kind of failure.
        """
        progress = progress or Progress()
        prepared = source if isinstance(source, Prepared) else self.prepare(source, progress)
        with self._lock, inference.computing_threads(self.settings.threads):
            prediction = self._task.predict(self.loaded, prepared, self.settings, progress)
            return self._task.result(self.loaded, prepared, prediction, self.settings, progress)

    def prepare(self, source: Inputs, progress: Progress | None = None) -> Prepared:
        """Open a source and check that it fits the bundle; safe while another thread runs the bundle."""
        return _prepared(self._task, self.bundle, source, self.settings, progress or Progress())

    def predict(self, data: Mapping[str, MetaTensor], progress: Progress | None = None) -> Prediction:
        """Run the bundle on images in memory, without opening or checking a source; evaluation uses this.

        Args:
            data: input of the bundle's preprocessing, by name.
            progress: shows the stages; can cancel the run.
        """
        with self._lock, inference.computing_threads(self.settings.threads):
            return inference.apply(self.loaded, data, progress)


def run(
    bundle: str | os.PathLike[str] | Bundle,
    source: Inputs | Prepared,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **switches: Any,
) -> Result | Restored | Reconstructed:
    """Run a bundle on a source.

    Args:
        bundle: name or folder of a bundle.
        source: a path (DICOM folder, zip, NIfTI, NRRD, MHA, PNG, JPEG), a MetaTensor (1, i, j, k), an opened scan, or
            the result of ``prepare``; for a reconstruction a mapping with two radiographs, ``{"ap": ..., "lat": ...}``.
        settings: settings of the bundle's task: ``RunSettings``, or ``ReconstructionSettings`` for two radiographs.
        progress: shows the stages; can cancel the run.
        switches: fields of the settings, which replace those of ``settings``.

    Returns:
        The result on the source's own grid: labels, or intensities from a restoration; from a reconstruction, labels on
        the network's grid.

    Raises:
        MedvitError: bundle, settings, source or run failed; the class tells the kind of failure.

    Examples:
        >>> import medvit
        >>> result = medvit.run("headneck_ct_swin_unetr", "scan.nii.gz", device="cpu")  # doctest: +SKIP
        >>> medvit.run("headneck_ct_swin_unetr", "missing.nii.gz")
        Traceback (most recent call last):
            ...
        medvit.errors.SourceError: Found nothing at missing.nii.gz; a file or folder is needed. Check the path.
    """
    opened, progress = _bundle(bundle), progress or Progress()
    settings = _settings(opened, settings, switches)
    prepared = source if isinstance(source, Prepared) else prepare(opened, source, settings, progress)
    with progress.stage("load"):
        predictor = Predictor(opened, settings)
    return predictor.run(prepared, progress)


def prepare(
    bundle: str | os.PathLike[str] | Bundle,
    source: Inputs,
    settings: Settings | None = None,
    progress: Progress | None = None,
    **switches: Any,
) -> Prepared:
    """Check the settings, open the source and check it, as ``run`` does before it loads the bundle. Loads no torch.

    Args:
        bundle, source, settings, progress, switches: as in ``run``.

    Raises:
        MedvitError: as in ``run``.
    """
    opened = _bundle(bundle)
    task, settings = task_of(opened), _settings(opened, settings, switches)
    task.check(opened, settings)
    opened.require_trained()
    return _prepared(task, opened, source, settings, progress or Progress())


@dataclass(frozen=True)
class CaseResult:
    """One of many sources, with its result or the reason of its failure.

    Attributes:
        source: as given.
        result: None where the case failed.
        error: the reason of the failure; None where the case succeeded.
    """

    source: Inputs
    result: Result | Restored | Reconstructed | None = None
    error: MedvitError | None = None


def run_many(
    bundle: str | os.PathLike[str] | Bundle | LoadedBundle,
    sources: Iterable[Inputs],
    settings: Settings | None = None,
    progress: Progress | None = None,
    **switches: Any,
) -> Iterator[CaseResult]:
    """Run a bundle on many sources, in order; load the bundle once, and prepare the next case while one runs.

    The iterable is read one source ahead, so it may be a list, a folder's listing or a queue. A case that fails does
    not stop the others.

    Args:
        bundle: name or folder of a bundle, or a loaded bundle.
        sources: sources as in ``run``.
        settings: settings for all cases, as in ``run``.
        progress: its ``cancel`` stops the run after the current window; each result has its own durations.
        switches: fields of the settings, which replace those of ``settings``.

    Returns:
        An iterator over the cases, each with its result or the reason of its failure.

    Raises:
        MedvitError: bundle, settings, device or backend are not usable for any source.
        Cancelled: the run was cancelled.

    Examples:
        >>> import medvit
        >>> for case in medvit.run_many("headneck_ct_swin_unetr", ["a.nii.gz", "b.nii.gz"]):  # doctest: +SKIP
        ...     print(case.source, case.error or case.result.quality()["rating"])
    """
    watching, predictor = progress or Progress(), Predictor(bundle, settings, **switches)
    waiting = iter(sources)
    with ThreadPoolExecutor(1, "medvit-next-case") as reader:

        def begin() -> tuple[Inputs, Progress, Future[Prepared]] | None:
            for source in waiting:
                own = watching.child()
                return source, own, reader.submit(predictor.prepare, source, own)
            return None

        coming = begin()
        while coming is not None:
            source, own, preparing = coming
            try:
                prepared = preparing.result()
                coming = begin()
                yield CaseResult(source, predictor.run(prepared, own))
            except Cancelled:
                raise
            except MedvitError as error:
                if coming is not None and coming[2] is preparing:
                    coming = begin()
                yield CaseResult(source, error=error)


def segment(
    source: str | os.PathLike[str] | MetaTensor | Scan,
    bundle: str | os.PathLike[str] | Bundle = DEFAULT_BUNDLE,
    *,
    progress: Progress | None = None,
    **switches: Any,
) -> Result:
    """Segment the anatomy in a scan: ``run`` with a segmentation bundle.

    Examples:
        >>> import medvit
        >>> result = medvit.segment("scan.nii.gz")  # doctest: +SKIP
        >>> result.save("out", output_types=("nifti",), preview=True)  # doctest: +SKIP

    Args:
        source, bundle, progress: as in ``run``.
        switches: fields of ``RunSettings``: device, fast, force, roi_subset, repair_tags, series, on_irregular,
            quality_map,
            backend, precision, roi_crop, low_memory, geometry, threads.

    Returns:
        The labels on the source's own grid.

    Raises:
        MedvitError: as in ``run``.
    """
    made = run(_for(bundle, "segmentation"), source, progress=progress, **switches)
    return _as(segmentation.Result, made)


def restore(
    source: str | os.PathLike[str] | MetaTensor | Scan,
    bundle: str | os.PathLike[str] | Bundle = DEFAULT_RESTORATION,
    *,
    on_irregular: str | None = None,
    progress: Progress | None = None,
    **switches: Any,
) -> Restored:
    """Restore a scan: reduce its noise or blur, in its own unit, on its own grid or a finer one, as the bundle states.

    Examples:
        >>> import medvit
        >>> result = medvit.restore("series")  # doctest: +SKIP
        >>> result.save("out", output_types=("nifti", "dicom"), preview=True)  # doctest: +SKIP

    Args:
        source, bundle, progress: as in ``run``; the bundle must be one for restoration.
        on_irregular: as in ``RunSettings``. By default, a network that processes single slices restores the original
            slices of a
            tilted or uneven stack, and other networks refuse such a stack.
        switches: fields of ``RunSettings``: device, fast, force, repair_tags, series, geometry, threads.

    Returns:
        The restored image, with its source.

    Raises:
        MedvitError: as in ``run``.
    """
    opened = _for(bundle, "restoration")
    settings = restoration.with_irregular_policy(opened, RunSettings(**switches), on_irregular)
    return _as(restoration.Restored, run(opened, source, settings, progress))


def reconstruct(
    ap: str | os.PathLike[str],
    lat: str | os.PathLike[str],
    bundle: str | os.PathLike[str] | Bundle = DEFAULT_RECONSTRUCTION,
    *,
    ap_flags: ViewGeometry | None = None,
    lat_flags: ViewGeometry | None = None,
    progress: Progress | None = None,
    **switches: Any,
) -> Reconstructed:
    """Reconstruct bones in three dimensions from two radiographs.

    Examples:
        >>> import medvit
        >>> flags = medvit.ViewGeometry(pixel_spacing_mm=0.15, magnification=1.1)
        >>> result = medvit.reconstruct("ap.png", "lat.png", ap_flags=flags, lat_flags=flags)  # doctest: +SKIP

    Args:
        ap, lat: the AP (or PA) and the lateral view: DICOM (CR, DX), PNG or JPEG.
        bundle: a bundle for reconstruction.
        ap_flags, lat_flags: geometry that the files do not state, or that replaces the stated one.
        progress: shows the stages; can cancel the run.
        switches: fields of ``ReconstructionSettings``: device, force, threads.

    Returns:
        The labels on the network's grid.

    Raises:
        MedvitError: as in ``run``.
    """
    views = {
        "ap": reconstruction.ViewInput(source=ap, geometry=ap_flags),
        "lat": reconstruction.ViewInput(source=lat, geometry=lat_flags),
    }
    made = run(_for(bundle, "reconstruction"), views, progress=progress, **switches)
    return _as(reconstruction.Reconstructed, made)


def _bundle(bundle: str | os.PathLike[str] | Bundle) -> Bundle:
    return bundle if isinstance(bundle, Bundle) else open_bundle(bundle)


def _for(bundle: str | os.PathLike[str] | Bundle, task: str) -> Bundle:
    opened = _bundle(bundle)
    opened.require_task(task)
    return opened


def _as(kind: type[_Kind], made: object) -> _Kind:
    assert isinstance(made, kind)  # guaranteed by the bundle's task
    return made


def _settings(bundle: Bundle, settings: Settings | None, switches: Mapping[str, Any], **defaults: Any) -> Any:
    """Return the settings of a bundle's task, with the switches applied.

    Raises:
        BundleError: the settings belong to another task.
    """
    kind, switches = task_of(bundle).settings, dict(switches)
    if "roi_subset" in switches:
        switches["roi_subset"] = tuple(switches["roi_subset"])
    if settings is None:
        fields = {name: value for name, value in defaults.items() if name in kind.__dataclass_fields__}
        return kind(**{**fields, **switches})
    if not isinstance(settings, kind):
        raise BundleError(
            f"{type(settings).__name__} for {bundle.name}, a bundle for {bundle.facts.task}",
            f"{kind.__name__} is needed",
        )
    return replace(settings, **switches)


def _load(bundle: Bundle, settings: Settings) -> LoadedBundle:
    if isinstance(settings, RunSettings):
        return inference.load_model(bundle, settings.device, settings.fast, settings.backend, settings.precision)
    return inference.load_model(bundle, settings.device)


def _require_same(loaded: LoadedBundle, settings: Settings) -> None:
    """Refuse settings that differ from those a bundle was loaded with.

    Raises:
        BackendError: device, overlap, backend or precision differ.
    """
    asked = loaded.device if settings.device == "auto" else inference.choose_device(settings.device)
    fast = settings.fast if isinstance(settings, RunSettings) else loaded.fast
    if (asked.type, asked.index or 0) != (loaded.device.type, loaded.device.index or 0) or fast != loaded.fast:
        raise BackendError(
            f"settings for {asked} (fast: {fast}) and a model on {loaded.device} (fast: {loaded.fast})",
            "a loaded model is not moved or replaced",
            "Make the model with them: load_model(bundle, device, fast).",
        )
    if not isinstance(settings, RunSettings):
        return
    made = getattr(loaded.inferer, "backend", "auto"), getattr(loaded.inferer, "precision", "fp32")
    if (settings.backend, settings.precision) not in (("auto", "fp32"), made):
        raise BackendError(
            (
                f"settings for backend {settings.backend!r} and precision {settings.precision!r} for a model that is "
                "already loaded"
            ),
            remedy="Make the model with them: load_model(bundle, device, fast, backend, precision).",
        )


def _prepared(task: AnyTask, bundle: Bundle, source: Inputs, settings: Settings, progress: Progress) -> Prepared:
    """Open the inputs that are not open yet, and check them."""
    named = source if isinstance(source, Mapping) else {"image": source}
    if set(named) != set(task.inputs):
        found = f"inputs named {', '.join(map(str, named))}" if isinstance(source, Mapping) else "one source"
        if len(task.inputs) == 1:
            raise SourceError(
                f"{found} for {bundle.name}, which takes a single source", remedy="Give it without a name."
            )
        raise SourceError(
            f"{found} for {bundle.name}, whose inputs are {', '.join(task.inputs)}",
            remedy="Give a mapping from each name to a source.",
        )
    given = {name: _input(named[name], task.opened) for name in task.inputs}
    reads = any(isinstance(one, Input) for one in given.values())
    with progress.stage("read") if reads else nullcontext():
        opened = task.open(given, bundle, settings, progress)
    prepared: Prepared = task.prepare(opened, bundle, settings)
    return prepared


def _input(one: Any, opened: type) -> Any:
    return one if isinstance(one, opened | Input) else Input(source=one)
