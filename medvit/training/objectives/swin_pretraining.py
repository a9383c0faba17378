"""Self-supervised pretraining on volumes: the three tasks of Swin UNETR's pretraining as one objective.

The trained encoder is part of ``objective.network``, the whole segmentation network, so its checkpoint can start a
training with labels; the decoder has no gradient and is unchanged. Random numbers come from torch's global generator,
which the loop seeds for every step.
"""

from __future__ import annotations

from typing import Annotated, NamedTuple

import torch
from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor, nn
from torch.nn import functional as F

from medvit.errors import ImageError, ShapeError
from medvit.segmentation.networks import SwinUNETR, check_input
from medvit.training.checked_settings import Count, NotNegative, Positive, checked_settings
from medvit.training.objectives.base import Objective

__all__ = [
    "AugmentedViews",
    "SwinPretraining",
    "SwinTasks",
    "TaskLosses",
    "check_unit",
    "cut_out",
    "nt_xent",
    "quarter_turned",
]

_STRIDE = 32
"""Voxels of a side per feature: patch embedding and four mergings halve each side five times."""

_THINNEST = 0.05
"""Shortest side of a cut-out as a share of the volume's."""


def check_unit(images: Tensor) -> None:
    """Refuse images outside 0..1.

    Raises:
        ImageError: values are below 0 or above 1.
    """
    low, high = float(images.min()), float(images.max())
    if low < 0 or high > 1:
        raise ImageError(
            f"images from {low:g} to {high:g}",
            "0 to 1 is needed",
            "Scale and clip them as the bundle's preprocessing does.",
        )


@checked_settings
class SwinTasks:
    """Settings and weights of the three tasks; defaults as published where the paper states them.

    Attributes:
        cut_share: share of a volume's voxels that are cut out of a view.
        cut_side: longest side of one cut-out, as a share of the volume's.
        features: length of the vectors of the contrastive loss.
        temperature: temperature of the contrastive loss.
        inpainting: weight of the L1 loss between the restored and the whole view.
        rotation: weight of the cross-entropy of the rotation.
        contrast: weight of the contrastive loss.
    """

    cut_share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    cut_side: Annotated[float, Field(ge=_THINNEST, le=1)] = 0.25
    features: Count = 512
    temperature: Positive = 0.5
    inpainting: NotNegative = 1.0
    rotation: NotNegative = 1.0
    contrast: NotNegative = 1.0

    @model_validator(mode="after")
    def _one_weight(self) -> SwinTasks:
        if not max(self.inpainting, self.rotation, self.contrast) > 0:
            raise PydanticCustomError("weights", "one of inpainting, rotation and contrast must be above 0")
        return self


class TaskLosses(NamedTuple):
    """Losses of one batch, each a scalar, without weights."""

    inpainting: Tensor
    rotation: Tensor
    contrast: Tensor


class AugmentedViews(NamedTuple):
    """Two views of every volume of a batch: the first views of all volumes, then the second views.

    Attributes:
        seen: input of the encoder, (2 x batch, channel, i, j, k).
        whole: the same without cut-outs.
        turns: quarter turns, (2 x batch,), int64, 0 to 3.
    """

    seen: Tensor
    whole: Tensor
    turns: Tensor


def quarter_turned(volumes: Tensor, turns: Tensor) -> Tensor:
    """Rotate each volume about its third axis by a number of quarter turns, from the first axis towards the second.

    Args:
        volumes: (batch, channel, i, j, k) with i = j; in RAS order k is the axial axis.
        turns: (batch,), int64, 0 to 3.
    """
    pairs = zip(volumes, turns.tolist(), strict=True)
    return torch.stack([torch.rot90(volume, turn, dims=(1, 2)) for volume, turn in pairs])


def cut_out(volumes: Tensor, share: float, longest: float) -> Tensor:
    """Replace random boxes of each volume by noise in 0..1 until they cover a share of it.

    Noise is used rather than zero, which is air in a scaled CT, so that a cut-out differs from the patient.

    Args:
        volumes: (batch, channel, i, j, k) in 0..1.
        share: share of the voxels.
        longest: longest side of a box as a share of the volume's.
    """
    boxes = torch.stack([_boxes(volumes.shape[2:], share, longest) for _ in volumes])
    return torch.where(boxes[:, None].to(volumes.device), torch.rand_like(volumes), volumes)


def _boxes(size: torch.Size, share: float, longest: float) -> Tensor:
    """Draw a mask (i, j, k) of boxes, on the CPU so that every device has the same cut-outs."""
    sides = torch.tensor(size)
    mask = torch.zeros(size, dtype=torch.bool)
    while mask.sum() < share * mask.numel():
        extent = (sides * (_THINNEST + (longest - _THINNEST) * torch.rand(3))).ceil().long()
        first = (torch.rand(3) * (sides - extent + 1)).long()
        i, j, k = (slice(a, a + n) for a, n in zip(first.tolist(), extent.tolist(), strict=True))
        mask[i, j, k] = True
    return mask


def nt_xent(z_a: Tensor, z_b: Tensor, temperature: float = 0.5) -> Tensor:
    """Compute the normalised temperature-scaled cross-entropy over a batch (SimCLR, arXiv 2002.05709, eq. 1).

    For each of the 2N vectors, the other view of its volume is to be identified among the 2N - 1 others, by cosine
    similarity.

    Args:
        z_a, z_b: (batch, feature), float, vectors of the two views; a batch of at least two. Half precision is widened.
        temperature: divisor of the cosines.

    Raises:
        ShapeError: the batch has one sample, or the views have different shapes.
    """
    if z_a.shape != z_b.shape or z_a.ndim != 2 or len(z_a) < 2:
        raise ShapeError(
            f"vectors of {tuple(z_a.shape)} and {tuple(z_b.shape)}",
            (
                "both must be (batch, feature) with a batch of at least 2, since a volume is told from the others of "
                "its batch"
            ),
            "Give larger batches.",
        )
    both = torch.cat([z_a, z_b])
    wide = F.normalize(both.to(torch.promote_types(both.dtype, torch.float32)), dim=1)
    # without autocast, which would round the cosines before the division by the temperature
    with torch.autocast(both.device.type, enabled=False):
        cosines = wide @ wide.T / temperature
    itself = torch.eye(len(both), dtype=torch.bool, device=both.device)
    partner = torch.arange(len(both), device=both.device).roll(len(z_a))
    return F.cross_entropy(cosines.masked_fill(itself, -torch.inf), partner)


class SwinPretraining(Objective):
    """Self-supervised pretraining of Swin UNETR's encoder (Tang et al., arXiv 2111.14791).

    Two views of each volume, each rotated by a random quarter turn and with boxes cut out, go through the encoder.
    Three heads on its deepest features predict the view without cut-outs (L1), the rotation (cross-entropy of four),
    and a vector close to that of the other view and far from those of other volumes (NT-Xent).

    The published code uses the first two tokens, the volume's corner, for rotation and contrast; this class uses the
    mean token.

    Args:
        network: a three-dimensional ``SwinUNETR``, whose encoder is trained in place.
        tasks: settings and weights of the tasks.

    Raises:
        ShapeError: the network is for pictures.
    """

    network: SwinUNETR

    def __init__(self, network: SwinUNETR, tasks: SwinTasks | None = None) -> None:
        super().__init__(network)
        if len(network.swinViT.window_size) != 3:
            raise ShapeError(
                "a SwinUNETR for pictures",
                "rotations and cut-outs are made for volumes",
                "Give one with spatial_dims=3, or use masked modelling, which takes both.",
            )
        self.tasks = tasks or SwinTasks()
        self.channels = network.swinViT.patch_embed.proj.in_channels
        width = 16 * network.swinViT.embed_dim
        self.rotation = nn.Linear(width, 4)
        self.contrast = nn.Linear(width, self.tasks.features)
        self.inpainting = _rebuilding(width, self.channels)

    def forward(self, *batch: Tensor) -> Tensor:
        """Compute the weighted sum of the three losses of volumes, (batch, channel, i, j, k) float in 0..1; a scalar.

        Raises:
            ShapeError: the batch has one volume, sides are not multiples of 32, or i differs from j.
            ImageError: NaN, or values outside 0..1.
        """
        (volumes,) = batch
        losses, tasks = self.losses(volumes), self.tasks
        weighted = tasks.inpainting * losses.inpainting + tasks.rotation * losses.rotation
        return weighted + tasks.contrast * losses.contrast

    def losses(self, volumes: Tensor) -> TaskLosses:
        """Compute the three losses separately; arguments and errors as for ``forward``."""
        views = self.views(volumes)
        deep = self.deepest(views.seen)
        mean = deep.mean((2, 3, 4))
        first, second = self.contrast(mean).chunk(2)
        return TaskLosses(
            F.l1_loss(self.inpainting(deep).float(), views.whole.float()),
            F.cross_entropy(self.rotation(mean).float(), views.turns),
            nt_xent(first, second, self.tasks.temperature),
        )

    def views(self, volumes: Tensor) -> AugmentedViews:
        """Draw two independent views of each volume; arguments and errors as for ``forward``."""
        self._check(volumes)
        turns = torch.randint(4, (2 * len(volumes),))
        whole = quarter_turned(torch.cat([volumes, volumes]), turns)
        seen = cut_out(whole, self.tasks.cut_share, self.tasks.cut_side)
        return AugmentedViews(seen, whole, turns.to(volumes.device))

    def deepest(self, volumes: Tensor) -> Tensor:
        """Compute the encoder's last feature map, (batch, 16 x feature size, i/32, j/32, k/32)."""
        maps: list[Tensor] = self.network.swinViT(volumes, self.network.normalize)
        return maps[-1]

    def _check(self, volumes: Tensor) -> None:
        check_input(volumes, 5, self.channels, next(self.network.parameters()))
        check_unit(volumes)
        size = tuple(volumes.shape[2:])
        if len(volumes) < 2:
            raise ShapeError(
                "a batch of one volume",
                "at least 2 are needed, since a volume is contrasted with the others of its batch",
                "Raise batch_size.",
            )
        if size[0] != size[1]:
            raise ShapeError(
                f"volumes of {size} voxels",
                "the first two sides must be equal, since volumes are turned about the third",
                "Set such a roi_size.",
            )
        if any(side % _STRIDE for side in size):
            raise ShapeError(
                f"volumes of {size} voxels",
                f"sides must be multiples of {_STRIDE}, the voxels one feature stands for",
                "Set such a roi_size.",
            )


def _rebuilding(width: int, channels: int) -> nn.Sequential:
    """Make the decoder from the deepest map to voxels: five transposed convolutions, each to twice the sides and half
    the channels."""
    layers: list[nn.Module] = []
    for _ in range(5):
        # normalised over all channels together, since normalising each would remove the brightness to be predicted
        layers += [nn.ConvTranspose3d(width, width // 2, 2, stride=2), nn.GroupNorm(1, width // 2), nn.GELU()]
        width //= 2
    return nn.Sequential(*layers, nn.Conv3d(width, channels, 3, padding=1))
