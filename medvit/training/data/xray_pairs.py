"""Training data of a two-view network from CTs: radiographs and labels computed from the same volume."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, Transform
from scipy.spatial.transform import Rotation
from torch import Tensor

from medvit.bundles import Bundle
from medvit.errors import ShapeError, SourceError
from medvit.io import Scan, open_source, storage_step, whole_numbers
from medvit.physics.drr import Geometry, Projector, attenuation_per_mm, volume_centre_mm
from medvit.training.checked_settings import Count, NotNegative, Positive, Share, WholeNumber, checked_settings
from medvit.training.data.data_list import DataList, read_list
from medvit.training.data.volume_reading import VolumeReading

__all__ = ["Poses", "RadiographsAndLabels", "XrayField", "XrayPairs", "XraySampler"]


@checked_settings
class XrayField:
    """Field of view of the two pictures, and the geometry of the X-ray.

    Attributes:
        img_size: the network's grid, (x, y, z) voxels.
        spacing_mm: its voxel sides; equal for x and y.
        source_to_isocenter_mm: distance from the focal spot to the middle of the field.
        isocenter_to_detector_mm: distance from the middle of the field to the detector.
        pixels_per_voxel: number of detector pixels along a voxel's side at the isocenter.
        energy_kev: photon energy for the attenuation of water.
    """

    img_size: tuple[Count, Count, Count]
    spacing_mm: tuple[Positive, Positive, Positive]
    source_to_isocenter_mm: Positive = 1800.0
    isocenter_to_detector_mm: Positive = 200.0
    pixels_per_voxel: Count = 2
    energy_kev: Positive = 60.0

    def geometry(self, isocenter_mm: tuple[float, float, float]) -> Geometry:
        """Make the geometry of AP and left lateral views of the field around a point, corrected for the
        magnification."""
        fine = self.pixels_per_voxel
        detector = self.img_size[2] * fine, self.img_size[0] * fine
        larger = 1 + self.isocenter_to_detector_mm / self.source_to_isocenter_mm
        pitch = self.spacing_mm[2] / fine * larger, self.spacing_mm[0] / fine * larger
        return Geometry(
            source_to_isocenter_mm=self.source_to_isocenter_mm,
            isocenter_to_detector_mm=self.isocenter_to_detector_mm,
            detector_shape=detector,
            pixel_spacing_mm=pitch,
            isocenter_mm=isocenter_mm,
        )


@checked_settings
class Poses:
    """Random poses of patients before projection, as augmentation: rotation, shift, size and mirroring.

    The pose changes the affine of the CT, so that rays and labels follow exactly, magnification included. Mirroring is
    only for labels without a side.

    Attributes:
        count: number of poses of each patient in addition to the original one.
        degrees: largest rotation about each axis.
        shift_mm: largest shift along each axis.
        scale: largest relative change of size.
        mirror: mirror half of the poses, left to right.
    """

    count: WholeNumber = 0
    degrees: NotNegative = 10.0
    shift_mm: NotNegative = 20.0
    scale: Share = 0.1
    mirror: bool = False

    def draw(self, rng: np.random.Generator) -> np.ndarray:
        """Draw a random pose, 4x4, about the origin of RAS+ millimetres."""
        pose = np.eye(4)
        turn = Rotation.from_euler("xyz", rng.uniform(-self.degrees, self.degrees, 3), degrees=True).as_matrix()
        sides = np.full(3, 1 + rng.uniform(-self.scale, self.scale))
        if self.mirror and rng.random() < 0.5:
            sides[0] *= -1
        pose[:3, :3] = turn * sides
        pose[:3, 3] = rng.uniform(-self.shift_mm, self.shift_mm, 3)
        return pose


class RadiographsAndLabels(Transform):  # type: ignore[misc]
    """Transform from a CT with reference labels to ``coronal`` and ``sagittal`` pictures (1, row, column) and labels on
    the network grid.

    The field of view has the same centre as the volume; a ``pose`` (4x4) in the data moves the patient about it first.
    Labels are (1, x, y, z) int64: ``label_ids`` maps reference ids; other voxels above ``bone_hu`` become ``bone_id``.

    Args:
        field: field of view of the pictures.
        label_ids: (reference id, new id) pairs.
        bone_hu: Hounsfield units above which a voxel is bone (or tooth or metal).
        bone_id: id of such bone; 0 leaves it background.

    Raises:
        ShapeError: image and reference have different sizes.
    """

    def __init__(
        self, field: XrayField, label_ids: Sequence[Sequence[int]] = (), bone_hu: float = 200.0, bone_id: int = 0
    ) -> None:
        self.field = field
        self.label_ids = tuple((int(a), int(b)) for a, b in label_ids)
        self.bone_hu = float(bone_hu)
        self.bone_id = int(bone_id)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Replace the paths under ``image`` and ``label`` by radiographs and labels."""
        reading = data.get("reading") or VolumeReading()
        scan, reference = (open_source(data[key], geometry=reading.geometry) for key in ("image", "label"))
        for key, opened in (("image", scan), ("label", reference)):
            reading.remark(Path(data[key]).name, opened.notes, opened.excluded)
        shape = scan.array.shape[1:]
        if reference.array.shape[1:] != shape or not np.allclose(reference.affine, scan.affine, atol=1e-3):
            raise ShapeError(
                f"an image of {shape} and labels of {reference.array.shape[1:]} on other grids",
                "they must share one",
                "Resample the labels first.",
            )
        middle = volume_centre_mm(scan.affine, shape)
        affine = _posed(scan.affine, middle, data.get("pose"))
        hounsfield = torch.from_numpy(np.ascontiguousarray(scan.array[0]))
        projector = Projector(self.field.geometry(middle), affine, shape)
        with torch.inference_mode():
            pictures = projector(attenuation_per_mm(hounsfield, self.field.energy_kev))
        out = {k: v for k, v in data.items() if k not in ("image", "label", "pose", "reading")}
        labels = self._labels(
            scan.array[0], _ids(reference, Path(data["label"]).name, reading), self._voxels(affine, middle)
        )
        return {
            **out,
            "coronal": MetaTensor(pictures[:1].clone()),
            "sagittal": MetaTensor(pictures[1:].clone()),
            "label": MetaTensor(torch.from_numpy(labels[None])),
        }

    def _voxels(self, affine: np.ndarray, middle: tuple[float, float, float]) -> np.ndarray:
        """Compute the source's voxel coordinates of the network's voxels, (3, x, y, z)."""
        axes = [
            (np.arange(n) - (n - 1) / 2) * s for n, s in zip(self.field.img_size, self.field.spacing_mm, strict=True)
        ]
        place = np.stack(np.meshgrid(*axes, indexing="ij"), -1) + np.asarray(middle)
        inverse = np.linalg.inv(affine)
        return np.moveaxis(place @ inverse[:3, :3].T + inverse[:3, 3], -1, 0)

    def _labels(self, image: np.ndarray, reference: np.ndarray, at: np.ndarray) -> np.ndarray:
        from scipy.ndimage import map_coordinates

        values = map_coordinates(image, at, order=1, mode="constant", cval=-1000.0)
        ids = map_coordinates(reference, at, order=0, mode="constant", cval=0.0)
        found = np.where(values > self.bone_hu, self.bone_id, 0).astype(np.int64)
        for old, new in self.label_ids:
            found[ids == old] = new
        return found


def _ids(reference: Scan, name: str, reading: VolumeReading) -> np.ndarray:
    """Return the reference ids, rounded if they were saved through floats.

    Raises:
        SourceError: values are not close to integers.
    """
    rounded = whole_numbers(reference.array[0], storage_step(reference.header))
    if rounded is None:
        raise SourceError(
            f"labels in {name} that are not whole numbers",
            "ids are needed, not probabilities or interpolated labels",
            "Save ids, and resample labels by nearest neighbour.",
        )
    ids, note = rounded
    reading.remark(name, (note,) if note else ())
    return ids


def _posed(affine: np.ndarray, middle: tuple[float, float, float], pose: np.ndarray | None) -> np.ndarray:
    """Return a volume's affine after a movement of the patient about a point."""
    if pose is None:
        return affine
    there = np.eye(4)
    there[:3, 3] = middle
    return np.asarray(there @ pose @ np.linalg.inv(there) @ affine)


@dataclass(frozen=True)
class XrayPairs:
    """Settings for radiographs and labels.

    Attributes:
        preparation: transform from a case's paths (``image``, ``label``) to stacked views (2, side, z) under ``image``
            and labels (1, x, y, z) under ``label``; applied once to each case and kept.
        augmentation: random changes of the pictures, drawn for every sample.
        poses: poses in which every patient is projected in addition to the original one, drawn once.
    """

    preparation: Callable[[Mapping[Hashable, Any]], Mapping[Hashable, Any]]
    augmentation: Compose
    poses: Poses = field(default_factory=Poses)

    def sampler(self, bundle: Bundle, data: DataList, seed: int) -> XraySampler:
        """Project the CTs of a list and make a sampler of them."""
        pairs = read_list(bundle, data.data, data.root, data.split, reading=data.reading)
        rng = np.random.default_rng((seed, 1))  # a separate stream, so that poses do not change the draws of training
        kept = []
        for pair in pairs:
            paths: dict[Hashable, Any] = {"image": str(pair.image), "label": str(pair.label), "reading": pair.reading}
            turned = [{**paths, "pose": self.poses.draw(rng)} for _ in range(self.poses.count)]
            made = [self.preparation(data) for data in (paths, *turned)]
            kept += [{k: torch.as_tensor(np.asarray(case[k])) for k in ("image", "label")} for case in made]
        return XraySampler(kept, self.augmentation, seed)


class XraySampler:
    """Sampler of (views, labels), with every case equally often."""

    def __init__(self, cases: Sequence[Mapping[str, Tensor]], augmentation: Compose, seed: int) -> None:
        self.cases = list(cases)
        self.augmentation = augmentation
        self.reseed(seed)

    def reseed(self, seed: int | Sequence[int]) -> None:
        """Start a new random stream."""
        self.rng = np.random.default_rng(seed)
        self.augmentation.set_random_state(seed=int(self.rng.integers(2**31)))

    def draw(self) -> tuple[Tensor, Tensor]:
        """Draw views (2, side, z) float32 in 0..1 and labels (1, x, y, z) int64."""
        case = self.cases[int(self.rng.integers(len(self.cases)))]
        changed = self.augmentation({**case})
        return torch.as_tensor(np.asarray(changed["image"])), torch.as_tensor(np.asarray(changed["label"]))

    def batch(self, size: int) -> tuple[Tensor, Tensor]:
        """Draw a batch of samples: (batch, 2, side, z) and (batch, 1, x, y, z)."""
        views, labels = zip(*(self.draw() for _ in range(size)), strict=True)
        return torch.stack(views), torch.stack(labels)
