"""``medvit reconstruct`` as a user meets it: computed radiographs of known bodies, every way to state geometry, and mistakes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import OutputError
from medvit.reconstruction.field import on_field
from medvit.reconstruction.view_consistency import gradient_correlation
from medvit.reconstruction.views import ViewGeometry, open_view
from tests.bands import dice
from tests.cli.scenes import bones
from tests.judges.test_seg_and_rtstruct import _validate

runner = CliRunner()


def reconstruct_call(crossing, taken, out: Path) -> tuple[object, ...]:
    """Return a command line that reconstructs the two views into a folder."""
    return "reconstruct", "--ap", taken / "drr_0.png", "--lat", taken / "drr_90.png", "-o", out, "-b", crossing


def _run(*args: object):
    return runner.invoke(app, [str(a) for a in args])


def _labels(taken: Path, bundle: Path, ap: str, lat: str, **options: object) -> np.ndarray:
    return np.asarray(medvit.reconstruct(taken / ap, taken / lat, bundle, **options).labels)[0]


def test_files_measures_and_closed_meshes(crossing, taken, tmp_path):
    out = tmp_path / "out"
    outcome = _run(
        "reconstruct", "--ap", taken / "drr_0.png", "--lat", taken / "drr_90.png", "-o", out, "-b", crossing, "-p", "-s",
        "-ot", "nifti", "-ot", "stl", "-ot", "ply", "-ot", "obj",
    )  # fmt: skip
    assert outcome.exit_code == 0, outcome.output
    names = {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()}
    assert names == {
        "labels.nii.gz", "labels.json", "statistics.json", "statistics.csv", "preview.png", "run.json",
        *(f"meshes/{name}.{kind}" for name in ("mandible", "bone") for kind in ("stl", "ply", "obj")),
    }  # fmt: skip
    said = json.loads((out / "statistics.json").read_text())
    assert said["quality"]["rating"] == "good" and min(said["consistency"]["AP"], said["consistency"]["lateral"]) > 0.5
    bone = said["labels"][1]
    assert set(said["entropy_bits"]) == {"mandible", "bone"} and len(bone["tilt_deg"]) == 2
    labels = nib.load(out / "labels.nii.gz")
    array = np.asarray(labels.dataobj)
    assert bone["volume_ml"] == pytest.approx((array == 2).sum() * 0.125)
    assert bone["surface_volume_ml"] == pytest.approx(bone["volume_ml"], rel=0.03)
    assert np.allclose(labels.affine[:3, 3], -157.5) and set(np.unique(array)) == {0, 1, 2}
    record = json.loads((out / "run.json").read_text())
    assert [v["geometry_from"] for v in record["views"]] == ["drr record"] * 2
    assert "drr_0" not in json.dumps(record) and record["intended_use"] == "For research use, not for diagnosis"
    with Image.open(out / "preview.png") as picture:
        assert picture.size == (1500, 620)


def test_meshes_read_back_closed_and_in_place(crossing, taken, tmp_path):
    """Each format, read by code that shares nothing with the writers."""
    result = medvit.reconstruct(taken / "drr_0.png", taken / "drr_90.png", crossing)
    result.save(tmp_path / "out", ("stl", "ply", "obj"))
    surface = result.surfaces["bone"]
    stl = (tmp_path / "out" / "meshes" / "bone.stl").read_bytes()
    assert stl[:9] == b"SPACE=RAS" and len(stl) == 84 + 50 * int.from_bytes(stl[80:84], "little")
    triangles = np.frombuffer(stl[84:], np.dtype([("n", "<f4", 3), ("v", "<f4", (3, 3)), ("a", "<u2")]))["v"]
    corners, index = np.unique(triangles.reshape(-1, 3), axis=0, return_inverse=True)
    faces = index.reshape(-1, 3)
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), 1)
    assert (np.unique(edges, axis=0, return_counts=True)[1] == 2).all()
    assert np.allclose(corners.min(0), surface.vertices.min(0), atol=1e-3)
    obj = (tmp_path / "out" / "meshes" / "bone.obj").read_text().splitlines()
    assert sum(line.startswith("f ") for line in obj) == len(triangles)
    points = np.array([line.split()[1:] for line in obj if line.startswith("v ")], float)
    assert np.abs(points - surface.vertices).max() < 1e-3
    head, _, body = (tmp_path / "out" / "meshes" / "bone.ply").read_bytes().partition(b"end_header\n")
    assert b"comment SPACE=RAS" in head and f"element face {len(triangles)}".encode() in head
    assert len(body) == 12 * len(points) + 13 * len(triangles)


def test_bodies_lie_where_they_were(crossing, taken):
    """Against the CT itself: the crossing of both shadows holds every body and keeps right, front and head apart."""
    found = _labels(taken, crossing, "drr_0.png", "drr_90.png") > 0
    values, affine = bones()
    middle = affine[:3, :3] @ ((np.array(values.shape) - 1) / 2) + affine[:3, 3]
    grid = np.stack(np.meshgrid(*[(np.arange(64) - 31.5) * 5] * 3, indexing="ij"), -1) + middle
    index = np.rint((grid - affine[:3, 3]) / 4).astype(int)
    inside = ((index >= 0) & (index < values.shape)).all(-1)
    truth = np.zeros((64, 64, 64), bool)
    truth[inside] = values[tuple(index[inside].T)] > 0
    assert (found & truth).sum() / truth.sum() > 0.85
    best = dice(found, truth)
    for axes in ((0,), (1,), (2,), (0, 1)):
        assert dice(np.flip(found, axes), truth) < best - 0.05


def test_dicom_gives_what_png_gives(crossing, taken):
    a, b = (_labels(taken, crossing, f"drr_0.{kind}", f"drr_90.{kind}") for kind in ("png", "dcm"))
    assert np.array_equal(a, b)


def test_views_from_behind_and_from_the_right_are_turned(crossing, taken):
    """PA and left lateral radiographs are mirrored; their perspective differs a little."""
    wanted = _labels(taken, crossing, "drr_0.dcm", "drr_90.dcm") > 0
    for ap, lat in (("drr_180.dcm", "drr_270.dcm"), ("drr_180.png", "drr_270.png")):
        result = medvit.reconstruct(taken / ap, taken / lat, crossing)
        assert dice(np.asarray(result.labels)[0] > 0, wanted) > 0.8
        assert sum("mirrored to lie" in note for note in result.notes) == 2


def test_a_picture_on_its_side_and_upside_down(crossing, taken, tmp_path):
    wanted = _labels(taken, crossing, "drr_0.dcm", "drr_90.dcm")
    dataset = pydicom.dcmread(taken / "drr_0.dcm")
    pixels = np.ascontiguousarray(dataset.pixel_array[::-1].T)
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.PixelData, dataset.PatientOrientation = pixels.tobytes(), ["H", "L"]
    dataset.save_as(tmp_path / "ap.dcm")
    assert np.array_equal(_labels(tmp_path, crossing, "ap.dcm", str(taken / "drr_90.dcm")), wanted)


def test_flags_give_what_the_record_gave_and_go_before_it(crossing, taken, tmp_path):
    wanted = _labels(taken, crossing, "drr_0.png", "drr_90.png")
    for name in ("drr_0.png", "drr_90.png"):
        shutil.copy(taken / name, tmp_path / name)
    ways = (["--magnification", "1.5"], ["--source-to-detector", "1500", "--source-to-patient", "1000,1000"])
    for n, way in enumerate(ways):
        outcome = _run(
            "reconstruct", "--ap", tmp_path / "drr_0.png", "--lat", tmp_path / "drr_90.png", "-o", tmp_path / f"out{n}", "-b",
            crossing, "--pixel-spacing", "1", *way,
        )  # fmt: skip
        assert outcome.exit_code == 0, outcome.output
        assert "states no orientation" in outcome.output and "cannot be checked" in outcome.output
        assert np.array_equal(np.asarray(nib.load(tmp_path / f"out{n}" / "labels.nii.gz").dataobj), wanted)
    flags = ViewGeometry(magnification=3.0)
    smaller = _labels(taken, crossing, "drr_0.png", "drr_90.png", ap_flags=flags, lat_flags=flags)
    assert (smaller > 0).sum() == pytest.approx((wanted > 0).sum() / 8, rel=0.2)


def test_unequal_pixels_and_magnifications_are_resampled_and_said(crossing, taken, tmp_path):
    ct, fine = taken.parent / "ct", tmp_path / "fine"
    options = ("--pixel-spacing", "0.7", "--source-to-isocenter", "1200", "--isocenter-to-detector", "300")
    assert _run("drr", ct, "-o", fine, "-ot", "dicom", *options).exit_code == 0
    result = medvit.reconstruct(taken / "drr_0.dcm", fine / "drr_90.dcm", crossing)
    wanted = _labels(taken, crossing, "drr_0.dcm", "drr_90.dcm") > 0
    assert dice(np.asarray(result.labels)[0] > 0, wanted) > 0.93
    (note,) = (n for n in result.notes if n.startswith("The two views have"))
    assert "magnifications of 1.500 and 1.250" in note and "both were resampled" in note


def test_pixels_that_are_not_square(crossing, taken, tmp_path):
    """Every second row of the AP view, said to be twice as high: the bodies are where they were."""
    wanted = _labels(taken, crossing, "drr_0.dcm", "drr_90.dcm") > 0
    dataset = pydicom.dcmread(taken / "drr_0.dcm")
    pixels = dataset.pixel_array.astype(float)
    half = np.round((pixels[0::2] + pixels[1::2][: len(pixels[0::2])]) / 2).astype(np.uint16)
    dataset.Rows, dataset.PixelData = len(half), half.tobytes()
    dataset.ImagerPixelSpacing = [2.0, 1.0]
    dataset.save_as(tmp_path / "ap.dcm")
    view = open_view(tmp_path / "ap.dcm", "AP", medvit.open_bundle(crossing))
    assert view.pixel_mm == pytest.approx((4 / 3, 2 / 3), rel=1e-3)
    result = medvit.reconstruct(tmp_path / "ap.dcm", taken / "drr_90.dcm", crossing)
    assert dice(np.asarray(result.labels)[0] > 0, wanted) > 0.97
    assert any("pixels of 1.33 x 0.667 mm and 0.667 x 0.667 mm" in note for note in result.notes)


def test_doubt_as_a_map_and_as_numbers(crossing, taken, tmp_path):
    """Bits of every voxel on the labels' grid, and their mean over each label in statistics.json."""
    call = reconstruct_call(crossing, taken, tmp_path / "out")
    assert _run(*call, "--maps").exit_code == 0
    bits, labels = (nib.load(tmp_path / "out" / name) for name in ("maps/entropy.nii.gz", "labels.nii.gz"))
    assert bits.shape == labels.shape and np.allclose(bits.affine, labels.affine)
    values, ids = np.asarray(bits.dataobj), np.asarray(labels.dataobj)
    assert values.dtype == np.float32 and values.min() >= 0 and values.max() <= 1 and np.ptp(values) > 0.01
    said = json.loads((tmp_path / "out" / "statistics.json").read_text())["entropy_bits"]
    for number, name in ((1, "mandible"), (2, "bone")):
        assert said[name] == pytest.approx(values[ids == number].mean(), abs=1e-3)
    assert json.loads((tmp_path / "out" / "run.json").read_text())["files"]["maps/entropy.nii.gz"]
    assert _run(*call, "--overwrite").exit_code == 0 and not (tmp_path / "out" / "maps").exists()
    from dataclasses import replace

    result = replace(medvit.reconstruct(taken / "drr_0.png", taken / "drr_90.png", crossing), entropy_map=None)
    with pytest.raises(OutputError, match="no uncertainty of crossing on the grid of its labels; .* Leave maps out"):
        result.save(tmp_path / "none", maps=True)


def test_monochrome1_and_linear_pixels(crossing, taken, tmp_path):
    wanted = _labels(taken, crossing, "drr_0.dcm", "drr_90.dcm") > 0
    dataset = pydicom.dcmread(taken / "drr_0.dcm")
    whole = dataset.pixel_array.astype(float)
    dataset.PixelData = (65535 - dataset.pixel_array).tobytes()
    dataset.PhotometricInterpretation = "MONOCHROME1"
    dataset.save_as(tmp_path / "inverse.dcm")
    dataset.PhotometricInterpretation = "MONOCHROME2"
    dataset.PixelIntensityRelationship, dataset.PixelIntensityRelationshipSign = "LIN", 1
    dataset.PixelData = np.round(60000 * np.exp(-whole / whole.max() * 5)).astype(np.uint16).tobytes()
    dataset.save_as(tmp_path / "linear.dcm")
    for name in ("inverse.dcm", "linear.dcm"):
        result = medvit.reconstruct(tmp_path / name, taken / "drr_90.dcm", crossing)
        assert dice(np.asarray(result.labels)[0] > 0, wanted) > 0.98, name


def test_the_field_is_exact(crossing, taken):
    """A pixel's middle lies where it should, on a picture finer and one coarser than the network's field."""
    view = open_view(taken / "drr_0.png", "AP", medvit.open_bundle(crossing))
    from dataclasses import replace

    rows, columns = np.mgrid[:200, :160].astype(np.float32)
    ramp = replace(view, values=3 * columns + rows, pixel_mm=(1.0, 2.0))
    picture, share = on_field(ramp, (16, 8), (5.0, 10.0))
    place = (np.arange(32) - 15.5) * 2.5 + 99.5, (np.arange(16) - 7.5) * 2.5 + 79.5
    assert np.abs(picture - (3 * place[1][None] + place[0][:, None])).max() < 1e-2 and share == 1


def test_agreement_tells_the_right_body_from_a_wrong_one(crossing, taken):
    result = medvit.reconstruct(taken / "drr_0.png", taken / "drr_90.png", crossing)
    right = result.consistency()["AP"]
    shadow, picture = result.reprojections[0], result.pictures[0]
    assert right == gradient_correlation(picture, shadow) > 0.5
    assert gradient_correlation(picture, picture) == 1
    assert gradient_correlation(picture, np.roll(shadow, 30, 1)) < 0.2
    assert gradient_correlation(picture, np.zeros_like(picture)) == 0


def test_computed_radiographs_are_valid_cr(taken):
    for path in sorted(taken.glob("*.dcm")):
        _validate(path)
    views = {p.stem: pydicom.dcmread(p) for p in taken.glob("*.dcm")}
    assert [views[f"drr_{v}"].ViewPosition for v in (0, 90, 180, 270)] == ["AP", "RL", "PA", "LL"]
    assert len({v.SeriesInstanceUID for v in views.values()}) == 1
    assert views["drr_0"].PatientID == "ID-4711" and float(views["drr_0"].DistanceSourceToDetector) == 1500
    assert np.array_equal(views["drr_0"].pixel_array, np.asarray(Image.open(taken / "drr_0.png")))
