"""Constraint of some stages to pointwise convolutions (kernel centre only); the architecture of the network is
unchanged."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medvit.bundles import centre, has_surroundings
from medvit.errors import BundleError

__all__ = ["with_point_kernels"]


def with_point_kernels(network: nn.Module, stages: Sequence[str]) -> nn.Module:
    """Restrict the convolution kernels of some stages to their centre, in training and in loaded weights.

    At the bottom of a U-shaped network a voxel represents 32 voxels of the image along each side, so a kernel of 3 sees
    mostly padding, but such kernels are half of a small network's weights. Restricted to their centre they are stored
    in compact form (``medvit.bundles.pointwise_weight_storage``); network, MONAI twin and export need no change.

    Args:
        network: changed in place.
        stages: names of its modules; the constraint applies to every ``Conv3d`` with odd sides in them.

    Returns:
        The network.

    Raises:
        BundleError: the network lacks a stage, or a stage has no such convolution.
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
                f"the stage {name!r} without a convolution wider than one voxel",
                "the constraint would change nothing",
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
    """Set kernels (out, in, i, j, k) to zero except at their centre."""
    kept = torch.zeros_like(kernels)
    centre(kept).copy_(centre(kernels))
    return kept
