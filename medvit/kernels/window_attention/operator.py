"""PyTorch operators of window attention, forward and backward, with their output shapes for tracing."""

from __future__ import annotations

from math import prod
from typing import Any

import torch
from torch import Tensor

from medvit.kernels.window_attention.layout import window_layout

__all__ = ["attend", "attend_directly"]


def _path(backend: str) -> Any:
    if backend == "triton":
        from medvit.kernels.window_attention import triton

        return triton
    from medvit.kernels.window_attention import cpu

    return cpu


def _flat(tensor: Tensor) -> Tensor:
    return tensor.reshape(tensor.shape[0], -1, tensor.shape[-1])


def attend_directly(
    qkv: Tensor,
    bias_table: Tensor,
    pad: Tensor,
    windows: Tensor | None,
    window_size: list[int],
    shift: list[int],
    num_heads: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """Compute the result, (batch, *spatial, C), and the log-sum-exp of the scores, (batch, window, head, position), for
    backward."""
    layout = window_layout(tuple(qkv.shape[1:-1]), tuple(window_size), tuple(shift))
    out, lse = _path(backend).forward(_flat(qkv), bias_table, pad, layout, windows, num_heads)
    return out.view(*qkv.shape[:-1], -1), lse


attend = torch.library.custom_op("medvit::window_attention", attend_directly, mutates_args=())


@attend.register_fake
def _(
    qkv: Tensor,
    bias_table: Tensor,
    pad: Tensor,
    windows: Tensor | None,
    window_size: list[int],
    shift: list[int],
    num_heads: int,
    backend: str,
) -> tuple[Tensor, Tensor]:
    spatial = qkv.shape[1:-1]
    sizes = [min(s, w) for s, w in zip(spatial, window_size, strict=True)]
    all_of = prod(-(-s // w) for s, w in zip(spatial, sizes, strict=True))
    count = all_of if windows is None else windows.shape[0]
    out = torch.empty((*qkv.shape[:-1], qkv.shape[-1] // 3), dtype=qkv.dtype, device=qkv.device)
    shape = (qkv.shape[0], count, num_heads, prod(sizes))
    return out, torch.empty(shape, dtype=torch.float32, device=qkv.device)


@torch.library.custom_op("medvit::window_attention_backward", mutates_args=())
def _backward(
    grad: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    pad: Tensor,
    out: Tensor,
    lse: Tensor,
    windows: Tensor | None,
    window_size: list[int],
    shift: list[int],
    num_heads: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    layout = window_layout(tuple(qkv.shape[1:-1]), tuple(window_size), tuple(shift))
    inputs = (_flat(qkv), bias_table, pad)
    dqkv, dtable, dpad = _path(backend).backward(_flat(grad), inputs, (_flat(out), lse), layout, windows, num_heads)
    return dqkv.view(qkv.shape), dtable.contiguous(), dpad


@_backward.register_fake
def _(
    grad: Tensor,
    qkv: Tensor,
    bias_table: Tensor,
    pad: Tensor,
    out: Tensor,
    lse: Tensor,
    windows: Tensor | None,
    window_size: list[int],
    shift: list[int],
    num_heads: int,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    dqkv, dtable, dpad = (torch.empty(t.shape, dtype=t.dtype, device=t.device) for t in (qkv, bias_table, pad))
    return dqkv, dtable, dpad


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    qkv, bias_table, pad, windows, *ctx.settings = inputs
    ctx.save_for_backward(qkv, bias_table, pad, *output, windows)
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    *tensors, windows = ctx.saved_tensors
    return (*_backward(grad, *tensors, windows, *ctx.settings), None, None, None, None, None)


attend.register_autograd(_gradients, setup_context=_remember)
