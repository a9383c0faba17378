"""Networks with random weights in published layouts."""

from __future__ import annotations

import torch

from medvit.segmentation import SwinUNETR


def swin(**options: object) -> SwinUNETR:
    return SwinUNETR(1, 2, feature_size=12, **options).eval()


def same(network: torch.nn.Module, state: dict[str, torch.Tensor]) -> bool:
    found = network.state_dict()
    return found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
