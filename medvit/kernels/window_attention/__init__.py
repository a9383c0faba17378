"""Shifted-window attention in 2-D and 3-D on unpartitioned feature maps, (batch, *spatial, channel)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.backends import select_backend
from medvit.kernels.tracing import can_skip_dispatcher, has_concrete_values, recording
from medvit.kernels.triton_support import triton_unavailable_reason
from medvit.kernels.window_attention.export import window_attention_recorded
from medvit.kernels.window_attention.layout import WindowLayout, window_layout
from medvit.kernels.window_attention.operator import attend, attend_directly
from medvit.kernels.window_attention.reference import window_attention_reference

__all__ = ["window_attention"]

BACKENDS = ("triton", "cpu", "reference")

_HALVES = (torch.float16, torch.bfloat16)
_TYPES = (torch.float32, torch.float64, *_HALVES)


def unsupported_reason(backend: str, qkv: Tensor) -> str | None:
    """Return why a backend cannot take these tensors, or None if it can; used for the choice and for the message."""
    if backend == "reference":
        return None
    if backend == "triton":
        return triton_unavailable_reason(qkv) or _wrong_type(qkv, "kernels", torch.float32, *_HALVES)
    if qkv.device.type != "cpu":
        return f"the tensor is on {qkv.device}"
    return _wrong_type(qkv, "loops", torch.float32, *_HALVES)


def _wrong_type(qkv: Tensor, what: str, *types: torch.dtype) -> str | None:
    if qkv.dtype in types:
        return None
    return f"the tensor is {qkv.dtype}, the {what} are written for {', '.join(map(str, types))}"


def _check(
    qkv: Tensor, tensors: dict[str, Tensor], num_heads: int, window: Sequence[int], shift: Sequence[int]
) -> None:
    axes, width = qkv.ndim - 2, int(qkv.shape[-1]) if qkv.ndim else 0
    if not 1 <= axes == len(window) == len(shift):
        raise ShapeError(
            f"{axes} spatial axes, a window of {len(window)} and a shift of {len(shift)}",
            "give one number for each axis",
        )
    if num_heads < 1 or width % (3 * num_heads) or 0 in qkv.shape:
        raise ShapeError(
            f"qkv of shape {tuple(qkv.shape)} for {num_heads} heads",
            "at least one sample and token are needed, and the last axis must hold q, k and v, each heads x head_dim",
            "Leave empty batches out and check the projection.",
        )
    if min(window) < 1 or not all(0 <= s < w for s, w in zip(shift, window, strict=True)):
        raise ShapeError(
            f"a window of {tuple(window)} and a shift of {tuple(shift)}",
            "windows must be at least 1 and shifts within 0..window - 1",
            "Half a window is the usual shift.",
        )
    wanted = {"bias_table": (prod([2 * w - 1 for w in window]), num_heads), "qkv_bias": (width,)}
    for name, tensor in tensors.items():
        if tuple(tensor.shape) != wanted[name]:
            raise ShapeError(
                f"{name} of shape {tuple(tensor.shape)}",
                (
                    f"{wanted[name]} is needed for a window of {tuple(window)}, {num_heads} heads and a last axis of "
                    f"{width}"
                ),
                "Take it from the same layer as qkv.",
            )
        if tensor.device != qkv.device:
            raise ShapeError(
                f"{name} on {tensor.device} and qkv on {qkv.device}",
                "they must be on one device",
                "Move it with .to(qkv.device).",
            )
        fits = tensor.dtype == qkv.dtype or (qkv.dtype in _HALVES and tensor.dtype == torch.float32)
        if qkv.dtype not in _TYPES or not fits:
            raise ShapeError(
                f"{name} of {tensor.dtype} and qkv of {qkv.dtype}",
                "both must be one floating type, or float32 beside halves",
                "Convert it with .to(qkv.dtype).",
            )


def _count(spatial: Sequence[int], window: Sequence[int]) -> int:
    """Count the windows of a feature map; a side shorter than the window has one, shrunk window."""
    return prod([-(-side // min(side, w)) for side, w in zip(spatial, window, strict=True)])


def _list(windows: Sequence[int] | Tensor, count: int, device: torch.device) -> Tensor:
    rows = windows if isinstance(windows, Tensor) else torch.tensor(list(windows), dtype=torch.int64)
    if rows.ndim != 1 or rows.is_floating_point() or rows.is_complex() or rows.dtype == torch.bool:
        raise ShapeError(
            f"windows of shape {tuple(rows.shape)} and type {rows.dtype}",
            "a list of whole numbers is needed",
            "Give indices, not a mask.",
        )
    if has_concrete_values() and rows.device.type in ("cpu", "cuda"):
        listed = rows.tolist()
        if len(set(listed)) != len(listed) or not all(0 <= r < count for r in listed):
            raise ShapeError(
                f"window indices {listed[:8]}",
                f"they must be distinct and within 0..{count - 1}",
                "Take them from the layout of this feature map.",
            )
    return rows.to(device=device, dtype=torch.int64)


def _subset(layout: WindowLayout, windows: Tensor | None) -> WindowLayout:
    if windows is None:
        return layout
    rows = windows.cpu().numpy()
    return replace(layout, token=layout.token[rows], region=layout.region[rows], masked=layout.masked[rows])


def window_attention(
    qkv: Tensor,
    bias_table: Tensor,
    *,
    num_heads: int,
    window_size: Sequence[int],
    shift: Sequence[int],
    qkv_bias: Tensor | None = None,
    windows: Sequence[int] | Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """Compute attention within (shifted) windows: softmax(q kᵀ · head_dim^-0.5 + bias + mask) v (Swin, arXiv
    2103.14030, eq. 4).

    Padding, roll, partition, mask and their inverses are done by index tables, with the conventions of MONAI's Swin.

    Args:
        qkv: (batch, *spatial, 3C) float, not partitioned into windows; the last axis is q, k, v, each heads x head_dim.
            Half precision is computed in float32 and returned in its own type.
        bias_table: (prod(2·window - 1), heads), relative position bias of the full window size.
        num_heads: number of heads; divides C.
        window_size: window along each spatial axis. Where a side is not longer than the window, the window shrinks to
            the side and the shift is dropped.
        shift: cyclic shift along each spatial axis.
        qkv_bias: (3C,) values of q, k and v for padded tokens (the projection of zeros); None means zeros.
        windows: distinct indices of the windows to compute (windows are numbered in row-major order), a list or an
            integer tensor; tokens of other windows are zero in the result. Time is proportional to the length of the
            list.
        backend: "triton" (GPU), "cpu" (numba), "reference" (any type and device) or None for the first of these that
            can run. The first two take float32 and half precision; float64 needs the reference. With None, a graph
            recorded by ``torch.export`` or ``torch.jit.trace`` gets plain PyTorch operators.

    Returns:
        (batch, *spatial, C), the type of ``qkv``.

    Raises:
        ShapeError: sizes, types or devices do not match, or there is no sample or token.
        BackendError: the requested backend cannot take these tensors; the message says why.

    Examples:
        >>> import torch
        >>> from medvit.kernels import window_attention
        >>> qkv = torch.zeros(1, 4, 3)
        >>> qkv[0, :, 2] = torch.tensor([1.0, 3.0, 5.0, 9.0])  # v; q and k are zero, so each window gives its mean
        >>> window_attention(qkv, torch.zeros(3, 1), num_heads=1, window_size=(2,), shift=(0,)).flatten()
        tensor([2., 2., 7., 7.])
    """
    tensors = {"bias_table": bias_table} | ({"qkv_bias": qkv_bias} if qkv_bias is not None else {})
    _check(qkv, tensors, num_heads, window_size, shift)
    recorded = backend is None and recording()  # use plain operators, which every runtime of an exported graph has
    asked = "reference" if recorded else backend
    name = select_backend("window_attention", asked, BACKENDS, lambda backend: unsupported_reason(backend, qkv))
    spatial = tuple(int(side) for side in qkv.shape[1:-1])  # a tracer gives tensors here
    width = int(qkv.shape[-1])
    rows = None if windows is None else _list(windows, _count(spatial, window_size), qkv.device)
    pad = qkv_bias if qkv_bias is not None else qkv.new_zeros(width)
    given = qkv.dtype
    if given in _HALVES and name != "triton":  # sums and softmax need float32, as under autocast
        qkv, bias_table, pad = qkv.float(), bias_table.float(), pad.float()
    if name != "reference":
        run = attend_directly if can_skip_dispatcher(qkv, bias_table, pad, rows) else attend
        mixed: Tensor = run(qkv, bias_table, pad, rows, list(window_size), list(shift), num_heads, name)[0]
        return mixed.to(given)
    layout = window_layout(spatial, tuple(window_size), tuple(shift))
    flat = qkv.reshape(qkv.shape[0], -1, width)
    formula = window_attention_recorded if recorded else window_attention_reference
    out = formula(flat, bias_table, pad, _subset(layout, rows), num_heads)
    return out.view(qkv.shape[0], *spatial, width // 3).to(given)
