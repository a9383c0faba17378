"""The labels of a bundle in a lower precision, compared with those of fp32 on a reference case."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from medvit.bundles import PrecisionCheck
from medvit.errors import BundleError

if TYPE_CHECKING:
    from medvit.bundles import Bundle
    from medvit.progress import Progress

__all__ = ["run_precision_check"]


_PACKAGES = ("python", "medvit", "torch", "openvino")


def run_precision_check(
    bundle: Bundle, case: str | os.PathLike[str], precision: str = "bf16", progress: Progress | None = None
) -> PrecisionCheck:
    """Label a case in fp32 as the network is, and in a lower precision, and compare.

    Args:
        bundle: a trained one for segmentation.
        case: a scan that the bundle is made for.
        precision: "bf16".
        progress: told where the runs stand; can cancel them.

    Raises:
        BackendError: no backend computes in that precision here. BundleError: nothing was labelled, so nothing can be compared.
    """
    import torch

    from medvit.inference import load_model, with_backend
    from medvit.progress import Progress
    from medvit.reports import versions
    from medvit.segmentation.task import check_settings, predict_scan
    from medvit.settings import RunSettings
    from medvit.tasks import open_for

    progress = progress or Progress()
    bundle.require_task("segmentation")
    model = load_model(bundle, "cpu")
    settings = RunSettings("cpu")
    labels = check_settings(bundle, settings)
    ready = open_for(bundle, case, settings, progress)
    lower = with_backend(model, "auto", precision)
    found = predict_scan(lower, ready, labels, settings, progress)
    wanted = predict_scan(with_backend(model, "eager", "fp32"), ready, labels, settings, progress)
    dice: dict[str, float] = {}
    for label in bundle.facts.labels:
        a, b = (torch.as_tensor(result.array == label.id) for result in (found, wanted))
        both = int(a.sum()) + int(b.sum())
        if both:
            dice[label.name] = round(2 * int((a & b).sum()) / both, 5)
    if not dice:
        raise BundleError(
            f"Found no label of {bundle.name} in the case; something to compare is needed. Give another --case."
        )
    stated = {name: number for name, number in versions().items() if name in _PACKAGES}
    return PrecisionCheck(
        precision="bf16",
        backend=found.settings["backend"],
        case=ready.scan.fingerprint(),
        dice=dice,
        weights_sha256=bundle.weights_sha256,
        versions=stated,
    )
