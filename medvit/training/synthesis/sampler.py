"""A recipe's draws from label maps alone."""

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
"""Source ids beyond this are not ids of anatomy but of something else."""


@dataclass(frozen=True)
class LabelMap:
    """A label map on RAS axes: ids (i, j, k) int16 and voxel sides."""

    name: str
    ids: Tensor
    spacing_mm: tuple[float, float, float]


@dataclass(frozen=True)
class SyntheticSettings:
    """How samples are made from label maps; the ``image`` of a list's entry is such a map.

    Attributes:
        synthesis: makes an image from a map.
        targets: (source id, class id) pairs: what the network is to find. Source ids that are not named are painted like any
            other and are background to the network.
        place: give the network three channels of place beside the image (``medvit.transforms.coordinates``).
    """

    synthesis: Synthesis
    targets: tuple[tuple[int, int], ...]
    place: bool = False

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> SyntheticSampler:
        """Read the label maps of a list and make samples from them.

        Raises:
            SourceError: as ``read_entries``; a map of fractions or negative ids.
            ShapeError: targets that are not the bundle's classes.
        """
        classes = {0, *(label.id for label in bundle.facts.labels)}
        unknown = sorted({c for _, c in self.targets} - classes)
        if unknown or not self.targets:
            raise ShapeError(
                f"Found targets of class {unknown or 'none'}; {bundle.name} knows 0..{max(classes)}. Correct targets in train.json."
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
    """Makes (image, classes) samples, every map as often as any other."""

    def __init__(self, maps: Sequence[LabelMap], settings: SyntheticSettings, seed: int) -> None:
        self.maps = list(maps)
        self.settings = settings
        table = np.zeros(_HIGHEST, dtype=np.int64)
        for source, target in settings.targets:
            table[source] = target
        self._table = torch.from_numpy(table)
        self.reseed(seed)

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new stream of samples."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, Tensor]:
        """One sample: image (1, i, j, k) float32 in 0..1, with its place (4, i, j, k), and classes (1, i, j, k) int64."""
        return self.draw_from(self.maps[int(self.rng.integers(len(self.maps)))])

    def draw_from(self, chosen: LabelMap) -> tuple[Tensor, Tensor]:
        """One sample of a map, as ``draw`` gives it."""
        synthesis = self.settings.synthesis
        image, ids = synthesis(chosen.ids, chosen.spacing_mm, self.rng)
        return coordinate_channels(image, synthesis.spacing_mm) if self.settings.place else image, self._table[ids]

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """A batch: (batch, 1, i, j, k) images and classes."""
        images, classes = zip(*(self.draw() for _ in range(size)), strict=True)
        return torch.stack(images), torch.stack(classes)
