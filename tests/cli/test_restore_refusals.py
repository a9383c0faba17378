"""``medvit restore`` refuses or flags images that must not be restored, and leaves nothing behind."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image

import medvit
from medvit.errors import BundleError, GeometryError, ImageError, ModalityError, OutputError
from tests.bands import make_restoring_bundle, oblique_affine, write_series
from tests.cli.test_restore import _run, _write_uneven, noisy


def test_an_irregular_stack_for_slices_along_another_axis_is_refused(tmp_path):
    folder = make_restoring_bundle(tmp_path / "sagittal")
    path = folder / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["inferer"]["axis"] = 0
    path.write_text(json.dumps(config))
    _write_uneven(tmp_path / "series")
    with pytest.raises(
        GeometryError,
        match="an irregular stack for sagittal, which does not restore it slice by slice.*Use on_irregular=.split.",
    ):
        medvit.restore(tmp_path / "series", bundle=folder)


def _save(path: Path, values: np.ndarray) -> Path:
    nib.save(nib.Nifti1Image(values, np.eye(4)), path)
    return path


def test_what_must_not_be_restored(lifting, tmp_path):
    mr = _save(tmp_path / "mr.nii.gz", np.random.default_rng(0).integers(0, 800, (9, 9, 5)).astype(np.int16))
    with pytest.raises(ModalityError, match="values from .* where lifting is made for CT in HU"):
        medvit.restore(mr, bundle=lifting)
    write_series(tmp_path / "mr", noisy(), oblique_affine(), Modality="MR")
    with pytest.raises(ModalityError, match="modality MR, where lifting is made for CT"):
        medvit.restore(tmp_path / "mr", bundle=lifting)
    photograph = np.random.default_rng(0).integers(0, 255, (20, 20, 3)).astype(np.uint8)
    Image.fromarray(photograph).save(tmp_path / "photo.png")
    with pytest.raises(ImageError, match="a 2-D picture, where lifting takes volumes"):
        medvit.restore(tmp_path / "photo.png", bundle=lifting)
    squeezed = nib.Nifti1Image(((noisy() + 1000) / 8).astype(np.uint8), np.eye(4))
    squeezed.header.set_slope_inter(8, -1000)
    nib.save(squeezed, tmp_path / "eight.nii.gz")
    with pytest.raises(ImageError, match="values of uint8, where Hounsfield units take 12 bits or more"):
        medvit.restore(tmp_path / "eight.nii.gz", bundle=lifting)
    forced = medvit.restore(tmp_path / "eight.nii.gz", bundle=lifting, force=True)
    assert any(note.startswith("Forced: values of uint8") for note in forced.notes)
    with pytest.raises(BundleError, match="a bundle for segmentation; one for restoration is needed"):
        medvit.restore(mr, bundle="headneck_ct_swin_unetr")
    with pytest.raises(BundleError, match="a bundle for restoration; one for segmentation is needed"):
        medvit.segment(mr, bundle=lifting)


def _stored(folder: Path, kind: str) -> Path:
    """A CT series written with 8 bits a pixel, grey or in colours."""
    paths = write_series(
        folder, noisy(), oblique_affine(), RescaleSlope=8, RescaleIntercept=-1000, PixelRepresentation=0
    )
    for path in paths:
        dataset = pydicom.dcmread(path)
        pixels = dataset.pixel_array.astype(np.uint8)
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
        if kind == "colours":
            pixels = np.stack([pixels, pixels // 2, pixels // 3], -1)
            dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0
        dataset.PixelData = pixels.tobytes()
        dataset.save_as(path)
    return folder


def test_dicom_of_8_bits_or_in_colours_must_not_be_restored(lifting, tmp_path):
    with pytest.raises(ImageError, match="pixels of 8 bits, where Hounsfield units take 12 bits or more"):
        medvit.restore(_stored(tmp_path / "grey", "grey"), bundle=lifting)
    with pytest.raises(medvit.MedvitError, match="colour|RGB|picture"):
        medvit.restore(_stored(tmp_path / "rgb", "colours"), bundle=lifting)


def test_a_restored_image_is_not_restored_again(lifting, smoothing, tmp_path):
    write_series(tmp_path / "series", noisy(), oblique_affine((1.0, 1.0, 3.0)))
    assert _run("restore", tmp_path / "series", "-o", tmp_path / "once", "-b", smoothing).exit_code == 0
    for source in ("restored.nii.gz", "derived"):
        outcome = _run("restore", tmp_path / "once" / source, "-o", tmp_path / "twice", "-b", lifting)
        assert outcome.exit_code == 1
        assert "an image that is restored already" in outcome.output and "--force" in outcome.output
        assert not (tmp_path / "twice").exists()
    outcome = _run("restore", tmp_path / "once" / "derived", "-o", tmp_path / "twice", "-b", smoothing, "--force")
    assert outcome.exit_code == 0, outcome.output
    assert json.loads((tmp_path / "twice" / "run.json").read_text())["settings"]["forced"] is True


def test_a_network_that_moves_values_is_flagged(lifting, tmp_path):
    outcome = _run("restore", _save(tmp_path / "scan.nii.gz", noisy()), "-o", tmp_path / "out", "-b", lifting, "--json")
    assert outcome.exit_code == 3
    said = json.loads(outcome.stdout)
    assert said["quality"]["rating"] == "poor" and said["mean_difference"] == pytest.approx(7, abs=0.01)
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["quality"]["rating"] == "poor"


def test_missing_uids_leave_nifti_and_the_reason(smoothing, tmp_path):
    write_series(tmp_path / "series", noisy(), oblique_affine((1.0, 1.0, 3.0)), SOPInstanceUID="", StudyInstanceUID="")
    outcome = _run("restore", tmp_path / "series", "-o", tmp_path / "out", "-b", smoothing)
    assert outcome.exit_code == 3
    assert "dicom not written" in outcome.output and "let medvit repair the tags" in " ".join(outcome.output.split())
    assert (tmp_path / "out" / "restored.nii.gz").is_file() and not (tmp_path / "out" / "derived").exists()
    outcome = _run("restore", tmp_path / "series", "-o", tmp_path / "whole", "-b", smoothing, "--repair-tags")
    assert outcome.exit_code == 0, outcome.output
    assert len(list((tmp_path / "whole" / "derived").iterdir())) == 6
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["settings"]["repaired"]


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-ot", "dicom"], 1, "a derived series refers to the original DICOM slices"),
        (["-ot", "seg"], 1, "a restored image is written as nifti or dicom"),
        (["-b", "ct_denoise_restore"], 1, "no bundle named 'ct_denoise_restore'"),
        (["-b", "headneck_ct_swin_unetr"], 1, "a bundle for segmentation; one for restoration is needed"),
        (["-d", "gpu:99"], 1, "no device"),
    ],
)
def test_mistakes_leave_nothing_behind(smoothing, tmp_path, options, code, message):
    scan = _save(tmp_path / "scan.nii.gz", noisy())
    outcome = _run("restore", scan, "-o", tmp_path / "out", "-b", smoothing, *options)
    assert outcome.exit_code == code
    assert message in " ".join(outcome.output.split())
    assert not (tmp_path / "out").exists() and "Traceback" not in outcome.output


def test_an_earlier_result_is_kept_unless_told(smoothing, tmp_path):
    scan = _save(tmp_path / "scan.nii.gz", noisy())
    assert _run("restore", scan, "-o", tmp_path / "out", "-b", smoothing, "--maps").exit_code == 0
    (tmp_path / "out" / "mine.txt").write_text("kept")
    outcome = _run("restore", scan, "-o", tmp_path / "out", "-b", smoothing)
    assert outcome.exit_code == 1 and "never written over silently" in outcome.output
    assert _run("restore", scan, "-o", tmp_path / "out", "-b", smoothing, "--overwrite").exit_code == 0
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "restored.nii.gz",
        "statistics.json",
        "run.json",
        "mine.txt",
    }


def test_mistakes_come_before_torch(tmp_path):
    program = (
        "import sys; from typer.testing import CliRunner; from medvit.cli.main import app; "
        "r = CliRunner().invoke(app, ['restore', 'nowhere', '-o', sys.argv[1], '-b', sys.argv[2]]); "
        "print(r.exit_code, 'torch' in sys.modules)"
    )
    bundle = make_restoring_bundle(tmp_path / "bundle")
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out"), str(bundle)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", "False"]


def test_a_derived_series_needs_a_dicom_source(lifting, tmp_path):
    result = medvit.restore(_save(tmp_path / "scan.nii.gz", noisy()), bundle=lifting)
    with pytest.raises(OutputError, match="output type 'dicom' for a nifti source"):
        result.save(tmp_path / "out", ("dicom",))
