"""Rows of labels: the shipped example, one case of each segmentation bundle, and a network whose answer is known."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

import medvit
from tests.bands import make_bundle, oblique_affine, phantom, write_series
from tests.laws.dicom import UidNumbers, object_products, read_headers, series_products
from tests.laws.products import Lines, Numbers, Product, Voxels
from tests.laws.rows import EXAMPLES, Place, Row

_STATISTICS = ("labels", "entropy_bits", "agreement", "quality.rating")
"""What is compared of ``statistics.json``; a renamed key is corrected here and in ``--write``'s rows alike."""

_NOT_NUMBERS = ("title",)
"""Of a label's statistics: words for people."""


def statistics_numbers(folder: Path) -> Numbers:
    """Read the numbers of a saved ``statistics.json``, which are rounded to about two decimals."""
    content = json.loads((folder / "statistics.json").read_text())
    kept: dict[str, Any] = {}
    for name in _STATISTICS:
        value: Any = content
        for part in name.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if isinstance(value, list):
            value = {
                item["name"]: {k: v for k, v in item.items() if k not in ("name", *_NOT_NUMBERS)} for item in value
            }
        if value is not None:
            kept[name] = value
    return Numbers.of(kept, relative=1e-4, absolute=0.011)


def nifti_products(path: Path, name: str) -> dict[str, Product]:
    """Return the voxels and the affine of a label map."""
    image = nib.load(path)
    return {name: Voxels.of(np.asanyarray(image.dataobj)), f"{name} affine": Numbers.of(image.affine.tolist())}


def crop_nifti(source: Path, target: Path, box: tuple[slice, slice, slice]) -> Path:
    """Write a box of a NIfTI, at its place in the patient."""
    image = nib.load(source).slicer[box]
    nib.save(nib.Nifti1Image(np.asanyarray(image.dataobj), image.affine), target)
    return target


def _labels(result: Any, place: Place, name: str = "labels") -> dict[str, Product]:
    """Save a result and read back what was written."""
    folder = place.folder / name
    result.save(folder, ("nifti",), per_label=False)
    made = nifti_products(folder / "labels.nii.gz", name)
    return {**made, f"{name} statistics": statistics_numbers(folder)}


def _example(backend: str) -> Any:
    def make(place: Place) -> dict[str, Product]:
        return _labels(medvit.segment(EXAMPLES / "headneck_ct_dicom.zip", backend=backend), place)

    return make


def _example_objects(place: Place) -> dict[str, Product]:
    """The example's DICOM objects; the only row that runs the default bundle and writes them."""
    source = EXAMPLES / "headneck_ct_dicom.zip"
    result = medvit.segment(source, backend="eager")
    folder = place.folder / "out"
    result.save(folder, ("nifti", "dicom-seg", "rtstruct", "sr", "sc"), statistics=True, per_label=True)
    with zipfile.ZipFile(source) as archive:
        archive.extractall(place.folder / "slices")
    made = nifti_products(folder / "labels.nii.gz", "labels") | saved_objects(
        folder, sorted((place.folder / "slices").rglob("*.dcm"))
    )
    made["statistics"] = statistics_numbers(folder)
    made["statistics table"] = Lines(tuple((folder / "statistics.csv").read_text().splitlines()))
    names = [p.name for p in sorted(folder.iterdir())]
    return {**made, "files": Lines(tuple(names))}


def saved_objects(folder: Path, sources: list[Path]) -> dict[str, Product]:
    """Return the products of all DICOM objects of a saved result."""
    given = read_headers(sources)
    made: dict[str, Product] = {}
    for name in ("seg", "rtstruct", "sr"):
        if (folder / f"{name}.dcm").exists():
            made |= object_products(folder / f"{name}.dcm", name, UidNumbers(given))
    if (folder / "sc").is_dir():
        made |= series_products(folder / "sc", "sc", UidNumbers(given))
    return made


def _case(bundle: str, source: str, box: tuple[slice, slice, slice], backend: str) -> Any:
    def make(place: Place) -> dict[str, Product]:
        cropped = crop_nifti(place.data / source, place.folder / "image.nii.gz", box)
        return _labels(medvit.segment(cropped, bundle, backend=backend), place)

    return make


def _nuclei(backend: str) -> Any:
    def make(place: Place) -> dict[str, Product]:
        result = medvit.segment(EXAMPLES / "nuclei.png", "nuclei_barlow_swin", backend=backend)
        result.save(place.folder / "out", ("png",))
        return {
            "labels": Voxels.of(result.array),
            "statistics": statistics_numbers(place.folder / "out"),
            "png": Voxels.of(_picture(place.folder / "out")),
        }

    return make


def _picture(folder: Path) -> Any:
    from PIL import Image

    (path,) = folder.glob("labels*.png")
    return np.asarray(Image.open(path))


def _options(place: Place) -> dict[str, Product]:
    """The switches of a run, one at a time, with the hippocampus bundle."""
    bundle = "hippocampus_mr_swin_unetr"
    source = place.data / "mr_hippocampus" / "images" / "hippocampus_003.nii.gz"
    switches: dict[str, dict[str, Any]] = {
        "fast": {"fast": True},
        "low memory": {"low_memory": True},
        "region": {"roi_crop": "0:20,0:30,0:20"},
        "one label": {"roi_subset": ("hippocampus_anterior",)},
        "mirrored": {"quality_map": True},
    }
    made: dict[str, Product] = {}
    for name, options in switches.items():
        result = medvit.segment(source, bundle, backend="eager", **options)
        made[name] = Voxels.of(result.array)
        if name == "mirrored":
            made["disagreement"] = Voxels.of(result.disagreement())
            made["agreement"] = Numbers.of(result.agreement())
    return made


def _banded(place: Place) -> dict[str, Product]:
    """An oblique series through a network whose arithmetic is exact, to all kinds of output."""
    bundle = make_bundle(place.folder / "banded")
    values, _ = phantom()
    paths = write_series(place.folder / "series", values, oblique_affine((2.0, 2.5, 3.0)))
    result = medvit.segment(place.folder / "series", bundle, backend="eager")
    folder = place.folder / "out"
    result.save(folder, ("nifti", "dicom-seg", "rtstruct", "sr", "sc"), statistics=True, per_label=True)
    made = nifti_products(folder / "labels.nii.gz", "labels") | saved_objects(folder, paths)
    made["statistics"] = statistics_numbers(folder)
    made["statistics table"] = Lines(tuple((folder / "statistics.csv").read_text().splitlines()))
    return {**made, "files": Lines(tuple(p.name for p in sorted(folder.iterdir())))}


def _banded_tilted(place: Place) -> dict[str, Product]:
    """A tilted stack with uneven gaps, resampled to a straight grid, and its labels brought back to the slices."""
    bundle = make_bundle(place.folder / "banded")
    values, _ = phantom()
    affine = np.diag([2.0, 2.5, 3.0, 1.0])
    paths = write_series(place.folder / "series", values, affine, ImagePositionPatient=_tilted_position)
    result = medvit.segment(place.folder / "series", bundle, backend="eager", on_irregular="resample")
    folder = place.folder / "out"
    result.save(folder, ("nifti", "dicom-seg", "rtstruct"))
    made = nifti_products(folder / "labels.nii.gz", "labels") | saved_objects(folder, paths)
    split = medvit.segment(place.folder / "series", bundle, backend="eager", on_irregular="split", force=True)
    return {**made, "on slices": Voxels.of(result.on_slices()), "longest part": Voxels.of(split.array)}


def _tilted_position(k: int) -> list[str]:
    height = 3.0 * k if k < 20 else 60.0 + 4.5 * (k - 20)
    return ["0", f"{0.25 * height:.6g}", f"{height:.6g}"]


def _converted(place: Place) -> dict[str, Product]:
    """Label maps to SEG and RTSTRUCT and back again, on the shipped example; no network takes part."""
    with zipfile.ZipFile(EXAMPLES / "headneck_ct_dicom.zip") as archive:
        archive.extractall(place.folder / "slices")
    labels = _blocks(place.folder / "blocks.nii.gz")
    made: dict[str, Product] = {}
    given = read_headers(sorted((place.folder / "slices").rglob("*.dcm")))
    for kind, name in (("dicom-seg", "seg"), ("rtstruct", "rtstruct")):
        folder = place.folder / name
        medvit.convert(labels, folder, (kind,), like=place.folder / "slices")
        made |= object_products(folder / f"{name}.dcm", name, UidNumbers(given))
        back = place.folder / f"{name} back"
        medvit.convert(folder / f"{name}.dcm", back, ("nifti",), like=place.folder / "slices")
        made |= nifti_products(back / "labels.nii.gz", f"{name} read back")
    shutil.rmtree(place.folder / "slices")
    return made


def _blocks(path: Path) -> Path:
    """Write a label map on the example's grid: a ball, a ring and a slanted plate, none of them symmetric."""
    reference = nib.load(EXAMPLES / "headneck_ct.nii.gz")
    i, j, k = np.indices(reference.shape, dtype=np.float64)
    labels = np.zeros(reference.shape, np.uint8)
    labels[(i - 40) ** 2 + (j - 50) ** 2 + 2 * (k - 60) ** 2 < 300] = 1
    around = (i - 85) ** 2 + (j - 70) ** 2
    labels[(around < 400) & (around > 150) & (k > 30) & (k < 45)] = 2
    labels[(np.abs(i + 2 * j - k - 120) < 3) & (k > 80) & (k < 100)] = 3
    nib.save(nib.Nifti1Image(labels, reference.affine), path)
    return path


HEADNECK = "headneck_ct_swin_unetr"
_CASES = {
    "hippocampus_mr_swin_unetr": (
        "mr_hippocampus/images/hippocampus_003.nii.gz",
        (slice(None), slice(None), slice(None)),
    ),
    "brain_mr_swin_unetr": ("brain_mr/stroke_T1.nii.gz", (slice(30, 94), slice(40, 104), slice(40, 104))),
}

ROWS = [
    Row("example_eager", _example_objects, bundle=HEADNECK),
    Row("example_openvino", _example("openvino"), bundle=HEADNECK, backend="openvino"),
    *(
        Row(f"{bundle}_{backend}", _case(bundle, source, box, backend), bundle=bundle, backend=backend, shared=True)
        for bundle, (source, box) in _CASES.items()
        for backend in ("eager", "openvino")
    ),
    *(
        Row(f"nuclei_barlow_swin_{backend}", _nuclei(backend), bundle="nuclei_barlow_swin", backend=backend)
        for backend in ("eager", "openvino")
    ),
    Row("options", _options, bundle="hippocampus_mr_swin_unetr", shared=True),
    Row("banded", _banded, exact=True),
    Row("banded_tilted", _banded_tilted, exact=True),
    Row("converted", _converted, exact=True),
]
