"""Settings of a run that change how a bundle's inferer works."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from medvit.errors import BackendError
from medvit.inference.loaded_bundle import LoadedBundle, with_options
from medvit.settings import RunSettings

__all__ = ["with_run_settings"]


def with_run_settings(model: LoadedBundle, settings: RunSettings) -> LoadedBundle:
    """Copy a loaded bundle without mirroring or with nnU-Net's rounding, as the settings ask; the network is shared.

    Args:
        model: the loaded bundle.
        settings: settings of the run.

    Returns:
        The copy, or the loaded bundle itself where the settings ask for neither.

    Raises:
        BackendError: nnU-Net's rounding is asked for, and the bundle is no imported nnU-Net or its backend is not the
            eager one.

    Examples:
        >>> from medvit import RunSettings
        >>> from medvit.inference import load_model, with_run_settings
        >>> loaded = load_model("nuclei_barlow_swin", device="cpu")  # doctest: +SKIP
        >>> with_run_settings(loaded, RunSettings()) is loaded  # doctest: +SKIP
        True
    """
    if settings.no_mirroring and getattr(model.inferer, "mirrored", None) is not None:
        model = replace(model, inferer=with_options(model.inferer, mirrored=None))
    return replace(model, inferer=_rounded(model.inferer, model.bundle.name)) if settings.nnunet_rounding else model


def _rounded(inferer: Any, name: str) -> Any:
    if not hasattr(inferer, "rounded"):
        raise BackendError(
            f"{{nnunet_rounding}} for {name}, which is no imported nnU-Net",
            remedy="Leave it out.",
            option="nnunet_rounding",
        )
    if inferer.backend not in ("auto", "eager"):
        raise BackendError(
            f"{{nnunet_rounding}} with backend {inferer.backend!r}",
            "only the eager backend copies nnU-Net's rounding",
            "Use {backend=eager}.",
            option=("nnunet_rounding", "backend"),
        )
    return inferer.rounded()
