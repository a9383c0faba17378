"""Random training patches, sampled directly from whole volumes in memory.

One interpolation per patch: crop, rotation, scaling, flip and the change to the bundle's spacing are a
single affine map from patch voxels to volume voxels, so nothing is resampled twice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import nibabel as nib
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medvit.bundles import Bundle
from medvit.errors import SourceError
from medvit.io import spacing_mm
from medvit.training.checked_settings import Count, NotNegative, Positive, PositiveRange, Range, Share, checked_settings
from medvit.training.data.data_list import DataList, ImageLabelPair, check_annotated, read_list, validate_label_ids

__all__ = ["PatchSampler", "PatchSettings", "TrainingCase", "load_case"]


@checked_settings
class PatchSettings:
    """Settings for training patches.

    Attributes:
        roi_size: patch size in voxels, (i, j, k) in RAS order.
        spacing_mm: voxel size of a patch before random scaling, in millimetres.
        intensity_range: intensities mapped to 0..1 and clipped, in the image's units (HU for CT).
        organ_fraction: share of patches centred near a voxel of a class that is drawn uniformly from the classes
            present.
        rotation_deg: largest rotation about each axis, in degrees.
        scale: smallest and largest zoom factor.
        swap_on_flip: pairs of class ids exchanged when left and right are flipped.
        reach: largest distance between a patch's centre and its organ voxel, as a share of the patch's sides.
        percentiles: for images without a unit (MR), two percentiles of each image that are mapped to 0 and 1 first, as
            in MONAI's ScaleIntensityRangePercentiles; ``intensity_range`` and ``jitter`` then refer to the mapped
            values. None keeps the image's units.
        jitter: standard deviations of a patch's brightness shift and of its noise's standard deviation, in the units of
            ``intensity_range``.
    """

    roi_size: tuple[Count, Count, Count]
    spacing_mm: tuple[Positive, Positive, Positive]
    intensity_range: Range
    organ_fraction: Share = 0.75
    rotation_deg: float = 12.0
    scale: PositiveRange = (0.85, 1.2)
    swap_on_flip: tuple[tuple[int, int], ...] = ()
    reach: NotNegative = 0.3
    percentiles: Range | None = None
    jitter: tuple[NotNegative, NotNegative] = (12.0, 15.0)

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> PatchSampler:
        """Read the cases of a list and make a sampler of patches."""
        pairs = read_list(bundle, data.data, data.root, data.split, partly_labelled=True, reading=data.reading)
        cases = [load_case(pair, len(bundle.facts.labels) + 1) for pair in pairs]
        return PatchSampler([self.scaled(case) for case in cases], self, seed)

    def scaled(self, case: TrainingCase) -> TrainingCase:
        """Map the case's percentiles to 0 and 1, if ``percentiles`` is set.

        Raises:
            SourceError: both percentiles of the image are equal.
        """
        if self.percentiles is None:
            return case
        low, high = np.percentile(case.image.numpy(), self.percentiles)
        if not high > low:
            raise SourceError(
                (
                    f"{case.name} with the same value {low:g} at percentiles {self.percentiles[0]:g} and "
                    f"{self.percentiles[1]:g}"
                ),
                "an image with contrast is needed",
                "Remove it from the list.",
            )
        return replace(case, image=(case.image - float(low)) / float(high - low))


@dataclass(frozen=True, kw_only=True)
class TrainingCase:
    """Image and labels of one patient on the same RAS-oriented grid.

    Attributes:
        name: name of the case in the data list.
        image: (i, j, k), float32, in the image's own units.
        labels: (i, j, k), uint8, class ids.
        spacing_mm: voxel size along i, j, k.
        voxels: indices of the voxels of each class present, (n, 3).
        body: indices of some voxels of the body (brighter than halfway between air and tissue), (n, 3).
        annotated: (class,) bool, True for annotated classes; None if all were annotated.
    """

    name: str
    image: Tensor
    labels: Tensor
    spacing_mm: tuple[float, float, float]
    voxels: dict[int, np.ndarray]
    body: np.ndarray
    annotated: Tensor | None = None

    @classmethod
    def build(cls, name: str, image: np.ndarray, labels: np.ndarray, spacing_mm: tuple[float, ...]) -> TrainingCase:
        """Make a case from arrays (i, j, k); the voxels of every class are listed once."""
        voxels = {int(c): np.argwhere(labels == c) for c in np.unique(labels) if c > 0}
        x, y, z = (float(s) for s in spacing_mm)
        low, high = np.percentile(image, (1, 99))
        body = np.argwhere(image > (low + high) / 2)[::7]
        return cls(
            name=name,
            image=torch.from_numpy(np.ascontiguousarray(image, dtype=np.float32)),
            labels=torch.from_numpy(np.ascontiguousarray(labels, dtype=np.uint8)),
            spacing_mm=(x, y, z),
            voxels=voxels,
            body=body,
        )


def load_case(pair: ImageLabelPair, classes: int) -> TrainingCase:
    """Load a pair on the closest RAS axes.

    Raises:
        SourceError: image and labels have different grids, or as for ``validate_label_ids`` and ``check_annotated``.
    """
    image = nib.as_closest_canonical(pair.reading.load(pair.image))
    labels = nib.as_closest_canonical(pair.reading.label_map(pair.label))
    if image.shape != labels.shape or not np.allclose(image.affine, labels.affine, atol=1e-3):
        raise SourceError(
            f"{pair.name} with image and labels on different grids", "they must share one", "Resample the labels first."
        )
    ids = validate_label_ids(np.asarray(labels.dataobj), pair.name, classes)
    check_annotated(ids, pair)
    case = TrainingCase.build(pair.name, image.get_fdata(dtype=np.float32), ids, spacing_mm(image.affine))
    if pair.annotated is None:
        return case
    return replace(case, annotated=torch.tensor([c == 0 or c in pair.annotated for c in range(classes)]))


class PatchSampler:
    """Sampler of augmented (image, labels) patches, with every class equally often."""

    def __init__(self, cases: list[TrainingCase], settings: PatchSettings, seed: int) -> None:
        self.cases = cases
        self.settings = settings
        self.rng = np.random.default_rng(seed)
        self._classes = next((len(case.annotated) for case in cases if case.annotated is not None), 0)
        self._holders = {
            c: [case for case in cases if c in case.voxels] for c in sorted({c for k in cases for c in k.voxels})
        }
        if not self._holders:
            raise SourceError(
                f"background alone in the labels of all {len(cases)} cases",
                "at least one labelled case is needed",
                "Check that the list's labels are those of its images.",
            )

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream."""
        self.rng = np.random.default_rng(seed)

    def draw(self) -> tuple[Tensor, ...]:
        """Draw one patch.

        Returns:
            The image (channel, i, j, k), float32 in 0..1; the labels (channel, i, j, k), int64; and, if a case of the
            list is partly labelled, the classes annotated in this one, (class,), bool.
        """
        case, centre = self._pick()
        flip = bool(self.rng.random() < 0.5)
        grid = self._grid(case, centre, flip)
        image = F.grid_sample(case.image[None, None], grid, mode="bilinear", padding_mode="border", align_corners=True)
        labels = F.grid_sample(
            case.labels[None, None].float(), grid, mode="nearest", padding_mode="zeros", align_corners=True
        )
        labels = labels[0].long()
        if flip:
            labels = self._swap(labels)
        if not self._classes:
            return self._intensity(image[0]), labels
        return self._intensity(image[0]), labels, self._annotated(case, flip)

    def batch(self, size: int) -> tuple[Tensor, ...]:
        """Draw a batch of patches: the results of ``draw``, each stacked along a first batch axis."""
        return tuple(torch.stack(parts) for parts in zip(*(self.draw() for _ in range(size)), strict=True))

    def _annotated(self, case: TrainingCase, flip: bool) -> Tensor:
        if case.annotated is None:
            return torch.ones(self._classes, dtype=torch.bool)
        return case.annotated[self._table()[: self._classes]] if flip else case.annotated

    def _pick(self) -> tuple[TrainingCase, np.ndarray]:
        rng, s = self.rng, self.settings
        if rng.random() < s.organ_fraction:
            organ = int(rng.choice(list(self._holders)))
            holders = self._holders[organ]
            case = holders[int(rng.integers(len(holders)))]
            voxels = case.voxels[organ]
            centre = voxels[int(rng.integers(len(voxels)))].astype(float)
            reach = np.array(s.roi_size) * np.array(s.spacing_mm) / np.array(case.spacing_mm) * s.reach
            return case, centre + rng.uniform(-reach, reach)
        # anywhere in the body, so that the network learns that shoulders and skull are background
        case = self.cases[int(rng.integers(len(self.cases)))]
        return case, case.body[int(rng.integers(len(case.body)))].astype(float)

    def _grid(self, case: TrainingCase, centre: np.ndarray, flip: bool) -> Tensor:
        """Compute normalised sampling positions (1, i, j, k, 3) of the patch in the case's volume."""
        rng, s = self.rng, self.settings
        ax, ay, az = np.deg2rad(rng.uniform(-s.rotation_deg, s.rotation_deg, 3))
        rx = np.array([[1, 0, 0], [0, math.cos(ax), -math.sin(ax)], [0, math.sin(ax), math.cos(ax)]])
        ry = np.array([[math.cos(ay), 0, math.sin(ay)], [0, 1, 0], [-math.sin(ay), 0, math.cos(ay)]])
        rz = np.array([[math.cos(az), -math.sin(az), 0], [math.sin(az), math.cos(az), 0], [0, 0, 1]])
        zoom = rng.uniform(*s.scale) * rng.uniform(0.94, 1.06, 3)
        sign = np.array([-1.0 if flip else 1.0, 1.0, 1.0])
        to_mm = rx @ ry @ rz @ np.diag(np.array(s.spacing_mm) * sign / zoom)
        to_voxel = np.diag(1.0 / np.array(case.spacing_mm)) @ to_mm
        axes = [np.arange(n) - (n - 1) / 2 for n in s.roi_size]
        offsets = np.stack(np.meshgrid(*axes, indexing="ij"), -1)
        positions = offsets @ to_voxel.T + centre
        normalised = positions / (np.array(case.image.shape) - 1) * 2 - 1
        # grid_sample takes the last axis first (x = k, y = j, z = i)
        return torch.from_numpy(normalised[..., ::-1].astype(np.float32))[None]

    def _table(self) -> Tensor:
        table = torch.arange(256)
        for a, b in self.settings.swap_on_flip:
            table[a], table[b] = b, a
        return table

    def _swap(self, labels: Tensor) -> Tensor:
        return self._table()[labels]

    def _intensity(self, image: Tensor) -> Tensor:
        rng = self.rng
        low, high = self.settings.intensity_range
        shift, grain = self.settings.jitter
        image = image + float(rng.normal(0, shift))
        if rng.random() < 0.25:
            image = F.avg_pool3d(image[None], 3, stride=1, padding=1)[0]
        if rng.random() < 0.5:
            sigma = abs(float(rng.normal(0, grain)))
            noise = torch.from_numpy(rng.standard_normal(image.shape, dtype=np.float32))
            image = image + sigma * noise
        image = ((image - low) / (high - low)).clamp(0, 1)
        if rng.random() < 0.3:
            image = image ** float(rng.uniform(0.8, 1.25))
        return image
