"""Faster start of commands that only run inference: MONAI imported without packages that inference does not need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["import_monai_lightly", "never_train"]

_FOR_TRAINING = ("ignite", "matplotlib.pyplot")
"""Packages that MONAI imports if they are installed, for its training engine and for pictures in Jupyter."""

_FOR_STEPS = (
    *("IPython", "cv2", "itk", "matplotlib", "pandas", "skimage", "tensorboard", "torch.utils.tensorboard"),
    *("scipy.optimize", "scipy.signal", "scipy.sparse.linalg", "scipy.spatial"),
)
"""Packages that MONAI imports for some of its transforms and readers; they take up to two seconds."""

_STEPS_WITHOUT = {
    "monai.inferers.SimpleInferer",
    "monai.transforms.AsDiscreted",
    "monai.transforms.Compose",
    "monai.transforms.SaveImaged",
    "monai.transforms.ScaleIntensityRangePercentilesd",
    "monai.transforms.ScaleIntensityRanged",
}
"""MONAI's classes that work without those packages."""

_NETWORKS_OF_MONAI = {
    "medvit.reconstruction.StackedSwinX2S",
    "medvit.reconstruction.SwinX2S",
    "medvit.segmentation.SwinUNETR",
}
"""Networks of medvit that are made of MONAI's blocks."""

_PROCESS = {"infers_only": False}
"""State of this process: True once a command has said that it will never train."""


def never_train() -> None:
    """State that this process will only run inference, so that MONAI may be imported without parts for training.

    Examples:
        >>> from medvit.inference import never_train
        >>> never_train()  # doctest: +SKIP
    """
    _PROCESS["infers_only"] = True


def import_monai_lightly(config: Mapping[str, Any]) -> None:
    """Import MONAI without its training engine, and without packages that no step of a bundle uses, if a bundle needs
    MONAI and the process never trains.

    MONAI works without these packages, but remembers that they were missing: ``monai.engines`` cannot be used in this
    process afterwards, nor can transforms that need one of them. The packages can still be imported directly. If MONAI
    is already imported, or ``never_train`` was not called, this does nothing.

    Args:
        config: inference config of the bundle that will run, as JSON gives it.

    Examples:
        >>> import sys
        >>> from medvit.bundles import open_bundle
        >>> from medvit.inference import import_monai_lightly, never_train
        >>> never_train()  # doctest: +SKIP
        >>> import_monai_lightly(open_bundle("headneck_ct_swin_unetr").config)
        >>> "monai" in sys.modules  # doctest: +SKIP
        True
    """
    if "monai" in sys.modules or not _PROCESS["infers_only"]:
        return
    steps = [config.get(name, {}) for name in ("preprocessing", "inferer", "postprocessing")]
    used = {target for target in _targets(steps) if not target.startswith("medvit.")}
    if not used and not _NETWORKS_OF_MONAI & set(_targets(config.get("network_def", {}))):
        return
    unneeded = _FOR_TRAINING + (_FOR_STEPS if used <= _STEPS_WITHOUT else ())
    hidden = [name for name in unneeded if name not in sys.modules]
    try:
        sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None makes an import fail
        import monai  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]


def _targets(config: object) -> Iterator[str]:
    """Yield the names of classes, ``_target_``, anywhere in a part of a config."""
    if isinstance(config, Mapping):
        if "_target_" in config:
            yield str(config["_target_"])
        yield from (target for value in config.values() for target in _targets(value))
    elif isinstance(config, list):
        yield from (target for value in config for target in _targets(value))
