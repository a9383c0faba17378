"""SimMIM (arXiv 2111.09886): most patches of an image are hidden from the encoder, and a linear head predicts their
voxels."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import BundleError, ShapeError
from medvit.segmentation.networks import BarlowSwin, SwinUNETR, check_input
from medvit.training.objectives.base import Objective
from medvit.training.objectives.swin_pretraining import check_unit

__all__ = ["MaskedModelling", "draw_masks", "masked_l1"]


@dataclass(frozen=True, kw_only=True)
class _Encoder:
    """Facts about a network's encoder.

    Attributes:
        embed: layer that turns an image into tokens, (batch, channel, *spatial); tokens are replaced in its output.
        token: side of a token in voxels.
        stride: side in voxels that one of the deepest features represents.
        divisor: sides of an image must be multiples of it.
        width: channels of the deepest features.
    """

    embed: nn.Conv2d | nn.Conv3d
    token: int
    stride: int
    divisor: int
    width: int


def _encoder_of(network: nn.Module) -> _Encoder:
    # computed at each use, not stored, so that a copied objective does not refer to the original's network
    if isinstance(network, SwinUNETR):
        embed: Any = network.swinViT.patch_embed.proj
        return _Encoder(embed=embed, token=2, stride=32, divisor=32, width=16 * network.swinViT.embed_dim)
    if isinstance(network, BarlowSwin):
        return _Encoder(
            embed=network.encoder.embed, token=4, stride=16, divisor=network.divisor, width=network.encoder.width
        )
    raise BundleError(
        f"a {type(network).__name__}",
        "masked modelling supports the encoders of SwinUNETR and BarlowSwin",
        "Give one of them.",
    )


def draw_masks(batch: int, grid: tuple[int, ...], ratio: float) -> Tensor:
    """Draw the hidden patches of each image, (batch, *grid) bool on the CPU: equally many, at least one hidden and one
    visible.
    """
    patches = math.prod(grid)
    hidden = min(max(1, round(ratio * patches)), patches - 1)
    order = torch.rand(batch, patches).argsort(1).argsort(1)
    return (order < hidden).view(batch, *grid)


def masked_l1(restored: Tensor, image: Tensor, mask: Tensor) -> Tensor:
    """Compute the mean absolute difference over the hidden voxels only (arXiv 2111.09886, eq. 2).

    Args:
        restored, image: (batch, channel, *spatial), float.
        mask: (batch, 1, *spatial), bool; True where hidden.
    """
    difference = (restored - image).abs() * mask
    return difference.sum() / (mask.sum() * image.shape[1])


class MaskedModelling(Objective):
    """SimMIM objective for the encoder of a ``SwinUNETR`` (pictures or volumes) or a ``BarlowSwin`` (pictures).

    Random patches are hidden: their tokens are replaced by one learnt token after the embedding, before positions are
    added. A single linear layer on the deepest features predicts all voxels that they represent; only hidden ones
    count.

    Args:
        network: the network whose encoder is trained in place.
        mask_size: side of a hidden patch in pixels or voxels; 32 for pictures of 192 in the paper. For volumes 16
            leaves enough patches to choose from.
        ratio: share of the patches hidden; 0.6 in the paper.

    Raises:
        BundleError: a network of another kind, or a mask that does not match its tokens.
    """

    def __init__(self, network: nn.Module, mask_size: int = 32, ratio: float = 0.6) -> None:
        super().__init__(network)
        encoder = _encoder_of(network)
        if mask_size < encoder.token or mask_size % encoder.token or not 0 < ratio < 1:
            raise BundleError(
                f"mask_size {mask_size} and ratio {ratio:g}",
                f"a multiple of the token's {encoder.token} voxels and a share between 0 and 1 are needed",
                "Correct the recipe.",
            )
        self.mask_size, self.ratio = mask_size, ratio
        self.axes = 3 if isinstance(encoder.embed, nn.Conv3d) else 2
        self.channels = encoder.embed.in_channels
        self.token = nn.Parameter(torch.empty(encoder.embed.out_channels, *(1,) * self.axes))
        nn.init.trunc_normal_(self.token, std=0.02)
        convolution = nn.Conv3d if self.axes == 3 else nn.Conv2d
        self.head = convolution(encoder.width, self.channels * encoder.stride**self.axes, 1)

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the L1 loss on the hidden voxels of images, (batch, channel, *spatial) float in 0..1; a scalar.

        Raises:
            ShapeError: sides are not multiples of the encoder's divisor and the patches, or there is a single patch.
            ImageError: NaN, or values outside 0..1.
        """
        (images,) = batch
        self._check(images)
        grid = tuple(side // self.mask_size for side in images.shape[2:])
        mask = draw_masks(len(images), grid, self.ratio)[:, None].to(images.device)
        for axis in range(2, images.ndim):
            mask = mask.repeat_interleave(self.mask_size, axis)
        return masked_l1(self.restore(images, mask).float(), images.float(), mask)

    def restore(self, images: Tensor, mask: Tensor) -> Tensor:
        """Predict images (batch, channel, *spatial) from the tokens outside ``mask`` (batch, 1, *spatial)."""
        with self._hidden(mask):
            deep = self._deepest(images)
        return _unfolded(self.head(deep), self.channels)

    def _deepest(self, images: Tensor) -> Tensor:
        network = self.network
        if isinstance(network, SwinUNETR):
            maps: list[Tensor] = network.swinViT(images, network.normalize)
            return maps[-1]
        deep: Tensor = network.encoder(images)[-1]  # type: ignore[operator]
        return deep

    @contextmanager
    def _hidden(self, mask: Tensor) -> Iterator[None]:
        """Replace the tokens under the mask by the learnt token while the context lasts."""
        encoder = _encoder_of(self.network)
        under = mask[..., :: encoder.token, :: encoder.token]
        if self.axes == 3:
            under = under[..., :: encoder.token, :, :]

        def exchange(_module: nn.Module, _inputs: Any, tokens: Tensor) -> Tensor:
            return torch.where(under, self.token.to(tokens.dtype), tokens)

        # the hook is removed at the end, so that the network is unchanged for other callers
        handle = encoder.embed.register_forward_hook(exchange)
        try:
            yield
        finally:
            handle.remove()

    def _check(self, images: Tensor) -> None:
        check_input(images, self.axes + 2, self.channels, next(self.network.parameters()))
        check_unit(images)
        size, divisor = tuple(images.shape[2:]), math.lcm(self.mask_size, _encoder_of(self.network).divisor)
        if any(side % divisor for side in size) or math.prod(size) == self.mask_size**self.axes:
            raise ShapeError(
                f"images of {size}",
                f"sides must be multiples of {divisor} and hold more than one patch of {self.mask_size}",
                "Set such a roi_size, or a smaller mask_size.",
            )


def _unfolded(folded: Tensor, channels: int) -> Tensor:
    """Rearrange (batch, channel x stride^n, *grid) to (batch, channel, *grid x stride), a pixel shuffle along any
    number of axes."""
    batch, depth, *grid = folded.shape
    axes = len(grid)
    stride = round((depth // channels) ** (1 / axes))
    parts = folded.view(batch, channels, *(stride,) * axes, *grid)
    order = [n for axis in range(axes) for n in (2 + axes + axis, 2 + axis)]
    return parts.permute(0, 1, *order).reshape(batch, channels, *(stride * n for n in grid))
