"""NIfTI files as products, and boxes cut out of them."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np

from tests.laws.products import Numbers, Product, Voxels


def nifti_products(path: Path, name: str) -> dict[str, Product]:
    """Return the voxels and the affine of a label map."""
    image = nib.load(path)
    return {name: Voxels.of(np.asanyarray(image.dataobj)), f"{name} affine": Numbers.of(image.affine.tolist())}


def crop_nifti(source: Path, target: Path, box: tuple[slice, slice, slice]) -> Path:
    """Write a box of a NIfTI, at its position in the patient."""
    image = nib.load(source).slicer[box]
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine), target)
    return target
