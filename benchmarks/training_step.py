"""A training step and an inference window of Swin UNETR: MONAI's class against medvit's, in turn, same weights.

medvit's step is that of `medvit train` on a CPU (`medvit.training.loop.cpu_convolutions`); a step with PyTorch's choice
of convolutions is measured too.

python benchmarks/training_step.py [--feature-size 12] [--side 64] [--channels 1] [--classes 8] [--runs 5]
"""

from __future__ import annotations

import argparse
import copy

import torch
from monai.networks.nets import SwinUNETR as MonaiSwinUNETR
from timing import in_turn

from medvit.segmentation import SwinUNETR
from medvit.training.loop.cpu_convolutions import speed_up_convolutions


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--feature-size", type=int, default=12)
    parser.add_argument("--side", type=int, default=64)
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--classes", type=int, default=8)
    parser.add_argument("--runs", type=int, default=5)
    given = parser.parse_args()
    torch.manual_seed(0)
    theirs = MonaiSwinUNETR(given.channels, given.classes, feature_size=given.feature_size, spatial_dims=3)
    ours = SwinUNETR(given.channels, given.classes, feature_size=given.feature_size)
    ours.load_state_dict(theirs.state_dict())
    trained = copy.deepcopy(ours)
    speed_up_convolutions(trained)
    image = torch.rand(1, given.channels, given.side, given.side, given.side)

    def step(network: torch.nn.Module) -> None:
        network.zero_grad()
        network(image).square().mean().backward()

    def window(network: torch.nn.Module) -> torch.Tensor:
        with torch.inference_mode():
            return network(image)

    difference = float((window(ours) - window(theirs)).abs().max())
    for network in (ours, theirs, trained):
        step(network)
    apart = _apart(trained, theirs)
    print(f"feature size {given.feature_size}, {given.side}^3, {torch.get_num_threads()} threads; ")
    print(f"largest difference of logits {difference:.1e}, of the gradient {apart:.1e} of its length\n")
    print("| work | MONAI | medvit | ratio (pair by pair, median) |\n|---|---|---|---|")
    for name, action, own in (
        ("inference, one window", window, ours),
        ("training step, forward + backward", step, trained),
        ("the same with PyTorch's choice of convolutions", step, ours),
    ):
        a, b, ratio = in_turn(lambda: action(theirs), lambda: action(own), given.runs)  # noqa: B023
        print(f"| {name} | {a:.2f} s | {b:.2f} s | {ratio:.2f} |")


def _apart(one: torch.nn.Module, other: torch.nn.Module) -> float:
    """Return the distance of two networks' gradients, relative to their norm."""
    mine, wanted = (torch.cat([p.grad.flatten() for p in network.parameters()]) for network in (one, other))
    return float((mine - wanted).norm() / wanted.norm())


if __name__ == "__main__":
    main()
