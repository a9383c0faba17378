"""Bi-WKV over an image as in Restore-RWKV: a scan along the rows, a scan of its result along the columns, then a
gate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from medvit.errors import ShapeError
from medvit.kernels.backends import select_backend
from medvit.kernels.bi_wkv import export as plain
from medvit.kernels.bi_wkv import prefix_sum as scan
from medvit.kernels.bi_wkv.checks import BACKENDS, HALVES, check_finite, check_kinds, in_one_type, unsupported_reason
from medvit.kernels.bi_wkv.reference import bi_wkv_reference
from medvit.kernels.tracing import can_skip_dispatcher, has_concrete_values, recording

__all__ = ["bi_wkv_2d"]

_Gradients = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]
_Scan = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


def _tokens(image: Tensor) -> Tensor:
    return image.flatten(1, 2)


def _columns(image: Tensor) -> Tensor:
    """Flatten (B, H, W, C) to tokens, column by column; this copies."""
    return image.transpose(1, 2).flatten(1, 2)


def _image(tokens: Tensor, like: Tensor, *, down: bool) -> Tensor:
    b, height, width, c = like.shape
    return tokens.view(b, width, height, c).transpose(1, 2) if down else tokens.view(b, height, width, c)


def _by(one: _Scan, w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """Compute the gated result and the result of the row scan, with ``one`` as the scan."""
    rows = _image(one(w[0], u[0], _tokens(k), _tokens(v)), k, down=False)
    return r.sigmoid() * _image(one(w[1], u[1], _columns(k), _columns(rows)), k, down=True), rows


def _forward(w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    if backend == "torch":
        y, rows = _by(scan.forward, w, u, k, v, r)
        return y.contiguous(), rows
    if backend == "triton":
        from medvit.kernels.bi_wkv import triton

        rows = triton.run(triton.ScanBuffers(w=w[0], u=u[0], k=k, v=v))
        return triton.run(triton.ScanBuffers(w=w[1], u=u[1], k=k, v=rows, r=r, down=True)), rows
    from medvit.kernels.bi_wkv import cpu

    rows, y = (torch.empty(k.shape, dtype=k.dtype) for _ in range(2))
    cpu.run(w[0], u[0], k, v, None, rows)
    cpu.run(w[1], u[1], *(x.transpose(1, 2) for x in (k, rows, r, y)))
    return y, rows


_op = torch.library.custom_op("medvit::bi_wkv_2d", _forward, mutates_args=())


@_op.register_fake
def _(w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    y, rows = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(2))
    return y, rows


@torch.library.custom_op("medvit::bi_wkv_2d_backward", mutates_args=())
def _op_backward(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor, rows: Tensor, grad: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if backend == "torch":
        return _by_torch(w, u, k, v, r, rows, grad)
    if backend == "triton":
        from medvit.kernels.bi_wkv import triton

        dw1, du1, dk, drows, dr = triton.gradients(
            triton.ScanBuffers(w=w[1], u=u[1], k=k, v=rows, r=r, down=True), grad
        )
        dw0, du0, dk, dv, _ = triton.gradients(triton.ScanBuffers(w=w[0], u=u[0], k=k, v=v), drows, onto=dk)
        assert dr is not None
        return torch.stack([dw0, dw1]), torch.stack([du0, du1]), dk, dv, dr
    from medvit.kernels.bi_wkv import cpu

    dk, drows, dr, more, dv = (torch.empty(k.shape, dtype=k.dtype) for _ in range(5))
    columns, mixed, gate, slope, *out = (x.transpose(1, 2) for x in (k, rows, r, grad, dk, drows, dr))
    dw1, du1 = cpu.gradients(w[1], u[1], columns, mixed, gate, slope, (out[0], out[1], out[2]))
    dw0, du0 = cpu.gradients(w[0], u[0], k, v, None, drows, (more, dv, None))
    return torch.stack([dw0, dw1]), torch.stack([du0, du1]), dk.add_(more), dv, dr


def _by_torch(w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor, rows: Tensor, grad: Tensor) -> _Gradients:
    gate, columns, mixed = r.sigmoid(), _columns(k), _columns(rows)
    y = _image(scan.forward(w[1], u[1], columns, mixed), k, down=True)
    dw1, du1, dk, drows = scan.backward(w[1], u[1], columns, mixed, _columns(grad * gate))
    drows = _image(drows, k, down=True)
    dw0, du0, more, dv = scan.backward(w[0], u[0], _tokens(k), _tokens(v), _tokens(drows))
    dk = (_image(dk, k, down=True) + _image(more, k, down=False)).contiguous()
    dr = (grad * y * gate * (1 - gate)).contiguous()
    return torch.stack([dw0, dw1]), torch.stack([du0, du1]), dk, _image(dv, k, down=False), dr


@_op_backward.register_fake
def _(
    w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor, rows: Tensor, grad: Tensor, backend: str
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    dk, dv, dr = (torch.empty(k.shape, dtype=k.dtype, device=k.device) for _ in range(3))
    return torch.empty(w.shape, dtype=w.dtype, device=w.device), torch.empty(u.shape, dtype=u.dtype, device=u.device), dk, dv, dr  # fmt: skip


def _remember(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return (*_op_backward(*ctx.saved_tensors, grad.contiguous(), ctx.backend), None)


_op.register_autograd(_gradients, setup_context=_remember)


def _check(w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor) -> None:
    tensors = {"w": w, "u": u, "k": k, "v": v, "r": r}
    shown = ", ".join(f"{name} {tuple(t.shape)}" for name, t in tensors.items())
    pairs = (2, k.shape[-1]) if k.ndim else ()
    if k.ndim != 4 or not k.shape == v.shape == r.shape or not w.shape == u.shape == pairs:
        raise ShapeError(
            shown,
            "(2, C), (2, C) and three times (B, height, width, C) are needed",
            "Move the channels last and check C.",
        )
    check_kinds(tensors, shown)


def bi_wkv_2d(w: Tensor, u: Tensor, k: Tensor, v: Tensor, r: Tensor, *, backend: str | None = None) -> Tensor:
    """Compute σ(r) · Bi-WKV(columns, Bi-WKV(rows, v)) on an image (Yang et al., arXiv 2407.11087, Re-WKV and eq. 3).

    Each scan takes all pixels as one sequence: first row after row, then column after column with the first result as
    values.

    Args:
        w: (2, C) decay per step between tokens, for the row scan and the column scan.
        u: (2, C) bonus for a token's own key.
        k: (B, height, width, C) keys, any strides.
        v: (B, height, width, C) values, any strides.
        r: (B, height, width, C) receptance, the input of the gate.
        backend: as for ``bi_wkv``; "triton" and "cpu" read the columns by stride, without a copy.

    Types, devices and gradients as for ``bi_wkv``.

    Returns:
        (B, height, width, C), the type of k.

    Raises:
        ShapeError: sizes, types or devices do not match, or an axis is empty.
        ImageError: NaN or infinite values on the CPU. On a GPU there is no such check, since it would block the stream.
        BackendError: the requested backend cannot take these tensors; the message says why.

    Examples:
        >>> import torch
        >>> from medvit.kernels import bi_wkv_2d
        >>> w, u, k = torch.zeros(2, 1), torch.zeros(2, 1), torch.zeros(1, 2, 2, 1)
        >>> v = torch.tensor([1.0, 2.0, 3.0, 6.0]).view(1, 2, 2, 1)
        >>> bi_wkv_2d(w, u, k, v, torch.zeros_like(k)).flatten()  # half the mean: the gate is sigmoid(0)
        tensor([1.5000, 1.5000, 1.5000, 1.5000])
    """
    w, u, v, r = in_one_type(k, {"w": w, "u": u, "v": v, "r": r}).values()
    _check(w, u, k, v, r)
    name = select_backend(
        "bi_wkv_2d", backend, BACKENDS, lambda backend: unsupported_reason(backend, k, k.shape[1] * k.shape[2])
    )
    if k.device.type == "cpu" and has_concrete_values():
        check_finite({"w": w, "u": u, "k": k, "v": v, "r": r})
    if k.dtype in HALVES and (name != "triton" or recording()):
        return bi_wkv_2d(*(t.float() for t in (w, u, k, v, r)), backend=name).to(k.dtype)
    if name == "reference" or recording():
        return _by(bi_wkv_reference if name == "reference" else plain.forward, w, u, k, v, r)[0]
    run = _forward if can_skip_dispatcher(w, u, k, v, r) else _op
    y: Tensor = run(w, u, k, v, r, name)[0]
    return y
