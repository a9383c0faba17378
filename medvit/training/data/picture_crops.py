"""Random crops of pictures with their masks; rotation, zoom and flips are one interpolation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.bundles import Bundle
from medvit.errors import SourceError
from medvit.io import read_image
from medvit.training.checked_settings import Count, NotNegative, PositiveRange, Share, checked_settings
from medvit.training.data.data_list import DataList, ImageLabelPair, load_labels, read_list, validate_label_ids
from medvit.transforms import scale_to_unit_rgb

__all__ = ["Picture", "PictureSampler", "PictureSettings", "load_picture"]


@checked_settings
class PictureSettings:
    """Settings for crops of pictures.

    Attributes:
        roi_size: rows and columns of a crop.
        rotation_deg: largest rotation in either direction, in addition to quarter turns and flips, in degrees.
        scale: smallest and largest zoom factor.
        gamma: smallest and largest exponent of brightness.
        inverted: share of crops with inverted brightness, so that bright nuclei on black and dark nuclei on white are
            learnt from the same pictures.
        noise: largest standard deviation of added noise, for brightness in 0..1.
    """

    roi_size: tuple[Count, Count]
    rotation_deg: float = 15.0
    scale: PositiveRange = (0.7, 1.5)
    gamma: PositiveRange = (0.7, 1.4)
    inverted: Share = 0.2
    noise: NotNegative = 0.05

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> PictureSampler:
        """Read the pictures of a list and make a sampler of crops."""
        pairs = read_list(bundle, data.data, data.root, data.split)
        classes = len(bundle.facts.labels) + 1
        return PictureSampler([load_picture(pair, classes) for pair in pairs], self, seed)


@dataclass(frozen=True)
class Picture:
    """One picture in memory.

    Attributes:
        name: name of the picture in the data list.
        image: (3, row, column) float32 in 0..1.
        mask: (1, row, column) float32, class ids; 0 or 1 for a single class.
    """

    name: str
    image: Tensor
    mask: Tensor


def load_picture(pair: ImageLabelPair, classes: int = 2) -> Picture:
    """Load a pair, with its brightness stretched as in inference.

    Args:
        pair: the files.
        classes: number of classes, background included; with 2, all ids above 0 become 1.

    Raises:
        SourceError: picture and labels have different sizes, or an id is beyond the classes.
    """
    image = scale_to_unit_rgb(read_image(pair.image).check().array)
    mask = load_labels(pair)
    if classes == 2:
        mask = mask > 0
    mask = validate_label_ids(mask, pair.name, classes)
    if mask.shape != image.shape[1:]:
        raise SourceError(
            f"{pair.name} with a picture of {image.shape[1:]} and labels of {mask.shape} (rows, columns)",
            "both must be equal",
            "Export the labels again.",
        )
    return Picture(pair.name, torch.from_numpy(image), torch.from_numpy(mask[None].astype(np.float32)))


class PictureSampler:
    """Sampler of augmented (image, mask) crops, with every picture equally often.

    Raises:
        SourceError: all masks are empty.
    """

    def __init__(self, pictures: Sequence[Picture], settings: PictureSettings, seed: int) -> None:
        self.pictures = list(pictures)
        if not any(bool(picture.mask.any()) for picture in self.pictures):
            raise SourceError(
                f"background alone in the labels of all {len(self.pictures)} pictures",
                "at least one labelled picture is needed",
                "Check that the list's labels are those of its images.",
            )
        self.settings = settings
        self.rng = np.random.default_rng(seed)

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw a crop: image (3, row, column) float32 in 0..1 and mask (1, row, column) float32 ids."""
        picture = self.pictures[int(self.rng.integers(len(self.pictures)))]
        grid = self._grid(picture.image.shape[1], picture.image.shape[2])
        options: dict[str, Any] = {"padding_mode": "reflection", "align_corners": False}
        image = F.grid_sample(picture.image[None], grid, mode="bilinear", **options)[0]
        mask = F.grid_sample(picture.mask[None], grid, mode="nearest", **options)[0]
        return self._brightness(image), mask

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Draw a batch of crops: (batch, channel, row, column) images and masks."""
        pairs = [self.draw() for _ in range(size)]
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def _grid(self, height: int, width: int) -> Tensor:
        """Compute sampling positions (1, row, column, 2) of a crop, in -1..1 of the picture's sides."""
        rng, s = self.rng, self.settings
        angle = math.radians(rng.uniform(-s.rotation_deg, s.rotation_deg) + 90 * int(rng.integers(4)))
        zoom = math.exp(rng.uniform(*np.log(s.scale)))
        mirror = 1 if rng.random() < 0.5 else -1
        y, x = (np.arange(n) - (n - 1) / 2 for n in s.roi_size)
        across, down = mirror * x[None, :] / zoom, y[:, None] / zoom
        moved_x = math.cos(angle) * across - math.sin(angle) * down
        moved_y = math.sin(angle) * across + math.cos(angle) * down
        # centre the crop so that it stays within the picture, or in the picture's middle if the crop is larger
        centre = [
            rng.uniform(-1, 1) * max(0.0, (side - roi / zoom) / 2)
            for side, roi in zip((height, width), s.roi_size, strict=True)
        ]
        grid = np.stack([(moved_x + centre[1]) * 2 / width, (moved_y + centre[0]) * 2 / height], -1)
        return torch.from_numpy(grid.astype(np.float32))[None]

    def _brightness(self, image: Tensor) -> Tensor:
        rng, s = self.rng, self.settings
        image = image.clamp(0, 1) ** float(rng.uniform(*s.gamma))
        if rng.random() < s.inverted:
            image = 1 - image
        image = image * float(rng.uniform(0.8, 1.2)) + float(rng.uniform(-0.1, 0.1))
        noise = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        return (image + float(rng.uniform(0, s.noise)) * noise).clamp(0, 1)
