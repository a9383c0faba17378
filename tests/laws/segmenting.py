"""Rows of labels: the shipped example, one case of each segmentation bundle, and a network with a known answer."""

from __future__ import annotations

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from PIL import Image
from safetensors.torch import save
from torch import Tensor

import medvit
from medvit.segmentation import SwinUNETR
from tests.bands import make_bundle, oblique_affine, phantom, write_series
from tests.laws.dicom import UidNumbers, object_products, read_headers, series_products
from tests.laws.nifti import crop_nifti, nifti_products
from tests.laws.products import Lines, Numbers, Product, Voxels
from tests.laws.rows import EXAMPLES, ROOT, Place, Row

HEADNECK, ABDOMEN, HIPPOCAMPUS = "headneck_ct_swin_unetr", "abdomen_ct_swin_unetr_btcv", "hippocampus_mr_swin_unetr"

_STATISTICS = ("labels", "entropy_bits", "agreement", "quality.rating")
"""Keys of ``statistics.json`` that are compared; a renamed key must be corrected here and in the rows that ``--write``
made.
"""

_NOT_NUMBERS = ("title",)
"""Entries of a label's statistics that are words for people."""


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


def _labels(result: Any, place: Place, backend: str) -> dict[str, Product]:
    """Save a result and read the files back.

    Raises:
        RuntimeError: another backend ran than the row states.
    """
    folder = place.folder / "out"
    result.save(folder, ("nifti",))
    ran = json.loads((folder / "run.json").read_text())["settings"]["backend"]
    if ran != backend:
        raise RuntimeError(f"Found backend {ran}; the row states {backend}. Correct the row, or install the backend.")
    return {**nifti_products(folder / "labels.nii.gz", "labels"), "statistics": statistics_numbers(folder)}


def _example(backend: str) -> Callable[[Place], dict[str, Product]]:
    def make(place: Place) -> dict[str, Product]:
        return _labels(medvit.segment(EXAMPLES / "headneck_ct_dicom.zip", backend=backend), place, backend)

    return make


def _example_objects(place: Place) -> dict[str, Product]:
    """Write the example's DICOM objects; this is the only row that runs the default bundle and writes them."""
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


def _case(
    bundle: str, source: str, box: tuple[slice, slice, slice], backend: str
) -> Callable[[Place], dict[str, Product]]:
    def make(place: Place) -> dict[str, Product]:
        cropped = crop_nifti(place.data / source, place.folder / "image.nii.gz", box)
        return _labels(medvit.segment(cropped, bundle, backend=backend), place, backend)

    return make


def _nuclei(place: Place) -> dict[str, Product]:
    """Segment the shipped picture, which is run as a whole and knows only the eager backend."""
    result = medvit.segment(EXAMPLES / "nuclei.png", "nuclei_barlow_swin", backend="eager")
    result.save(place.folder / "out", ("png",))
    return {
        "labels": Voxels.of(result.array),
        "statistics": statistics_numbers(place.folder / "out"),
        "png": Voxels.of(_picture(place.folder / "out")),
    }


def _picture(folder: Path) -> Any:
    (path,) = folder.glob("labels*.png")
    return np.asarray(Image.open(path))


def _abdomen(place: Place) -> dict[str, Product]:
    """Run the steps of the bundle whose weights are fetched, with a narrow network and weights drawn by the tensors'
    names.
    """
    bundle = _with_drawn_weights(ROOT / "bundles" / ABDOMEN, place.folder / ABDOMEN)
    box = (slice(30, 78), slice(20, 60), slice(4, 28))
    source = crop_nifti(place.data / "ct_abdomen_totalseg" / "ct_sm.nii.gz", place.folder / "image.nii.gz", box)
    return {"labels": Voxels.of(medvit.segment(source, bundle, backend="eager").array)}


def _with_drawn_weights(bundle: Path, folder: Path) -> Path:
    shutil.copytree(bundle, folder, ignore=shutil.ignore_patterns("models", "docs"))
    config_path, metadata_path = folder / "configs" / "inference.json", folder / "configs" / "metadata.json"
    config, metadata = json.loads(config_path.read_text()), json.loads(metadata_path.read_text())
    config["network_def"]["feature_size"] = 12
    config_path.write_text(json.dumps(config))
    options = {name: value for name, value in config["network_def"].items() if name != "_target_"}
    content = save({name: _drawn(name, value) for name, value in SwinUNETR(**options).state_dict().items()})
    (folder / "models").mkdir()
    (folder / "models" / "model.safetensors").write_bytes(content)
    metadata["medvit"]["weights"]["sha256"] = hashlib.sha256(content).hexdigest()
    metadata["medvit"]["state"] = "trained"
    metadata_path.write_text(json.dumps(metadata))
    return folder


def _drawn(name: str, value: Tensor) -> Tensor:
    """Draw the weights of a tensor, independent of the order in which layers are built."""
    if not value.is_floating_point():
        return value.clone()
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    drawn = np.random.default_rng(seed).standard_normal(tuple(value.shape))
    if value.ndim == 1:
        drawn = 0.1 * drawn + name.endswith("weight")
    else:
        drawn /= np.sqrt(np.prod(value.shape[1:]))
    return torch.from_numpy(drawn.astype(np.float32))


def _options(place: Place) -> dict[str, Product]:
    """Test the options of a run one at a time: those for windows on several windows of a CT, the others on a small MR."""
    windows = crop_nifti(
        EXAMPLES / "headneck_ct.nii.gz", place.folder / "image.nii.gz", (slice(30, 90), slice(30, 100), slice(40, 80))
    )
    small = place.data / "mr_hippocampus" / "images" / "hippocampus_003.nii.gz"
    switches: dict[str, tuple[Path, str, dict[str, Any]]] = {
        "plain": (windows, HEADNECK, {}),
        "fast": (windows, HEADNECK, {"fast": True}),
        "low memory": (windows, HEADNECK, {"low_memory": True}),
        "region": (windows, HEADNECK, {"roi_crop": "0:20,0:25,0:15"}),
        "one label": (small, HIPPOCAMPUS, {"roi_subset": ("hippocampus_anterior",)}),
        "mirrored": (small, HIPPOCAMPUS, {"quality_map": True}),
    }
    made: dict[str, Product] = {}
    for name, (source, bundle, options) in switches.items():
        result = medvit.segment(source, bundle, backend="eager", **options)
        made[name] = Voxels.of(result.array)
        if name == "mirrored":
            made["disagreement"] = Voxels.of(result.disagreement())
            made["agreement"] = Numbers.of(result.agreement())
    return made


def _banded(place: Place) -> dict[str, Product]:
    """Run an oblique series through a network with exact arithmetic, and write all kinds of output."""
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
    """Resample a tilted stack with uneven gaps to a straight grid, and bring its labels back to the slices."""
    bundle = make_bundle(place.folder / "banded")
    values, _ = phantom()
    affine = np.diag([2.03, 2.49, 3.07, 1.0])
    paths = write_series(place.folder / "series", values, affine, ImagePositionPatient=tilted_position)
    result = medvit.segment(place.folder / "series", bundle, backend="eager", on_irregular="resample")
    folder = place.folder / "out"
    result.save(folder, ("nifti", "dicom-seg", "rtstruct"))
    made = nifti_products(folder / "labels.nii.gz", "labels") | saved_objects(folder, paths)
    split = medvit.segment(place.folder / "series", bundle, backend="eager", on_irregular="split", force=True)
    return {**made, "on slices": Voxels.of(result.on_source_slices()), "longest part": Voxels.of(split.array)}


def tilted_position(k: int) -> list[str]:
    """Return the position of slice k in a stack that is tilted and has two distances between slices.

    The numbers are not round: at even shares of a voxel two labels would tie, and rounding would decide.
    """
    height = 3.07 * k if k < 20 else 61.4 + 4.37 * (k - 20)
    return ["0", f"{0.2531 * height:.6g}", f"{height:.6g}"]


def _converted(place: Place) -> dict[str, Product]:
    """Convert label maps to SEG and RTSTRUCT and back, on the shipped example, without a network."""
    with zipfile.ZipFile(EXAMPLES / "headneck_ct_dicom.zip") as archive:
        archive.extractall(place.folder / "slices")
    labels = _blocks(place.folder / "blocks.nii.gz")
    made: dict[str, Product] = {}
    given = read_headers(sorted((place.folder / "slices").rglob("*.dcm")))
    for kind, name in (("dicom-seg", "seg"), ("rtstruct", "rtstruct")):
        folder = place.folder / name
        medvit.convert(labels, folder, output_types=(kind,), like=place.folder / "slices")
        made |= object_products(folder / f"{name}.dcm", name, UidNumbers(given))
        back = place.folder / f"{name} back"
        medvit.convert(folder / f"{name}.dcm", back, output_types=("nifti",), like=place.folder / "slices")
        made |= nifti_products(back / "labels.nii.gz", f"{name} read back")
    shutil.rmtree(place.folder / "slices")
    return made


def _blocks(path: Path) -> Path:
    """Write a label map on the example's grid: an asymmetric ball, ring and slanted plate."""
    reference = nib.load(EXAMPLES / "headneck_ct.nii.gz")
    i, j, k = np.indices(reference.shape, dtype=np.float64)
    labels = np.zeros(reference.shape, np.uint8)
    labels[(i - 40) ** 2 + (j - 50) ** 2 + 2 * (k - 60) ** 2 < 300] = 1
    around = (i - 85) ** 2 + (j - 70) ** 2
    labels[(around < 400) & (around > 150) & (k > 30) & (k < 45)] = 2
    labels[(np.abs(i + 2 * j - k - 120) < 3) & (k > 80) & (k < 100)] = 3
    nib.save(nib.Nifti1Image(labels, reference.affine), path)
    return path


_CASES = {
    "hippocampus_mr_swin_unetr": (
        "mr_hippocampus/images/hippocampus_003.nii.gz",
        (slice(None), slice(None), slice(None)),
    ),
    "brain_mr_swin_unetr": ("brain_mr/stroke_T1.nii.gz", (slice(30, 94), slice(40, 104), slice(40, 104))),
}

ROWS = [
    Row(name="example_eager", make=_example_objects, bundle=HEADNECK),
    Row(name="example_openvino", make=_example("openvino"), bundle=HEADNECK, backend="openvino"),
    *(
        Row(
            name=f"{bundle}_{backend}",
            make=_case(bundle, source, box, backend),
            bundle=bundle,
            backend=backend,
            shared=True,
        )
        for bundle, (source, box) in _CASES.items()
        for backend in ("eager", "openvino")
    ),
    Row(name="nuclei_barlow_swin", make=_nuclei, bundle="nuclei_barlow_swin"),
    Row(name=f"{ABDOMEN}_eager", make=_abdomen, shared=True),
    Row(name="options", make=_options, bundle=HEADNECK, shared=True),
    Row(name="banded", make=_banded, exact=True),
    Row(name="banded_tilted", make=_banded_tilted, exact=True),
    Row(name="converted", make=_converted, exact=True),
]
