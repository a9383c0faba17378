"""Barlow-Swin (arXiv 2509.06885): a three-stage Swin encoder and a convolutional decoder for pictures.

The published model is a Keras notebook. With the same weights and input this network gives the same output. In addition
it takes any height and width and several classes, and its relative-position tables are parameters, so they are trained.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import ShapeError
from medvit.kernels.window_attention import window_attention
from medvit.segmentation.networks.input_checks import check_input

__all__ = ["BarlowSwin", "BarlowSwinEncoder"]

_PATCH = 4
"""Side of a patch in pixels."""

_SHIFT = 1
"""Shift of the windows in every second block, in tokens: one, not half a window as in Swin."""

_WIDTHS = (192, 128, 64, 32)
"""Numbers of channels of the decoder's stages."""


class _Block(nn.Module):
    """Window attention and MLP, each with a norm before it and a residual connection; (batch, height, width,
    channel)."""

    def __init__(self, dim: int, num_heads: int, window_size: int, shift: int) -> None:
        super().__init__()
        self.num_heads, self.window_size, self.shift = num_heads, window_size, shift
        self.norm1 = nn.LayerNorm(dim, eps=1e-5)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * window_size - 1) ** 2, num_heads))
        self.proj = nn.Linear(dim, dim)
        self.norm2 = nn.LayerNorm(dim, eps=1e-5)
        self.mlp = nn.Sequential(nn.Linear(dim, 4 * dim), nn.GELU(), nn.Linear(4 * dim, dim))
        for weight in (self.relative_position_bias_table, self.qkv.weight, self.proj.weight):
            nn.init.trunc_normal_(weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        # the published block drops the shift on both axes as soon as one of them is a single window
        shift = 0 if min(x.shape[1:3]) <= self.window_size else self.shift
        mixed = window_attention(
            self.qkv(self.norm1(x)),
            self.relative_position_bias_table,
            num_heads=self.num_heads,
            window_size=(self.window_size, self.window_size),
            shift=(shift, shift),
            qkv_bias=self.qkv.bias,
        )
        x = x + self.proj(mixed)
        return x + self.mlp(self.norm2(x))  # type: ignore[no-any-return]


class _Merging(nn.Module):
    """Patch merging to half of each side and twice the channels, in the order (row, column) 00, 10, 01, 11; no norm, no
    bias."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduction = nn.Linear(4 * dim, 2 * dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        neighbours = [x[:, i::2, j::2] for i, j in ((0, 0), (1, 0), (0, 1), (1, 1))]
        return self.reduction(torch.cat(neighbours, -1))  # type: ignore[no-any-return]


class BarlowSwinEncoder(nn.Module):
    """Encoder, which Barlow Twins pretrains without labels: three feature maps at 1/4, 1/8 and 1/16 of each side.

    Args:
        in_channels: image channels.
        embed_dim: channels of the first stage; each later stage has twice as many.
        depths: number of blocks in each of the three stages.
        num_heads: attention heads, the same in every stage.
        window_size: side of the attention window in tokens.
        image_size: height and width for which the position table is made.
    """

    def __init__(
        self,
        in_channels: int,
        embed_dim: int,
        depths: Sequence[int],
        num_heads: int,
        window_size: int,
        image_size: tuple[int, int],
    ) -> None:
        super().__init__()
        self.grid: tuple[int, int] | None = (image_size[0] // _PATCH, image_size[1] // _PATCH)
        self.embed = nn.Conv2d(in_channels, embed_dim, _PATCH, stride=_PATCH)
        self.positions = nn.Parameter(torch.empty(math.prod(self.grid), embed_dim).uniform_(-0.05, 0.05))
        dims = [embed_dim * 2**stage for stage in range(3)]
        self.width = dims[-1]
        self.stages = nn.ModuleList(
            nn.Sequential(*[_Block(dim, num_heads, window_size, _SHIFT * (i % 2)) for i in range(depth)])
            for dim, depth in zip(dims, depths, strict=True)
        )
        self.merges = nn.ModuleList(_Merging(dim) for dim in dims[:-1])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute three maps (batch, channel, height, width) of an image whose sides are multiples of 16."""
        x = self.embed(x).movedim(1, -1)
        x = x + self.placed(x.shape[1], x.shape[2])
        maps = []
        for number, stage in enumerate(self.stages):
            x = stage(self.merges[number - 1](x) if number else x)
            maps.append(x.movedim(-1, 1))
        return maps[0], maps[1], maps[2]

    def placed(self, height: int, width: int) -> Tensor:
        """Return the position table for a map of height x width tokens, (height, width, channel).

        A table with one row per token is used unchanged; any other is interpolated bilinearly.
        """
        rows, channels = self.positions.shape
        if rows == height * width:
            return self.positions.view(height, width, channels)
        grid = self.grid or _likely_grid(rows, height / width)
        table = self.positions.view(1, *grid, channels).movedim(-1, 1)
        moved = F.interpolate(table, size=(height, width), mode="bilinear", align_corners=False)
        return moved[0].movedim(0, -1)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(f"{prefix}positions")
        here = self.positions
        if stored is not None and stored.ndim == 2 and stored.shape[1] == here.shape[1] and len(stored) != len(here):
            # a table for another picture size is kept as stored, not resized to this network's
            side = math.isqrt(len(stored))
            self.grid = (side, side) if side * side == len(stored) else None
            self.positions = nn.Parameter(here.new_empty(stored.shape), requires_grad=here.requires_grad)
        super()._load_from_state_dict(state_dict, prefix, *rest)


def _likely_grid(rows: int, aspect: float) -> tuple[int, int]:
    """Guess the height x width of a table of ``rows`` positions: the factors whose ratio is closest to the
    picture's."""
    heights = [h for h in range(1, rows + 1) if rows % h == 0]
    height = min(heights, key=lambda h: abs(math.log(h * h / rows / aspect)))
    grid = (height, rows // height)
    warnings.warn(
        f"Found a position table of {rows} rows that is not square and states no shape; it is read as {grid[0]} x {grid[1]} tokens. "
        f"If that is wrong, build BarlowSwin with image_size=(height, width) of the pictures it was trained on.",
        stacklevel=2,
    )
    return grid


def _norm(channels: int) -> nn.BatchNorm2d:
    """Make a batch norm with Keras' defaults; Keras' momentum of 0.99 weights the old value, PyTorch's the new one."""
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


def _separable(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inside, inside, 3, padding=1, groups=inside, bias=False), nn.Conv2d(inside, outside, 1)
    )


class _Residual(nn.Module):
    """Two separable convolutions and a 1x1 shortcut, each with batch norm."""

    def __init__(self, inside: int, outside: int, dropout: float) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _separable(inside, outside), _norm(outside), nn.ReLU(),
            _separable(outside, outside), _norm(outside), nn.ReLU(), nn.Dropout(dropout),
        )  # fmt: skip
        self.shortcut = nn.Sequential(nn.Conv2d(inside, outside, 1), _norm(outside))

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.body(x)  # type: ignore[no-any-return]


class BarlowSwin(nn.Module):
    """Barlow-Swin network: (batch, channel, height, width) float in 0..1 to logits (batch, class, height, width).

    Args:
        in_channels: image channels.
        out_channels: 1 for a binary head (the probability is the sigmoid of the logit), or the number of classes,
            background included (softmax).
        embed_dim: channels of the first stage.
        depths: number of blocks in each of the three stages.
        num_heads: attention heads in every stage; divides ``embed_dim``.
        window_size: side of the attention window in tokens.
        dropout: dropout rate in the decoder during training.
        image_size: height and width for which the position table is made; multiples of 4. It is interpolated for other
            inputs.

    Inputs of any size are accepted: sides that are not multiples of 16 windows (64 pixels by default) are padded with
    zeros at their end and the logits cropped. For multiples the output equals that of the published model.

    The published configuration has 7,001,829 parameters as Keras counts them (running means and variances of the batch
    norms included), and 2,352 in the relative-position tables, which Keras neither counts nor trains.

    Raises:
        ShapeError: sizes do not match each other, or the input has another rank or channel count.
        ImageError: the input is integer or has NaN.

    Examples:
        >>> import torch
        >>> from medvit.segmentation import BarlowSwin
        >>> network = BarlowSwin(embed_dim=8, depths=(1, 1, 1), num_heads=2, image_size=(64, 64)).eval()
        >>> network(torch.rand(1, 3, 40, 50)).shape
        torch.Size([1, 1, 40, 50])
    """

    adopts = frozenset({"encoder.positions"})
    """Names of tensors that take the length of the checkpoint's first axis, even if the network's differs."""

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 2),
        num_heads: int = 8,
        window_size: int = 4,
        dropout: float = 0.1,
        image_size: tuple[int, int] = (512, 512),
    ) -> None:
        super().__init__()
        if len(depths) != 3:
            raise ShapeError(f"depths for {len(depths)} stages", "the decoder is made for 3", "Give three numbers.")
        if embed_dim % num_heads:
            raise ShapeError(
                f"{embed_dim} channels for {num_heads} heads", "the heads must divide them", "Choose another embed_dim."
            )
        if any(side < _PATCH or side % _PATCH for side in image_size):
            raise ShapeError(
                f"an image_size of {tuple(image_size)}",
                f"both sides must be multiples of {_PATCH}",
                "Give the training size.",
            )
        self.in_channels, self.divisor = in_channels, 4 * _PATCH * window_size
        self.encoder = BarlowSwinEncoder(in_channels, embed_dim, depths, num_heads, window_size, image_size)
        inside = [4 * embed_dim + 2 * embed_dim, _WIDTHS[0] + embed_dim, _WIDTHS[1], _WIDTHS[2]]
        self.decoder = nn.ModuleList(
            _Residual(before, after, dropout) for before, after in zip(inside, _WIDTHS, strict=True)
        )
        self.head = nn.Sequential(nn.Conv2d(_WIDTHS[-1], out_channels, 1), _norm(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits of the input's size."""
        check_input(x, 4, self.in_channels, next(self.parameters()))
        height, width = x.shape[2:]
        growth = [-side % self.divisor for side in (height, width)]
        fine, middle, deep = self.encoder(F.pad(x, (0, growth[1], 0, growth[0])))
        for stage, skip in zip(self.decoder, (middle, fine, None, None), strict=True):
            deep = F.interpolate(deep, scale_factor=2.0, mode="nearest")
            deep = stage(deep if skip is None else torch.cat([deep, skip], 1))
        return self.head(deep)[..., :height, :width]  # type: ignore[no-any-return]
