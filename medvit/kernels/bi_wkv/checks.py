"""Checks of the arguments of ``bi_wkv`` and ``bi_wkv_2d``, and of the backends that can take them."""

from __future__ import annotations

import torch
from torch import Tensor

from medvit.errors import ImageError, ShapeError
from medvit.kernels.triton_support import triton_unavailable_reason

__all__ = ["BACKENDS", "HALVES", "check_finite", "check_kinds", "in_one_type", "unsupported_reason"]

BACKENDS = ("triton", "cpu", "torch", "reference")
HALVES = (torch.float16, torch.bfloat16)
_TYPES = (torch.float32, torch.float64)
_DENSE_LIMIT = 2**28
"""Largest number of scores that the reference may hold at once, B·T·T·C: 1 GiB in float32."""


def unsupported_reason(backend: str, k: Tensor, tokens: int) -> str | None:
    """Return why a backend cannot take the keys ``k``, (B, ..., C) with ``tokens`` tokens a scan, or None if it can."""
    if backend == "triton":
        return triton_unavailable_reason(k)
    if backend == "cpu" and k.device.type != "cpu":
        return f"the tensor is on {k.device}"
    if backend == "reference" and k.shape[0] * tokens**2 * k.shape[-1] > _DENSE_LIMIT:
        return f"it holds all pairs of {tokens} tokens at once, which is for short sequences"
    return None


def in_one_type(k: Tensor, others: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert tensors to the type of k under autocast.

    Decay and bonus may stay float32 beside half-precision keys, since they would lose digits in half precision.
    """
    if not (torch.amp.is_autocast_available(k.device.type) and torch.is_autocast_enabled(k.device.type)):
        return others
    wide = k.dtype in HALVES
    return {
        name: t if wide and name in ("w", "u") and t.dtype == torch.float32 else t.to(k.dtype)
        for name, t in others.items()
    }


def check_kinds(tensors: dict[str, Tensor], shown: str) -> None:
    """Refuse empty tensors and types or devices that do not match; ``tensors`` are w, u, k, v and, for images, r."""
    k = tensors["k"]
    names, all_of = ", ".join(tensors), list(tensors.values())
    if 0 in k.shape:
        raise ShapeError(
            shown, "at least one sample, token and channel is needed", "Leave empty batches out before the call."
        )
    small = {t.dtype for n, t in tensors.items() if n in ("w", "u")}
    data = {t.dtype for n, t in tensors.items() if n not in ("w", "u")}
    fitting = small == data or (k.dtype in HALVES and small == {torch.float32})
    if len(data) > 1 or not fitting or k.dtype not in (*_TYPES, *HALVES):
        found = ", ".join(str(t.dtype).removeprefix("torch.") for t in all_of)
        raise ShapeError(
            f"{names} of types {found}", "all must be one floating type", "Convert them with .to(k.dtype)."
        )
    if len({t.device for t in all_of}) > 1:
        found = ", ".join(str(t.device) for t in all_of)
        raise ShapeError(f"{names} on {found}", "all must be on one device", "Move them with .to(k.device).")


def check_finite(tensors: dict[str, Tensor]) -> None:
    """Refuse NaN and infinite values; the message names the tensor."""
    for name, tensor in tensors.items():
        # the sum finds NaN and infinity in one pass without a mask; where it overflows, every value is checked
        if not bool(tensor.sum().isfinite()) and not bool(tensor.isfinite().all()):
            raise ImageError(
                f"NaN or infinite values in {name} of bi_wkv", "all must be finite", "Check the weights and the input."
            )
