"""A bundle loaded on a device (network, inferer, transforms), and ``apply``, the only way to run it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from medvit.bundles import Bundle, Calibration, ConfigReader, Validation, open_bundle, require_precision_check
from medvit.errors import BackendError, BundleError, MedvitError, MemoryShortError
from medvit.inference.backends import DeferredNetwork, SelectedBackend, built
from medvit.inference.checks import is_out_of_memory
from medvit.inference.device import choose_device
from medvit.inference.light_imports import import_monai_lightly
from medvit.inference.prediction import Prediction
from medvit.inference.region import region_mask
from medvit.inference.slice_wise import SliceWise
from medvit.inference.sliding_window import SlidingWindow
from medvit.inference.streaming import steps_of
from medvit.inference.uncertainty import LabelEntropy
from medvit.inference.whole_image import WholeImage
from medvit.io import GridImage, plain_tensor
from medvit.progress import Progress
from medvit.settings import check_names
from medvit.transforms import KeyedTransform

if TYPE_CHECKING:
    from torch import nn

__all__ = ["LoadedBundle", "apply", "load_model", "loaded_bundle_for"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoadedBundle:
    """A bundle's network, inferer and transforms on a device; reused for many cases.

    Attributes:
        bundle: the bundle with config and metadata.
        device: device of the network.
        runnable: the network in evaluation mode, possibly not built yet, as inferers and backends take it.
        inferer: inferer that runs the network over an image.
        preprocessing: transforms from data to the network's input, under the key ``image``.
        postprocessing: transforms from the network's output, under the key ``pred``, to the result on the source grid.
        weights_sha256: hash of the bundle's weights; empty for a network given in memory.
        fast: True if the bundle's smaller overlap is used.

    Examples:
        >>> from medvit.inference import load_model
        >>> loaded = load_model("nuclei_barlow_swin", device="cpu")  # doctest: +SKIP
        >>> loaded.network, loaded.inferer, loaded.device  # doctest: +SKIP
    """

    bundle: Bundle
    device: torch.device
    runnable: nn.Module | DeferredNetwork
    inferer: Any
    preprocessing: Any
    postprocessing: Any
    weights_sha256: str = ""
    fast: bool = False

    @property
    def network(self) -> nn.Module:
        """The network in evaluation mode."""
        network: nn.Module = built(self.runnable)
        return network

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes for readers of a result about the network that ran."""
        return () if self.weights_sha256 else ("The network was given in memory; its weights are not the bundle's.",)

    @property
    def calibration(self) -> Calibration | None:
        """Calibration of the quality signals for these weights; None if it is missing or belongs to other weights."""
        found = self.bundle.facts.quality
        return found if found is not None and found.weights_sha256 == self.weights_sha256 else None

    @property
    def validation(self) -> Validation | None:
        """Validation cases behind the calibration of these weights; None if missing or of other weights."""
        found = self.bundle.facts.validation
        return found if found is not None and found.weights_sha256 == self.weights_sha256 else None


def load_model(
    bundle: str | os.PathLike[str] | Bundle,
    device: str = "auto",
    fast: bool = False,
    backend: str = "auto",
    precision: str = "fp32",
) -> LoadedBundle:
    """Load a bundle's network, inferer and transforms on a device, with its weights verified; cached.

    Args:
        bundle: a bundle, its name or its folder.
        device: name of a device, see ``choose_device``.
        fast: use the bundle's smaller overlap.
        backend: backend of its inferer, see ``SlidingWindow``.
        precision: "fp32", or "bf16" or "int8" if the bundle's precision check has passed.

    Returns:
        The loaded bundle; calls with equal arguments share one network.

    Raises:
        BundleError: the bundle is unknown, not trained or badly configured.
        ChecksumError: its weights differ from the recorded hash.
        BackendError: there is no such device or backend, the inferer takes no backend, or bf16 has no passed precision
            check.

    Examples:
        >>> from medvit.inference import load_model
        >>> loaded = load_model("headneck_ct_swin_unetr", device="cpu")  # doctest: +SKIP
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    opened.require_trained()
    files = [opened.weights, *(opened.root / "configs").glob("*.json")]
    newest = max(path.stat().st_mtime for path in files)  # a changed bundle is loaded again
    loaded = _load(str(opened.root), newest, str(choose_device(device)), fast)
    check_names(backend, precision)
    if precision != "fp32":
        require_precision_check(opened, precision)
    return with_backend(loaded, backend, precision)


def with_backend(model: LoadedBundle, backend: str, precision: str) -> LoadedBundle:
    """Copy a loaded bundle with another backend; the network is shared, and no precision check is required.

    Args:
        model: the loaded bundle.
        backend: backend of its inferer, see ``SlidingWindow``.
        precision: "fp32", "bf16" or "int8".

    Returns:
        The copy, or the loaded bundle itself if backend and precision are the same.

    Raises:
        BackendError: the bundle's inferer takes no backend.

    Examples:
        >>> from medvit.inference import load_model, with_backend
        >>> eager = with_backend(load_model("headneck_ct_swin_unetr"), "eager", "fp32")  # doctest: +SKIP
    """
    inferer = model.inferer
    if (backend, precision) == (getattr(inferer, "backend", "auto"), getattr(inferer, "precision", "fp32")):
        return model
    if not isinstance(inferer, SlidingWindow):
        raise BackendError(
            f"backend {backend!r} and precision {precision!r} for {model.bundle.name}, whose inferer is "
            f"{type(inferer).__name__}",
            "only SlidingWindow takes them",
            "Leave them out.",
        )
    ranges = model.bundle.int8_ranges if precision == "int8" else None
    return replace(model, inferer=with_options(inferer, backend=backend, precision=precision, ranges=ranges))


def with_options(inferer: Any, **settings: object) -> Any:
    """Copy an inferer with other settings; the original, which other callers share, is unchanged."""
    other = copy.copy(inferer)
    for name, value in settings.items():
        setattr(other, name, value)
    return other


def loaded_bundle_for(bundle: Bundle, network: nn.Module, device: str | torch.device = "cpu") -> LoadedBundle:
    """Combine a bundle's inferer and transforms with a network in memory, for validation during training.

    The bundle need not be trained, and its weights are not read. Nothing is cached. The network is moved to the device
    and put into evaluation mode in place; call ``train()`` on it to continue training.

    Args:
        bundle: bundle whose preprocessing, inferer and postprocessing are used.
        network: network with the input and output of the bundle's own.
        device: name of a device, see ``choose_device``, or a device.

    Returns:
        The loaded bundle, with an empty ``weights_sha256``.

    Raises:
        BundleError: the bundle is badly configured.
        BackendError: there is no such device.

    Examples:
        >>> from medvit.bundles import open_bundle
        >>> from medvit.inference import loaded_bundle_for
        >>> loaded = loaded_bundle_for(open_bundle("nuclei_barlow_swin"), network)  # doctest: +SKIP
    """
    place = choose_device(device) if isinstance(device, str) else device
    return _build(bundle, place, network=network.to(place).eval())


@lru_cache(maxsize=4)
def _load(root: str, newest: float, device: str, fast: bool) -> LoadedBundle:
    bundle = open_bundle(root)
    bundle.require_trained()
    return _build(bundle, torch.device(device), fast)


def _build(bundle: Bundle, device: torch.device, fast: bool = False, network: nn.Module | None = None) -> LoadedBundle:
    """Build the parts of a bundle's config, with its own weights unless a network is given."""
    config = {**bundle.config, "bundle_root": str(bundle.root), "device": str(device)}
    if fast:
        config |= {key.removeprefix("fast_"): value for key, value in config.items() if key.startswith("fast_")}
    config["postprocessing"] = without_saver(config.get("postprocessing"))
    try:
        get = _reader_of(config)
        own = _network(bundle, config, get, device) if network is None else network
        inferer = get("inferer")
        if getattr(inferer, "precision", "fp32") != "fp32":
            require_precision_check(bundle, inferer.precision)
        return LoadedBundle(
            bundle=bundle,
            device=device,
            runnable=own,
            inferer=inferer,
            preprocessing=get("preprocessing"),
            postprocessing=get("postprocessing"),
            weights_sha256=bundle.weights_sha256 if network is None else "",
            fast=fast,
        )
    except (RuntimeError, TypeError, KeyError, ImportError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, BundleError):
            raise cause from None
        raise BundleError(
            f"a config of {bundle.name} that cannot be built: {str(cause).splitlines()[0]}",
            remedy="Correct configs/inference.json.",
        ) from error


def _reader_of(config: dict[str, Any]) -> Callable[[str], Any]:
    """Return a function that makes the value of an id: medvit's reader where it knows the config, else MONAI's parser."""
    reader = ConfigReader(config)
    if reader.knows("network", "inferer", "preprocessing", "postprocessing"):
        return reader.get
    import_monai_lightly(config)
    from monai.bundle import ConfigParser

    parsed: Callable[[str], Any] = ConfigParser(config).get_parsed_content
    return parsed


def _network(
    bundle: Bundle, config: dict[str, Any], get: Callable[[str], Any], device: torch.device
) -> nn.Module | DeferredNetwork:
    """Return the network of a bundle; on the CPU it is built later if its fingerprint is recorded, else now."""

    def build() -> nn.Module:
        import_monai_lightly(config)
        network: nn.Module = get("network")
        return network

    if device.type != "cpu" or not isinstance(getattr(get, "__self__", None), ConfigReader):
        return build()
    network = DeferredNetwork(build, config, bundle.weights_sha256)
    try:
        ready = network.is_recorded and bool(bundle.verify())
    except MedvitError:
        ready = False
    if not ready:
        network.built()  # raises the error of weights that cannot be used
    return network


def without_saver(postprocessing: Any) -> Any:
    """Return the config of a postprocessing without its saver: callers of medvit decide where results are saved.

    ``python -m monai.bundle`` needs the saver. Building it would import every package that MONAI can save with.
    """
    steps = postprocessing.get("transforms") if isinstance(postprocessing, dict) else None
    if not isinstance(steps, list):
        return postprocessing
    names = [str(step.get("_target_", "")) if isinstance(step, dict) else "" for step in steps]
    kept = [
        step for step, name in zip(steps, names, strict=True) if not name.rpartition(".")[2].startswith("SaveImage")
    ]
    return {**postprocessing, "transforms": kept}


def apply(
    model: LoadedBundle,
    data: Mapping[str, Any],
    progress: Progress | None = None,
    *,
    roi_crop: str = "",
    low_memory: bool = False,
    entropy_map: bool = False,
) -> Prediction:
    """Run data through a loaded bundle's preprocessing, inferer and postprocessing.

    All tasks use this function. Its output is that of the bundle's last step, label ids or intensities, without
    rounding or conversion. Where the postprocessing allows it, logits are processed a few planes at a time and never
    held as a whole; the result is the same.

    Args:
        model: the loaded bundle.
        data: input of the bundle's preprocessing, GridImages or MetaTensors: ``{"image": ...}``, or ``{"coronal": ...,
            "sagittal": ...}``.
        progress: receives the stages of the run; can cancel it.
        roi_crop: region in which an answer is needed, see ``RunSettings``.
        low_memory: see ``RunSettings``.
        entropy_map: also keep the entropy of every voxel.

    Returns:
        The postprocessed output with the backend that ran and the entropies of the labels.

    Raises:
        BundleError: the network's output has NaN or infinite values.
        MemoryShortError: there is too little memory.
        ImageError: the region is not in the image.
        BackendError: a region is given for an inferer that takes none.

    Examples:
        >>> import medvit
        >>> from medvit.inference import apply, load_model
        >>> scan = medvit.open_source("scan.nii.gz")  # doctest: +SKIP
        >>> prediction = apply(load_model("headneck_ct_swin_unetr"), {"image": scan.grid_image()})  # doctest: +SKIP
        >>> prediction.output, prediction.entropies  # doctest: +SKIP
    """
    progress = progress or Progress()
    try:
        with torch.inference_mode():
            with progress.stage("preprocess"):
                ready = model.preprocessing(_input_of(model, data))
            exclusive = getattr(model.inferer, "exclusive", True)  # overlapping regions have no single label's entropy
            wanted = exclusive and bool(entropy_map or model.bundle.facts.labels)
            entropy = LabelEntropy(keep_map=entropy_map) if wanted else None
            backends: list[SelectedBackend] = []
            output = _applied(model, ready, progress, _How(roi_crop, low_memory, entropy, backends.append))
            prediction = Prediction(output=output)
            if backends:
                ran = backends[-1]
                prediction = replace(prediction, backend=ran.backend, precision=ran.precision, reason=ran.reason)
            if entropy is None:
                return prediction
            bits = entropy.map()
            return replace(prediction, entropies=entropy.values(), entropy_map=None if bits is None else bits.numpy())
    except (MemoryError, RuntimeError) as error:
        if isinstance(error, MemoryShortError) or not is_out_of_memory(error):
            raise
        raise MemoryShortError(
            f"too little memory for this image by {model.bundle.name} on {model.device}",
            ("use a machine with more, " if low_memory else "run with {low_memory=True}, ")
            + "{roi_crop=body} or a box, or {device=cpu} where a GPU ran out",
            option=("low_memory", "roi_crop", "device"),
        ) from error


def _input_of(model: LoadedBundle, data: Mapping[str, Any]) -> dict[str, Any]:
    """Return the data as the steps of a bundle take them: MetaTensors where a step is not one of medvit's."""
    sequences = model.preprocessing, model.postprocessing
    steps = [step for sequence in sequences for step in getattr(sequence, "transforms", [sequence])]
    if all(isinstance(step, KeyedTransform) for step in steps):
        return dict(data)
    return {name: image.meta_tensor() if isinstance(image, GridImage) else image for name, image in data.items()}


@dataclass(frozen=True)
class _How:
    """Options of a run, and the observers of its entropies and backend."""

    roi_crop: str
    low_memory: bool
    entropy: LabelEntropy | None
    on_backend: Callable[[SelectedBackend], object]


def _applied(model: LoadedBundle, ready: dict[str, Any], progress: Progress, how: _How) -> Tensor:
    """Run inferer and postprocessing on preprocessed data."""
    inferer, roi_crop, low_memory, entropy = model.inferer, how.roi_crop, how.low_memory, how.entropy
    windows = isinstance(inferer, SlidingWindow)
    extra: dict[str, Any] = {"progress": progress} if isinstance(inferer, SlidingWindow | SliceWise) else {}
    if windows:
        extra["on_backend"] = how.on_backend
    if roi_crop:
        if not windows or isinstance(inferer, WholeImage) or not getattr(inferer, "takes_region", True):
            raise BackendError(
                f"{{roi_crop}} for {model.bundle.name}, which does not run by windows of a volume",
                "the option needs a sliding window over a volume",
                "Leave it out.",
                option="roi_crop",
            )
        extra["where"] = region_mask(ready["image"], roi_crop)
    if low_memory and windows:
        inferer = with_options(inferer, sw_batch_size=1, streams=1)

    def finite(values: Tensor) -> Tensor:
        if not bool(torch.isfinite(values).all()):  # an argmax would turn NaN into labels
            raise BundleError(
                f"NaN or infinite values in the output of {model.bundle.name}'s network on {model.device}",
                "no result was made",
                "Run it with {device=cpu}, and report it.",
                option="device",
            )
        if entropy is not None:
            entropy.add_planes(values)
        return values

    steps = steps_of(model.postprocessing) if windows and not isinstance(inferer, WholeImage) else None
    if steps is not None and (steps.keep is None or low_memory):

        def stream(add_planes: Callable[[Tensor], None]) -> Tensor:
            with progress.stage("infer"):
                image = plain_tensor(ready["image"])[None].to(model.device)
                made: Tensor = inferer.stream(image, model.runnable, lambda planes: add_planes(finite(planes)), **extra)
            return made

        return steps.run(stream, ready["image"])
    with progress.stage("infer"):
        image = plain_tensor(ready["image"])[None].to(model.device)
        output = finite(inferer(image, model.runnable, **extra)[0].cpu())
    with progress.stage("postprocess"):
        made: Tensor = model.postprocessing({**ready, "pred": output})["pred"]
    return made
