"""Pictures per second of Barlow-Swin: as shipped, with plain PyTorch attention, and of a U-Net.

python benchmarks/barlow_swin.py [--sides 256 512] [--runs 5]

"Eager PyTorch" is medvit's class with the reference of window attention, that is plain PyTorch operators; weights are
the same, so its logits are the check. The U-Net is MONAI's, compared only in speed; its width is chosen so that it has
as many parameters; both counts are printed.
"""

from __future__ import annotations

import argparse
import statistics
from unittest import mock

import torch
from monai.networks.nets import UNet
from timing import seconds

from medvit.inference import SlidingWindow
from medvit.kernels.window_attention import window_attention
from medvit.segmentation import BarlowSwin
from medvit.segmentation.networks import barlow_swin


def plain(*tensors, **options):
    return window_attention(*tensors, **options, backend="reference")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    network = BarlowSwin().eval()
    unet = UNet(2, 3, 1, (60, 100, 200, 400, 600), (2, 2, 2, 2), num_res_units=1).eval()
    count = [sum(p.numel() for p in n.parameters()) / 1e6 for n in (network, unet)]
    print(
        f"{torch.get_num_threads()} threads, float32; Barlow-Swin {count[0]:.1f} M, U-Net {count[1]:.1f} M parameters\n"
    )
    print(
        "| picture | eager PyTorch | U-Net | medvit eager | medvit openvino | eager PyTorch / best | logits, relative L2 |"
    )
    print("|---|---|---|---|---|---|---|")
    for side in given.sides:
        picture = torch.rand(1, 3, side, side)
        graph = SlidingWindow((side, side), backend="openvino")

        def stock(picture=picture):
            with mock.patch.object(barlow_swin, "window_attention", plain):
                return network(picture)

        ways = [stock, lambda: unet(picture), lambda: network(picture), lambda: graph(picture, network)]  # noqa: B023
        with torch.inference_mode():
            made = [way() for way in ways]
            rounds = [[seconds(way) for way in ways] for _ in range(given.runs)]
        times = [statistics.median(column) for column in zip(*rounds, strict=True)]
        ratio = statistics.median(r[0] / min(r[2:]) for r in rounds)
        apart = max(float((m - made[0]).norm() / made[0].norm()) for m in made[2:])
        print(f"| {side} x {side} | " + " | ".join(f"{1 / t:.1f}/s" for t in times) + f" | {ratio:.2f} | {apart:.1e} |")


if __name__ == "__main__":
    main()
