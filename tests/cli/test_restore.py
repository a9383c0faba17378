"""``medvit restore`` as a user meets it: a network with a known answer, the source's own grid, unit and type, and mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from scipy.ndimage import uniform_filter
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.restoration import Restored, measure_change
from tests.bands import oblique_affine, write_series

runner = CliRunner()


def _run(*args: object):
    return runner.invoke(app, [str(a) for a in args])


def noisy(shape: tuple[int, int, int] = (40, 36, 6), sigma: float = 20.0) -> np.ndarray:
    """Water in air with noise and a bone, whole numbers."""
    values = np.full(shape, -1000.0)
    values[4:-4, 4:-4] = 50 + np.random.default_rng(5).normal(0, sigma, (shape[0] - 8, shape[1] - 8, shape[2]))
    values[12:15, 10:14] = 600
    return np.rint(values).astype(np.int16)


def _wanted(values: np.ndarray, affine: np.ndarray) -> np.ndarray:
    """The 3 x 3 mean across the source's axis that runs closest to head and feet."""
    axis = int(np.flatnonzero(nib.io_orientation(affine)[:, 0] == 2)[0])
    size = [3, 3, 3]
    size[axis] = 1
    return uniform_filter(values.astype(np.float64), size, mode="nearest")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_nifti_keeps_grid_unit_type_and_header(smoothing, tmp_path, order):
    values = noisy().transpose(order)
    affine = oblique_affine((1.0, 1.0, 3.0))[:, [*order, 3]] @ np.diag([-1, 1, -1, 1])
    image = nib.Nifti1Image(values, affine)
    image.set_sform(affine, 2)
    image.header["descrip"] = b"Secret^Person"
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    outcome = _run("restore", tmp_path / "scan.nii.gz", "-o", tmp_path / "out", "-b", smoothing, "--maps", "-p", "-s")
    assert outcome.exit_code == 0, outcome.output
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*") if p.is_file()} == {
        "restored.nii.gz", "run.json", "statistics.json", "statistics.csv", "preview.png", "maps/difference.nii.gz",
    }  # fmt: skip
    source, saved = nib.load(tmp_path / "scan.nii.gz"), nib.load(tmp_path / "out" / "restored.nii.gz")
    assert saved.get_data_dtype() == np.int16
    for field in ("sform_code", "qform_code", "srow_x", "srow_y", "srow_z", "pixdim", "xyzt_units"):
        assert np.array_equal(saved.header[field], source.header[field]), field
    found = np.asarray(saved.dataobj).astype(float)
    assert np.abs(found - _wanted(values, affine)).max() < 0.51
    difference = nib.load(tmp_path / "out" / "maps" / "difference.nii.gz")
    assert np.abs(np.asarray(difference.dataobj) + values - _wanted(values, affine)).max() < 0.02
    texts = b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*.[jcp][sn]*"))
    assert b"Secret" not in texts and b"scan.nii" not in texts
    assert b"medvit restored: smoothing 0.1.0; research use" in bytes(saved.header["descrip"])
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["bundle"]["name"] == "smoothing" and len(record["bundle"]["weights_sha256"]) == 64
    assert set(record["files"]) >= {"restored.nii.gz", "maps/difference.nii.gz"}
    with Image.open(tmp_path / "out" / "preview.png") as picture:
        assert picture.size[0] > 1000


@pytest.mark.parametrize(("dtype", "slope", "inter"), [("uint16", 0.5, -1024.0), ("float32", 1, 0), ("float64", 1, 0)])
def test_stored_types_and_scales_of_the_source(lifting, tmp_path, dtype, slope, inter):
    values = noisy().astype(float)
    stored = ((values - inter) / slope).astype(dtype)
    image = nib.Nifti1Image(stored, np.diag([1, 1, 3, 1]))
    if dtype == "uint16":
        image.header.set_slope_inter(slope, inter)
    nib.save(image, tmp_path / "scan.nii.gz")
    medvit.restore(tmp_path / "scan.nii.gz", bundle=lifting).save(tmp_path / "out")
    saved = nib.load(tmp_path / "out" / "restored.nii.gz")
    assert saved.get_data_dtype() == dtype
    assert (saved.dataobj.slope, saved.dataobj.inter) == (slope, inter)
    assert np.abs(saved.get_fdata() - values - 7).max() < 0.26


def test_python_gives_the_image_on_the_sources_grid(lifting, tmp_path):
    affine = oblique_affine((1.0, 1.5, 3.0))
    nib.save(nib.Nifti1Image(noisy(), affine), tmp_path / "scan.nii.gz")
    result = medvit.restore(tmp_path / "scan.nii.gz", bundle=lifting)
    assert isinstance(result, Restored) and isinstance(medvit.run(lifting, tmp_path / "scan.nii.gz"), Restored)
    assert np.asarray(result.image).shape == (1, 40, 36, 6) and np.asarray(result.image).dtype == np.float32
    assert np.abs(np.asarray(result.image)[0] - noisy() - 7).max() < 1e-2
    assert np.allclose(result.image.affine, affine, atol=1e-5)
    assert result.statistics().mean_difference == pytest.approx(7, abs=1e-2)
    assert result.quality()["rating"] == "poor"
    assert "mean of soft tissue moved by +7" in result.quality()["reasons"][0]


def test_values_beyond_the_networks_range_stay(lifting, tmp_path):
    values = noisy()
    values[10, 10, 2], values[0, 0, 0] = 9000, -3024
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    found = np.asarray(medvit.restore(tmp_path / "scan.nii.gz", bundle=lifting).image)[0]
    assert found[10, 10, 2] == pytest.approx(9007, abs=0.01) and found[0, 0, 0] == pytest.approx(-3017, abs=0.01)


def test_dicom_gives_a_derived_series_and_nifti_that_agree(smoothing, tmp_path):
    affine = oblique_affine((1.1, 1.9, 2.5))
    write_series(tmp_path / "series", noisy(), affine, RescaleIntercept=-1024, PixelRepresentation=0)
    outcome = _run("restore", tmp_path / "series", "-o", tmp_path / "out", "-b", smoothing)
    assert outcome.exit_code == 0, outcome.output
    assert "derived/ with 6 files" in outcome.output and "noise" in outcome.output
    read = medvit.open_source(tmp_path / "out" / "derived")
    assert np.abs(read.array[0] - _wanted(noisy(), affine)).max() < 0.51
    assert np.allclose(read.affine, affine, atol=1e-4)
    twin = nib.load(tmp_path / "out" / "restored.nii.gz")
    assert twin.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(twin.dataobj), read.array[0]) and np.allclose(twin.affine, read.affine, atol=1e-4)


def _write_uneven(folder: Path) -> tuple[np.ndarray, list[float]]:
    """A series of axial slices at uneven distances; its affine, and where the slices lie above the first, in mm."""
    affine = oblique_affine((1.0, 1.0, 3.0), 0.0)
    gaps = [0.0, 3.0, 7.0, 9.0, 14.0, 17.0]
    place = [[*affine[:2, 3] * [-1, -1], affine[2, 3] + g] for g in gaps]
    write_series(folder, noisy(), affine, ImagePositionPatient=lambda k: [f"{v:.6g}" for v in place[k]])
    return affine, gaps


def test_an_irregular_stack_is_restored_slice_by_slice(smoothing, lifting, tmp_path):
    """Uneven gaps do not matter to a network that sees one slice: the derived series lies on the original slices."""
    affine, gaps = _write_uneven(tmp_path / "series")
    outcome = _run("restore", tmp_path / "series", "-o", tmp_path / "out", "-b", smoothing)
    assert outcome.exit_code == 0, outcome.output
    assert "Resampled to a straight, even grid" in outcome.output
    slices = sorted(
        (pydicom.dcmread(p) for p in (tmp_path / "out" / "derived").iterdir()),
        key=lambda d: d.SliceLocation if "SliceLocation" in d else d.ImagePositionPatient[2],
    )
    assert [float(d.ImagePositionPatient[2]) - float(affine[2, 3]) for d in slices] == pytest.approx(gaps, abs=1e-3)
    wanted = _wanted(noisy(), affine)
    for k, d in enumerate(slices):
        assert np.abs(d.pixel_array.T - wanted[:, :, k]).max() < 0.51
    assert nib.load(tmp_path / "out" / "restored.nii.gz").shape[2] > 6
    outcome = _run("restore", tmp_path / "series", "-o", tmp_path / "no", "-b", smoothing, "--on-irregular", "fail")
    assert outcome.exit_code == 1 and "--on-irregular" in outcome.output
    outcome = _run("restore", tmp_path / "series", "-o", tmp_path / "part", "-b", smoothing, "--on-irregular", "split")
    assert outcome.exit_code == 3 and "The volume was split" in outcome.output


@pytest.mark.parametrize("shape", [(33, 21, 1), (513, 511, 2), (1, 50, 3), (9, 9, 2)])
def test_odd_sizes_through_the_real_network(shape, tmp_path_factory, tmp_path):
    """The bundle's own architecture, small, on sizes that divide by nothing."""
    folder = _tiny_network(tmp_path_factory.mktemp("tiny") / "tiny")
    values = np.rint(np.random.default_rng(1).normal(0, 300, shape)).astype(np.int16)
    values[0, 0, 0], values[0, -1, 0] = -1000, 900
    nib.save(nib.Nifti1Image(values, np.diag([0.7, 0.7, 3, 1])), tmp_path / "scan.nii.gz")
    result = medvit.restore(tmp_path / "scan.nii.gz", bundle=folder)
    assert np.asarray(result.image).shape == (1, *shape) and np.isfinite(np.asarray(result.image)).all()
    result.save(tmp_path / "out", preview=True, statistics=True)


def _tiny_network(folder: Path) -> Path:
    import shutil

    import torch

    from medvit.bundles import open_bundle
    from medvit.restoration import RestoreRWKV
    from medvit.training.loop import publish
    from tests.bands import DENOISING

    shutil.copytree(DENOISING, folder)
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    small = {"dim": 4, "num_blocks": [1, 1, 1, 1], "num_refinement_blocks": 1}
    config["network_def"].update(small)
    path.write_text(json.dumps(config))
    torch.manual_seed(0)
    publish(
        open_bundle(folder), RestoreRWKV(3, 1, dim=4, num_blocks=(1, 1, 1, 1), num_refinement_blocks=1).state_dict()
    )
    return folder


def test_noise_is_measured_as_it_was_put_in():
    rng = np.random.default_rng(3)
    clean = np.full((160, 150, 4), 40.0)
    clean[:60, :, :] = -100  # fat, and an edge
    for sigma in (5.0, 25.0):
        values = (clean + rng.normal(0, sigma, clean.shape)).astype(np.float32)
        smooth = uniform_filter(values, (3, 3, 1)).astype(np.float32)
        for pixel in (0.7, 2.0):
            change = measure_change(values, values, (pixel, pixel), "HU")
            assert change.noise_before == pytest.approx(sigma, rel=0.15)
            assert change.edge_strength == pytest.approx(1) and change.mean_difference == 0
        blurred = measure_change(values, smooth, (0.7, 0.7), "HU")
        assert blurred.noise_after < 0.55 * sigma and blurred.noise_reduction_percent > 45
        assert blurred.edge_strength_soft_tissue < 0.9
        assert abs(blurred.mean_difference) < 1


def test_an_image_without_tissue_says_so():
    air = np.full((40, 40, 2), -1000, np.float32)
    air[0, 0, 0] = 0
    change = measure_change(air, air, (1.0, 1.0), "HU")
    assert change.noise_before is None and change.noise_reduction_percent is None
    from medvit.restoration import judge_change

    assert judge_change(change) == {"rating": "check", "reasons": ["too little tissue was found to measure noise in"]}
