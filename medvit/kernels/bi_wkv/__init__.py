"""The bidirectional weighted key-value average of Restore-RWKV: every token looks at all others in O(T)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from medvit.errors import ImageError, ShapeError
from medvit.kernels.backends import asked_for
from medvit.kernels.bi_wkv import plain, scan
from medvit.kernels.bi_wkv.reference import bi_wkv_reference
from medvit.kernels.recording import recording, values_known

__all__ = ["bi_wkv"]

BACKENDS = ("reference", "cpu", "torch", "triton")

_TYPES = (torch.float32, torch.float64)
_HALVES = (torch.float16, torch.bfloat16)
_DENSE_LIMIT = 2**28
"""Scores the reference may hold at once, B·T·T·C: 1 GiB in float32."""


@torch.library.custom_op("medvit::bi_wkv", mutates_args=())
def _op(w: Tensor, u: Tensor, k: Tensor, v: Tensor, backend: str) -> Tensor:
    if backend == "cpu":
        from medvit.kernels.bi_wkv import cpu

        return cpu.forward(w, u, k, v)
    return scan.forward(w, u, k, v)


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
    return scan.backward(w, u, k, v, grad)


@_op_backward.register_fake
def _(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor, backend: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    dk, dv = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    return torch.empty_like(w), torch.empty_like(u), dk, dv


def _remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    # the inputs alone: y and its denominators are cheaper to compute again than to keep
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    return (*_op_backward(*ctx.saved_tensors, grad, ctx.backend), None)


_op.register_autograd(_gradients, setup_context=_remember)


def refusal(backend: str, k: Tensor) -> str | None:
    """Why a backend cannot take these tensors, or None if it can. Chooses and explains alike."""
    if backend == "triton":
        return "the Triton kernel is not written yet"
    if backend == "cpu" and k.device.type != "cpu":
        return f"the tensor is on {k.device}"
    if backend == "reference" and k.shape[0] * k.shape[1] ** 2 * k.shape[2] > _DENSE_LIMIT:
        return f"it holds all pairs of {k.shape[1]} tokens at once, which is for short sequences"
    return None


def _choose(backend: str | None, k: Tensor) -> str:
    if backend is None:
        return "cpu" if refusal("cpu", k) is None else "torch"
    return asked_for("bi_wkv", backend, BACKENDS, lambda name: refusal(name, k))


def _check(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> None:
    shapes = {"w": tuple(w.shape), "u": tuple(u.shape), "k": tuple(k.shape), "v": tuple(v.shape)}
    shown = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
    if k.ndim != 3 or k.shape != v.shape or w.shape != k.shape[2:] or u.shape != k.shape[2:]:
        raise ShapeError(
            f"Found {shown}; (C,), (C,), (B, T, C) and (B, T, C) are needed. Flatten an image to tokens and check C."
        )
    if 0 in k.shape:
        raise ShapeError(
            f"Found {shown}; at least one sample, token and channel is needed. Leave empty batches out before the call."
        )
    if len({t.dtype for t in (w, u, k, v)}) > 1 or k.dtype not in (*_TYPES, *_HALVES):
        found = ", ".join(str(t.dtype).removeprefix("torch.") for t in (w, u, k, v))
        raise ShapeError(
            f"Found w, u, k and v of types {found}; all must be one floating type. Convert them with .to(k.dtype)."
        )
    if len({t.device for t in (w, u, k, v)}) > 1:
        found = ", ".join(str(t.device) for t in (w, u, k, v))
        raise ShapeError(f"Found w, u, k and v on {found}; all must be on one device. Move them with .to(k.device).")


def _check_finite(tensors: dict[str, Tensor]) -> None:
    for name, tensor in tensors.items():
        # the sum says it in one pass without a mask; where large numbers overflow it, all are looked at
        if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):
            raise ImageError(
                f"Found NaN or infinite values in {name} of bi_wkv; all must be finite. Check the weights and the input."
            )


def bi_wkv(w: Tensor, u: Tensor, k: Tensor, v: Tensor, *, backend: str | None = None) -> Tensor:
    """The bidirectional key-value average of Restore-RWKV (Yang et al., arXiv 2407.11087, eq. 3).

    y_t = [Σ_{i≠t} exp(k_i - w (|t-i| - 1)) v_i + exp(u + k_t) v_t] / [the same sum without v], channel by channel.
    Maxima are subtracted, nothing is added to the denominator: T = 1 gives y = v, and adding a constant to k
    changes nothing.

    Args:
        w: (C,) decay per step between tokens; may be negative.
        u: (C,) bonus of a token for itself.
        k: (B, T, C) keys, any strides.
        v: (B, T, C) values, any strides.
        backend: "cpu" (numba, O(T), sums in float64), "torch" (any device, O(T log T)), "reference" (the formula, all
            pairs) or None to choose: "cpu" on the CPU, "torch" elsewhere. "triton" is not there yet. While a graph is
            recorded (``torch.export``, ``torch.jit.trace``), all but the reference are written as plain operators.

    All four are float32 or float64 of one type on one device. float16 and bfloat16 are computed in float32 and come
    back in their own type. Gradients are there once, not twice, except with the reference.

    Returns:
        (B, T, C), k's type.

    Raises:
        ShapeError: sizes, types or devices do not fit each other, or a side is zero.
        ImageError: NaN or infinite values (looked for on the CPU; a GPU is not made to wait, there they travel on).
        BackendError: the backend asked for cannot take these tensors; the message says why.
    """
    if torch.amp.is_autocast_available(k.device.type) and torch.is_autocast_enabled(k.device.type):
        w, u, v = (t.to(k.dtype) for t in (w, u, v))  # autocast leaves parameters in float32
    _check(w, u, k, v)
    chosen = _choose(backend, k)
    if k.device.type == "cpu" and values_known():
        _check_finite({"w": w, "u": u, "k": k, "v": v})
    if k.dtype in _HALVES:
        return bi_wkv(w.float(), u.float(), k.float(), v.float(), backend=chosen).to(k.dtype)
    if chosen == "reference":
        return bi_wkv_reference(w, u, k, v)
    if recording():
        return plain.forward(w, u, k, v)
    y: Tensor = _op(w, u, k, v, chosen)
    return y
