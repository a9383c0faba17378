"""Many cases by one model, low memory, regions and the precision check before bf16 use one path and agree."""

from __future__ import annotations

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import torch

import medvit
from medvit.bundles import PrecisionCheck, record_precision_check, require_precision_check
from medvit.errors import BackendError, SelectionError
from medvit.inference.streaming import SlabArgmax
from medvit.kernels.resample_argmax import resample_argmax
from medvit.settings import check_region
from medvit.transforms import NetworkGrid


@pytest.fixture(scope="module")
def scan(tmp_path_factory):
    values = np.random.default_rng(0).normal(0, 60, (30, 28, 26)).astype(np.float32)
    values[:6] = -1000
    values[20:, 10:, 10:] += 400
    path = tmp_path_factory.mktemp("scan") / "scan.nii.gz"
    nib.save(nib.Nifti1Image(values, np.diag([1.0, 1.5, 2.0, 1.0])), path)
    return path


def test_planes_become_the_labels_that_all_logits_become():
    logits = torch.rand(3, 57, 9, 11, generator=torch.Generator().manual_seed(0))
    for long, start in ((57, 0), (70, 6)):
        grid = NetworkGrid(
            axes=(0, 1, 2),
            flips=(0, 0, 0),
            source_shape=(131, 20, 15),
            grid_shape=(long, 9, 11),
            start=(start, 0, 0),
            size=(57, 9, 11),
        )
        slabs = SlabArgmax(grid)
        for first in range(0, 57, 4):
            slabs.add_planes(logits[:, first : first + 4])
        wanted = resample_argmax(logits, out_shape=(131, 20, 15), grid_shape=(long, 9, 11), start=(start, 0, 0))
        assert torch.equal(slabs.labels(), wanted)


def test_low_memory_changes_no_label_and_a_failed_case_stops_no_other(banded, scan, tmp_path):
    plain = medvit.run(banded, scan, medvit.RunSettings(device="cpu", force=True))
    settings = medvit.RunSettings(device="cpu", force=True, low_memory=True)
    cases = list(medvit.run_many(banded, [scan, tmp_path / "absent.nii.gz", scan], settings))
    assert [case.error is None for case in cases] == [True, False, True]
    assert "absent" in str(cases[1].error)
    for case in (cases[0], cases[2]):
        assert np.array_equal(case.result.array, plain.array)
        assert case.result.settings["low_memory"] is True
        assert case.result.settings["backend"] == "eager"
    assert len(np.unique(plain.array)) > 1


def test_a_box_is_kept_and_the_rest_is_background_and_recorded(banded, scan):
    plain = medvit.run(banded, scan, medvit.RunSettings(device="cpu", force=True)).array
    found = medvit.run(banded, scan, medvit.RunSettings(device="cpu", force=True, roi_crop="18:30,8:28,8:26"))
    assert np.array_equal(found.array[22:29, 12:27, 12:25], plain[22:29, 12:27, 12:25])
    assert not found.array[:14].any()
    assert found.settings["roi_crop"] == "18:30,8:28,8:26"
    assert any("outside it all is background" in note for note in found.notes)


def test_a_region_that_means_nothing_is_refused():
    for text in ("head", "0:1,0:1", "5:2,0:3,0:3"):
        with pytest.raises(SelectionError, match="it must be body, or a box of source voxels such as"):
            check_region(text)


def test_bf16_asks_for_a_gate_that_has_passed(banded, scan, tmp_path):
    folder = tmp_path / "banded"
    shutil.copytree(banded, folder)
    bundle = medvit.open_bundle(folder)
    with pytest.raises(
        BackendError,
        match=r"no precision check (for it|of other weights or ranges only).*Run: medvit.segmentation.precision_check.run_precision_check\('banded', 'SCAN'\)",
    ):
        medvit.run(bundle, scan, medvit.RunSettings(device="cpu", force=True, precision="bf16"))
    facts = {"precision": "bf16", "backend": "openvino", "case": "0" * 64, "versions": {"torch": "2"}}
    sha = bundle.weights_sha256
    record_precision_check(bundle, PrecisionCheck(dice={"a": 0.99, "b": 1.0}, weights_sha256=sha, **facts))
    with pytest.raises(BackendError, match=r"did not pass: Dice 0\.9900 of a against fp32, at least 0\.999"):
        require_precision_check(medvit.open_bundle(folder), "bf16")
    record_precision_check(bundle, PrecisionCheck(dice={"a": 0.9995, "b": 1.0}, weights_sha256=sha, **facts))
    assert require_precision_check(medvit.open_bundle(folder), "bf16").lowest == 0.9995
    assert len(json.loads((folder / "configs" / "metadata.json").read_text())["medvit"]["precision_checks"]) == 1
    record_precision_check(bundle, PrecisionCheck(dice={"a": 1.0}, weights_sha256="1" * 64, **facts))
    with pytest.raises(BackendError, match="of other weights or ranges only"):
        require_precision_check(medvit.open_bundle(folder), "bf16")
