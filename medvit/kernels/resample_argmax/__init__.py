"""Labels at full resolution from logits at network resolution; full-resolution logits are never in memory."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from medvit.errors import ImageError, ShapeError
from medvit.kernels.backends import select_backend
from medvit.kernels.resample_argmax import torch_slabs as slabs
from medvit.kernels.resample_argmax.axes import axes
from medvit.kernels.resample_argmax.reference import resample_argmax_reference
from medvit.kernels.tracing import can_skip_dispatcher, has_concrete_values
from medvit.kernels.triton_support import triton_unavailable_reason

__all__ = ["resample_argmax"]

BACKENDS = ("triton", "cpu", "torch", "reference")

_REFERENCE_LIMIT = 2**27
"""Largest number of interpolated logits that the reference may hold at once: 1 GiB."""


def _choose(
    logits: Tensor, out_shape: list[int], grid_shape: list[int], start: list[int], background: int, backend: str
) -> Tensor:
    kind = _label_type(logits.shape[0])
    out = torch.full(out_shape, background, dtype=kind, device=logits.device)
    x, y, z = axes(logits.shape[1:], grid_shape, start, out_shape)
    if not (len(x.low) and len(y.low) and len(z.low)):
        return out
    if backend == "reference":
        out[x.inside, y.inside, z.inside] = resample_argmax_reference(logits, x, y, z).to(kind)
    elif backend == "torch":
        slabs.choose(logits, x, y, z, out)
    elif backend == "triton":
        from medvit.kernels.resample_argmax import triton

        triton.choose(logits, x, y, z, out)
    elif slabs.is_on_grid(logits, x, y, z):  # the labels are the same, and the import of numba takes a second
        slabs.choose_on_grid(logits, x, y, z, out)
    else:
        from medvit.kernels.resample_argmax import cpu

        cpu.choose(logits, x, y, z, out)
    return out


_op = torch.library.custom_op("medvit::resample_argmax", _choose, mutates_args=())


@_op.register_fake
def _(
    logits: Tensor, out_shape: list[int], grid_shape: list[int], start: list[int], background: int, backend: str
) -> Tensor:
    return torch.empty(out_shape, dtype=_label_type(logits.shape[0]), device=logits.device)


def _label_type(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 256 else torch.int16


def unsupported_reason(backend: str, logits: Tensor, out_shape: Sequence[int]) -> str | None:
    """Return why a backend cannot take these logits, or None if it can; used for the choice and for the message."""
    if backend == "triton":
        if logits.dtype == torch.float64:
            return "the logits are torch.float64, the kernel interpolates in torch.float32"
        return triton_unavailable_reason(logits)
    if backend == "cpu" and logits.device.type != "cpu":
        return f"the tensor is on {logits.device}"
    size = logits.shape[0] * out_shape[0] * out_shape[1] * out_shape[2]
    if backend == "reference" and size > _REFERENCE_LIMIT:
        return f"it holds all {size} interpolated logits at once, which is for small images"
    return None


def _check(
    logits: Tensor, out_shape: Sequence[int], grid: Sequence[int], start: Sequence[int], background: int
) -> None:
    box = tuple(logits.shape[1:])
    fits = len(box) == 3 == len(grid) == len(start) == len(out_shape)
    if not fits or any(s < 0 or s + b > g for s, b, g in zip(start, box, grid, strict=True)):
        raise ShapeError(
            f"logits of {box} starting at {tuple(start)} on a grid of {tuple(grid)}",
            "the box must lie within",
            "Check the crop.",
        )
    if 0 in logits.shape or min(out_shape) < 1 or not logits.is_floating_point():
        raise ShapeError(
            f"logits of {tuple(logits.shape)}, {logits.dtype}, for an output of {tuple(out_shape)}",
            "floating-point numbers of at least one class and voxel are needed",
            "Leave empty images out, and give logits, not labels.",
        )
    most = torch.iinfo(_label_type(logits.shape[0])).max
    if not 0 <= background <= most or logits.shape[0] > 2**15:
        raise ShapeError(
            f"a background of {background} for {logits.shape[0]} classes",
            f"it must lie within 0..{most}, and there may be 32768 classes",
            "Renumber the classes.",
        )
    if logits.device.type == "cpu" and has_concrete_values():
        for number, plane in enumerate(logits):  # class by class: a mask of all of them would be large
            if not bool(plane.isfinite().all()):
                raise ImageError(
                    f"NaN or infinite values in the logits of class {number}",
                    "all must be finite",
                    "Check the weights and the input.",
                )


def resample_argmax(
    logits: Tensor,
    *,
    out_shape: Sequence[int],
    grid_shape: Sequence[int] | None = None,
    start: Sequence[int] = (0, 0, 0),
    background: int = 0,
    backend: str | None = None,
) -> Tensor:
    """Compute the class with the largest trilinearly interpolated logit at each output voxel.

    The logits cover a box of a grid; grid and output have the same extent (voxel centres at half-integers, as in
    ``torch.nn.functional.interpolate`` with ``align_corners=False``). The argmax of interpolated logits has smoother
    boundaries than nearest-neighbour labels. Of equal logits the first class is taken.

    Args:
        logits: (class, depth, height, width) float, any strides; interpolated in float32.
        out_shape: (depth, height, width) of the result.
        grid_shape: (depth, height, width) of the grid that contains the box of logits; None if they cover all of it.
        start: first voxel of the box on the grid.
        background: class of output voxels more than half a voxel outside the box.
        backend: "triton" (GPU), "cpu" (numba, a row of every class at a time), "torch" (any device, eight planes of
            every class), "reference" (all classes at full resolution, float64) or None for the first of these that can
            run.

    Returns:
        (depth, height, width) uint8 (int16 above 256 classes), on the logits' device.

    Raises:
        ShapeError: the box is not inside the grid, there is no voxel or class, or the type is not floating-point.
        ImageError: NaN or infinite logits on the CPU. On a GPU there is no such check, since it would block the stream.
        BackendError: the requested backend cannot take these logits; the message says why.

    Examples:
        >>> import torch
        >>> from medvit.kernels import resample_argmax
        >>> logits = torch.tensor([[0.0, 0.0], [-1.0, 3.0]]).view(2, 1, 1, 2)
        >>> resample_argmax(logits, out_shape=(1, 1, 4))
        tensor([[[0, 0, 1, 1]]], dtype=torch.uint8)
    """
    grid = tuple(grid_shape) if grid_shape is not None else tuple(logits.shape[1:])
    _check(logits, out_shape, grid, start, background)
    name = select_backend(
        "resample_argmax", backend, BACKENDS, lambda backend: unsupported_reason(backend, logits, out_shape)
    )
    run = _choose if can_skip_dispatcher(logits) else _op
    labels: Tensor = run(logits, list(out_shape), list(grid), list(start), background, name)
    return labels
