"""Rows of images: restored and super-resolved slices, computed radiographs, and bones reconstructed from these."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
from PIL import Image

import medvit
from tests.bands import make_finer_bundle, make_restoring_bundle, oblique_affine, phantom, write_series
from tests.laws.dicom import UidNumbers, read_headers, series_products
from tests.laws.nifti import crop_nifti, nifti_products
from tests.laws.products import Field, Lines, Numbers, Product
from tests.laws.rows import EXAMPLES, Place, Row
from tests.laws.segmenting import tilted_position
from tests.laws.training import command

_NOT_NUMBERS = {"intended_use", "bundle", "reasons", "notes", "title", "noise_method", "measure"}
"""Keys of statistics whose values are words for people."""


def all_numbers(content: object) -> object:
    """Remove text for people from nested content."""
    if isinstance(content, dict):
        return {key: all_numbers(value) for key, value in content.items() if key not in _NOT_NUMBERS}
    return [all_numbers(value) for value in content] if isinstance(content, list) else content


def _statistics(folder: Path) -> Numbers:
    return Numbers.of(all_numbers(json.loads((folder / "statistics.json").read_text())), relative=1e-3, absolute=0.011)


def _restored(result: medvit.Restored, folder: Path, absolute: float, dicom: bool = False) -> dict[str, Product]:
    """Save a restored image and read the files back."""
    kinds = ("nifti", "dicom") if dicom else ("nifti",)
    saved = result.save(folder, kinds, statistics=True, maps=True)
    image = nib.load(folder / "restored.nii.gz")
    difference = nib.load(folder / "maps" / "difference.nii.gz")
    return {
        "restored": Field.of(image.get_fdata(), absolute),
        "affine": Numbers.of(image.affine.tolist()),
        "difference": Field.of(difference.get_fdata(), absolute),
        "statistics": _statistics(folder),
        "files": Lines(tuple(sorted(saved.files))),
    }


def _denoised(place: Place) -> dict[str, Product]:
    """Denoise six slices of the shipped series, and write the derived series."""
    with zipfile.ZipFile(EXAMPLES / "headneck_ct_dicom.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".dcm"))[60:66]
        archive.extractall(place.folder / "slices", names)
    sources = sorted((place.folder / "slices").rglob("*.dcm"))
    result = medvit.restore(place.folder / "slices")
    made = _restored(result, place.folder / "out", 0.02, dicom=True)
    uids = UidNumbers(read_headers(sources))
    return made | series_products(place.folder / "out" / "derived", "derived", uids, rounded=True)


def _super_resolved(place: Place) -> dict[str, Product]:
    box = (slice(60, 100), slice(70, 118), slice(66, 70))
    source = crop_nifti(place.data / "brain_mr" / "stroke_T2.nii.gz", place.folder / "image.nii.gz", box)
    result = medvit.restore(source, "mr_superres_restore_rwkv")
    return _restored(result, place.folder / "out", 0.02)


def _as_given(place: Place) -> dict[str, Product]:
    """Run a network that leaves each pixel as it is: series, derived series and NIfTI; straight, tilted and finer."""
    values, _ = phantom()
    made: dict[str, Product] = {}
    bundle = make_restoring_bundle(place.folder / "restoring", kernel=None)
    finer = make_finer_bundle(place.folder / "finer")
    straight = write_series(place.folder / "straight", values, oblique_affine((2.0, 2.5, 3.0)))
    tilted = write_series(
        place.folder / "tilted", values, np.diag([2.03, 2.49, 3.07, 1.0]), ImagePositionPatient=tilted_position
    )
    mr = write_series(place.folder / "mr", values[:, :, :6] + 1000, oblique_affine(), Modality="MR")
    for name, sources, used in (("straight", straight, bundle), ("tilted", tilted, bundle), ("finer", mr, finer)):
        folder = place.folder / f"{name} out"
        result = medvit.restore(place.folder / sources[0].parent.name, used, force=True)
        products = _restored(result, folder, 1e-3, dicom=True)
        products |= series_products(folder / "derived", "derived", UidNumbers(read_headers(sources)), name == "finer")
        made |= {f"{name} {key}": product for key, product in products.items()}
    return made


def _reconstructed(place: Place) -> dict[str, Product]:
    """Compute radiographs of the shipped CT, and reconstruct its bones from them."""
    rays, out = place.folder / "rays", place.folder / "out"
    command(
        "drr", EXAMPLES / "headneck_ct_dicom.zip", "-o", rays, "-ot", "png", "-ot", "dicom", "-ot", "nifti",
        "--source-to-isocenter", 1800, "--isocenter-to-detector", 200, "--pixel-spacing", 2,
    )  # fmt: skip
    made = _radiographs(rays)
    result = medvit.reconstruct(rays / "drr_0.dcm", rays / "drr_90.dcm")
    result.save(out, ("nifti", "stl"), statistics=True, maps=True)
    made |= nifti_products(out / "labels.nii.gz", "labels")
    made["entropy"] = Field.of(nib.load(out / "maps" / "entropy.nii.gz").get_fdata(), 1e-4)
    made["statistics"] = _statistics(out)
    for path in sorted((out / "meshes").glob("*.stl")):
        made[f"mesh {path.stem}"] = Numbers.of(_mesh_numbers(path), relative=1e-4, absolute=0.01)
    return made


def _radiographs(folder: Path) -> dict[str, Product]:
    made: dict[str, Product] = {}
    for angle in (0, 90):
        made[f"png {angle}"] = Field.of(np.asarray(Image.open(folder / f"drr_{angle}.png")), 1.0)
        made[f"line integrals {angle}"] = Field.of(nib.load(folder / f"drr_{angle}.nii.gz").get_fdata(), 1e-4)
    return made | series_products(folder, "radiographs", UidNumbers(), rounded=True)


def _mesh_numbers(path: Path) -> dict[str, object]:
    """Return number of triangles, surface, volume and corners of a binary STL."""
    content = path.read_bytes()
    count = int.from_bytes(content[80:84], "little")
    record = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
    corners = np.frombuffer(content, record, count, 84)["corners"].astype(np.float64)
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    return {
        "triangles": count,
        "area": float(np.linalg.norm(np.cross(b - a, c - a), axis=1).sum() / 2),
        "volume": float(np.einsum("ij,ij->i", a, np.cross(b, c)).sum() / 6),
        "low": corners.min(axis=(0, 1)).tolist(),
        "high": corners.max(axis=(0, 1)).tolist(),
        "some": corners[:: max(1, count // 20), 0].tolist(),
    }


ROWS = [
    Row(name="ct_denoise_restore_rwkv", make=_denoised, bundle="ct_denoise_restore_rwkv"),
    Row(name="mr_superres_restore_rwkv", make=_super_resolved, bundle="mr_superres_restore_rwkv", shared=True),
    Row(name="as_given", make=_as_given),
    Row(name="headneck_xray_swin_x2s", make=_reconstructed, bundle="headneck_xray_swin_x2s"),
]
