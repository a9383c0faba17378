"""Restore-RWKV (Yang et al., arXiv 2407.11087): a U-shaped network that removes noise from a slice.

Parameters and their names are the published ones, so state dicts can be exchanged. Differences from the published code:
the operator is the paper's formula (``medvit.kernels.bi_wkv_2d``), from which the published CUDA kernel deviates; any
size and device is accepted; and no forward pass rewrites weights: ``fuse()`` returns the fast network.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import ImageError, ShapeError
from medvit.kernels.bi_wkv.image_2d import bi_wkv_2d
from medvit.kernels.tensor_checks import require_tensor
from medvit.kernels.tracing import has_concrete_values
from medvit.restoration.networks.omni_shift import FusedShift, OmniShift
from medvit.restoration.networks.strips import fits_strips, run_block

__all__ = ["LIGHT", "PUBLISHED", "ParameterCount", "RestoreRWKV", "RestoreRWKVSize"]

_DIVISOR = 8
"""Factor by which three downsamplings reduce each side."""


@dataclass(frozen=True)
class RestoreRWKVSize:
    """Width and depth of the network.

    Attributes:
        dim: channels at full resolution.
        num_blocks: number of blocks of the three encoder levels (and of the decoder levels beside them) and of the
            bottom.
        num_refinement_blocks: number of blocks at full resolution after the decoder.

    Examples:
        >>> from medvit.restoration import LIGHT
        >>> LIGHT.dim, LIGHT.num_blocks
        (16, (1, 1, 2, 2))
    """

    dim: int
    num_blocks: tuple[int, int, int, int]
    num_refinement_blocks: int


PUBLISHED = RestoreRWKVSize(48, (4, 6, 6, 8), 4)
"""Size of the paper's network, 28.4 million parameters."""

LIGHT = RestoreRWKVSize(16, (1, 1, 2, 2), 1)
"""Size with 1.16 million parameters like the paper's light variant, whose widths were not published."""


@dataclass(frozen=True)
class ParameterCount:
    """Numbers of parameters of a network.

    Attributes:
        stored: all parameters of the state dict, the re-parameterised 5x5 kernels included.
        trained: parameters without these kernels, which are computed from the others.
        fused: parameters with one 5x5 kernel for each OmniShift instead of its four branches.
    """

    stored: int
    trained: int
    fused: int


class SpatialMix(nn.Module):
    """Attention of each pixel to all others, first along rows, then along columns (paper, Re-WKV)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.omni_shift = OmniShift(dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim, bias=False)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.output = nn.Linear(dim, dim, bias=False)
        self.spatial_decay = nn.Parameter(torch.randn(2, dim))
        self.spatial_first = nn.Parameter(torch.randn(2, dim))

    def forward(self, x: Tensor) -> Tensor:
        """Mix (batch, channel, height, width) to (batch, height, width, channel)."""
        x = self.omni_shift(x).permute(0, 2, 3, 1)
        k, v = self.key(x), self.value(x)
        decay, first = (p / (x.shape[1] * x.shape[2]) for p in (self.spatial_decay, self.spatial_first))
        return self.output(bi_wkv_2d(decay, first, k, v, self.receptance(x)))  # type: ignore[no-any-return]


class ChannelMix(nn.Module):
    """Mix of the channels of each pixel through four times as many: σ(r) · W_v relu(W_k x)²."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.key = nn.Linear(dim, 4 * dim, bias=False)
        self.omni_shift = OmniShift(dim)
        self.receptance = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(4 * dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Mix (batch, channel, height, width) to (batch, height, width, channel)."""
        x = self.omni_shift(x).permute(0, 2, 3, 1)
        return torch.sigmoid(self.receptance(x)) * self.value(self.key(x).relu().square())  # type: ignore[no-any-return]


class Block(nn.Module):
    """Spatial mix, then channel mix, each after a layer norm and added with a scale per channel."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(dim)
        self.ln2 = nn.LayerNorm(dim)
        self.att = SpatialMix(dim)
        self.ffn = ChannelMix(dim)
        self.gamma1 = nn.Parameter(torch.ones(dim))
        self.gamma2 = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        """Apply both mixes to (batch, channel, height, width); the shape is unchanged."""
        if fits_strips(self, x):
            return run_block(self, x)
        x = x.permute(0, 2, 3, 1)
        x = x + self.gamma1 * self.att(self.ln1(x).permute(0, 3, 1, 2))
        x = x + self.gamma2 * self.ffn(self.ln2(x).permute(0, 3, 1, 2))
        return x.permute(0, 3, 1, 2)


def _blocks(dim: int, count: int) -> nn.Sequential:
    return nn.Sequential(*(Block(dim) for _ in range(count)))


class Resample(nn.Module):
    """A 3x3 convolution and a pixel unshuffle (down) or pixel shuffle (up)."""

    def __init__(self, dim: int, *, up: bool) -> None:
        super().__init__()
        conv = nn.Conv2d(dim, 2 * dim if up else dim // 2, 3, padding=1, bias=False)
        self.body = nn.Sequential(conv, nn.PixelShuffle(2) if up else nn.PixelUnshuffle(2))

    def forward(self, x: Tensor) -> Tensor:
        """Resample (batch, channel, height, width) to half the sides and twice the channels, or the inverse."""
        return self.body(x)  # type: ignore[no-any-return]


class RestoreRWKV(nn.Module):
    """Restore-RWKV network: (batch, channel, height, width) float to the restored image of the same size.

    Args:
        in_channels: image channels.
        out_channels: restored channels. The input is added to them, so there are as many as ``in_channels``; a single
            input channel is added to each output channel, and a single output channel gets the middle one of an odd
            number of input channels (a slice between its neighbours).
        dim: channels at full resolution, even.
        num_blocks: number of blocks of the three encoder levels (and of the decoder levels beside them) and of the
            bottom.
        num_refinement_blocks: number of blocks at full resolution after the decoder.

    Any height and width is accepted: sides that are not multiples of 8 are padded by repeating their last row or column
    and the result is cropped. For multiples of 8 the output equals that of the published network.

    Raises:
        ShapeError: sizes do not match each other, the input has another rank or channel count, or it has no pixels.
        ImageError: NaN or infinite pixels on the CPU. On a GPU there is no such check, since it would block the stream.

    Examples:
        >>> import torch
        >>> from medvit.restoration import RestoreRWKV
        >>> network = RestoreRWKV(dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1).eval()
        >>> network(torch.rand(1, 1, 12, 20)).shape
        torch.Size([1, 1, 12, 20])
    """

    def __init__(
        self,
        in_channels: int = 1,
        out_channels: int = 1,
        dim: int = 48,
        num_blocks: Sequence[int] = (4, 6, 6, 8),
        num_refinement_blocks: int = 4,
    ) -> None:
        super().__init__()
        _check_sizes(in_channels, out_channels, RestoreRWKVSize(dim, tuple(num_blocks), num_refinement_blocks))  # type: ignore[arg-type]
        one, two, three, bottom = num_blocks
        self.patch_embed = nn.Conv2d(in_channels, dim, 3, padding=1)
        self.encoder_level1 = _blocks(dim, one)
        self.down1_2 = Resample(dim, up=False)
        self.encoder_level2 = _blocks(2 * dim, two)
        self.down2_3 = Resample(2 * dim, up=False)
        self.encoder_level3 = _blocks(4 * dim, three)
        self.down3_4 = Resample(4 * dim, up=False)
        self.latent = _blocks(8 * dim, bottom)
        self.up4_3 = Resample(8 * dim, up=True)
        self.reduce_chan_level3 = nn.Conv2d(8 * dim, 4 * dim, 1)
        self.decoder_level3 = _blocks(4 * dim, three)
        self.up3_2 = Resample(4 * dim, up=True)
        self.reduce_chan_level2 = nn.Conv2d(4 * dim, 2 * dim, 1)
        self.decoder_level2 = _blocks(2 * dim, two)
        self.up2_1 = Resample(2 * dim, up=True)
        self.decoder_level1 = _blocks(2 * dim, one)
        self.refinement = _blocks(2 * dim, num_refinement_blocks)
        self.output = nn.Conv2d(2 * dim, out_channels, 3, padding=1)
        self.refresh()

    @classmethod
    def of_size(cls, size: RestoreRWKVSize, in_channels: int = 1, out_channels: int = 1) -> RestoreRWKV:
        """Make the network of a named size, e.g. ``RestoreRWKV.of_size(LIGHT)``."""
        return cls(in_channels, out_channels, size.dim, size.num_blocks, size.num_refinement_blocks)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the restored image, (batch, out_channels, height, width)."""
        self._check(x)
        height, width = x.shape[2:]
        padded = F.pad(x, (0, -width % _DIVISOR, 0, -height % _DIVISOR), mode="replicate")
        return self._restore(padded)[..., :height, :width]

    def _restore(self, x: Tensor) -> Tensor:
        full = self.encoder_level1(self.patch_embed(x))
        half = self.encoder_level2(self.down1_2(full))
        quarter = self.encoder_level3(self.down2_3(half))
        bottom = self.latent(self.down3_4(quarter))
        quarter = self.reduce_chan_level3(torch.cat([self.up4_3(bottom), quarter], 1))
        half = self.reduce_chan_level2(torch.cat([self.up3_2(self.decoder_level3(quarter)), half], 1))
        full = torch.cat([self.up2_1(self.decoder_level2(half)), full], 1)
        change: Tensor = self.output(self.refinement(self.decoder_level1(full)))
        middle = x.shape[1] // 2
        return change + (x[:, middle : middle + 1] if change.shape[1] == 1 else x)

    def _check(self, x: Tensor) -> None:
        require_tensor(x)
        channels = self.patch_embed.in_channels
        if x.ndim != 4 or x.shape[1] != channels:
            raise ShapeError(
                f"an input of shape {tuple(x.shape)}",
                f"(batch, channel, height, width) with {channels} channel(s) is needed",
                (
                    "Add the missing axes, give volumes to medvit.inference.SliceWise, or build the network for this "
                    "many channels."
                ),
            )
        if 0 in x.shape:
            raise ShapeError(
                f"an input of shape {tuple(x.shape)}", "at least one pixel is needed", "Leave empty images out."
            )
        dtype = self.patch_embed.weight.dtype
        if x.dtype != dtype and not torch.is_autocast_enabled(x.device.type):
            raise ShapeError(
                f"pixels of type {x.dtype} for weights of type {dtype}",
                "they must be one type",
                f"Convert them: .to({dtype}).",
            )
        if x.device != self.patch_embed.weight.device:
            raise ShapeError(
                f"pixels on {x.device} and weights on {self.patch_embed.weight.device}",
                "they must be on one device",
                "Move the image with .to(device).",
            )
        if x.device.type == "cpu" and has_concrete_values() and not bool(x.isfinite().all()):
            raise ImageError(
                "NaN or infinite pixels",
                "all must be finite",
                "Replace them (for CT outside the field of view, -1024).",
            )

    def shifts(self) -> list[OmniShift]:
        """List every OmniShift in the order of the network; none after ``fuse()``."""
        return [module for module in self.modules() if isinstance(module, OmniShift)]

    def refresh(self) -> RestoreRWKV:
        """Recompute the stored re-parameterised kernels from their branches, so that saved kernels are up to date."""
        with torch.no_grad():
            for shift in self.shifts():
                shift.conv5x5_reparam.weight.copy_(shift.kernel())
        return self

    def fuse(self) -> RestoreRWKV:
        """Make a network for inference with one 5x5 kernel for each OmniShift, computed from the branches; its output
        is the same.

        Its state dict contains only ``omni_shift.conv5x5_reparam`` of each OmniShift; it cannot be trained or load
        checkpoints.
        """
        fused = copy.deepcopy(self)
        for module in fused.modules():
            for name, child in list(module.named_children()):
                if isinstance(child, OmniShift):
                    setattr(module, name, FusedShift(child))
        return fused.requires_grad_(False).eval()

    def count(self) -> ParameterCount:
        """Count the parameters stored, trained, and left after ``fuse()``."""
        stored = sum(p.numel() for p in self.parameters())
        shifts = self.shifts()
        copies = sum(s.conv5x5_reparam.weight.numel() for s in shifts)
        branches = sum(p.numel() for s in shifts for p in s.parameters()) - copies
        return ParameterCount(stored, stored - copies, stored - branches)


def _check_sizes(in_channels: int, out_channels: int, size: RestoreRWKVSize) -> None:
    if in_channels not in (1, out_channels) and not (out_channels == 1 and in_channels % 2):
        raise ShapeError(
            f"{in_channels} input and {out_channels} output channels",
            (
                "the input is added to the output, so they must be equal, or one input channel, or one output channel "
                "and an odd number of inputs"
            ),
            "Choose such a pair.",
        )
    numbers = (in_channels, out_channels, size.dim, *size.num_blocks, size.num_refinement_blocks)
    if len(size.num_blocks) != 4 or min(numbers) < 1 or size.dim % 2:
        raise ShapeError(
            f"dim {size.dim}, num_blocks {size.num_blocks} and {size.num_refinement_blocks} refinement blocks",
            "an even dim, four block counts and all of them at least 1 are needed",
            "RestoreRWKV.of_size(LIGHT) is a small network.",
        )
