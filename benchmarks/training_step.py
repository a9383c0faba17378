"""A training step and an inference window of Swin UNETR: MONAI's class against ours, in turn, same weights.

python benchmarks/training_step.py [--feature-size 12] [--side 64] [--runs 5]
"""

from __future__ import annotations

import argparse

import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from timing import in_turn

from medvit.segmentation import SwinUNETR


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feature-size", type=int, default=12)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    theirs = MonaiSwinUNETR(1, 8, feature_size=given.feature_size, spatial_dims=3)
    ours = SwinUNETR(1, 8, feature_size=given.feature_size)
    ours.load_state_dict(theirs.state_dict())
    image = torch.rand(1, 1, given.side, given.side, given.side)

    def step(network: torch.nn.Module) -> None:
        network.zero_grad()
        network(image).square().mean().backward()

    def window(network: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return network(image)

    difference = float((window(ours) - window(theirs)).abs().max())
    step(ours), step(theirs)
    print(f"feature size {given.feature_size}, {given.side}^3, {torch.get_num_threads()} threads; ")
    print(f"largest difference of logits {difference:.1e}\n")
    print("| work | MONAI | medvit | ratio (pair by pair, median) |\n|---|---|---|---|")
    for name, action in (("inference, one window", window), ("training step, forward + backward", step)):
        a, b, ratio = in_turn(lambda: action(theirs), lambda: action(ours), given.runs)  # noqa: B023
        print(f"| {name} | {a:.2f} s | {b:.2f} s | {ratio:.2f} |")


if __name__ == "__main__":
    main()
