"""``medvit reconstruct`` refuses or flags views that do not show what it needs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

import medvit
from medvit.errors import BundleError, GeometryError, ImageError, ModalityError, SourceError
from medvit.reconstruction.views import ViewGeometry, open_view
from tests.bands import dice
from tests.batch.archives import without_numbers
from tests.cli.test_reconstruct import _labels, _run, reconstruct_call


def _changed(path: Path, target: Path, **changes: object) -> Path:
    dataset = pydicom.dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(target)
    return target


@pytest.mark.parametrize(
    ("ap", "lat", "message"),
    [
        (
            "drr_90.dcm",
            "drr_0.dcm",
            "ViewPosition RL in the view given as AP; it marks the other view. Exchange --ap and --lat",
        ),
        ("drr_0.dcm", "drr_180.dcm", "ViewPosition PA in the view given as lateral"),
        ("drr_90.png", "drr_0.png", "taken at 90 degrees as AP view; it must be 0 or 180. Give it as --lat"),
    ],
)
def test_exchanged_views(crossing, taken, tmp_path, ap, lat, message):
    outcome = _run("reconstruct", "--ap", taken / ap, "--lat", taken / lat, "-o", tmp_path / "out", "-b", crossing)
    assert outcome.exit_code == 1 and message in outcome.output
    assert not (tmp_path / "out").exists()


def test_orientation_alone_tells_an_exchanged_view(crossing, taken, tmp_path):
    path = _changed(taken / "drr_90.dcm", tmp_path / "a.dcm", ViewPosition="")
    with pytest.raises(GeometryError, match="a PatientOrientation along P in the view given as AP"):
        medvit.reconstruct(path, taken / "drr_90.dcm", crossing)


def test_two_patients(crossing, taken, tmp_path):
    other = _changed(taken / "drr_90.dcm", tmp_path / "b.dcm", PatientID="ID-9999")
    call = ("reconstruct", "--ap", taken / "drr_0.dcm", "--lat", other, "-o", tmp_path / "out", "-b", crossing)
    outcome = _run(*call)
    assert outcome.exit_code == 1 and "views of two different patients" in outcome.output
    assert "9999" not in outcome.output and "4711" not in outcome.output
    outcome = _run(*call, "--force")
    assert outcome.exit_code == 0 and "Forced: the views name two different patients" in outcome.output
    everything = without_numbers(b"".join(p.read_bytes() for p in (tmp_path / "out").rglob("*") if p.is_file()))
    assert b"9999" not in everything and b"4711" not in everything
    later = _changed(taken / "drr_90.dcm", tmp_path / "c.dcm", StudyInstanceUID="1.2.3")
    assert any("different studies" in n for n in medvit.reconstruct(taken / "drr_0.dcm", later, crossing).notes)


def test_missing_geometry_names_the_flag(crossing, taken, tmp_path):
    bare = {"EstimatedRadiographicMagnificationFactor": None, "DistanceSourceToPatient": None}
    path = _changed(taken / "drr_0.dcm", tmp_path / "a.dcm", **bare)
    with pytest.raises(GeometryError, match="no magnification of the AP view; .* Give magnification, or both"):
        medvit.reconstruct(path, taken / "drr_90.dcm", crossing)
    path = _changed(taken / "drr_90.dcm", tmp_path / "b.dcm", ImagerPixelSpacing=None)
    with pytest.raises(GeometryError, match="no pixel spacing of the lateral view; .* pixel_spacing_mm"):
        medvit.reconstruct(taken / "drr_0.dcm", path, crossing)
    calibrated = _changed(
        taken / "drr_0.dcm",
        tmp_path / "c.dcm",
        PixelSpacing=[2 / 3, 2 / 3],
        PixelSpacingCalibrationType="GEOMETRY",
        **bare,
    )
    view = open_view(calibrated, "AP", medvit.open_bundle(crossing))
    assert view.pixel_mm == pytest.approx((2 / 3, 2 / 3))
    with pytest.raises(GeometryError, match="magnification of 0.8; .* it is 1 or more"):
        ViewGeometry(magnification=0.8)
    with pytest.raises(GeometryError, match="pixel_spacing_mm = -1; it must be positive"):
        ViewGeometry(pixel_spacing_mm=-1)


def test_what_is_no_radiograph(crossing, taken, tmp_path):
    flags = ViewGeometry(pixel_spacing_mm=1.0, magnification=1.5)
    rng = np.random.default_rng(0)

    def made(name: str, pixels: np.ndarray) -> Path:
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    def run(path: Path, **options: object):
        return medvit.reconstruct(path, taken / "drr_90.png", crossing, ap_flags=flags, **options)

    with pytest.raises(ImageError, match="colours in the AP view"):
        run(made("photo.png", rng.integers(0, 255, (300, 300, 3)).astype(np.uint8)))
    with pytest.raises(ModalityError, match="a volume as AP view; a radiograph is needed"):
        run(taken.parent / "ct")
    whole = np.asarray(Image.open(taken / "drr_0.png")).astype(int)
    smooth = 4000 * np.outer(np.hanning(300), np.hanning(280))
    wrapped = made("wrapped.png", (smooth.astype(int) % 256).astype(np.uint8))
    with pytest.raises(ImageError, match="data of more bits that wrapped around. Export it with 16 bits"):
        run(wrapped)
    assert any("Forced: an 8-bit AP view" in n for n in run(wrapped, force=True).notes)
    cut_off = made("cut.png", smooth.clip(0, 255).astype(np.uint8))
    with pytest.raises(ImageError, match="% of its pixels at 255: data of more bits that was cut off"):
        run(cut_off)
    assert any("Forced: an 8-bit AP view with" in n for n in run(cut_off, force=True).notes)
    dark = made("dark.png", (65535 - whole).astype(np.uint16))
    with pytest.raises(ImageError, match="upper corners are bright, as where bone is dark.*Add invert=True"):
        run(dark)
    inverted = medvit.reconstruct(
        dark,
        taken / "drr_90.png",
        crossing,
        ap_flags=ViewGeometry(pixel_spacing_mm=1.0, magnification=1.5, invert=True),
    )
    assert dice(np.asarray(inverted.labels)[0] > 0, _labels(taken, crossing, "drr_0.png", "drr_90.png") > 0) > 0.99
    eight = run(made("eight.png", (whole // 257).astype(np.uint8)))
    assert dice(np.asarray(eight.labels)[0] > 0, _labels(taken, crossing, "drr_0.png", "drr_90.png") > 0) > 0.97
    with pytest.raises(SourceError, match="Found nothing at"):
        run(tmp_path / "nowhere.png")
    mammogram = _changed(taken / "drr_0.dcm", tmp_path / "mg.dcm", Modality="MG")
    with pytest.raises(ModalityError, match="modality MG as AP view, where crossing is made for DX or CR"):
        run(mammogram)


def test_a_view_that_cuts_the_body_is_flagged(crossing, taken, tmp_path):
    pixels = np.asarray(Image.open(taken / "drr_0.png"))
    Image.fromarray(np.ascontiguousarray(pixels[140:-140])).save(tmp_path / "cut.png")
    result = medvit.reconstruct(
        tmp_path / "cut.png",
        taken / "drr_90.png",
        crossing,
        ap_flags=ViewGeometry(pixel_spacing_mm=1.0, magnification=1.5),
    )
    assert result.quality()["rating"] == "check" and result.field_coverage[0] < 0.7 and result.field_coverage[1] == 1
    assert any("the rest was taken for air" in note for note in result.notes)


def test_a_body_that_is_not_found_is_poor(crossing, taken, tmp_path):
    flat = np.zeros((480, 480), np.uint16)
    flat[440:470, 120:180] = 60000  # bright where the lateral view shows nothing
    Image.fromarray(flat).save(tmp_path / "flat.png")
    outcome = _run(
        "reconstruct", "--ap", tmp_path / "flat.png", "--lat", taken / "drr_90.png", "-o", tmp_path / "out", "-b", crossing,
        "--pixel-spacing", "1,1", "--magnification", "1.5", "--json", "-p",
    )  # fmt: skip
    assert outcome.exit_code == 3
    assert json.loads(outcome.stdout)["quality"]["reasons"][:2] == ["mandible was not found", "bone was not found"]
    assert not list((tmp_path / "out").glob("meshes/*"))


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["-ot", "seg"], 1, "a reconstruction is written as nifti, stl, ply, obj"),
        (["--pixel-spacing", "a"], 2, "found 'a' for --pixel-spacing"),
        (["--magnification", "1,2,3"], 2, "found '1,2,3' for --magnification"),
        (["-b", "ct_denoise_restore_rwkv"], 1, "one for reconstruction is needed"),
    ],
)
def test_mistakes_leave_nothing_behind(crossing, taken, tmp_path, options, code, message):
    call = reconstruct_call(crossing, taken, tmp_path / "out")
    outcome = _run(*call, *options)
    assert outcome.exit_code == code
    assert message in " ".join(outcome.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists() and "Traceback" not in outcome.output


def test_a_bundle_without_weights_refuses(crossing, taken, tmp_path):
    folder = Path(shutil.copytree(crossing, tmp_path / "bare"))
    (folder / "models" / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="no weights for bare"):
        medvit.reconstruct(taken / "drr_0.png", taken / "drr_90.png", folder)


def test_mistakes_come_before_torch(crossing, tmp_path):
    program = (
        "import sys; from typer.testing import CliRunner; from medvit.cli.main import app; "
        "r = CliRunner().invoke(app, ['reconstruct', '--ap', 'no', '--lat', 'no', '-o', sys.argv[1], '-b', sys.argv[2]]); "
        "print(r.exit_code, 'torch' in sys.modules)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "out"), str(crossing)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.split() == ["1", "False"]
