"""Labels at full resolution: PyTorch's interpolation of all classes followed by argmax, against ``resample_argmax``, in
turn.

python benchmarks/resample_argmax.py [--classes 14] [--side 96] [--out 192] [--runs 5]
"""

from __future__ import annotations

import argparse

import torch
from timing import in_turn
from torch import Tensor
from torch.nn import functional as F

from medvit.kernels.resample_argmax import resample_argmax


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--classes", type=int, default=14)
    parser.add_argument("--side", type=int, default=96)
    parser.add_argument("--out", type=int, default=192)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    logits = torch.randn(given.classes, *(given.side,) * 3, generator=torch.Generator().manual_seed(0))
    out = (given.out,) * 3

    def whole() -> Tensor:
        return F.interpolate(logits[None], size=out, mode="trilinear", align_corners=False)[0].argmax(0)

    def slabs() -> Tensor:
        return resample_argmax(logits, out_shape=out, backend="torch")

    def sweep() -> Tensor:
        return resample_argmax(logits, out_shape=out, backend="cpu")

    wanted = whole()
    print(f"{given.classes} classes, {given.side}^3 to {given.out}^3, {torch.get_num_threads()} threads\n")
    print("| against | theirs | one sweep | ratio (pair by pair, median) | voxels that differ |\n|---|---|---|---|---|")
    for name, peer in (("F.interpolate, argmax", whole), ("eight planes at a time, PyTorch", slabs)):
        differ = int((sweep().long() != peer().long()).sum())
        a, b, ratio = in_turn(peer, sweep, given.runs)
        print(f"| {name} | {a:.2f} s | {b:.2f} s | {ratio:.2f} | {differ} of {wanted.numel()} |")


if __name__ == "__main__":
    main()
