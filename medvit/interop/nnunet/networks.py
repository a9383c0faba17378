"""nnU-Net's two networks, PlainConvUNet and ResidualEncoderUNet, with the published names of their tensors, and the mean
of several folds.

The file keeps each tensor once: ``encoder.stages.0.0.convs.0.conv.weight``. Published checkpoints hold the same tensors
under further names, see ``checkpoint.py``. F. Isensee et al., nnU-Net, Nature Methods 18, 2021; residual encoders:
F. Isensee et al., nnU-Net Revisited, MICCAI 2024, arXiv 2404.09556.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from medvit.errors import ShapeError

__all__ = ["FoldEnsemble", "NnunetNetwork"]

_NORMS = {
    ("instance", 2): nn.InstanceNorm2d,
    ("instance", 3): nn.InstanceNorm3d,
    ("batch", 2): nn.BatchNorm2d,
    ("batch", 3): nn.BatchNorm3d,
}


class _Parts:
    """Maker of the layers of one network, from its architecture.

    Args:
        architecture: fields of ``plans.Architecture`` as JSON gives them.
    """

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        self.dimensions = int(architecture["dimensions"])
        self.bias = bool(architecture["conv_bias"])
        self.norm = architecture["norm"]
        self.nonlinearity = architecture["nonlinearity"]
        self.dropout = float(architecture.get("dropout", 0.0))
        self.conv: Any = nn.Conv3d if self.dimensions == 3 else nn.Conv2d
        self.upsample: Any = nn.ConvTranspose3d if self.dimensions == 3 else nn.ConvTranspose2d
        self.pool: Any = nn.AvgPool3d if self.dimensions == 3 else nn.AvgPool2d

    def make_norm(self, channels: int) -> nn.Module | None:
        if self.norm is None:
            return None
        settings = {name: value for name, value in self.norm.items() if name != "kind"}
        return _NORMS[self.norm["kind"], self.dimensions](channels, **settings)

    def make_nonlinearity(self) -> nn.Module | None:
        if self.nonlinearity is None:
            return None
        settings = {name: value for name, value in self.nonlinearity.items() if name != "kind"}
        return nn.LeakyReLU(**settings) if self.nonlinearity["kind"] == "leaky_relu" else nn.ReLU(**settings)

    def make_dropout(self) -> nn.Module | None:
        if not self.dropout:
            return None
        return nn.Dropout3d(self.dropout) if self.dimensions == 3 else nn.Dropout2d(self.dropout)


class _Conv(nn.Module):
    """A convolution with dropout, norm and activation, each of which may be absent."""

    def __init__(
        self,
        parts: _Parts,
        channels: tuple[int, int],
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        active: bool = True,
        bias: bool | None = None,
    ) -> None:
        super().__init__()
        padding = [(k - 1) // 2 for k in kernel]
        wanted = parts.bias if bias is None else bias
        self.conv = parts.conv(*channels, tuple(kernel), tuple(stride), padding, bias=wanted)
        self.dropout = parts.make_dropout() if active else None
        self.norm = parts.make_norm(channels[1])
        self.nonlin = parts.make_nonlinearity() if active else None

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for layer in (self.dropout, self.norm, self.nonlin):
            if layer is not None:
                x = layer(x)
        return x


class _Convs(nn.Module):
    """Convolutions in sequence; the first has the stride."""

    def __init__(
        self, parts: _Parts, channels: tuple[int, int], count: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        once = [1] * parts.dimensions
        first = _Conv(parts, channels, kernel, stride)
        rest = [_Conv(parts, (channels[1], channels[1]), kernel, once) for _ in range(count - 1)]
        self.convs = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.convs(x)
        return made


class _ResidualBlock(nn.Module):
    """Two convolutions beside a skip, with the activation after their sum."""

    def __init__(self, parts: _Parts, channels: tuple[int, int], kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        once = [1] * parts.dimensions
        self.conv1 = _Conv(parts, channels, kernel, stride)
        self.conv2 = _Conv(parts, (channels[1], channels[1]), kernel, once, active=False)
        self.nonlin2 = parts.make_nonlinearity() or nn.Identity()
        skip: list[nn.Module] = []
        if any(step != 1 for step in stride):
            skip.append(parts.pool(tuple(stride), tuple(stride)))
        if channels[0] != channels[1]:
            skip.append(_Conv(parts, channels, once, once, active=False, bias=False))
        self.skip = nn.Sequential(*skip)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.nonlin2(self.conv2(self.conv1(x)) + self.skip(x))
        return made


class _ResidualBlocks(nn.Module):
    """Residual blocks in sequence; the first has the stride."""

    def __init__(
        self, parts: _Parts, channels: tuple[int, int], count: int, kernel: Sequence[int], stride: Sequence[int]
    ) -> None:
        super().__init__()
        once = [1] * parts.dimensions
        first = _ResidualBlock(parts, channels, kernel, stride)
        rest = [_ResidualBlock(parts, (channels[1], channels[1]), kernel, once) for _ in range(count - 1)]
        self.blocks = nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        made: Tensor = self.blocks(x)
        return made


class _Encoder(nn.Module):
    """Stages from full resolution to the bottleneck."""

    def __init__(self, parts: _Parts, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        features, kernels = architecture["features"], architecture["kernels"]
        strides, counts = architecture["strides"], architecture["encoder_counts"]
        residual = architecture["kind"] == "ResidualEncoderUNet"
        channels = int(architecture["in_channels"])
        if residual:
            self.stem = _Convs(parts, (channels, features[0]), 1, kernels[0], [1] * parts.dimensions)
            channels = features[0]
        stages: list[nn.Module] = []
        for stage, out in enumerate(features):
            about = (channels, out), counts[stage], kernels[stage], strides[stage]
            # the published plain encoder wraps each stage in a sequence of one
            stages.append(_ResidualBlocks(parts, *about) if residual else nn.Sequential(_Convs(parts, *about)))
            channels = out
        self.stages = nn.Sequential(*stages)

    def forward(self, x: Tensor) -> list[Tensor]:
        if hasattr(self, "stem"):
            x = self.stem(x)
        made = []
        for stage in self.stages:
            x = stage(x)
            made.append(x)
        return made


class _Decoder(nn.Module):
    """Stages from the bottleneck to full resolution, each with a head; the last head gives the logits."""

    def __init__(self, parts: _Parts, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        features, strides = architecture["features"], architecture["strides"]
        ups, stages, heads = [], [], []
        for below in range(len(features) - 1, 0, -1):
            skip, stride, count = features[below - 1], strides[below], architecture["decoder_counts"]
            ups.append(parts.upsample(features[below], skip, tuple(stride), tuple(stride), bias=parts.bias))
            kernel = architecture["kernels"][below - 1]
            once = [1] * parts.dimensions
            stages.append(_Convs(parts, (2 * skip, skip), count[len(features) - 1 - below], kernel, once))
            heads.append(parts.conv(skip, int(architecture["out_channels"]), 1, 1, 0, bias=True))
        self.transpconvs = nn.ModuleList(ups)
        self.stages = nn.ModuleList(stages)
        self.seg_layers = nn.ModuleList(heads)

    def forward(self, skips: list[Tensor]) -> Tensor:
        x = skips[-1]
        for number, (up, stage) in enumerate(zip(self.transpconvs, self.stages, strict=True)):
            x = stage(torch.cat((up(x), skips[-(number + 2)]), 1))
        made: Tensor = self.seg_layers[-1](x)
        return made


class NnunetNetwork(nn.Module):
    """PlainConvUNet or ResidualEncoderUNet with the published names of their tensors; returns the logits.

    The heads of lower resolution, which training uses, are there but do not run.

    Args:
        architecture: kind ("PlainConvUNet" or "ResidualEncoderUNet"), dimensions, in_channels, out_channels, features,
            kernels, strides, encoder_counts (convolutions or residual blocks of each stage), decoder_counts, conv_bias,
            norm, nonlinearity and dropout.

    Examples:
        >>> import torch
        >>> from medvit.interop.nnunet import NnunetNetwork
        >>> network = NnunetNetwork(
        ...     {
        ...         "kind": "PlainConvUNet", "dimensions": 2, "in_channels": 1, "out_channels": 3, "features": [4, 8],
        ...         "kernels": [[3, 3], [3, 3]], "strides": [[1, 1], [2, 2]], "encoder_counts": [1, 1],
        ...         "decoder_counts": [1], "conv_bias": True, "norm": {"kind": "instance", "eps": 1e-5, "affine": True},
        ...         "nonlinearity": {"kind": "leaky_relu", "negative_slope": 0.01},
        ...     }
        ... )  # fmt: skip
        >>> network(torch.zeros(1, 1, 8, 8)).shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(self, architecture: Mapping[str, Any]) -> None:
        super().__init__()
        parts = _Parts(architecture)
        self.encoder = _Encoder(parts, architecture)
        self.decoder = _Decoder(parts, architecture)

    def forward(self, windows: Tensor) -> Tensor:
        """Return the logits (window, class, *roi) of windows (window, channel, *roi)."""
        made: Tensor = self.decoder(self.encoder(windows))
        return made


class FoldEnsemble(nn.Module):
    """The mean of the logits of networks that were trained on different folds of the data.

    Args:
        architecture: architecture of every fold, see ``NnunetNetwork``.
        folds: number of folds.
        used: number of folds that run; None for all of them.

    Raises:
        ShapeError: fewer than one fold, or more folds to run than there are.

    Examples:
        >>> from medvit.interop.nnunet import FoldEnsemble
        >>> FoldEnsemble({}, folds=0)
        Traceback (most recent call last):
            ...
        medvit.errors.ShapeError: Found 0 folds of which None are used; ...
    """

    def __init__(self, architecture: Mapping[str, Any], folds: int, used: int | None = None) -> None:
        super().__init__()
        if folds < 1 or (used is not None and not 1 <= used <= folds):
            raise ShapeError(
                f"{folds} folds of which {used} are used",
                "at least one fold must run, and no more than there are",
                "Correct 'folds' and 'used' of the network.",
            )
        self.dimensions = int(architecture["dimensions"])
        self.used = folds if used is None else used
        self.folds = nn.ModuleList(NnunetNetwork(architecture) for _ in range(folds))

    def forward(self, windows: Tensor) -> Tensor:
        """Return the mean logits of windows; a network of two dimensions takes windows of one plane, (window, channel,
        1, height, width)."""
        planes = self.dimensions == 2 and windows.ndim == 5
        x = windows.squeeze(2) if planes else windows
        total: Tensor = self.folds[0](x)
        for network in list(self.folds)[1 : self.used]:
            total = total + network(x)
        mean = total / self.used if self.used > 1 else total
        return mean.unsqueeze(2) if planes else mean

    def members(self) -> list[_Member]:
        """Return the networks of the folds that run, each with the input and output of the ensemble."""
        return [_Member(network, self.dimensions) for network in list(self.folds)[: self.used]]


class _Member(nn.Module):
    """The network of one fold, with the input and output of the ensemble."""

    def __init__(self, network: nn.Module, dimensions: int) -> None:
        super().__init__()
        self.network = network
        self.dimensions = dimensions
        self.eval()

    def forward(self, windows: Tensor) -> Tensor:
        if self.dimensions == 2 and windows.ndim == 5:
            flat: Tensor = self.network(windows.squeeze(2))
            return flat.unsqueeze(2)
        made: Tensor = self.network(windows)
        return made
