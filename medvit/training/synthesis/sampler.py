"""Sampler of synthetic images for a recipe, from label maps only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
import torch
from torch import Tensor

from medvit.bundles import Bundle
from medvit.errors import ShapeError
from medvit.io import spacing_mm
from medvit.training.data import DataList, VolumeReading, case_name, read_entries, validate_label_ids
from medvit.training.synthesis.generator import Synthesis
from medvit.transforms import coordinate_channels

__all__ = ["SyntheticSampler", "SyntheticSettings", "read_map"]

_HIGHEST = 1 << 15
"""Limit of source ids; larger numbers are not ids of anatomy."""


@dataclass(frozen=True)
class LabelMap:
    """A label map on RAS axes.

    Attributes:
        name: name of the case.
        ids: (i, j, k) int16.
        spacing_mm: voxel sides.
    """

    name: str
    ids: Tensor
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class SyntheticSettings:
    """Settings for samples from label maps; the ``image`` of a list's entry is such a map.

    Attributes:
        synthesis: generator of images.
        targets: (source id, class id) pairs of the structures to segment. Other source ids get a brightness like any
            other and are background to the network.
        place: add three coordinate channels to the image (``medvit.transforms.coordinates``).
    """

    synthesis: Synthesis
    targets: tuple[tuple[int, int], ...]
    place: bool = False

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> SyntheticSampler:
        """Read the label maps of a list and make a sampler of them.

        Raises:
            SourceError: as for ``read_entries``; also for a map with fractions or negative ids.
            ShapeError: the targets are not the bundle's classes.
        """
        classes = {0, *(label.id for label in bundle.facts.labels)}
        unknown = sorted({c for _, c in self.targets} - classes)
        if unknown or not self.targets:
            raise ShapeError(
                f"targets of class {unknown or 'none'}",
                f"{bundle.name} has labels 0..{max(classes)}",
                "Correct targets in train.json.",
            )
        entries = read_entries(bundle, DataList(data.data, data.root, data.split, data.reading), ("image",))
        return SyntheticSampler([read_map(entry["image"], data.reading) for entry in entries], self, seed)


def read_map(path: Path, reading: VolumeReading | None = None) -> LabelMap:
    """Read a label map on the closest RAS axes.

    Raises:
        SourceError: fractions, NaN, or ids below 0 or beyond 32,767.
    """
    reading = reading or VolumeReading()
    stored = nib.as_closest_canonical(reading.label_map(path))
    ids = validate_label_ids(np.asarray(stored.dataobj), case_name(path), _HIGHEST, "a label map")
    whole = torch.from_numpy(np.ascontiguousarray(ids, dtype=np.int16))
    return LabelMap(case_name(path), whole, spacing_mm(stored.affine))


class SyntheticSampler:
    """Sampler of (image, classes), with every map equally often."""

    def __init__(self, maps: Sequence[LabelMap], settings: SyntheticSettings, seed: int) -> None:
        self.maps = list(maps)
        self.settings = settings
        table = np.zeros(_HIGHEST, dtype=np.int64)
        for source, target in settings.targets:
            table[source] = target
        self._table = torch.from_numpy(table)
        self.reseed(seed)

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw a sample: image (1, i, j, k) float32 in 0..1, or (4, i, j, k) with coordinates, and classes (1, i, j, k)
        int64."""
        return self.draw_from(self.maps[int(self.rng.integers(len(self.maps)))])

    def draw_from(self, chosen: LabelMap) -> tuple[Tensor, Tensor]:
        """Draw a sample from a given map; result as for ``draw``."""
        synthesis = self.settings.synthesis
        image, ids = synthesis(chosen.ids, chosen.spacing_mm, self.rng)
        return coordinate_channels(image, synthesis.spacing_mm) if self.settings.place else image, self._table[ids]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Draw a batch: (batch, 1, i, j, k) images and classes."""
        images, classes = zip(*(self.draw() for _ in range(size)), strict=True)
        return torch.stack(images), torch.stack(classes)
