"""Blending of overlapping windows into one image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.backends import select_backend
from medvit.kernels.overlap_add.blend import Blend, box
from medvit.kernels.overlap_add.label_stream import LabelStream, argmax_of, sigmoid_above
from medvit.kernels.overlap_add.reference import overlap_add_reference
from medvit.kernels.tracing import can_skip_dispatcher, has_concrete_values
from medvit.kernels.triton_support import triton_unavailable_reason

__all__ = ["Blend", "LabelStream", "argmax_of", "overlap_add", "overlap_add_reference", "sigmoid_above"]

BACKENDS = ("triton", "torch", "reference")


def _forward(windows: Tensor, origins: Tensor, weight: Tensor, size: list[int], backend: str) -> Tensor:
    if backend == "reference":
        return overlap_add_reference(windows, origins, size, weight).to(weight)
    if backend == "triton":
        from medvit.kernels.overlap_add import triton

        blended, missing = triton.blend(windows, origins, size, weight)
        if missing:
            raise ShapeError(
                f"{missing} voxels that no window covers",
                "every voxel needs one",
                "Take a smaller step between windows.",
            )
        return blended
    blend = Blend(size, windows.shape[1], weight)
    for window, origin in zip(windows, origins.tolist(), strict=True):
        blend.add(window, origin)
    return blend.mean()[0]


_op = torch.library.custom_op("medvit::overlap_add", _forward, mutates_args=())


@_op.register_fake
def _(windows: Tensor, origins: Tensor, weight: Tensor, size: list[int], backend: str) -> Tensor:
    return torch.empty(windows.shape[1], *size, dtype=weight.dtype, device=weight.device)


@torch.library.custom_op("medvit::overlap_add_backward", mutates_args=())
def _op_backward(grad: Tensor, origins: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    size, roi = grad.shape[1:], tuple(weight.shape)
    places = [box(origin, roi) for origin in origins.tolist()]
    below = torch.zeros(size, dtype=weight.dtype, device=grad.device)
    for at in places:
        below[at] += weight
    share = grad / below
    out = torch.empty(like.shape, dtype=like.dtype, device=like.device)
    for n, at in enumerate(places):
        out[n] = share[(slice(None), *at)] * weight
    return out


@_op_backward.register_fake
def _(grad: Tensor, origins: Tensor, weight: Tensor, like: Tensor) -> Tensor:
    return torch.empty(like.shape, dtype=like.dtype, device=like.device)


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    windows, origins, weight, _, _ = inputs
    ctx.save_for_backward(origins, weight, windows)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    origins, weight, windows = ctx.saved_tensors
    return _op_backward(grad, origins, weight, windows), None, None, None, None


_op.register_autograd(_gradients, setup_context=_remember)


def unsupported_reason(backend: str, windows: Tensor, weight: Tensor) -> str | None:
    """Return why a backend cannot take these tensors, or None if it can; used for the choice and for the message."""
    if backend == "triton":
        if weight.ndim > 3:
            return f"the windows have {weight.ndim} axes, the kernel takes up to three"
        return triton_unavailable_reason(windows)
    if backend == "reference" and windows.device.type != "cpu":
        return f"the tensor is on {windows.device}, the formula is walked through on the CPU"
    return None


def _check(windows: Tensor, origins: Tensor, size: Sequence[int], weight: Tensor) -> None:
    if windows.ndim != weight.ndim + 2 or tuple(origins.shape) != (len(windows), weight.ndim):
        raise ShapeError(
            (
                f"windows of {tuple(windows.shape)}, origins of {tuple(origins.shape)} and a weight of "
                f"{tuple(weight.shape)}"
            ),
            "(window, channel, *roi), (window, axis) and (*roi) are needed",
            "Bring them into that form.",
        )
    if windows.shape[2:] != weight.shape or len(size) != weight.ndim or 0 in windows.shape:
        raise ShapeError(
            f"windows of {tuple(windows.shape)} and a weight of {tuple(weight.shape)} for an image of {tuple(size)}",
            "at least one window and channel, equal numbers of axes and windows of the weight's size are needed",
            "Give every window the same channels and size.",
        )
    if not (windows.is_floating_point() and weight.is_floating_point()) or origins.is_floating_point():
        raise ShapeError(
            f"windows of {windows.dtype}, a weight of {weight.dtype} and origins of {origins.dtype}",
            "the first two must be floating-point and the origins whole numbers",
            "Convert them with .float() and .long().",
        )
    if windows.device != weight.device:
        raise ShapeError(
            f"windows on {windows.device} and a weight on {weight.device}",
            "they must be on one device",
            "Move the weight with .to(windows.device).",
        )
    for origin in origins.tolist() if has_concrete_values() else ():
        if any(o < 0 or o + r > s for o, r, s in zip(origin, weight.shape, size, strict=True)):
            raise ShapeError(
                f"a window of {tuple(weight.shape)} at {tuple(origin)} in an image of {tuple(size)}",
                "it must lie within",
                "Pad the image, or correct the origin.",
            )


def overlap_add(
    windows: Tensor, origins: Tensor, size: Sequence[int], weight: Tensor, *, backend: str | None = None
) -> Tensor:
    """Compute the weighted mean of overlapping windows at each voxel of an image.

    ``Blend`` does the same for windows that come one at a time; ``LabelStream`` also, and keeps labels instead of
    channels.

    Args:
        windows: (window, channel, *roi) float, any strides; the only argument with a gradient.
        origins: (window, axis) integer, the first voxel of each window.
        size: (axis,) image size in voxels.
        weight: (*roi) positive; its type is that of the sums.
        backend: "triton" (GPU; each output voxel is written once), "torch" (any device, window by window), "reference"
            (the formula, float64) or None for the first of these that can run.

    Returns:
        (channel, *size), the type of ``weight``.

    Raises:
        ShapeError: sizes, types or devices do not match, a window is partly outside the image, or no window covers a
            voxel.
        BackendError: the requested backend cannot take these tensors; the message says why.

    Examples:
        >>> import torch
        >>> from medvit.kernels import overlap_add
        >>> windows = torch.tensor([[[2.0, 2.0]], [[4.0, 4.0]]])
        >>> overlap_add(windows, torch.tensor([[0], [1]]), (3,), torch.ones(2))
        tensor([[2., 3., 4.]])
    """
    _check(windows, origins, size, weight)
    name = select_backend(
        "overlap_add", backend, BACKENDS, lambda backend: unsupported_reason(backend, windows, weight)
    )
    run = _forward if can_skip_dispatcher(windows, origins, weight) else _op
    blended: Tensor = run(windows, origins, weight, list(size), name)
    return blended
