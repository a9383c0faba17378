"""Random crops of pictures with their masks: turns, zoom and brightness in one interpolation."""

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
from medvit.training.data.data_list import DataList, ImageLabelPair, load_labels, read_list, validate_label_ids
from medvit.transforms import scale_to_unit_rgb

__all__ = ["Picture", "PictureSampler", "PictureSettings", "load_picture"]


@dataclass(frozen=True, kw_only=True)
class PictureSettings:
    """How crops are drawn.

    Attributes:
        roi_size: rows and columns of a crop.
        rotation_deg: largest rotation either way, beyond quarter turns and flips, in degrees.
        scale: smallest and largest zoom factor.
        gamma: smallest and largest exponent of brightness.
        inverted: share of crops with dark and bright exchanged, so that bright nuclei on black and dark ones on white
            are learnt from the same pictures.
        noise: largest standard deviation of added noise, brightness being 0..1.
    """

    roi_size: tuple[int, int]
    rotation_deg: float = 15.0
    scale: tuple[float, float] = (0.7, 1.5)
    gamma: tuple[float, float] = (0.7, 1.4)
    inverted: float = 0.2
    noise: float = 0.05

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> PictureSampler:
        """Read the pictures of a list and draw crops from them."""
        pairs = read_list(bundle, data.data, data.root, data.split)
        classes = len(bundle.facts.labels) + 1
        return PictureSampler([load_picture(pair, classes) for pair in pairs], self, seed)


@dataclass(frozen=True)
class Picture:
    """One picture in memory.

    Attributes:
        name: its name in the data list.
        image: (3, row, column) float32 in 0..1.
        mask: (1, row, column) float32, class ids; 0 or 1 where there is one class.
    """

    name: str
    image: Tensor
    mask: Tensor


def load_picture(pair: ImageLabelPair, classes: int = 2) -> Picture:
    """A pair in memory, its brightness stretched as in use.

    Args:
        pair: the files.
        classes: background and labels; with one label everything above 0 is it.

    Raises:
        SourceError: picture and labels of different sizes, or an id beyond the classes.
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
    """Draws augmented (image, mask) crops, every picture as often as any other.

    Raises:
        SourceError: background alone in all of them.
    """

    def __init__(self, pictures: Sequence[Picture], settings: PictureSettings, seed: int) -> None:
        self.pictures = list(pictures)
        if not any(bool(picture.mask.any()) for picture in self.pictures):
            raise SourceError(
                f"background alone in the labels of all {len(self.pictures)} pictures",
                "at least one with something to learn is needed",
                "Check that the list's labels are those of its images.",
            )
        self.settings = settings
        self.rng = np.random.default_rng(seed)

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new stream of crops."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """One crop: image (3, row, column) float32 in 0..1 and mask (1, row, column) float32 ids."""
        picture = self.pictures[int(self.rng.integers(len(self.pictures)))]
        grid = self._grid(picture.image.shape[1], picture.image.shape[2])
        options: dict[str, Any] = {"padding_mode": "reflection", "align_corners": False}
        image = F.grid_sample(picture.image[None], grid, mode="bilinear", **options)[0]
        mask = F.grid_sample(picture.mask[None], grid, mode="nearest", **options)[0]
        return self._brightness(image), mask

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """A batch of crops: (batch, channel, row, column) images and masks."""
        pairs = [self.draw() for _ in range(size)]
        return torch.stack([p[0] for p in pairs]), torch.stack([p[1] for p in pairs])

    def _grid(self, height: int, width: int) -> Tensor:
        """Sampling positions (1, row, column, 2) of a crop, in -1..1 of the picture's sides."""
        rng, s = self.rng, self.settings
        angle = math.radians(rng.uniform(-s.rotation_deg, s.rotation_deg) + 90 * int(rng.integers(4)))
        zoom = math.exp(rng.uniform(*np.log(s.scale)))
        mirror = 1 if rng.random() < 0.5 else -1
        y, x = (np.arange(n) - (n - 1) / 2 for n in s.roi_size)
        across, down = mirror * x[None, :] / zoom, y[:, None] / zoom
        moved_x = math.cos(angle) * across - math.sin(angle) * down
        moved_y = math.sin(angle) * across + math.cos(angle) * down
        # the crop's centre lies where the crop stays within the picture, or in its middle where it is larger
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
