"""Restore-RWKV on a slice: blocks on the whole map as before, and in strips of rows as now, in turn.

python benchmarks/restore_rwkv.py [--side 512] [--runs 5] [--published]

Weights are random and the same; the largest difference of a pixel stands beside the ratio.
"""

from __future__ import annotations

import argparse
import statistics
import time
from unittest import mock

import torch

from medvit.restoration import LIGHT, PUBLISHED, RestoreRWKV
from medvit.restoration.networks import restore_rwkv


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument(
        "--published", action="store_true", help="the paper's size instead of that of the shipped bundle"
    )
    given = parser.parse_args()
    torch.manual_seed(0)
    network = RestoreRWKV.of_size(PUBLISHED if given.published else LIGHT, 3, 1).eval()
    image = torch.rand(1, 3, given.side, given.side)

    def whole() -> torch.Tensor:
        with mock.patch.object(restore_rwkv, "fits_strips", lambda block, x: False):
            return network(image)

    def timed(action) -> tuple[float, float]:
        wall, cpu = time.perf_counter(), time.process_time()
        action()
        return time.perf_counter() - wall, time.process_time() - cpu

    with torch.inference_mode():
        apart = float((whole() - network(image)).abs().max())
        rounds = [(timed(whole), timed(lambda: network(image))) for _ in range(given.runs)]
    before, after = (statistics.median(r[i][0] for r in rounds) for i in (0, 1))
    ratios = [statistics.median(r[0][k] / r[1][k] for r in rounds) for k in (0, 1)]
    print(f"{torch.get_num_threads()} threads, float32\n")
    print("| slice | whole map | strips | ratio (wall) | ratio (processor time) | largest difference of a pixel |")
    print("|---|---|---|---|---|---|")
    print(
        f"| {given.side} x {given.side} | {before:.2f} s | {after:.2f} s | {ratios[0]:.2f} | {ratios[1]:.2f} "
        f"| {apart:.1e} |"
    )


if __name__ == "__main__":
    main()
