"""Stages whose convolutions look at their own voxel alone, in a network that stays what it is."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medvit.bundles import centre, has_surroundings
from medvit.errors import BundleError

__all__ = ["with_point_kernels"]


def with_point_kernels(network: nn.Module, stages: Sequence[str]) -> nn.Module:
    """Keep the convolution kernels of some stages to their centre, in training and in whatever is loaded.

    At the bottom of a U-shaped network a voxel stands for 32 of the image's along each side and a kernel of 3 sees mostly
    padding, but such kernels are half of a small network's weights. Held to their centre they are stored as such
    (``medvit.bundles.pointwise_weight_storage``), while network, twin and export know nothing of it.

    Args:
        network: changed in place.
        stages: names of its modules; every ``Conv3d`` with odd sides in them is meant.

    Returns:
        The network.

    Raises:
        BundleError: a stage that the network lacks, or one with no such convolution.
    """
    for name in stages:
        try:
            stage = network.get_submodule(name)
        except AttributeError:
            known = ", ".join(n for n, _ in network.named_children())
            raise BundleError(
                f"the stage {name!r}, which the network lacks",
                f"it has {known}",
                "Correct point_kernels in train.json.",
            ) from None
        wide = [m for m in stage.modules() if isinstance(m, nn.Conv3d) and has_surroundings(m.kernel_size)]
        if not wide:
            raise BundleError(
                f"the stage {name!r} without a convolution wider than its voxel",
                "nothing would change",
                "Correct point_kernels in train.json.",
            )
        for convolution in wide:
            _hold(convolution)
    return network


def _hold(convolution: nn.Conv3d) -> None:
    def clear(module: nn.Module, _: object = None) -> None:
        with torch.no_grad():
            convolution.weight.copy_(_centre(convolution.weight))

    clear(convolution)
    convolution.weight.register_hook(_centre)  # type: ignore[no-untyped-call]
    convolution.register_load_state_dict_post_hook(clear)  # type: ignore[no-untyped-call]


def _centre(kernels: Tensor) -> Tensor:
    """(out, in, i, j, k) with zeros off the centre."""
    kept = torch.zeros_like(kernels)
    centre(kept).copy_(centre(kernels))
    return kept
