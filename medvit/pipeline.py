"""The one path: open a source, run a bundle on it, give back a result. Every door calls ``run``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor

from medvit.bundles import DEFAULT_BUNDLE, Bundle, open_bundle
from medvit.errors import BackendError, BundleError, ImageError, ModalityError
from medvit.inference import SliceWise, SlidingWindow
from medvit.io import Scan, open_source
from medvit.io.repair import repair_uids
from medvit.progress import Progress
from medvit.result import Result
from medvit.settings import RunSettings

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Model", "RunSettings", "load_model", "run", "segment"]


@dataclass(frozen=True, eq=False)
class Model:
    """A bundle made ready on a device; kept between cases."""

    bundle: Bundle
    device: torch.device
    network: nn.Module
    inferer: Any
    preprocessing: Any
    postprocessing: Any
    weights_sha256: str = field(default="")


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


@lru_cache(maxsize=4)
def _load(root: str, newest: float, device: str, fast: bool) -> Model:
    bundle = open_bundle(root)
    bundle.require_trained()
    config = {**bundle.config, "bundle_root": str(bundle.root), "device": device}
    if fast and "fast_overlap" in config:
        config["overlap"] = config["fast_overlap"]
    parser = ConfigParser(config)
    try:
        network = parser.get_parsed_content("network")
        post = parser.get_parsed_content("postprocessing")
        # a door decides where results go, so the saver that stands in the config for monai.bundle is left out
        kept = [t for t in post.transforms if not type(t).__name__.startswith("SaveImage")]
        return Model(
            bundle,
            torch.device(device),
            network,
            parser.get_parsed_content("inferer"),
            parser.get_parsed_content("preprocessing"),
            type(post)(kept),
            bundle.weights_sha256,
        )
    except (RuntimeError, TypeError, KeyError) as error:
        cause = error.__cause__ or error
        if isinstance(cause, BundleError):
            raise cause from None
        raise BundleError(
            f"Found a config of {bundle.name} that cannot be built: {str(cause).splitlines()[0]}. Correct configs/inference.json."
        ) from error


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
    wanted = tuple(opened.label(name) for name in settings.roi_subset) or opened.facts.labels
    opened.require_trained()
    with progress.stage("read"):
        scan = open_source(source, settings.series, progress, settings.on_irregular)
    forced = _require_fit(scan, opened, settings.force)
    repaired: tuple[str, ...] = ()
    if settings.repair_tags:
        scan, repaired = repair_uids(scan)
    with progress.stage("load"):
        model = load_model(opened, settings.device, settings.fast)
    labels = _infer(model, scan, progress)
    if settings.roi_subset:
        ids = torch.tensor([label.id for label in wanted], dtype=labels.dtype)
        labels = labels * torch.isin(labels.as_tensor(), ids)
    if scan.original is not None:  # nothing was measured there
        labels = labels * torch.from_numpy(scan.original.covered)
    record = {
        "device": str(model.device),
        "device_asked": settings.device,
        "precision": getattr(model.inferer, "precision", "fp32"),
        "fast": settings.fast,
        "overlap": float(getattr(model.inferer, "overlap", 0)),
        "roi_subset": list(settings.roi_subset),
        "forced": bool(forced),
        "repaired": list(repaired),
        "on_irregular": settings.on_irregular,
        "threads": torch.get_num_threads(),
    }
    return Result(labels, scan, opened, wanted, record, (*scan.notes, *forced, *repaired), progress)


def _infer(model: Model, scan: Scan, progress: Progress) -> MetaTensor:
    with torch.inference_mode():
        with progress.stage("preprocess"):
            data = model.preprocessing({"image": scan.meta_tensor()})
        with progress.stage("infer"):
            image = data["image"].as_tensor()[None].to(model.device)
            extra = {"progress": progress} if isinstance(model.inferer, SlidingWindow | SliceWise) else {}
            logits = model.inferer(image, model.network, **extra)[0].cpu()
        with progress.stage("postprocess"):
            labels = model.postprocessing({**data, "pred": logits})["pred"]
    plain = labels.as_tensor().clone()
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
