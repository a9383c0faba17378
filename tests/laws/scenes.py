"""Small images and bundles with known answers for every task, from which the pins of results are made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from tests.bands import (
    make_bundle,
    make_finer_bundle,
    make_reconstructing_bundle,
    make_restoring_bundle,
    oblique_affine,
    phantom,
    write_series,
)


@dataclass(frozen=True)
class Scenes:
    """Folders of images and bundles, each made at its first use.

    Attributes:
        top: the folder that holds all of them.
    """

    top: Path

    @property
    def series(self) -> Path:
        """DICOM series of the phantom for the bundle ``segmenting``."""
        return self.top / "series"

    @property
    def nifti(self) -> Path:
        """The same image as NIfTI."""
        return self.top / "scan.nii.gz"

    @property
    def labels(self) -> Path:
        """Labels of that image, as NIfTI."""
        return self.top / "labels.nii.gz"

    @property
    def unnamed(self) -> Path:
        """The series without frames of reference."""
        return self.top / "unnamed"

    @property
    def uneven(self) -> Path:
        """The series without two of its slices."""
        return self.top / "uneven"

    @property
    def air(self) -> Path:
        """NIfTI of a CT that holds only two bright voxels."""
        return self.top / "air.nii.gz"

    @property
    def bones(self) -> Path:
        """DICOM series of bodies in air, for radiographs."""
        return self.top / "bones"

    @property
    def magnetic(self) -> Path:
        """Small NIfTI of an MR image."""
        return self.top / "mr.nii.gz"

    def bundle(self, name: str) -> Path:
        """Return the bundle for a task: segmenting, restoring, super_resolution, reconstructing."""
        return self.top / "bundles" / name


def make_scenes(top: Path) -> Scenes:
    """Write images and bundles."""
    scenes = Scenes(top)
    scenes.bundle("").mkdir(parents=True)
    make_bundle(scenes.bundle("segmenting"))
    make_restoring_bundle(scenes.bundle("restoring"))
    make_finer_bundle(scenes.bundle("super_resolution"))
    make_reconstructing_bundle(scenes.bundle("reconstructing"))
    values, labels = (array[:, :, 3:27] for array in phantom())
    nib.save(nib.Nifti1Image(labels, oblique_affine()), scenes.labels)
    write_series(scenes.series, values, oblique_affine())
    nib.save(nib.Nifti1Image(values, oblique_affine()), scenes.nifti)
    write_series(scenes.unnamed, values, oblique_affine(), FrameOfReferenceUID="")
    for path in write_series(scenes.uneven, values, oblique_affine())[10:12]:
        path.unlink()
    empty = np.full_like(values, -1000)
    empty[20, 20, 10:12] = 1500
    nib.save(nib.Nifti1Image(empty, oblique_affine()), scenes.air)
    bodies = np.full((30, 32, 35), -1000, np.int16)
    bodies[5:10, 10:22, 5:30], bodies[10:22, 19:24, 15:22], bodies[18:23, 5:11, 25:32] = 800, 300, 1500
    affine = np.diag([8.0, 8, 8, 1])
    affine[:3, 3] = (-120, -128, -140)
    write_series(scenes.bones, bodies, affine, BodyPartExamined="HEAD")
    random = np.random.default_rng(5)
    nib.save(
        nib.Nifti1Image(random.uniform(0, 400, (24, 20, 4)).astype(np.float32), np.diag([2.0, 2, 4, 1])),
        scenes.magnetic,
    )
    return scenes
