"""Bi-WKV in plain PyTorch and O(T log T): prefix sums by doubling, for devices without a compiled kernel."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["backward", "forward"]

_NOTHING = -1e30
"""Maximum of an empty set of keys. It is finite, since infinity minus infinity is NaN."""


class _Sums(NamedTuple):
    """Weighted sums over a range of tokens that ends at each token, all (B, T, C) and divided by exp(top)."""

    top: Tensor  # largest decayed key
    one: Tensor  # Σ exp(κ_i - w (t - i)) a_i
    two: Tensor  # the same of the second value
    fall_one: Tensor  # Σ (t - i) exp(κ_i - w (t - i)) a_i, minus the derivative in w
    fall_two: Tensor


def _shift(values: Tensor, by: int, fill: float) -> Tensor:
    """Shift values by ``by`` tokens; the first ``by`` tokens take ``fill``."""
    head = values.new_full((values.shape[0], min(by, values.shape[1]), values.shape[2]), fill)
    return torch.cat([head, values[:, : values.shape[1] - by]], 1) if by < values.shape[1] else head


def _before(w: Tensor, key: Tensor, one: Tensor, two: Tensor) -> _Sums:
    """Compute the sums over all tokens before each token; the nearest one is not decayed."""
    sums = _Sums(key, one, two, torch.zeros_like(one), torch.zeros_like(two))
    reach = 1
    while reach < key.shape[1]:  # sums over ``reach`` tokens become sums over twice as many
        far = _Sums(*(_shift(x, reach, _NOTHING if n == 0 else 0.0) for n, x in enumerate(sums)))
        decayed = far.top - w * reach
        top = torch.maximum(sums.top, decayed)
        near_weight, far_weight = (sums.top - top).exp(), (decayed - top).exp()
        sums = _Sums(
            top,
            sums.one * near_weight + far.one * far_weight,
            sums.two * near_weight + far.two * far_weight,
            sums.fall_one * near_weight + (far.fall_one + reach * far.one) * far_weight,
            sums.fall_two * near_weight + (far.fall_two + reach * far.two) * far_weight,
        )
        reach *= 2
    return _Sums(*(_shift(x, 1, _NOTHING if n == 0 else 0.0) for n, x in enumerate(sums)))


def _around(w: Tensor, key: Tensor, one: Tensor, two: Tensor) -> tuple[_Sums, _Sums]:
    """Compute the sums over the tokens before and after each token."""
    after = _before(w, key.flip(1), one.flip(1), two.flip(1))
    return _before(w, key, one, two), _Sums(*(x.flip(1) for x in after))


def _average(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return y and its denominators as (y, maximum, sum)."""
    before, after = _around(w, k, v, torch.ones_like(v))
    top = torch.maximum(torch.maximum(before.top, after.top), u + k)
    a, b, e = (before.top - top).exp(), (after.top - top).exp(), (u + k - top).exp()
    under = a * before.two + b * after.two + e
    return (a * before.one + b * after.one + e * v) / under, top, under


def _exact(*tensors: Tensor) -> list[Tensor]:
    """Convert to float64, since the gradient of w is a difference of large sums; Apple GPUs have no float64 and keep
    float32."""
    return [t if t.device.type == "mps" else t.double() for t in tensors]


def forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute y; arguments and result as ``bi_wkv_reference``, float32 or float64 on any device."""
    return _average(*_exact(w, u, k, v))[0].to(k.dtype)


def backward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of w, u, k and v for the gradient of y; the README has the derivation."""
    dtype = k.dtype
    w, u, k, v, grad = _exact(w, u, k, v, grad)
    y, top, under = _average(w, u, k, v)
    one = grad / under
    two = one * y
    before, after = _around(w, -top, one, two)
    # every exponent is at most 0, since each denominator includes the term of this key
    a, b, e = (k + before.top).exp(), (k + after.top).exp(), (k + u - top).exp()
    dv = a * before.one + b * after.one + e * one
    dk = v * dv - (a * before.two + b * after.two + e * two)
    fall_one, fall_two = a * before.fall_one + b * after.fall_one, a * before.fall_two + b * after.fall_two
    dw, du = (fall_two - v * fall_one).sum((0, 1)), (e * (v * one - two)).sum((0, 1))
    return dw.to(dtype), du.to(dtype), dk.to(dtype), dv.to(dtype)
