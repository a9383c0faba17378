"""Shifted-window attention on the natural layout, 2-D and 3-D."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.backends import asked_for
from medvit.kernels.recording import recording
from medvit.kernels.window_attention.layout import WindowLayout, window_layout
from medvit.kernels.window_attention.reference import window_attention_reference

__all__ = ["window_attention"]

BACKENDS = ("reference", "cpu")


def refusal(backend: str, qkv: Tensor) -> str | None:
    """Why a backend cannot take these tensors, or None if it can. Chooses and explains alike."""
    if backend == "reference":
        return None
    if qkv.device.type != "cpu":
        return f"the tensor is on {qkv.device}"
    if qkv.dtype != torch.float32:
        return f"the tensor is {qkv.dtype}, the loops are written for torch.float32"
    return None


def _choose(backend: str | None, qkv: Tensor) -> str:
    if backend is None and recording():
        return "reference"  # plain operators, which every runtime of an exported graph has
    if backend is None:
        return "cpu" if refusal("cpu", qkv) is None else "reference"
    return asked_for("window_attention", backend, BACKENDS, lambda name: refusal(name, qkv))


def _subset(layout: WindowLayout, windows: Sequence[int]) -> WindowLayout:
    rows = list(windows)
    count = len(layout.token)
    if any(r < 0 or r >= count for r in rows) or len(set(rows)) != len(rows):
        raise ShapeError(
            f"Found window indices {rows[:8]}; they must be distinct and within 0..{count - 1}. Take them from the layout of this feature map."
        )
    return replace(layout, token=layout.token[rows], region=layout.region[rows], masked=layout.masked[rows])


def window_attention(
    qkv: Tensor,
    bias_table: Tensor,
    *,
    num_heads: int,
    window_size: Sequence[int],
    shift: Sequence[int],
    qkv_bias: Tensor | None = None,
    windows: Sequence[int] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Attention within (shifted) windows: softmax(q kᵀ · head_dim^-0.5 + bias + mask) v (Swin, arXiv 2103.14030, eq. 4).

    Padding, roll, partition, mask and their reverse are done by index, exactly as MONAI's Swin has them.

    Args:
        qkv: (batch, *spatial, 3C) float on the natural layout; last axis q, k, v, each heads x head_dim. Half precision
            is computed in float32 and comes back in its own type.
        bias_table: (prod(2·window - 1), heads), relative position bias of the full window size.
        num_heads: heads; divides C.
        window_size: window along each spatial axis; sides at or below it shrink it and drop the shift.
        shift: cyclic shift along each spatial axis.
        qkv_bias: (3C,), what q, k and v are for padded tokens (the projection of zeros); None means zeros.
        windows: indices of the windows to compute, in row-major order; the others' tokens come back as zero.
        backend: "reference", "cpu" or None to choose: "cpu" for float32 on the CPU, otherwise, and while ``torch.export``
            or ``torch.jit.trace`` records a graph, "reference".

    Returns:
        (batch, *spatial, C).

    Raises:
        ShapeError: sizes do not fit each other.
        BackendError: the backend asked for cannot take these tensors; the message says why.
    """
    spatial = tuple(int(side) for side in qkv.shape[1:-1])  # a tracer gives tensors here
    width = int(qkv.shape[-1])
    if not len(spatial) == len(window_size) == len(shift):
        raise ShapeError(
            f"Found {len(spatial)} spatial axes, a window of {len(window_size)} and a shift of {len(shift)}; give one number for each axis."
        )
    if width % (3 * num_heads):
        raise ShapeError(
            f"Found a last axis of {width} for {num_heads} heads; it must hold q, k and v, each heads x head_dim."
        )
    layout = window_layout(spatial, tuple(window_size), tuple(shift))
    if windows is not None:
        layout = _subset(layout, windows)
    pad = qkv_bias if qkv_bias is not None else qkv.new_zeros(width)
    given = qkv.dtype
    if given in (torch.float16, torch.bfloat16):  # as autocast's: the sums and the softmax want float32
        qkv, bias_table, pad = qkv.float(), bias_table.float(), pad.float()
    flat = qkv.reshape(qkv.shape[0], -1, width)
    if _choose(backend, qkv) == "reference":
        out = window_attention_reference(flat, bias_table, pad, layout, num_heads)
    else:
        from medvit.kernels.window_attention.cpu import window_attention_cpu

        out = window_attention_cpu(flat, bias_table, pad, layout, num_heads)
    return out.view(qkv.shape[0], *spatial, width // 3).to(given)
