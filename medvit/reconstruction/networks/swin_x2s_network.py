"""Swin-X2S (Liu et al., arXiv 2501.05961): labelled bones in 3-D from a coronal and a sagittal X-ray.

Both views pass the same 2-D Swin encoder. Every feature map is expanded along the axis that its view does not show (a
learnt scale and offset for each depth). The views exchange information by cross-attention at 1/32 only; each is decoded
by 3-D convolutions to its own logits. Parameter names are the published ones. Unlike the published code, ``attn_mask``
is not stored, so sides may be multiples of the window, and ``swin_x2s_published.translate`` adapts checkpoints of
another size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from monai.networks.blocks import UnetOutBlock, UnetrBasicBlock, UnetrUpBlock
from torch import Tensor, nn

from medvit.bundles import fill_index_tables
from medvit.errors import ImageError, ShapeError
from medvit.kernels.tensor_checks import require_floating_point, require_tensor
from medvit.kernels.tracing import has_concrete_values
from medvit.reconstruction.networks.swin_encoder import EncoderSettings, SwinX2SEncoder

__all__ = ["SWIN_X2S_SIZES", "StackedSwinX2S", "SwinX2S", "SwinX2SSize", "fuse_views", "swin_x2s"]

_DIVISOR = 32
_STAGES = 4


@dataclass(frozen=True)
class SwinX2SSize:
    """Width and depth of a published network.

    Attributes:
        feature_size: channels of the first stage.
        depths: number of blocks in each of the four stages.
        num_heads: attention heads in each of the four stages.

    Examples:
        >>> from medvit.reconstruction import SWIN_X2S_SIZES
        >>> SWIN_X2S_SIZES["tiny"].feature_size
        32
    """

    feature_size: int
    depths: tuple[int, int, int, int]
    num_heads: tuple[int, int, int, int]


SWIN_X2S_SIZES = {
    "tiny": SwinX2SSize(32, (2, 2, 6, 2), (1, 2, 4, 8)),
    "small": SwinX2SSize(64, (2, 2, 6, 2), (2, 4, 8, 16)),
    "base": SwinX2SSize(96, (2, 2, 18, 2), (3, 6, 12, 24)),
    "large": SwinX2SSize(128, (2, 2, 18, 2), (4, 8, 16, 32)),
}
"""Published sizes by name."""


def swin_x2s(
    size: str, img_size: Sequence[int] = (128, 128, 160), in_channels: int = 1, out_channels: int = 4
) -> SwinX2S:
    """Make a Swin-X2S network of a published size with random weights.

    Args:
        size: "tiny", "small", "base" or "large".
        img_size: (x, y, z) voxels of the volume, see ``SwinX2S``.
        in_channels: channels of each view.
        out_channels: number of classes, background included.

    Returns:
        The network.

    Raises:
        ShapeError: the size is unknown.

    Examples:
        >>> from medvit.reconstruction import swin_x2s
        >>> network = swin_x2s("tiny", (32, 32, 64))  # doctest: +SKIP
    """
    if size not in SWIN_X2S_SIZES:
        raise ShapeError(
            f"Swin-X2S size {size!r}",
            f"it must be one of {', '.join(SWIN_X2S_SIZES)}",
            "For others, build SwinX2S itself.",
        )
    chosen = SWIN_X2S_SIZES[size]
    return SwinX2S(
        img_size,
        in_channels,
        out_channels=out_channels,
        feature_size=chosen.feature_size,
        depths=chosen.depths,
        num_heads=chosen.num_heads,
    )


def fuse_views(coronal_logits: Tensor, sagittal_logits: Tensor) -> Tensor:
    """Sum the logits of both views, the published fusion; the argmax over the classes is the label.

    Args:
        coronal_logits: (batch, class, x, y, z).
        sagittal_logits: (batch, class, x, y, z).

    Returns:
        (batch, class, x, y, z).

    Raises:
        ShapeError: the volumes have different sizes.

    Examples:
        >>> import torch
        >>> from medvit.reconstruction import fuse_views
        >>> fuse_views(torch.ones(1, 2, 1, 1, 1), torch.ones(1, 2, 1, 1, 1)).flatten()
        tensor([2., 2.])
    """
    if coronal_logits.shape != sagittal_logits.shape:
        raise ShapeError(
            f"coronal logits of {tuple(coronal_logits.shape)} and sagittal ones of {tuple(sagittal_logits.shape)}",
            "they must be equal",
            "Take both from one call of the network.",
        )
    return coronal_logits + sagittal_logits


class _CrossLayer(nn.Module):
    """Cross-attention in which each view's tokens become a mixture of the other's; as published, there is no
    residual."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.LayerNorm(width, eps=1e-6)
        self.attn = nn.ModuleDict({name: nn.Linear(width, width) for name in ("query", "key", "value", "out")})

    def _project(self, name: str, tokens: Tensor) -> Tensor:
        return self.attn[name](tokens).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # type: ignore[no-any-return]

    def _mix(self, asking: Tensor, answering: Tensor) -> Tensor:
        q, k, v = (
            self._project("query", asking),
            self._project("key", answering),
            self._project("value", answering),
        )
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)  # (batch, head, token, token)
        return self.attn["out"]((weights @ v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # (batch, token, channel) each
        a, b = self.attention_norm(a), self.attention_norm(b)
        return self._mix(a, b), self._mix(b, a)


class _CrossAttention(nn.Module):
    def __init__(self, width: int, heads: int, grid: tuple[int, int, int], layers: int) -> None:
        super().__init__()
        self.patch_embeddings = nn.Conv3d(width, width, 1)
        self.position_embeddings = nn.Parameter(torch.zeros(1, grid[0] * grid[1] * grid[2], width))
        self.layer = nn.ModuleList(_CrossLayer(width, heads) for _ in range(layers))
        self.encoder_norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:  # (batch, channel, x, y, z) each
        grid = a.shape[2:]
        a, b = (self.patch_embeddings(v).flatten(2).transpose(1, 2) + self.position_embeddings for v in (a, b))
        for layer in self.layer:
            a, b = layer(a, b)
        a, b = (self.encoder_norm(v).transpose(1, 2).unflatten(2, grid) for v in (a, b))
        return a, b


def _check_size(img_size: Sequence[int], window_size: Sequence[int]) -> tuple[int, int, int]:
    size = tuple(int(n) for n in img_size)
    if len(size) != 3 or len(window_size) != 2:
        raise ShapeError(
            f"img_size {size} and window_size {tuple(window_size)}",
            "Swin-X2S needs (x, y, z) voxels and a window of two sides",
            "Give them, such as (128, 128, 160) and (7, 7).",
        )
    if size[0] != size[1] or min(size) <= 0 or any(n % _DIVISOR for n in size):
        raise ShapeError(
            f"img_size {size}",
            f"x and y must be equal and every side a multiple of {_DIVISOR}",
            "Pad or resample the images, for example to (128, 128, 160).",
        )
    if all(n == _DIVISOR for n in size):
        raise ShapeError(
            f"img_size {size}, which leaves one voxel at the bottleneck, where normalisation needs at least two",
            remedy="Use at least (32, 32, 64).",
        )
    return size[0], size[1], size[2]


class SwinX2S(nn.Module):
    """Swin-X2S network: two X-ray views to two volumes of logits.

    Args:
        img_size: (x, y, z) voxels of the volume; x = y, each a multiple of 32, not all equal to 32. 224 also works,
            where the published code fails.
        in_channels: channels of each view.
        out_channels: number of classes, background included.
        feature_size: channels of the first stage; the channels of each stage (doubled per stage) are multiples of its
            heads.
        depths: number of blocks in each of the four stages.
        num_heads: attention heads in each of the four stages; the last number is also that of the cross-attention.
        window_size: attention window along height and width of the feature maps, in tokens.
        drop_path_rate: stochastic depth of the last block in training, as published.
        fusion_depth: number of layers of cross-attention; the published sizes have one.

    ``forward`` takes a coronal view (batch, channel, x, z) and a sagittal one (batch, channel, y, z), float, scaled as
    the bundle's preprocessing does (published: 0..1), and returns (coronal, sagittal) logits, each (batch, class, x, y,
    z). ``fuse_views`` sums them.

    Raises:
        ShapeError: sizes do not match each other; when called, the views have another size than ``img_size``.
        ImageError: a view has NaN or infinite values.

    Examples:
        >>> import torch
        >>> from medvit.reconstruction import SwinX2S
        >>> network = SwinX2S(
        ...     (32, 32, 64), 1, out_channels=2, feature_size=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)
        ... ).eval()
        >>> coronal, sagittal = network(torch.rand(1, 1, 32, 64), torch.rand(1, 1, 32, 64))
        >>> coronal.shape
        torch.Size([1, 2, 32, 32, 64])
    """

    def __init__(
        self,
        img_size: Sequence[int],
        in_channels: int,
        *,
        out_channels: int,
        feature_size: int = 96,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (3, 6, 12, 24),
        window_size: Sequence[int] = (7, 7),
        drop_path_rate: float = 0.2,
        fusion_depth: int = 1,
    ) -> None:
        super().__init__()
        self.img_size = size = _check_size(img_size, window_size)
        self.in_channels, self.window_size = in_channels, (int(window_size[0]), int(window_size[1]))
        if len(depths) != _STAGES or len(num_heads) != _STAGES:
            raise ShapeError(
                f"depths {tuple(depths)} and num_heads {tuple(num_heads)}", f"both need {_STAGES} numbers, one a stage"
            )
        for stage, heads in enumerate(num_heads):
            if (feature_size << stage) % heads:
                raise ShapeError(
                    f"{heads} heads for the {feature_size << stage} channels of stage {stage + 1}",
                    "the heads must divide them",
                    "Change feature_size or num_heads.",
                )
        f = feature_size
        encoder = EncoderSettings(
            plane=(size[0], size[2]),
            in_channels=in_channels,
            feature_size=f,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=self.window_size,
            drop_path_rate=drop_path_rate,
        )
        widths = {"encoder1": (in_channels, f)} | {f"encoder{n + 2}": (f << n, f << n) for n in range(4)}
        for name, (before, after) in (widths | {"encoder10": (16 * f, 16 * f)}).items():
            self.add_module(name, UnetrBasicBlock(3, before, after, 3, 1, norm_name="instance", res_block=True))
        for level in (5, 4, 3, 2, 1):
            before, after = (f << level - 1, f << level - 2) if level > 1 else (f, f)
            up = UnetrUpBlock(3, before, after, 3, upsample_kernel_size=2, norm_name="instance", res_block=True)
            self.add_module(f"decoder{level}", up)
        self.out = UnetOutBlock(3, f, out_channels)
        grid = (size[0] // _DIVISOR, size[1] // _DIVISOR, size[2] // _DIVISOR)
        self.cross_atte6 = _CrossAttention(16 * f, num_heads[3], grid, fusion_depth)
        self.swinViT = SwinX2SEncoder(encoder)
        self.expand_ = nn.ModuleList(nn.Conv3d(1, size[0] >> level, 1) for level in range(_STAGES + 2))
        for expand in self.expand_:
            nn.init.ones_(expand.weight)  # type: ignore[arg-type]
            nn.init.zeros_(expand.bias)  # type: ignore[arg-type]

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        fill_index_tables(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def _check_views(self, coronal: Tensor, sagittal: Tensor) -> None:
        wanted = (self.in_channels, self.img_size[0], self.img_size[2])
        for name, axes, view in (("coronal", "x, z", coronal), ("sagittal", "y, z", sagittal)):
            require_tensor(view, f"a {name} view")
            if view.ndim != 4 or tuple(view.shape[1:]) != wanted:
                raise ShapeError(
                    f"a {name} view of shape {tuple(view.shape)}",
                    f"(batch, channel, {axes}) = (batch, {wanted[0]}, {wanted[1]}, {wanted[2]}) is needed",
                    "Resample the view, or build the network for its size.",
                )
            if not len(view):
                raise ShapeError(
                    f"an empty batch as {name} view, {tuple(view.shape)}", "at least one is needed", "Leave it out."
                )
            require_floating_point(view, self.expand_[0].weight, f"a {name} view")  # type: ignore[arg-type]
        if coronal.shape[0] != sagittal.shape[0]:
            raise ShapeError(
                f"{coronal.shape[0]} coronal and {sagittal.shape[0]} sagittal views",
                "each patient needs one of each",
                "Pair them.",
            )
        # values cannot be checked in a traced graph; in eager mode one NaN would spread over the whole volume
        if has_concrete_values() and not all(bool(v.isfinite().all()) for v in (coronal, sagittal)):
            raise ImageError("NaN or infinite values in a view", "all must be finite", "Replace them and run again.")

    def _lay_out(self, level: int, flat: Tensor, coronal: bool) -> Tensor:
        """Expand a feature map (batch, channel, side, z) along the axis its view does not show, to (batch, channel, x,
        y, z)."""
        expand: Any = self.expand_[level]
        scale, offset = expand.weight.view(-1, 1), expand.bias.view(-1, 1)
        if coronal:
            return flat[:, :, :, None] * scale + offset  # type: ignore[no-any-return]
        return flat[:, :, None] * scale[..., None] + offset[..., None]  # type: ignore[no-any-return]

    def _encode(self, view: Tensor, coronal: bool) -> list[Tensor]:
        """Compute the volumes (batch, channel, x, y, z) of one view, finest first."""
        maps = [view, *(m.movedim(-1, 1) for m in self.swinViT(view))]
        volumes = [self._lay_out(level, flat, coronal) for level, flat in enumerate(maps)]
        names = ("encoder1", "encoder2", "encoder3", "encoder4", "encoder5", "encoder10")
        return [self.get_submodule(name)(volume) for name, volume in zip(names, volumes, strict=True)]

    def _decode(self, volumes: list[Tensor]) -> Tensor:
        x = volumes[-1]
        for level in (5, 4, 3, 2, 1):
            x = self.get_submodule(f"decoder{level}")(x, volumes[level - 1])
        return self.out(x)  # type: ignore[no-any-return]

    def forward(self, coronal: Tensor, sagittal: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of the coronal and of the sagittal view, each (batch, class, x, y, z)."""
        self._check_views(coronal, sagittal)
        front, side = self._encode(coronal, True), self._encode(sagittal, False)
        front[-1], side[-1] = self.cross_atte6(front[-1], side[-1])
        return self._decode(front), self._decode(side)


class StackedSwinX2S(SwinX2S):
    """``SwinX2S`` with one input, as MONAI's engines and a bundle's ``network_def`` need it.

    Parameters and their names are the same. ``forward`` takes both views stacked along the channels, (batch, 2 *
    channel, x or y, z), coronal first, and returns the fused logits (batch, class, x, y, z); training uses
    ``each_view`` for the logits of each.

    Args:
        img_size, in_channels, out_channels, feature_size, depths: as for ``SwinX2S``.
        num_heads, window_size, drop_path_rate, fusion_depth: as for ``SwinX2S``.

    Examples:
        >>> import torch
        >>> from medvit.reconstruction import StackedSwinX2S
        >>> network = StackedSwinX2S(
        ...     (32, 32, 64), 1, out_channels=2, feature_size=4, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)
        ... ).eval()
        >>> network(torch.rand(1, 2, 32, 64)).shape
        torch.Size([1, 2, 32, 32, 64])
    """

    def each_view(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the logits of the coronal and of the sagittal view, each (batch, class, x, y, z).

        Raises:
            ShapeError: the number of channels is not twice ``in_channels``.
        """
        require_tensor(image, "some stacked views")
        if image.ndim != 4 or image.shape[1] != 2 * self.in_channels:
            raise ShapeError(
                f"stacked views of shape {tuple(image.shape)}",
                f"(batch, {2 * self.in_channels}, side, z) is needed, the coronal view first",
                "Stack the two along the channels.",
            )
        return super().forward(image[:, : self.in_channels], image[:, self.in_channels :])

    def forward(self, image: Tensor) -> Tensor:  # type: ignore[override]
        """Compute the fused logits of stacked views."""
        return fuse_views(*self.each_view(image))
