"""The super-resolution bundle: small enough, split by patient, the same by MONAI's command, and as good as it says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medvit
from medvit.bundles import open_bundle
from medvit.physics import zero_fill
from medvit.physics.kspace import truncate_kspace
from medvit.training.data import DataList, read_entries
from tests import warm
from tests.bands import SUPERRES, make_finer_bundle, oblique_affine

ROOT = Path(__file__).resolve().parents[2]


def _patients(split: str) -> set[str]:
    content = json.loads((SUPERRES / "configs" / "datalist.json").read_text())
    return {entry["image"].rpartition("/")[2].replace("ms_", "ms-").split("_")[0] for entry in content[split]}


def test_the_datalist_reads_and_no_patient_trains_and_judges(shared):
    bundle = open_bundle(SUPERRES)
    for split, count in (("training", 5), ("validation", 3)):
        entries = read_entries(bundle, DataList(root=shared / "data", split=split), ("image",))
        assert len(entries) == count
        assert not any("GOLD_STANDARD" in entry["image"].name for entry in entries)  # labels are no image
    assert _patients("validation") == {"ms-patient07"}
    assert _patients("training") == {"SAG-anon", "stroke", "ms-patient12"}


def test_its_weights_are_few():
    bundle = open_bundle(SUPERRES)
    if bundle.facts.state != "trained":
        pytest.skip("the bundle is not trained")
    assert bundle.weights.stat().st_size < 330_000


def test_monai_bundle_run_gives_the_same_voxels(tmp_path):
    """Interpolation, network and way back stand in the config, so that MONAI's command knows them too."""
    folder = make_finer_bundle(tmp_path / "smoothing", 1 / 9, 0.1)
    rng = np.random.default_rng(0)
    (tmp_path / "data").mkdir()
    affine = oblique_affine((1.0, 1.5, 3.0)) @ np.diag([-1, 1, -1, 1])
    nib.save(
        nib.Nifti1Image(rng.integers(0, 900, (13, 10, 5)).astype(np.int16), affine), tmp_path / "data" / "mr.nii.gz"
    )
    wanted = medvit.restore(tmp_path / "data" / "mr.nii.gz", bundle=folder)
    outcome = warm.run(
        [sys.executable, "-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--bundle_root", ".",
         "--dataset_dir", str(tmp_path / "data"), "--output_dir", str(tmp_path / "out"), "--device", "cpu"],
        cwd=folder, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stderr[-3000:]
    (written,) = list((tmp_path / "out").rglob("*.nii.gz"))
    image = nib.load(written)
    assert image.shape == (26, 20, 5) and np.allclose(image.affine, wanted.image.affine, atol=1e-4)
    assert np.array_equal(image.get_fdata(dtype=np.float32), wanted.array)


def test_a_real_head_becomes_sharper_than_by_interpolation(shared, tmp_path):
    """What ships, on two slices of the unseen patient made coarse: nearer to the truth than sinc, inside the brain."""
    if open_bundle(SUPERRES).facts.state != "trained":
        pytest.skip("the bundle is not trained")
    image = nib.load(shared / "data" / "brain_mr" / "ms_patient07_MNI_T1.nii.gz")
    clean = np.asarray(image.dataobj[:, :216, 90:92], dtype=np.float32)
    affine = np.diag([2.0, 2.0, 1.0, 1.0])
    nib.save(nib.Nifti1Image(truncate_kspace(clean, 2), affine), tmp_path / "coarse.nii.gz")
    result = medvit.restore(tmp_path / "coarse.nii.gz", bundle=SUPERRES)
    sinc = np.maximum(zero_fill(truncate_kspace(clean, 2), 2), 0)
    head = clean > 0.1 * clean.max()
    error, before = (float(np.square(v - clean)[head].mean()) for v in (result.array, sinc))
    assert error < 0.75 * before
    assert (
        result.quality()["rating"] in ("uncalibrated", "check") and abs(float((result.array - clean)[head].mean())) < 2
    )


def test_it_refuses_without_its_weights(tmp_path):
    folder = shutil.copytree(SUPERRES, tmp_path / "bare", ignore=shutil.ignore_patterns("models"))
    path = folder / "configs" / "metadata.json"
    metadata = json.loads(path.read_text())
    metadata["medvit"]["state"] = "not trained"
    path.write_text(json.dumps(metadata))
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((8, 8, 2)), np.eye(4)), tmp_path / "mr.nii.gz")
    with pytest.raises(medvit.MedvitError, match=r"no weights for bare \(state: not trained\)"):
        medvit.restore(tmp_path / "mr.nii.gz", bundle=folder)
