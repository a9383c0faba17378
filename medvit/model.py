"""A bundle made ready to run: its network, inferer and transforms on a device, and the one way through them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from monai.bundle import ConfigParser
from torch import Tensor

from medvit.bundles import Bundle, open_bundle
from medvit.errors import BackendError, BundleError
from medvit.inference import SliceWise, SlidingWindow
from medvit.progress import Progress

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Model", "apply", "choose_device", "load_model", "model_around"]


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle made ready on a device; kept between cases.

    Attributes:
        bundle: where everything but, possibly, the weights comes from.
        device: where the network lies.
        network: in evaluation mode.
        inferer: how the network is run over an image.
        preprocessing: data to what the network takes, under ``image``.
        postprocessing: the network's output, under ``pred``, to the result on the source's grid.
        weights_sha256: of the bundle's weights; empty for a network given in memory.
        fast: whether the bundle's lighter overlap is used.
    """

    bundle: Bundle
    device: torch.device
    network: nn.Module
    inferer: Any
    preprocessing: Any
    postprocessing: Any
    weights_sha256: str = ""
    fast: bool = False


def choose_device(name: str) -> torch.device:
    """The device of that name; never another than asked for.

    Raises:
        BackendError: the device is not on this machine.
    """
    wanted = name.lower().replace("gpu", "cuda")
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind = wanted.partition(":")[0]
    if kind not in ("cpu", "cuda", "mps"):
        raise BackendError(
            f"Found device {name!r}; it must be auto, cpu, gpu, gpu:N or mps. Leave it out to choose automatically."
        )
    try:
        device = torch.device(wanted)
    except RuntimeError as error:
        raise BackendError(f"Found device {name!r}, which is not a device name; use cpu, gpu, gpu:N or mps.") from error
    count = torch.cuda.device_count() if kind == "cuda" else 0
    absent = (kind == "cuda" and (device.index or 0) >= count) or (
        kind == "mps" and not torch.backends.mps.is_available()
    )
    if absent:
        raise BackendError(
            f"Found no device {name!r} on this machine ({count} CUDA device(s)); nothing else is used in its place. Use --device cpu."
        )
    return device


def load_model(bundle: str | os.PathLike[str] | Bundle, device: str = "auto", fast: bool = False) -> Model:
    """A bundle's network, inferer and transforms on a device, with its weights checked; cached.

    Raises:
        BundleError: unknown, not trained or badly configured. ChecksumError: its weights are others.
        BackendError: no such device.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(bundle)
    opened.require_trained()
    files = [opened.weights, *(opened.root / "configs").glob("*.json")]
    newest = max(path.stat().st_mtime for path in files)  # a bundle that changed is loaded anew
    return _load(str(opened.root), newest, str(choose_device(device)), fast)


def model_around(bundle: Bundle, network: nn.Module, device: str | torch.device = "cpu") -> Model:
    """A bundle's inferer and transforms around a network in memory: what training is judged with.

    The bundle need not be trained, and none of its weights is read. Nothing is cached. The network is moved to the device
    and put into evaluation mode, in place: put it back to train further.

    Args:
        bundle: whose preprocessing, inferer and postprocessing are used.
        network: takes and gives what the bundle's own network would.
        device: a device's name as ``choose_device`` takes it, or a device.

    Raises:
        BundleError: badly configured. BackendError: no such device.
    """
    place = choose_device(device) if isinstance(device, str) else device
    return _build(bundle, place, network=network.to(place).eval())


@lru_cache(maxsize=4)
def _load(root: str, newest: float, device: str, fast: bool) -> Model:
    bundle = open_bundle(root)
    bundle.require_trained()
    return _build(bundle, torch.device(device), fast)


def _build(bundle: Bundle, device: torch.device, fast: bool = False, network: nn.Module | None = None) -> Model:
    """What the bundle's config says, with its own weights unless a network is given."""
    config = {**bundle.config, "bundle_root": str(bundle.root), "device": str(device)}
    if fast and "fast_overlap" in config:
        config["overlap"] = config["fast_overlap"]
    parser = ConfigParser(config)
    try:
        own = parser.get_parsed_content("network") if network is None else network
        post = parser.get_parsed_content("postprocessing")
        # a door decides where results go, so the saver that stands in the config for monai.bundle is left out
        kept = [t for t in post.transforms if not type(t).__name__.startswith("SaveImage")]
        return Model(
            bundle,
            device,
            own,
            parser.get_parsed_content("inferer"),
            parser.get_parsed_content("preprocessing"),
            type(post)(kept),
            bundle.weights_sha256 if network is None else "",
            fast,
        )
    except (RuntimeError, TypeError, KeyError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, BundleError):
            raise cause from None
        raise BundleError(
            f"Found a config of {bundle.name} that cannot be built: {str(cause).splitlines()[0]}. Correct configs/inference.json."
        ) from error


def apply(model: Model, data: Mapping[str, Any], progress: Progress | None = None) -> Tensor:
    """Data through a model's preprocessing, inferer and postprocessing.

    The one way through a network for every task: what comes out is what the bundle's last step makes, label ids or
    intensities, with nothing rounded or converted.

    Args:
        model: the bundle made ready.
        data: what the bundle's preprocessing takes: ``{"image": MetaTensor}``, or ``{"coronal": ..., "sagittal": ...}``.
        progress: told where the run stands; can cancel it.

    Returns:
        The postprocessed output, (channel, *spatial) on the CPU, a MetaTensor where the postprocessing gives one.

    Raises:
        BundleError: the network's output holds NaN or infinite values.
    """
    progress = progress or Progress()
    with torch.inference_mode():
        with progress.stage("preprocess"):
            ready = model.preprocessing(dict(data))
        with progress.stage("infer"):
            image = ready["image"].as_tensor()[None].to(model.device)
            extra = {"progress": progress} if isinstance(model.inferer, SlidingWindow | SliceWise) else {}
            output = model.inferer(image, model.network, **extra)[0].cpu()
        if not bool(torch.isfinite(output).all()):  # an argmax would make labels of them
            raise BundleError(
                f"Found values that are no numbers in what {model.bundle.name}'s network made on {model.device}; nothing was made of "
                "them. Run it with --device cpu, and report it."
            )
        with progress.stage("postprocess"):
            made: Tensor = model.postprocessing({**ready, "pred": output})["pred"]
    return made
