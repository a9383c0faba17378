"""Bi-WKV: medvit's CPU path against vectorised PyTorch with cumulative sums of logarithms, in turn, same input.

python benchmarks/bi_wkv.py [--side 128] [--channels 48] [--runs 5]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from timing import in_turn
from torch import Tensor

from medvit.kernels.bi_wkv import bi_wkv


def by_logarithms(w: Tensor, u: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Compute the formula with ``logcumsumexp``, which needs positive values: they are shifted above zero and back."""
    low = v.amin(1, keepdim=True) - 1
    token = torch.arange(k.shape[1], dtype=k.dtype, device=k.device)[:, None]
    heavy = k + (v - low).log()

    def before(x: Tensor, decay: Tensor) -> Tensor:
        sums = (x + decay * token).logcumsumexp(1) - decay * token
        return torch.cat([torch.full_like(x[:, :1], -1e30), sums[:, :-1] + 0.0], 1)

    def total(x: Tensor) -> Tensor:
        after = before(x.flip(1), w).flip(1)
        return torch.logaddexp(torch.logaddexp(before(x, w), after), x + u)

    return (total(heavy) - total(k)).exp() + low


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--channels", type=int, default=48)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    tokens = given.side**2
    w, u = torch.randn(2, given.channels) / tokens
    k, v = torch.randn(2, 1, tokens, given.channels)
    inputs = [x.requires_grad_() for x in (w, u, k, v)]

    def forward(operator: Callable[..., Tensor]) -> Tensor:
        with torch.no_grad():
            return operator(*inputs)

    def step(operator: Callable[..., Tensor]) -> tuple[Tensor, ...]:
        return torch.autograd.grad(operator(*inputs).square().sum(), inputs)

    doubled = [x.detach().double().requires_grad_() for x in inputs]
    exact = bi_wkv(*doubled, backend="torch")
    wanted = [exact.detach(), *torch.autograd.grad(exact.square().sum(), doubled)]
    print(f"T = {given.side}^2, C = {given.channels}, float32, {torch.get_num_threads()} threads\n")
    print("Relative L2 error against float64 by another algorithm (prefix sums by doubling):\n")
    print("| path | y | dw | du | dk | dv |\n|---|---|---|---|---|---|")
    for name, operator in (("logarithms", by_logarithms), ("medvit", bi_wkv)):
        found = [forward(operator), *step(operator)]
        errors = [float((a - b).norm() / b.norm()) for a, b in zip(found, wanted, strict=True)]
        print(f"| {name} | " + " | ".join(f"{e:.1e}" for e in errors) + " |")
    print("\n| work | logarithms | medvit | ratio (pair by pair, median) |\n|---|---|---|---|")
    for name, action in (("forward", forward), ("forward + backward", step)):
        a, b, ratio = in_turn(lambda: action(by_logarithms), lambda: action(bi_wkv), given.runs)  # noqa: B023
        print(f"| {name} | {a * 1e3:.0f} ms | {b * 1e3:.0f} ms | {ratio:.1f} |")


if __name__ == "__main__":
    main()
