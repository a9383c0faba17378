"""``medvit drr`` as a user meets it: pictures, their record, and mistakes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from medvit.cli.main import app
from medvit.errors import GeometryError, ModalityError
from medvit.reconstruction.radiographs import DrrSettings, radiographs
from tests.bands import oblique_affine, phantom, write_series

runner = CliRunner()


def _run(*args: object):
    return runner.invoke(app, [str(a) for a in args])


@pytest.fixture
def scan(tmp_path) -> Path:
    nib.save(nib.Nifti1Image(phantom()[0], oblique_affine()), tmp_path / "scan.nii.gz")
    return tmp_path / "scan.nii.gz"


def test_pictures_and_their_record(scan, tmp_path):
    out = tmp_path / "out"
    outcome = _run("drr", scan, "-o", out, "--views", "0,90,22.5", "-ot", "png", "-ot", "nifti", "--pixel-spacing", 3)
    assert outcome.exit_code == 0, outcome.output
    names = {f"drr_{v}.{e}" for v in ("0", "90", "22.5") for e in ("png", "nii.gz")} | {"run.json"}
    assert {p.name for p in out.iterdir()} == names
    record = json.loads((out / "run.json").read_text())
    assert record["geometry"]["views_deg"] == [0, 90, 22.5]
    assert record["geometry"]["magnification"] == 1.5
    assert record["attenuation"]["water_per_mm"] == 0.02059
    assert record["intended_use"] == "For research use, not for diagnosis"
    assert set(record["files"]) == names - {"run.json"}
    assert "scan" not in (out / "run.json").read_text()
    with Image.open(out / "drr_0.png") as picture:
        assert picture.mode == "I;16"
        pixels = np.asarray(picture).astype(np.float64)
    integrals = nib.load(out / "drr_0.nii.gz")
    values = np.asarray(integrals.dataobj)[:, :, 0].T
    assert np.abs(pixels * record["attenuation"]["line_integral_per_unit"] - values).max() < 1e-4
    assert values.max() > 0.2


def test_the_whole_shadow_fits_and_lies_where_the_detector_stood(scan, tmp_path):
    pictures = radiographs(scan, DrrSettings(pixel_spacing_mm=2.0))
    assert not pictures.values[:, 0].any() and not pictures.values[:, :, 0].any()
    assert _run("drr", scan, "-o", tmp_path / "out", "-ot", "nifti").exit_code == 0
    affine = nib.load(tmp_path / "out" / "drr_0.nii.gz").affine
    shape = nib.load(tmp_path / "out" / "drr_0.nii.gz").shape
    middle = affine @ [(shape[0] - 1) / 2, (shape[1] - 1) / 2, 0, 1]
    assert np.abs(middle[:3] - (np.array(pictures.isocenter_mm) + (0, -500, 0))).max() < 1e-3


def test_presets_with_and_without_their_faults(scan, tmp_path):
    for faults in ([], ["--as-published"]):
        out = tmp_path / f"out{len(faults)}"
        outcome = _run("drr", scan, "-o", out, "--preset", "swin-x2s", *faults)
        assert outcome.exit_code == 0, outcome.output
        record = json.loads((out / "run.json").read_text())
        pitch = record["geometry"]["pixel_spacing_mm"][0]
        assert pitch == pytest.approx(41 * 2 / 160 * (1 if faults else 10 / 9))
        with Image.open(out / "drr_90.png") as picture:
            assert picture.size == (128, 160)
            assert picture.mode == ("L" if faults else "I;16")


def test_dicom_and_nifti_twins_give_one_picture(scan, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    settings = DrrSettings(pixel_spacing_mm=4.0)
    a, b = (radiographs(source, settings).values for source in (scan, tmp_path / "series"))
    assert np.abs(a - b).max() < 1e-4


def test_an_earlier_result_is_kept_unless_told(scan, tmp_path):
    out = tmp_path / "out"
    assert _run("drr", scan, "-o", out, "--pixel-spacing", 4).exit_code == 0
    (out / "mine.txt").write_text("kept")
    outcome = _run("drr", scan, "-o", out)
    assert outcome.exit_code == 1
    assert "never written over silently" in outcome.output
    outcome = _run("drr", scan, "-o", out, "--views", "45", "--pixel-spacing", 4, "--overwrite")
    assert outcome.exit_code == 0
    assert {p.name for p in out.iterdir()} == {"drr_45.png", "run.json", "mine.txt"}


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--views", "0,0"], 1, "views 0, 0; each angle can be given once"),
        (["--views", "front"], 2, "found 'front'"),
        (["--views", ""], 1, "give at least one finite angle"),
        (["--rows", "5"], 2, "give both or neither"),
        (["--preset", "swinx2s"], 1, "preset 'swinx2s'; it must be one of swin-x2s"),
        (["--as-published"], 1, "as-published without a preset"),
        (["-ot", "jpeg"], 1, "output type 'jpeg'; radiographs are written as png or nifti or dicom"),
        (["--pixel-spacing", "0"], 1, "must be a positive length"),
        (["--pixel-spacing", "0.001"], 1, "at most 67108864 can be projected. Use larger pixels"),
        (["--energy", "500"], 1, "energy of 500 keV"),
        (["--source-to-isocenter", "20"], 1, "the source must lie outside the volume"),
    ],
)
def test_mistakes_leave_nothing_behind(scan, tmp_path, options, code, message):
    outcome = _run("drr", scan, "-o", tmp_path / "out", *options)
    assert outcome.exit_code == code
    # Typer wraps its own messages in a box
    assert message in " ".join(outcome.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists()
    assert "Traceback" not in outcome.output


def test_what_is_not_a_ct(tmp_path):
    nib.save(nib.Nifti1Image(np.random.default_rng(0).random((9, 9, 9)), np.eye(4)), tmp_path / "mr.nii.gz")
    with pytest.raises(ModalityError, match="values from .* where a CT in Hounsfield units reaches air"):
        radiographs(tmp_path / "mr.nii.gz")
    forced = radiographs(tmp_path / "mr.nii.gz", DrrSettings(force=True))
    assert forced.notes[0].startswith("Forced: values from")
    write_series(tmp_path / "series", phantom()[0], oblique_affine(), Modality="MR")
    with pytest.raises(ModalityError, match="modality MR, where CT in Hounsfield units is needed"):
        radiographs(tmp_path / "series")
    Image.fromarray(np.arange(100, dtype=np.uint8).reshape(10, 10)).save(tmp_path / "picture.png")
    outcome = _run("drr", tmp_path / "picture.png", "-o", tmp_path / "out")
    assert outcome.exit_code == 1 and "one CT volume is needed" in outcome.output


def test_an_irregular_affine(tmp_path):
    affine = oblique_affine()
    affine[:3, 1] += 0.4 * affine[:3, 0]
    nib.save(nib.Nifti1Image(phantom()[0], affine), tmp_path / "sheared.nii.gz")
    with pytest.raises(GeometryError, match="degrees away from square"):
        radiographs(tmp_path / "sheared.nii.gz")


def test_help_and_mistakes_come_before_torch(tmp_path):
    program = (
        "import sys; from typer.testing import CliRunner; from medvit.cli.main import app; "
        "r = CliRunner().invoke(app, ['drr', 'nowhere', '-o', sys.argv[1], '--as-published']); "
        "print(r.exit_code, 'torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out")], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["1", "False"]
    outcome = _run("drr", "--help")
    assert outcome.exit_code == 0 and "in millimetres" in outcome.output
