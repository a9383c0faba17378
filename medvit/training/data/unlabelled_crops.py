"""Random crops of images without labels, for self-supervised objectives."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.bundles import Bundle
from medvit.errors import ImageError, SourceError
from medvit.io import read_image, spacing_mm
from medvit.training.data.data_list import DataList, read_entries
from medvit.training.data.volume_reading import VolumeReading
from medvit.transforms import scale_to_unit_rgb

__all__ = ["CropSampler", "PictureCrops", "Unlabelled", "VolumeCrops"]


@dataclass(frozen=True)
class Unlabelled:
    """One image in memory.

    Attributes:
        name: file name.
        image: (channel, *spatial), float32.
        spacing: voxel side along each axis in mm, or pixel side in pixels.
        centres: indices around which crops are cut, (n, axes); None for anywhere.
    """

    name: str
    image: Tensor
    spacing: tuple[float, ...]
    centres: np.ndarray | None = None


@dataclass(frozen=True)
class VolumeCrops:
    """Settings for crops of volumes, around a voxel of the body and, if possible, inside the volume.

    Attributes:
        roi_size: sides of a crop in voxels, (i, j, k) in RAS order.
        spacing_mm: voxel size of a crop before zooming.
        intensity_range: intensities mapped to 0..1 and clipped, in the image's unit; the default is the paper's for CT.
        scale: smallest and largest zoom factor.
    """

    roi_size: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    intensity_range: tuple[float, float] = (-1000.0, 1000.0)
    scale: tuple[float, float] = (0.85, 1.2)

    mirrored = (0,)
    """Axes along which half of the crops are flipped: left and right."""

    padding = "border"
    """Padding beyond the image, a mode of ``grid_sample``."""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Voxel size along each axis."""
        return tuple(self.spacing_mm)

    def finished(self, crop: Tensor) -> Tensor:
        """Map intensities to 0..1."""
        low, high = self.intensity_range
        return ((crop - low) / (high - low)).clamp(0, 1)

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> CropSampler:
        """Read the volumes of a list and make a sampler of crops.

        Raises:
            SourceError: the list is wrong or a file is missing.
            ImageError: a file is not a volume.
        """
        return CropSampler(
            [_volume(entry["image"], data.reading) for entry in read_entries(bundle, data, ("image",))], self, seed
        )


@dataclass(frozen=True)
class PictureCrops:
    """Settings for crops of pictures, inside the picture; small pictures are mirrored at their edge.

    Attributes:
        roi_size: rows and columns of a crop.
        scale: smallest and largest zoom factor.
    """

    roi_size: tuple[int, int]
    scale: tuple[float, float] = (0.7, 1.5)

    mirrored = (0, 1)
    """Axes along which half of the crops are flipped."""

    padding = "reflection"
    """Padding beyond the image, a mode of ``grid_sample``."""

    @property
    def spacing(self) -> tuple[float, ...]:
        """Pixel size of a crop before zooming, in pixels of the picture."""
        return (1.0, 1.0)

    def finished(self, crop: Tensor) -> Tensor:
        """Clip to 0..1, the range of the picture, which interpolation may leave."""
        return crop.clamp(0, 1)

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> CropSampler:
        """Read the pictures of a list, with brightness stretched as in inference, and make a sampler of crops.

        Raises:
            SourceError: the list is wrong, or a file is missing or unreadable.
            ImageError: all values of a picture are equal.
        """
        return CropSampler([_picture(entry["image"]) for entry in read_entries(bundle, data, ("image",))], self, seed)


def _volume(path: Path, reading: VolumeReading) -> Unlabelled:
    try:
        stored = nib.as_closest_canonical(reading.load(path))
        values = stored.get_fdata(dtype=np.float32)
    except (OSError, EOFError) as error:
        raise SourceError(f"{path.name}, which cannot be read ({error})", "NIfTI is needed", "Convert it.") from error
    if values.ndim != 3 or not np.isfinite(values).all():
        raise ImageError(
            f"{path.name} with axes {values.shape} or values that are not finite",
            "one finite volume (i, j, k) is needed",
            "Take one volume of it, or replace NaN.",
        )
    low, high = np.percentile(values, (1, 99))
    body = np.argwhere(values > (low + high) / 2)[::7]
    if not len(body):
        raise ImageError(
            f"{path.name} with no voxel above the middle of its intensities",
            "a body is needed to cut crops from",
            "Remove it from the list.",
        )
    sides = spacing_mm(stored.affine)
    return Unlabelled(path.name, torch.from_numpy(np.ascontiguousarray(values))[None], sides, body)


def _picture(path: Path) -> Unlabelled:
    return Unlabelled(path.name, torch.from_numpy(scale_to_unit_rgb(read_image(path).check().array)), (1.0, 1.0))


class CropSampler:
    """Sampler of crops, with every image equally often; position, zoom and flips are one interpolation."""

    def __init__(self, images: Sequence[Unlabelled], settings: VolumeCrops | PictureCrops, seed: int) -> None:
        low, high = settings.scale
        if not 0 < low <= high or min(settings.roi_size) < 1 or not images:
            raise SourceError(
                f"{len(images)} images, a roi_size of {tuple(settings.roi_size)} and zooms {low:g} to {high:g}",
                "an image, a crop of at least a voxel and positive zooms in order are needed",
                "Correct the recipe or the data list.",
            )
        self.images = list(images)
        self.settings = settings
        self.rng = np.random.default_rng(seed)

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream; the same seed gives the same crops."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> Tensor:
        """Draw a crop: (channel, *roi_size) float32 in 0..1."""
        settings = self.settings
        image = self.images[int(self.rng.integers(len(self.images)))]
        grid = self._grid(image)
        padding = settings.padding
        crop = F.grid_sample(image.image[None], grid, mode="bilinear", padding_mode=padding, align_corners=True)
        return settings.finished(crop[0])

    def batch(self, size: int) -> tuple[Tensor]:
        """Draw a batch of crops: (batch, channel, *roi_size)."""
        return (torch.stack([self.draw() for _ in range(size)]),)

    def _grid(self, image: Unlabelled) -> Tensor:
        """Compute sampling positions (1, *roi_size, axes) in -1..1 of the image's sides, last axis first."""
        rng, s = self.rng, self.settings
        zoom = math.exp(rng.uniform(*np.log(s.scale)))
        steps = np.array(s.spacing) / zoom / np.array(image.spacing)
        last = np.array(image.image.shape[1:]) - 1.0
        reach = (np.array(s.roi_size) - 1) / 2 * steps
        # centre the crop so that it stays inside, or in the image's middle along a side that the crop exceeds
        low, high = np.minimum(reach, last / 2), np.maximum(last - reach, last / 2)
        if image.centres is None:
            centre = rng.uniform(low, high)
        else:
            centre = np.clip(image.centres[int(rng.integers(len(image.centres)))], low, high)
        axes = []
        for axis, side in enumerate(s.roi_size):
            sign = -1 if axis in s.mirrored and rng.random() < 0.5 else 1
            at = centre[axis] + sign * steps[axis] * (np.arange(side) - (side - 1) / 2)
            axes.append(at / max(last[axis], 1.0) * 2 - 1)
        positions = np.stack(np.meshgrid(*axes, indexing="ij")[::-1], -1)
        return torch.from_numpy(positions.astype(np.float32))[None]
