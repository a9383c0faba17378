"""Swin UNETR (Hatamizadeh et al., arXiv 2201.01266): MONAI's class with medvit's window attention.

Parameters and their names are MONAI's, so state dicts can be exchanged. In the blocks, pad, roll, partition, mask and
their inverses are one operator of ``medvit.kernels`` on the unpartitioned feature map.
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
"""Factor by which patch embedding and four mergings reduce each side (five halvings)."""

_LEGACY_ORDER = ((0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 0, 1), (0, 1, 0), (0, 0, 1), (1, 1, 1))
"""Offsets along depth, height and width of the eight neighbours that MONAI up to 1.4 gathers."""


def _attend(block: Any, x: Tensor) -> Tensor:
    """Compute the attention half of a Swin block on (batch, *spatial, channel)."""
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
        """Run the stage's blocks and its downsampling on (batch, channel, *spatial)."""
        x = x.movedim(1, -1)
        for block in self.blocks:
            x = block(x)
        if self.downsample is not None:
            x = self.downsample(x)
        return x.movedim(-1, 1)


class LegacyPatchMerging(PatchMergingV2):  # type: ignore[misc]
    """Patch merging of MONAI up to 1.4, needed for checkpoints published before 1.5.

    It gathers the neighbours 010 and 001 twice and never 110 and 011; the weights were trained with that order.

    Args:
        dim: number of input channels.
        norm_layer: normalisation layer before the reduction.
        spatial_dims: 2 or 3.

    Examples:
        >>> import torch
        >>> from medvit.segmentation import LegacyPatchMerging
        >>> LegacyPatchMerging(4)(torch.rand(1, 2, 2, 2, 4)).shape
        torch.Size([1, 1, 1, 1, 8])
    """

    def forward(self, x: Tensor) -> Tensor:
        """Reduce (batch, *spatial, channel) to half of each side and twice the channels."""
        if x.ndim != 5:
            return super().forward(x)  # type: ignore[no-any-return]  # 2-D merging is the same in all versions
        d, h, w = x.shape[1:4]
        x = functional.pad(x, (0, 0, 0, w % 2, 0, h % 2, 0, d % 2))
        neighbours = torch.cat([x[:, i::2, j::2, k::2] for i, j, k in _LEGACY_ORDER], -1)
        return self.reduction(self.norm(neighbours))  # type: ignore[no-any-return]


MERGINGS = {"merging": PatchMerging, "mergingv2": PatchMergingV2, "merging_legacy": LegacyPatchMerging}
"""Patch merging by its name in bundles and in ``downsample``."""


def _known_merging(name: str) -> str:
    if name not in MERGINGS:
        raise ShapeError(
            f"patch merging {name!r}",
            f"it must be one of {', '.join(MERGINGS)}",
            "Weights from MONAI up to 1.4 need merging_legacy.",
        )
    return name


class SwinUNETR(MonaiSwinUNETR):  # type: ignore[misc]
    """Swin UNETR network: (batch, channel, depth, height, width) float to logits (batch, class, depth, height, width).

    Args:
        in_channels: image channels.
        out_channels: number of classes, background included.
        feature_size: channels of the first stage; 12, 24 and 48 are the published sizes.
        spatial_dims: 2 or 3.
        depths: number of blocks per stage.
        num_heads: attention heads per stage.
        window_size: side of the attention window in tokens, or one number per axis.
        downsample: "merging" (neighbour order of MONAI 1.5 and later), "mergingv2", or "merging_legacy" (MONAI up to
            1.4). Weights load with all three, but with the wrong one outputs differ by 10 to 16 %.
        use_v2: add a residual convolution before each stage (Swin UNETR V2).

    Inputs of any size are accepted: sides that are not multiples of 32 are padded with zeros at their end and the
    logits cropped; an input of 32 along every side is padded to 64 along the first, since normalisation needs more than
    one voxel at the bottleneck. Without padding the output equals that of MONAI's class.

    Raises:
        ShapeError: the input has another rank or channel count, or ``downsample`` is unknown.
        ImageError: the input is integer or has NaN.

    Examples:
        >>> import torch
        >>> from medvit.segmentation import SwinUNETR
        >>> network = SwinUNETR(in_channels=1, out_channels=3, feature_size=12, spatial_dims=2).eval()
        >>> network(torch.rand(1, 1, 30, 40)).shape
        torch.Size([1, 3, 30, 40])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        *,
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
        # the stages keep MONAI's parameters and buffers; only their forward method is replaced
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
        """Name of the order in which patch merging gathers neighbours; it can be assigned, without a change of the
        weights."""
        kind = type(self.swinViT.layers1[0].downsample)
        return next(name for name, known in MERGINGS.items() if known is kind)

    @merging.setter
    def merging(self, name: str) -> None:
        kind = MERGINGS[_known_merging(name)]
        for stage in (self.swinViT.layers1, self.swinViT.layers2, self.swinViT.layers3, self.swinViT.layers4):
            stage[0].downsample.__class__ = kind  # the three classes differ only in their forward method

    def forward(self, x_in: Tensor) -> Tensor:
        """Compute logits of the input's size."""
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
