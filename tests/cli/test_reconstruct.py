"""``medvit reconstruct`` as a user meets it: computed radiographs of known bodies, every way to state geometry, and mistakes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import BundleError, GeometryError, ImageError, ModalityError, OutputError, SourceError
from medvit.reconstruction.field import on_field
from medvit.reconstruction.view_consistency import gradient_correlation
from medvit.reconstruction.views import ViewGeometry, open_view
from tests.bands import dice, make_reconstructing_bundle, write_series
from tests.batch.archives import without_numbers
from tests.judges.test_seg_and_rtstruct import _validate

runner = CliRunner()


def _run(*args: object):
    return runner.invoke(app, [str(a) for a in args])


def bones() -> tuple[np.ndarray, np.ndarray]:
    """Bodies in air, each view's shadow of which no flip maps to itself; (i, j, k) HU and the affine."""
    values = np.full((60, 64, 70), -1000, np.int16)
    values[10:20, 20:44, 10:60], values[20:44, 38:48, 30:44], values[36:46, 10:22, 50:64] = 800, 300, 1500
    affine = np.diag([4.0, 4, 4, 1])
    affine[:3, 3] = (-120, -128, -140)
    return values, affine


@pytest.fixture(scope="module")
def crossing(tmp_path_factory) -> Path:
    """A bundle that sees a body where both views are bright."""
    return make_reconstructing_bundle(tmp_path_factory.mktemp("bundles") / "crossing")


@pytest.fixture(scope="module")
def taken(tmp_path_factory) -> Path:
    """PNG and DICOM radiographs of the bodies from four sides, of a DICOM series."""
    place = tmp_path_factory.mktemp("taken")
    values, affine = bones()
    write_series(place / "ct", values, affine, BodyPartExamined="HEAD")
    outcome = _run("drr", place / "ct", "-o", place / "drr", "-ot", "png", "-ot", "dicom", "--views", "0,90,180,270")
    assert outcome.exit_code == 0, outcome.output
    return place / "drr"


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


def _changed(path: Path, target: Path, **changes: object) -> Path:
    dataset = pydicom.dcmread(path)
    for keyword, value in changes.items():
        if value is None:
            dataset.pop(keyword, None)
        else:
            setattr(dataset, keyword, value)
    dataset.save_as(target)
    return target


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
    call = (
        "reconstruct",
        "--ap",
        taken / "drr_0.png",
        "--lat",
        taken / "drr_90.png",
        "-o",
        tmp_path / "out",
        "-b",
        crossing,
    )
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


@pytest.mark.parametrize(
    ("ap", "lat", "message"),
    [
        (
            "drr_90.dcm",
            "drr_0.dcm",
            "ViewPosition RL in the view given as AP; it is the other one. Exchange --ap and --lat",
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
    call = (
        "reconstruct",
        "--ap",
        taken / "drr_0.png",
        "--lat",
        taken / "drr_90.png",
        "-o",
        tmp_path / "out",
        "-b",
        crossing,
    )
    outcome = _run(*call, *options)
    assert outcome.exit_code == code
    assert message in " ".join(outcome.output.replace("│", " ").split())
    assert not (tmp_path / "out").exists() and "Traceback" not in outcome.output


def test_a_bundle_without_weights_refuses(crossing, taken, tmp_path):
    folder = Path(shutil.copytree(crossing, tmp_path / "bare"))
    (folder / "models" / "model.safetensors").unlink()
    with pytest.raises(BundleError, match="no weights for bare"):
        medvit.reconstruct(taken / "drr_0.png", taken / "drr_90.png", folder)


def test_computed_radiographs_are_valid_cr(taken):
    for path in sorted(taken.glob("*.dcm")):
        _validate(path)
    views = {p.stem: pydicom.dcmread(p) for p in taken.glob("*.dcm")}
    assert [views[f"drr_{v}"].ViewPosition for v in (0, 90, 180, 270)] == ["AP", "RL", "PA", "LL"]
    assert len({v.SeriesInstanceUID for v in views.values()}) == 1
    assert views["drr_0"].PatientID == "ID-4711" and float(views["drr_0"].DistanceSourceToDetector) == 1500
    assert np.array_equal(views["drr_0"].pixel_array, np.asarray(Image.open(taken / "drr_0.png")))


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
