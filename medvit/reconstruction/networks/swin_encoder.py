"""The 2-D Swin encoder of Swin-X2S (Swin Transformer, arXiv 2103.14030), with medvit's window attention.

Parameters have the published names. The published blocks store ``attn_mask``, which ties a checkpoint to one image
size; here the mask is computed from the size of the feature map. Both masks are equal: -100 is added between tokens of
different regions, regions are numbered over the feature map padded at its end to whole windows, and padded tokens have
the projection's bias; ``medvit.kernels.window_attention`` does all of this. A feature map whose side is a multiple of
the window is not padded (for such sides the published mask has one window too many, and the published code fails).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from monai.networks.layers import DropPath
from torch import Tensor, nn

from medvit.errors import ShapeError
from medvit.kernels.window_attention import window_attention

__all__ = ["EncoderSettings", "SwinX2SEncoder", "bias_windows"]

_PATCH = 2
_MLP_RATIO = 4


@dataclass(frozen=True, kw_only=True)
class EncoderSettings:
    """Sizes of the encoder; see ``SwinX2S``."""

    plane: tuple[int, int]
    in_channels: int
    feature_size: int
    depths: tuple[int, ...]
    num_heads: tuple[int, ...]
    window_size: tuple[int, int]
    drop_path_rate: float


def bias_windows(
    plane: Sequence[int], window_size: Sequence[int], stages: int
) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Return window and shift of each stage for images of (height, width) ``plane`` pixels.

    If the shorter side of a stage's feature map is not longer than the window, the whole map becomes one window without
    shift, also along the longer side, where the window may then exceed ``window_size``.

    Raises:
        ShapeError: a window with unequal sides exceeds the map along one side only.
    """
    found = []
    for stage in range(stages):
        side = plane[0] // (_PATCH << stage), plane[1] // (_PATCH << stage)
        window = (int(window_size[0]), int(window_size[1]))
        if min(side) <= min(window):
            found.append((side, (0, 0)))
        elif side[0] <= window[0] or side[1] <= window[1]:
            raise ShapeError(
                f"a window of {window} for a feature map of {side}, which it exceeds along one side only",
                "the map must exceed it along both or be within its shorter side",
                "Choose a window of equal sides.",
            )
        else:
            found.append((window, (window[0] // 2, window[1] // 2)))
    return found


def _relative_index(window: tuple[int, int]) -> Tensor:
    """Return the bias-table row of each pair of positions, (position, position); published checkpoints store it."""
    rows, columns = torch.meshgrid(torch.arange(window[0]), torch.arange(window[1]), indexing="ij")
    down = rows.reshape(-1, 1) - rows.reshape(1, -1) + window[0] - 1
    across = columns.reshape(-1, 1) - columns.reshape(1, -1) + window[1] - 1
    return down * (2 * window[1] - 1) + across


class _Attention(nn.Module):
    relative_position_index: Tensor

    def __init__(self, width: int, heads: int, window: tuple[int, int], shift: tuple[int, int]) -> None:
        super().__init__()
        self.heads, self.window, self.shift = heads, window, shift
        rows = (2 * window[0] - 1) * (2 * window[1] - 1)
        self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_index(window))
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:  # (batch, height, width, channel)
        mixed = window_attention(
            self.qkv(x),
            self.relative_position_bias_table,
            num_heads=self.heads,
            window_size=self.window,
            shift=self.shift,
            qkv_bias=self.qkv.bias,
        )
        return self.proj(mixed)  # type: ignore[no-any-return]


class _Mlp(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, _MLP_RATIO * width)
        self.fc2 = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(nn.functional.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class _Block(nn.Module):
    def __init__(
        self, width: int, heads: int, window: tuple[int, int], shift: tuple[int, int], drop_path: float
    ) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attn = _Attention(width, heads, window, shift)
        self.norm2 = nn.LayerNorm(width)
        self.mlp = _Mlp(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:  # (batch, height, width, channel)
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


class _Merging(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(4 * width)

    def forward(self, x: Tensor) -> Tensor:
        """Reduce (batch, height, width, channel) to half of each side; neighbours in the order 00, 10, 01, 11."""
        four = [x[:, down::2, across::2] for across in (0, 1) for down in (0, 1)]
        return self.reduction(self.norm(torch.cat(four, -1)))  # type: ignore[no-any-return]


class _Stage(nn.Module):
    def __init__(
        self,
        width: int,
        heads: int,
        window: tuple[int, int],
        shift: tuple[int, int],
        drop_paths: Sequence[float],
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            _Block(width, heads, window, shift if odd % 2 else (0, 0), rate) for odd, rate in enumerate(drop_paths)
        )
        self.norm = nn.LayerNorm(2 * width)
        self.downsample = _Merging(width)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.downsample(x)  # type: ignore[no-any-return]


class _PatchEmbed(nn.Module):
    def __init__(self, in_channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_channels, width, _PATCH, _PATCH)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.proj(x).movedim(1, -1))  # type: ignore[no-any-return]


class SwinX2SEncoder(nn.Module):
    """Pyramid of normalised feature maps of one view, at 1/2, 1/4, 1/8 ... of its sides."""

    def __init__(self, settings: EncoderSettings) -> None:
        super().__init__()
        s = settings
        self.patch_embed = _PatchEmbed(s.in_channels, s.feature_size)
        # stochastic depth grows linearly over the blocks, as published
        last = max(1, sum(s.depths) - 1)
        rates = [s.drop_path_rate * block / last for block in range(sum(s.depths))]
        windows = bias_windows(s.plane, s.window_size, len(s.depths))
        self.layers = nn.ModuleList()
        for stage, (depth, heads, (window, shift)) in enumerate(zip(s.depths, s.num_heads, windows, strict=True)):
            self.layers.append(_Stage(s.feature_size << stage, heads, window, shift, rates[:depth]))
            rates = rates[depth:]
        self.norm = nn.LayerNorm(s.feature_size)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute feature maps (batch, height, width, channel) of (batch, channel, height, width), finest first."""
        x = self.patch_embed(x)
        maps = [self.norm(x)]
        for stage in self.layers:
            x = stage(x)
            maps.append(stage.norm(x))  # type: ignore[operator]
        return maps
