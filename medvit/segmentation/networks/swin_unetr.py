"""Swin UNETR (Hatamizadeh et al., arXiv 2201.01266) on MONAI's class, with medvit's window attention.

Parameters and their names are MONAI's, so state dicts move freely between the two. What differs: the block's
pad, roll, partition, mask and reverse are one operator on the natural layout (``medvit.kernels``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from monai.networks.nets.swin_unetr import BasicLayer, PatchMerging, PatchMergingV2, SwinTransformerBlock
from monai.networks.nets.swin_unetr import SwinUNETR as MonaiSwinUNETR
from torch import Tensor
from torch.nn import functional

from medvit.bundles import fill_index_tables
from medvit.errors import ShapeError
from medvit.kernels.window_attention import window_attention
from medvit.segmentation.networks.input_checks import check_input

__all__ = ["SwinUNETR"]

_DIVISOR = 32
"""Patch embedding and four mergings halve each side five times."""

_LEGACY_ORDER = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""Offsets along depth, height and width of the eight neighbours gathered by MONAI up to 1.4."""


def _attend(block: Any, x: Tensor) -> Tensor:
    """The attention half of a Swin block on (batch, *spatial, channel)."""
    attention = block.attn
    mixed = window_attention(
        attention.qkv(block.norm1(x)),
        attention.relative_position_bias_table,
        num_heads=attention.num_heads,
        window_size=attention.window_size,
        shift=block.shift_size,
        qkv_bias=attention.qkv.bias,
    )
    return block.drop_path(attention.proj(mixed))  # type: ignore[no-any-return]


class _Block(SwinTransformerBlock):  # type: ignore[misc]
    def forward(self, x: Tensor, mask_matrix: Tensor | None = None) -> Tensor:
        x = x + _attend(self, x)
        return x + self.forward_part2(x)  # type: ignore[no-any-return]


class _Layer(BasicLayer):  # type: ignore[misc]
    def forward(self, x: Tensor) -> Tensor:
        """(batch, channel, *spatial) through the stage's blocks and its downsampling."""
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.movedim(-1, 1)


class LegacyPatchMerging(PatchMergingV2):  # type: ignore[misc]
    """Patch merging as MONAI had it up to 1.4, which checkpoints published before need.

    It gathers neighbours 010 and 001 twice and never 110 and 011; the weights have learnt that order.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(batch, *spatial, channel) to half of each side and twice the channels."""
        if x.ndim != 5:
            return super().forward(x)  # type: ignore[no-any-return]  # 2-D merging never changed
        d, h, w = x.shape[1:4]
        x = functional.pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, d % 2))
        neighbours = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in _LEGACY_ORDER], -1)
        return self.reduction(self.norm(neighbours))  # type: ignore[no-any-return]


MERGINGS = {"merging": PatchMerging, "mergingv2": PatchMergingV2, "merging_legacy": LegacyPatchMerging}
"""Patch merging by the name that bundles and ``downsample`` give it."""


def _known_merging(name: str) -> str:
    if name not in MERGINGS:
        raise ShapeError(
            f"patch merging {name!r}",
            f"it must be one of {', '.join(MERGINGS)}",
            "Weights from MONAI up to 1.4 need merging_legacy.",
        )
    return name


class SwinUNETR(MonaiSwinUNETR):  # type: ignore[misc]
    """Swin UNETR: (batch, channel, depth, height, width) float in, logits (batch, class, depth, height, width) out.

    Args:
        in_channels: image channels.
        out_channels: classes, background included.
        feature_size: width of the first stage; 12, 24 and 48 are the published sizes.
        spatial_dims: 2 or 3.
        depths: blocks per stage.
        num_heads: attention heads per stage.
        window_size: side of the attention window, or one number per axis.
        downsample: "merging" (the neighbour order of MONAI 1.5 and later), "mergingv2", or "merging_legacy" (MONAI up
            to 1.4). Weights fit all three and give outputs 10 to 16 % apart in the wrong one.
        use_v2: a residual convolution before each stage (Swin UNETR V2).

    Any size is taken: sides that do not divide by 32 are padded with zeros at their end and the logits cropped back,
    and an input of 32 along every side is padded to 64 along the first, since normalisation needs more than one voxel
    at the bottleneck. Sizes that need no padding give exactly what MONAI's class gives.

    Raises:
        ShapeError: another rank or channel count than the network was made for, or an unknown ``downsample``.
        ImageError: an input of whole numbers, or with NaN.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        feature_size: int = 24,
        spatial_dims: int = 3,
        depths: Sequence[int] = (2, 2, 2, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] | int = 7,
        downsample: str = "merging",
        use_v2: bool = False,
    ) -> None:
        _known_merging(downsample)
        super().__init__(
            in_channels,
            out_channels,
            feature_size=feature_size,
            spatial_dims=spatial_dims,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size,
            downsample=MERGINGS[downsample],
            use_v2=use_v2,
        )
        # the stages keep MONAI's parameters and buffers; only their forward is ours
        for module in self.swinViT.modules():
            if type(module) is BasicLayer:
                module.__class__ = _Layer
            elif type(module) is SwinTransformerBlock:
                module.__class__ = _Block

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        fill_index_tables(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    @property
    def merging(self) -> str:
        """The order in which patch merging gathers neighbours; assigning another name changes it, weights untouched."""
        kind = type(self.swinViT.layers1[0].downsample)
        return next(name for name, known in MERGINGS.items() if known is kind)

    @merging.setter
    def merging(self, name: str) -> None:
        kind = MERGINGS[_known_merging(name)]
        for stage in (self.swinViT.layers1, self.swinViT.layers2, self.swinViT.layers3, self.swinViT.layers4):
            stage[0].downsample.__class__ = kind  # the three differ in nothing but their forward

    def forward(self, x_in: Tensor) -> Tensor:
        """Logits of the input's own size."""
        check_input(
            x_in,
            len(self.swinViT.window_size) + 2,
            self.swinViT.patch_embed.proj.in_channels,
            self.swinViT.patch_embed.proj.weight,
        )
        size = tuple(x_in.shape[2:])
        padded = [-(-side // _DIVISOR) * _DIVISOR for side in size]
        if all(side == _DIVISOR for side in padded):
            padded[0] *= 2
        if tuple(padded) == size:
            return super().forward(x_in)  # type: ignore[no-any-return]
        growth = [(0, p - s) for p, s in zip(padded, size, strict=True)]
        logits = super().forward(functional.pad(x_in, [n for pair in reversed(growth) for n in pair]))
        return logits[(..., *(slice(side) for side in size))]  # type: ignore[no-any-return]
