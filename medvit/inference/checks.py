"""Checks of the arguments of sliding-window inference."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import BackendError, ImageError, MedvitError, MemoryShortError, ShapeError
from medvit.io import plain_tensor

__all__ = [
    "call_network",
    "check_fits",
    "check_image",
    "check_settings",
    "is_out_of_memory",
    "refuse_options",
    "validate_logits",
]

PADDING = ("constant", "reflect", "replicate", "circular")

UNSUPPORTED_OPTIONS = {
    "progress": "pass progress=Progress(...) when calling the inferer",
    "cache_roi_weight_map": "leave it out: the weights are always kept",
    "cpu_thresh": "give device='cpu' to blend on the CPU",
    "buffer_steps": "leave it out, or call labels(), whose memory does not grow with the volume",
    "buffer_dim": "leave it out, or call labels(), whose memory does not grow with the volume",
    "with_coord": "use monai.inferers.SlidingWindowInferer for networks that want to know where a window lies",
    "condition": "concatenate it to the image's channels",
}
"""Options of MONAI's inferer that ``SlidingWindow`` does not take, each with a remedy."""

_OF_SIZE = ("size", "shape", "divisible", "dimension", "must match")
"""Words in the error message of a network that cannot take the size of a window."""


def refuse_options(options: dict[str, Any]) -> None:
    """Refuse options of MONAI's inferer that ``SlidingWindow`` does not take; the message names a remedy."""
    for name in options:
        step = UNSUPPORTED_OPTIONS.get(name, "give device to the constructor" if name == "device" else "leave it out")
        raise BackendError(f"option {name!r}, which SlidingWindow does not take here", remedy=f"Instead, {step}.")


def check_settings(
    overlap: Sequence[float] | float, sw_batch_size: int, sigma_scale: Sequence[float] | float, mode: str, padding: str
) -> None:
    """Refuse invalid settings.

    Raises:
        ShapeError: an overlap outside [0, 1), less than one window a call, or a Gaussian of width 0.
        BackendError: an unknown mode.
    """
    if not all(0 <= share < 1 for share in (overlap if isinstance(overlap, Sequence) else [overlap])):
        raise ShapeError(f"an overlap of {overlap}", "it must be at least 0 and below 1", "0.5 is usual.")
    if sw_batch_size < 1 or not all(
        s > 0 for s in (sigma_scale if isinstance(sigma_scale, Sequence) else [sigma_scale])
    ):
        raise ShapeError(
            f"sw_batch_size {sw_batch_size} and sigma_scale {sigma_scale}",
            "at least one window per call and a Gaussian wider than 0 are needed",
            "1 and 0.125 are usual.",
        )
    if mode not in ("gaussian", "constant") or padding not in PADDING:
        raise BackendError(
            f"mode {str(mode)!r} and padding_mode {str(padding)!r}",
            f"mode is 'gaussian' or 'constant', padding_mode one of {', '.join(PADDING)}",
            "Use one of these.",
        )


def check_image(inputs: Tensor) -> None:
    """Refuse a tensor that is not an image.

    Raises:
        ShapeError: not (batch, channel, *spatial) of floating-point numbers.
        ImageError: NaN or infinite values.
    """
    if inputs.ndim < 3 or 0 in inputs.shape or not inputs.is_floating_point():
        raise ShapeError(
            f"an image of {tuple(inputs.shape)}, {inputs.dtype}",
            "(batch, channel, *spatial) floating-point with at least one voxel is needed",
            "Add the missing axes, or convert with .float().",
        )
    if not bool(torch.isfinite(inputs).all()):
        raise ImageError(
            (
                f"{int((~torch.isfinite(inputs)).sum())} values that are NaN or infinite in an image of "
                f"{tuple(inputs.shape)}"
            ),
            "a network needs finite values",
            "Replace them, as with torch.nan_to_num.",
        )


def check_fits(network: object, batch: Tensor) -> None:
    """Refuse windows on another device, or of another type, than the network's parameters.

    Raises:
        BackendError: devices or types differ; the message names both.
    """
    first = next(iter(network.parameters()), None) if isinstance(network, nn.Module) else None
    if first is None or not first.is_floating_point():
        return
    if first.device.type != batch.device.type:
        raise BackendError(
            f"a network on {first.device} and windows on {batch.device}",
            "both must lie on one device",
            "Move the network, or give sw_device to the inferer.",
        )
    if first.dtype != batch.dtype and not torch.is_autocast_enabled(batch.device.type):
        raise BackendError(
            f"a network of {first.dtype} and windows of {batch.dtype}",
            "both must be of one type",
            f"Convert the image with .to({first.dtype}).",
        )


def call_network(
    network: Callable[..., Tensor], batch: Tensor, args: tuple[Any, ...], kwargs: Mapping[str, Any]
) -> Tensor:
    """Compute the network's logits of a batch of windows.

    Raises:
        ShapeError: the network cannot take windows of that size, or its output is not logits of that size.
        MemoryShortError: there is too little memory.
    """
    try:
        logits = network(batch, *args, **kwargs)
    except MedvitError:
        raise
    except (MemoryError, RuntimeError, ValueError) as error:
        words = str(error).lower()
        if is_out_of_memory(error):
            raise MemoryShortError(
                f"too little memory on {batch.device} for {len(batch)} windows of {tuple(batch.shape[2:])} at once",
                "lower sw_batch_size or roi_size, or run with {low_memory=True} or {device=cpu}",
                option=("low_memory", "device"),
            ) from error
        if any(word in words for word in _OF_SIZE):
            raise ShapeError(
                f"a network that cannot take windows of {tuple(batch.shape)} ({str(error).strip().splitlines()[0]})",
                "(window, channel, *roi) must suit it",
                "Give a roi_size that its strides divide, such as multiples of 32, and the channels it was made for.",
            ) from error
        raise
    return validate_logits(logits, batch)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error means that memory ran out; on the CPU torch has no error type for it."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError | torch.OutOfMemoryError)
        or "out of memory" in words
        or "allocate memory" in words
    )


def validate_logits(logits: object, batch: Tensor) -> Tensor:
    """Return the network's output if it is one tensor of logits as large as the windows."""
    if not isinstance(logits, Tensor):
        raise ShapeError(
            f"a network that returns {type(logits).__name__}",
            "one tensor is needed",
            "Wrap it so that it returns its logits.",
        )
    if logits.ndim != batch.ndim or len(logits) != len(batch) or logits.shape[2:] != batch.shape[2:]:
        raise ShapeError(
            f"a network that makes {tuple(logits.shape)} of windows {tuple(batch.shape)}",
            f"(window, class, *roi) of the windows' size {tuple(batch.shape[2:])} is needed",
            "Resize inside the network, or use MONAI's SlidingWindowInferer.",
        )
    return plain_tensor(logits)
