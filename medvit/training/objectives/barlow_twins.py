"""Barlow Twins objective: pretraining of Barlow-Swin's encoder on pictures without labels."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import ImageError, ShapeError
from medvit.segmentation.networks import BarlowSwin
from medvit.training.objectives.base import Objective

__all__ = [
    "BarlowTwins",
    "TwinsObjective",
    "ViewSettings",
    "barlow_twins_loss",
    "split_by_picture",
    "to_unit",
    "two_views",
]


class TwinsObjective(Objective):
    """Barlow Twins objective for a ``BarlowSwin``'s encoder (arXiv 2103.03230, 2509.06885), with two random views of
    every picture.

    Args:
        network: the network whose encoder is trained in place.
        hidden: width of the projector.
        off_diagonal: λ of the loss.
        weight_penalty: factor of the squared weights of the projector's hidden layers, added to the loss.
        views: settings of the views.
    """

    def __init__(
        self,
        network: BarlowSwin,
        hidden: int = 256,
        off_diagonal: float = 5e-3,
        weight_penalty: float = 5e-4,
        views: ViewSettings | None = None,
    ) -> None:
        super().__init__(network)
        self.views = views
        self.twins = BarlowTwins(network, hidden, off_diagonal, weight_penalty)

    def trained(self) -> dict[str, Tensor]:
        """Return the encoder's tensors only; a random decoder would overwrite the initialisation of the next run's."""
        return {k: v for k, v in self.network.state_dict().items() if k.startswith("encoder.")}

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the loss of pictures, (batch, channel, row, column), float in 0..1 or uint8; a scalar.

        Raises:
            ShapeError: the batch has one picture.
            ImageError: the pictures have another range.
        """
        (pictures,) = batch
        first, second = (self.twins.project(view).float() for view in two_views(pictures, self.views))
        # correlations need full precision: half precision would round away the differences in the loss
        with torch.autocast(pictures.device.type, enabled=False):
            return barlow_twins_loss(first, second, self.twins.off_diagonal) + self.twins.penalty()


def split_by_picture(
    names: Iterable[str], held_out: float = 0.15, picture: Callable[[str], str] = str
) -> tuple[list[str], list[str]]:
    """Split names into training and held-out ones, with all copies of a picture on the same side.

    The side depends only on the picture's name, so it does not change when pictures are added or reordered.

    Args:
        names: names of pictures or of copies made from them.
        held_out: share of pictures held out, in 0..1.
        picture: function from a name to the name of its original picture; by default each name is an original.
    """
    training: list[str] = []
    held: list[str] = []
    for name in names:
        number = int.from_bytes(hashlib.sha256(picture(name).encode()).digest()[:8], "big") / 2**64
        (held if number < held_out else training).append(name)
    return training, held


def to_unit(images: Tensor) -> Tensor:
    """Return pictures as float32 in 0..1: uint8 is divided by 255, floats must be in 0..1 and are unchanged.

    Raises:
        ImageError: another type, or floats outside 0..1.
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ImageError(
            f"pictures of {images.dtype}",
            "uint8, or floats in 0..1, are needed",
            "Scale floats to 0..1.",
        )
    low, high = float(images.min()), float(images.max())
    if not (low >= 0 and high <= 1):
        raise ImageError(
            f"pictures with floats from {low:g} to {high:g}", "0 to 1 is needed", "Give uint8, or divide by 255 once."
        )
    return images.float()


@dataclass(frozen=True)
class ViewSettings:
    """Settings of random views.

    Attributes:
        crop: share of each side that is kept and enlarged to the whole (450 of 512 pixels as published).
        rotation_deg: largest rotation in either direction, in degrees.
        rotated: share of views that are rotated.
    """

    crop: float = 450 / 512
    rotation_deg: float = 10.0
    rotated: float = 0.5


def two_views(
    images: Tensor, settings: ViewSettings | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Draw two independent random views of each picture: left-right flip, crop and rotation in one interpolation.

    Args:
        images: (batch, channel, height, width), uint8 or float in 0..1.
        settings: settings of the views.
        generator: random generator, for repeatable views.

    Returns:
        Two tensors of the same shape, float32 in 0..1, mirrored where a view extends beyond the edge.
    """
    unit, settings = to_unit(images), settings or ViewSettings()
    return _view(unit, settings, generator), _view(unit, settings, generator)


def _view(images: Tensor, settings: ViewSettings, generator: torch.Generator | None) -> Tensor:
    batch, _, height, width = images.shape

    def draw() -> Tensor:
        return torch.rand(batch, generator=generator)

    angle = torch.deg2rad((2 * draw() - 1) * settings.rotation_deg) * (draw() < settings.rotated)
    flip = torch.where(draw() < 0.5, -1.0, 1.0)
    room = 1 - settings.crop
    cos, sin, ratio = angle.cos() * settings.crop, angle.sin() * settings.crop, height / width
    # affine maps from a view's pixel to its column (across) and row (down) in the picture, in -1..1 of its sides
    across = torch.stack([cos * flip, -sin * ratio, (2 * draw() - 1) * room], 1)
    down = torch.stack([sin * flip / ratio, cos, (2 * draw() - 1) * room], 1)
    grid = F.affine_grid(torch.stack([across, down], 1), list(images.shape), align_corners=False)
    view = F.grid_sample(images, grid.to(images), mode="bilinear", padding_mode="reflection", align_corners=False)
    return view.clamp(0, 1)


def barlow_twins_loss(z_a: Tensor, z_b: Tensor, off_diagonal: float = 5e-3) -> Tensor:
    """Compute Σ(1 - C_ii)² + λ Σ C_ij², with C the correlation of two views' features over the batch (arXiv 2103.03230,
    eq. 1).

    Args:
        z_a, z_b: (batch, feature), float, projections of the two views; a batch of at least two.
        off_diagonal: λ.

    Raises:
        ShapeError: the batch has one sample, or the views have different shapes.
    """
    if z_a.shape != z_b.shape or z_a.ndim != 2 or len(z_a) < 2:
        raise ShapeError(
            f"projections of {tuple(z_a.shape)} and {tuple(z_b.shape)}",
            "both must be (batch, feature) with a batch of at least 2, since features are compared over the batch",
            "Give larger batches.",
        )
    correlation = _standard(z_a).T @ _standard(z_b) / len(z_a)
    diagonal = torch.diagonal(correlation)
    return (diagonal - 1).square().sum() + off_diagonal * (correlation.square().sum() - diagonal.square().sum())


def _standard(z: Tensor) -> Tensor:
    # the clamp avoids a division by zero for features that are constant over the batch; their correlation is 0
    return (z - z.mean(0)) / z.std(0, unbiased=False).clamp_min(1e-12)


class BarlowTwins(nn.Module):
    """The encoder of a ``BarlowSwin`` with a projector; ``forward`` computes the loss of two views.

    Args:
        model: the network whose encoder is trained in place.
        hidden: width of the projector.
        off_diagonal: λ of the loss.
        weight_penalty: factor of the squared weights of the projector's hidden layers, added to the loss.
    """

    def __init__(
        self, model: BarlowSwin, hidden: int = 256, off_diagonal: float = 5e-3, weight_penalty: float = 5e-4
    ) -> None:
        super().__init__()
        self.encoder, self.divisor = model.encoder, model.divisor
        self.off_diagonal, self.weight_penalty = off_diagonal, weight_penalty
        width = model.encoder.width
        self.projector = nn.Sequential(
            nn.Linear(width, hidden), nn.BatchNorm1d(hidden, eps=1e-3, momentum=0.01), nn.ReLU(),
            nn.Linear(hidden, hidden), nn.BatchNorm1d(hidden, eps=1e-3, momentum=0.01), nn.ReLU(),
            nn.Linear(hidden, hidden),
        )  # fmt: skip

    def project(self, images: Tensor) -> Tensor:
        """Project (batch, channel, height, width) float in 0..1 to (batch, feature); sides are padded as in
        ``BarlowSwin``."""
        height, width = images.shape[2:]
        padded = F.pad(images, (0, -width % self.divisor, 0, -height % self.divisor))
        return self.projector(self.encoder(padded)[-1].mean((2, 3)))  # type: ignore[no-any-return]

    def forward(self, view_a: Tensor, view_b: Tensor) -> Tensor:
        """Compute the loss of two views, each (batch, channel, height, width) float in 0..1; a scalar."""
        loss = barlow_twins_loss(self.project(view_a), self.project(view_b), self.off_diagonal)
        return loss + self.penalty()

    def penalty(self) -> Tensor:
        """Compute the penalty on the weights of the projector's two hidden layers."""
        first, second = self.projector.get_parameter("0.weight"), self.projector.get_parameter("3.weight")
        return self.weight_penalty * (first.square().sum() + second.square().sum())
