"""Faster start of commands that only run inference: MONAI imported without packages that inference does not need."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["import_monai_lightly"]

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


def import_monai_lightly(config: Mapping[str, Any]) -> None:
    """Import MONAI without its training engine, and without packages that no step of a bundle uses, in a process that
    never trains.

    MONAI works without these packages, but remembers that they were missing: ``monai.engines`` cannot be used in this
    process afterwards, nor can transforms that need one of them. The packages can still be imported directly. If MONAI
    is already imported, this does nothing.

    Args:
        config: inference config of the bundle that will run, as JSON gives it.

    Examples:
        >>> import sys
        >>> from medvit.bundles import open_bundle
        >>> from medvit.inference import import_monai_lightly
        >>> import_monai_lightly(open_bundle("headneck_ct_swin_unetr").config)
        >>> "monai" in sys.modules
        True
    """
    if "monai" in sys.modules:
        return
    steps = [config.get(name, {}) for name in ("preprocessing", "inferer", "postprocessing")]
    used = {target for target in _targets(steps) if target.startswith("monai.")}
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
