"""Bidirectional weighted key-value average (Bi-WKV) of Restore-RWKV: every token attends to all others in O(T)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.backends import select_backend
from medvit.kernels.bi_wkv import export as plain
from medvit.kernels.bi_wkv import prefix_sum as scan
from medvit.kernels.bi_wkv.checks import BACKENDS, HALVES, check_finite, check_kinds, in_one_type, unsupported_reason
from medvit.kernels.bi_wkv.image_2d import bi_wkv_2d
from medvit.kernels.bi_wkv.reference import bi_wkv_reference
from medvit.kernels.tracing import can_skip_dispatcher, has_concrete_values, recording

__all__ = ["bi_wkv", "bi_wkv_2d"]


def _forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    if backend == "cpu":
        from medvit.kernels.bi_wkv import cpu

        return cpu.forward(w, u, k, v)
    if backend == "triton":
        from medvit.kernels.bi_wkv import triton

        return triton.forward(w, u, k, v)
    return scan.forward(w, u, k, v)


_op = torch.library.custom_op("medvit::bi_wkv", _forward, mutates_args=())


@_op.register_fake
def _(w: Tensor, u: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    return torch.empty(k.shape, dtype=k.dtype, device=k.device)


@torch.library.custom_op("medvit::bi_wkv_backward", mutates_args=())
def _op_backward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if backend == "cpu":
        from medvit.kernels.bi_wkv import cpu

        return cpu.backward(w, u, k, v, grad)
    if backend == "triton":
        from medvit.kernels.bi_wkv import triton

        return triton.backward(w, u, k, v, grad)
    return scan.backward(w, u, k, v, grad)


@_op_backward.register_fake
def _(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dk, dv = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    return torch.empty_like(w), torch.empty_like(u), dk, dv


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # only the inputs are saved: y and its denominators are cheaper to recompute than to keep
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_op_backward(*ctx.saved_tensors, grad, ctx.backend), None)


_op.register_autograd(_gradients, setup_context=_remember)


def _check(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> None:
    tensors = {"w": w, "u": u, "k": k, "v": v}
    shown = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
    if k.ndim != 3 or k.shape != v.shape or w.shape != k.shape[2:] or u.shape != k.shape[2:]:
        raise ShapeError(
            shown, "(C,), (C,), (B, T, C) and (B, T, C) are needed", "Flatten an image to tokens and check C."
        )
    check_kinds(tensors, shown)


def bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor, *, backend: str | None = None) -> Tensor:
    """Compute the bidirectional key-value average of Restore-RWKV (Yang et al., arXiv 2407.11087, eq. 3).

    y_t = [Σ_{i≠t} exp(k_i - w (|t-i| - 1)) v_i + exp(u + k_t) v_t] / [the same sum without v], channel by channel.
    Exponents are stabilised by subtracting their maximum; no ε is added to the denominator. So T = 1 gives y = v,
    and a constant added to k leaves y unchanged.

    Args:
        w: (C,) decay per step between tokens; may be negative.
        u: (C,) bonus for a token's own key.
        k: (B, T, C) keys, any strides.
        v: (B, T, C) values, any strides.
        backend: "triton" (GPU, O(T)), "cpu" (numba, O(T), sums in float64), "torch" (any device, O(T log T), sums in
            float64), "reference" (the formula, O(T²)) or None for the first of these that can run. While a graph is
            recorded (``torch.export``, ``torch.jit.trace``), all but the reference use plain PyTorch operators.

    The four tensors are on one device and of one type: float32, float64, float16 or bfloat16 (w and u may then be
    float32). Half-precision input is computed in float32 and returned in its own type. First derivatives are available;
    second derivatives only with the reference.

    Returns:
        (B, T, C), the type of k.

    Raises:
        ShapeError: sizes, types or devices do not match, or an axis is empty.
        ImageError: NaN or infinite values on the CPU. On a GPU there is no such check, since it would block the stream.
        BackendError: the requested backend cannot take these tensors; the message says why.

    Examples:
        >>> import torch
        >>> from medvit.kernels import bi_wkv
        >>> k, v = torch.zeros(1, 3, 1), torch.tensor([[[1.0], [2.0], [6.0]]])
        >>> bi_wkv(torch.zeros(1), torch.zeros(1), k, v).flatten()  # no decay, equal keys: the mean
        tensor([3., 3., 3.])
    """
    w, u, v = in_one_type(k, {"w": w, "u": u, "v": v}).values()
    _check(w, u, k, v)
    name = select_backend("bi_wkv", backend, BACKENDS, lambda backend: unsupported_reason(backend, k, k.shape[1]))
    if k.device.type == "cpu" and has_concrete_values():
        check_finite({"w": w, "u": u, "k": k, "v": v})
    if k.dtype in HALVES and (name != "triton" or recording()):
        return bi_wkv(w.float(), u.float(), k.float(), v.float(), backend=name).to(k.dtype)
    if name == "reference":
        return bi_wkv_reference(w, u, k, v)
    if recording():
        return plain.forward(w, u, k, v)
    run = _forward if can_skip_dispatcher(w, u, k, v) else _op
    y: Tensor = run(w, u, k, v, name)
    return y
