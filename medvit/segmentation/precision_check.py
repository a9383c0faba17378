"""Precision check: the labels of a bundle in a lower precision, compared with those in fp32 on a reference case."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, cast

from medvit.bundles import PrecisionCheck
from medvit.errors import BackendError, BundleError

if TYPE_CHECKING:
    from medvit.bundles import Bundle
    from medvit.progress import Progress
    from medvit.segmentation.result import Result

__all__ = ["run_precision_check"]


_CHECKED = ("bf16", "int8")
_PACKAGES = ("python", "medvit", "torch", "openvino")


def run_precision_check(
    bundle: Bundle, case: str | os.PathLike[str], precision: str = "bf16", progress: Progress | None = None
) -> PrecisionCheck:
    """Label a case in fp32 (eager) and in a lower precision, and compare the labels.

    Args:
        bundle: a trained segmentation bundle.
        case: a scan of the kind that the bundle takes.
        precision: "bf16" or "int8".
        progress: receives the stages of the runs; can cancel them.

    Returns:
        The Dice of each label between both runs, with the versions of the packages.

    Raises:
        BackendError: another precision, or no backend computes in it here.
        BundleError: neither run found a label, so that nothing can be compared.

    Examples:
        >>> from medvit.bundles import open_bundle
        >>> from medvit.segmentation import run_precision_check
        >>> run_precision_check(open_bundle("headneck_ct_swin_unetr"), "scan.nii.gz").dice  # doctest: +SKIP
    """
    from medvit.inference import load_model, with_backend
    from medvit.progress import Progress
    from medvit.reports import dice, versions
    from medvit.segmentation.task import SegmentationTask
    from medvit.settings import RunSettings
    from medvit.tasks import Input

    if precision not in _CHECKED:
        raise BackendError(
            f"precision {precision!r} to check",
            f"it must be {' or '.join(_CHECKED)}",
            "Correct {precision}.",
            option="precision",
        )
    progress = progress or Progress()
    task, settings = SegmentationTask(), RunSettings(device="cpu")
    task.check(bundle, settings)
    model = load_model(bundle, "cpu")
    with progress.stage("read"):
        opened = task.open({"image": Input(source=case)}, bundle, settings, progress)
    prepared = task.prepare(opened, bundle, settings)

    def labelled(backend: str, precision: str) -> Result:
        # the pipeline refuses a precision whose check has not passed, so this check runs the task's steps itself
        loaded = with_backend(model, backend, precision)
        return task.result(loaded, prepared, task.predict(loaded, prepared, settings, progress), settings, progress)

    found, wanted = labelled("auto", precision), labelled("eager", "fp32")
    shares: dict[str, float] = {}
    for label in bundle.facts.labels:
        a, b = (result.array == label.id for result in (found, wanted))
        if a.any() or b.any():
            shares[label.name] = round(dice(a, b), 5)
    if not shares:
        raise BundleError(
            f"no label of {bundle.name} in the case",
            "a label to compare is needed",
            "Give another {case}.",
            option="case",
        )
    stated = {name: number for name, number in versions().items() if name in _PACKAGES}
    return PrecisionCheck(
        precision=cast(Literal["bf16", "int8"], precision),  # with_backend has refused others
        backend=found.settings["backend"],
        case=prepared.scan.fingerprint(),
        dice=shares,
        weights_sha256=bundle.weights_sha256,
        versions=stated,
        ranges_sha256=bundle.int8_ranges_sha256 if precision == "int8" else "",
    )
