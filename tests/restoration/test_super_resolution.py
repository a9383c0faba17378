"""An image made finer lies where its source lies, in NIfTI and in DICOM, and keeps what was measured."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from pydicom.uid import MRImageStorage
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import GeometryError, ModalityError, RoundTripError, ShapeError
from medvit.inference import load_model
from medvit.io import open_source, world
from medvit.io.dicom.write import check_derived, source_of
from medvit.physics import low_frequency_part, zero_fill
from medvit.physics.kspace import truncate_kspace
from medvit.restoration import upsampled_scan, upsampling_factor, with_factor
from medvit.transforms import IntensityOnUpsampledGridd, ScalePercentilesToUnitd, ZeroFillUpsampled, percentile_range
from tests.bands import make_finer_bundle, oblique_affine, write_series
from tests.io.dicom.header.test_multiframe import enhanced
from tests.io.dicom.test_read import PLANES
from tests.judges.test_seg_and_rtstruct import _validate

SHAPE = (20, 17, 4)


@pytest.fixture(scope="module")
def interpolating(tmp_path_factory) -> Path:
    """A bundle whose network changes nothing: what is left is zero filling."""
    return make_finer_bundle(tmp_path_factory.mktemp("bundles") / "interpolating")


@pytest.fixture(scope="module")
def smoothing(tmp_path_factory) -> Path:
    """One whose network blurs and lifts everything by a tenth of the range."""
    return make_finer_bundle(tmp_path_factory.mktemp("bundles") / "smoothing", 1 / 9, 0.1)


def _head(shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """A smooth head of 100 to 900 in air of 0, whole numbers, no mirror image of itself."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    values = 800 * np.exp(-3 * ((x - 0.2) ** 2 + (y + 0.1) ** 2)) * (1 + 0.2 * z) + 100 * np.exp(-20 * (x + 0.5) ** 2)
    return np.rint(np.where(values > 60, values, 0)).astype(np.int16)


def _mr_series(folder: Path, values: np.ndarray, affine: np.ndarray, **changes: object) -> None:
    write_series(
        folder, values, affine, Modality="MR", SOPClassUID=MRImageStorage, ImageType=["ORIGINAL", "PRIMARY", "OTHER"],
        ScanningSequence="GR", SequenceVariant="NONE", ScanOptions="", MRAcquisitionType="3D", EchoTime="4",
        RepetitionTime="9", EchoTrainLength="1", PixelRepresentation=0, **changes,
    )  # fmt: skip
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "KVP"):
            delattr(dataset, keyword)
        dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.save_as(path)


def _box(affine: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Two opposite corners of the box that the voxels tile, in millimetres."""
    return world(affine, np.array([[-0.5] * 3, [n - 0.5 for n in shape]]))


@pytest.mark.parametrize("codes", [(1, 2), (0, 1), (2, 0), (0, 0)])
def test_nifti_on_the_finer_grid_fills_the_sources_box_with_both_affines(interpolating, tmp_path, codes):
    values = _head()
    affine = np.diag([1.5, 2.0, 3.0, 1.0]) if codes == (0, 0) else oblique_affine((1.5, 2.0, 3.0))
    image = nib.Nifti1Image(values, affine)
    image.set_qform(affine, codes[0])
    image.set_sform(affine, codes[1])
    image.header.set_xyzt_units("mm", "sec")
    nib.save(image, tmp_path / "scan.nii.gz")
    source = nib.load(tmp_path / "scan.nii.gz")
    result = medvit.restore(tmp_path / "scan.nii.gz", bundle=interpolating)
    result.save(tmp_path / "out", maps=True, preview=True, statistics=True)
    saved = nib.load(tmp_path / "out" / "restored.nii.gz")
    assert saved.shape == (40, 34, 4) and saved.get_data_dtype() == np.int16
    assert (int(saved.header["qform_code"]), int(saved.header["sform_code"])) == codes
    assert np.allclose(saved.header.get_zooms(), (0.75, 1.0, 3.0)) and saved.header.get_xyzt_units() == ("mm", "sec")
    assert np.allclose(_box(saved.affine, saved.shape), _box(source.affine, source.shape), atol=1e-4)
    assert np.allclose(saved.affine, result.image.affine, atol=1e-4)
    for found, given in (
        (saved.get_qform(coded=True), source.get_qform(coded=True)),
        (saved.get_sform(coded=True), source.get_sform(coded=True)),
    ):
        assert found[1] == given[1]
        if given[1]:  # one without a code means nothing
            assert np.allclose(_box(found[0], saved.shape), _box(given[0], source.shape), atol=1e-3)
    wanted = np.maximum(zero_fill(values.astype(np.float32), 2), 0)
    assert np.abs(saved.get_fdata() - wanted).max() < 0.51
    difference = nib.load(tmp_path / "out" / "maps" / "difference.nii.gz")
    assert difference.shape == saved.shape and np.abs(difference.get_fdata()).max() < 0.1
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert record["source"]["shape"] == [1, *SHAPE] and record["settings"]["in_plane_factor"] == 2
    assert record["source"]["sha256"] == open_source(tmp_path / "scan.nii.gz").fingerprint()
    assert any(
        "2 times finer in the slices' plane: 0.75 x 1 mm where the source has 1.5 x 2 mm" in n for n in record["notes"]
    )


@pytest.mark.parametrize("plane", PLANES)
def test_a_landmark_stays_at_its_place_in_every_plane(plane, interpolating, tmp_path):
    """The centre of mass of a blob, in millimetres, is the same before and after, by NIfTI and by DICOM."""
    affine = np.eye(4)
    affine[:3, :3] = PLANES[plane] @ np.diag((1.1, 1.9, 2.5))
    affine[:3, 3] = (12.5, -40.25, 300)
    _mr_series(tmp_path / "series", _head(), affine)
    medvit.restore(tmp_path / "series", bundle=interpolating).save(tmp_path / "out", ("nifti", "dicom"))
    source = open_source(tmp_path / "series")

    def centre(scan) -> np.ndarray:
        weights = scan.array[0].astype(np.float64) ** 2  # what little rings beside the blob weighs nothing
        index = np.stack(np.meshgrid(*map(np.arange, weights.shape), indexing="ij"), -1).reshape(-1, 3)
        return world(scan.affine, np.average(index, axis=0, weights=weights.ravel())[None])[0]

    for name in ("derived", "restored.nii.gz"):
        finer = open_source(tmp_path / "out" / name)
        assert sorted(finer.array.shape[1:]) == sorted((40, 34, 4))
        assert np.abs(centre(finer) - centre(source)).max() < 0.02, name
        assert np.allclose(
            np.sort(_box(finer.affine, finer.array.shape[1:]), 0),
            np.sort(_box(source.affine, source.array.shape[1:]), 0),
            atol=1e-3,
        )


def test_the_derived_series_states_its_pixels_and_is_valid(interpolating, tmp_path):
    affine = oblique_affine((1.0, 1.5, 3.0))
    _mr_series(tmp_path / "series", _head(), affine, AcquisitionMatrix=[0, 20, 17, 0])
    outcome = CliRunner().invoke(
        app, ["restore", str(tmp_path / "series"), "-o", str(tmp_path / "out"), "-b", str(interpolating), "-p"]
    )
    assert outcome.exit_code == 0, outcome.output
    assert "2 times finer in the slices' plane: 0.5 x 0.75 mm" in " ".join(outcome.output.split())
    olds = {d.SOPInstanceUID: d for d in map(pydicom.dcmread, (tmp_path / "series").iterdir())}
    paths = sorted((tmp_path / "out" / "derived").iterdir())
    assert len(paths) == 4
    for path in paths:
        new = pydicom.dcmread(path)
        (reference,) = new.SourceImageSequence
        old = olds[reference.ReferencedSOPInstanceUID]
        assert reference.SpatialLocationsPreserved == "NO"
        assert (new.Rows, new.Columns) == (34, 40) and new.pixel_array.shape == (34, 40)
        assert [float(v) for v in new.PixelSpacing] == pytest.approx([0.75, 0.5])
        turn = np.array(new.ImageOrientationPatient, float).reshape(2, 3)
        moved = np.array(new.ImagePositionPatient, float) - np.array(old.ImagePositionPatient, float)
        # half a new pixel within the old pixel's edge: a quarter of an old one towards the corner
        assert moved == pytest.approx(-0.25 * turn[0] - 0.375 * turn[1], abs=1e-6)
        assert new.ImageOrientationPatient == old.ImageOrientationPatient and new.SliceThickness == old.SliceThickness
        assert (
            new.DerivationCodeSequence[0].CodeValue == "113085" and "finer than acquired" in new.DerivationDescription
        )
        assert new.AcquisitionMatrix == [0, 20, 17, 0]
        _validate(path)
    read, twin = open_source(tmp_path / "out" / "derived"), nib.load(tmp_path / "out" / "restored.nii.gz")
    assert np.array_equal(np.asarray(twin.dataobj), read.array[0]) and np.allclose(twin.affine, read.affine, atol=1e-4)
    again = CliRunner().invoke(
        app, ["restore", str(tmp_path / "out" / "derived"), "-o", str(tmp_path / "twice"), "-b", str(interpolating)]
    )
    assert again.exit_code == 1 and "an image that is restored already" in " ".join(again.output.split())


def test_an_enhanced_image_gives_one_on_the_finer_grid(interpolating, tmp_path):
    affine = oblique_affine((1.0, 1.5, 3.0))
    enhanced(tmp_path / "mf.dcm", [_head()], affine, np.array([2, 0, 3, 1]), np.ones(4))
    result = medvit.restore(tmp_path / "mf.dcm", bundle=interpolating, force=True)
    result.save(tmp_path / "out", ("dicom",))
    read = open_source(tmp_path / "out" / "derived")
    assert read.array.shape == (1, 40, 34, 4) and np.allclose(read.affine, result.scan.affine, atol=1e-4)
    assert np.abs(read.array[0] - result.array).max() < 0.51
    new = pydicom.dcmread(tmp_path / "out" / "derived" / "0001.dcm")
    measures = new.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(v) for v in measures.PixelSpacing] == pytest.approx([0.75, 0.5]) and float(
        measures.SliceThickness
    ) == 3


def test_a_series_with_the_sources_pixels_is_not_published(interpolating, tmp_path):
    _mr_series(tmp_path / "series", _head(), oblique_affine((1.0, 1.5, 3.0)))
    result = medvit.restore(tmp_path / "series", bundle=interpolating)
    result.save(tmp_path / "out", ("dicom",))
    path = tmp_path / "out" / "derived" / "0002.dcm"
    dataset = pydicom.dcmread(path)
    dataset.PixelSpacing = [1.5, 1.0]
    dataset.save_as(path)
    with pytest.raises(RoundTripError, match=r"34 rows of pixels of \[1.5, 1.0\] mm on reading 0002.dcm"):
        check_derived(path.parent, result.on_source_slices(), source_of(result.scan))


def test_what_was_measured_stays_whatever_the_network_makes(smoothing, tmp_path):
    values = _head() + 500  # far from 0, where nothing is raised
    nib.save(nib.Nifti1Image(values, np.eye(4)), tmp_path / "scan.nii.gz")
    found = medvit.restore(tmp_path / "scan.nii.gz", bundle=smoothing).array
    assert np.allclose(
        low_frequency_part(found, 2), low_frequency_part(zero_fill(values.astype(np.float32), 2), 2), atol=0.01
    )
    free = shutil.copytree(smoothing, tmp_path / "free")
    path = free / "configs" / "inference.json"
    config = json.loads(path.read_text())
    config["postprocessing"]["transforms"][0]["keep_measured"] = False
    path.write_text(json.dumps(config))
    low, high = percentile_range(values, (0.5, 99.5))
    blurred = medvit.restore(tmp_path / "scan.nii.gz", bundle=free).array
    assert float((blurred - found).mean()) == pytest.approx(0.1 * (high - low), rel=0.01)  # the constant is taken back


def test_magnitudes_stay_above_zero_and_other_images_do_not_have_to(interpolating, tmp_path):
    for name, values in (("magnitude", _head()), ("signed", _head() - 400)):
        nib.save(nib.Nifti1Image(values.astype(np.float32), np.eye(4)), tmp_path / f"{name}.nii.gz")
    assert medvit.restore(tmp_path / "magnitude.nii.gz", bundle=interpolating).array.min() == 0
    signed = medvit.restore(tmp_path / "signed.nii.gz", bundle=interpolating)
    assert signed.array.min() < -400  # it rings
    assert signed.statistics().mean_absolute_difference < 1e-3


def test_a_model_at_another_factor(interpolating):
    model = load_model(interpolating, "cpu")
    assert (upsampling_factor(model), upsampling_factor(with_factor(model, 4))) == (2, 4)
    fine = _head((32, 24, 2)).astype(np.float32)
    source = MetaTensor(
        torch.from_numpy(truncate_kspace(fine, 4))[None], affine=torch.diag(torch.tensor([4.0, 4, 1, 1]))
    )
    from medvit.inference import apply

    found = apply(with_factor(model, 4), {"image": source}).output
    assert found.shape == (1, 32, 24, 2)
    assert np.allclose(found.affine, [[1, 0, 0, -1.5], [0, 1, 0, -1.5], [0, 0, 1, 0], [0, 0, 0, 1]])


def test_the_range_of_an_image_without_a_unit(rng):
    values = rng.normal(300, 50, (8, 8, 4)).astype(np.float32)
    data = ScalePercentilesToUnitd("image", [0.5, 99.5])({"image": MetaTensor(torch.from_numpy(values)[None])})
    low, high = np.percentile(values, (0.5, 99.5))
    assert np.allclose(data["image"][0], (values - low) / (high - low), atol=1e-5)
    assert data["image_range"].tolist() == pytest.approx([low, high, 0.0])
    assert percentile_range(np.array([0.0] * 999 + [5.0]), (0.5, 99.5)) == (0, 5)  # both percentiles are 0
    assert percentile_range(np.arange(9_000_000.0), (0, 100)) == pytest.approx((0, 9e6), rel=1e-5)
    with pytest.raises(ShapeError, match=r"percentiles \[99, 1\]; two from 0 to 100 in order are needed"):
        percentile_range(values, (99, 1))
    with pytest.raises(ShapeError, match="the value 3 everywhere; an image needs contrast"):
        percentile_range(np.full(4, 3.0), (0.5, 99.5))


def test_an_output_of_another_size():
    image = MetaTensor(torch.from_numpy(_head().astype(np.float32))[None])
    data = ZeroFillUpsampled("image", 2)(ScalePercentilesToUnitd("image", (0.5, 99.5))({"image": image}))
    with pytest.raises(
        ShapeError, match=r"an output of \(20, 17, 4\) for an image of \(40, 34, 4\); they must be equal"
    ):
        IntensityOnUpsampledGridd("pred", 2)({**data, "pred": torch.zeros(1, *SHAPE)})


def test_what_cannot_be_made_finer(interpolating, tmp_path):
    affine = oblique_affine((1.0, 1.0, 3.0), 0.0)
    gaps = [0.0, 3.0, 7.0, 9.0]
    place = [[*affine[:2, 3] * [-1, -1], affine[2, 3] + g] for g in gaps]
    _mr_series(tmp_path / "uneven", _head(), affine, ImagePositionPatient=lambda k: [f"{v:.6g}" for v in place[k]])
    with pytest.raises(GeometryError, match="on_irregular="):
        medvit.restore(tmp_path / "uneven", bundle=interpolating)
    with pytest.raises(
        GeometryError, match=r"a tilted or uneven stack .* Use on_irregular=.split..*convert that part to NIfTI"
    ):
        medvit.restore(tmp_path / "uneven", bundle=interpolating, on_irregular="resample")
    with pytest.raises(GeometryError, match="a regular stack is needed"):
        upsampled_scan(open_source(tmp_path / "uneven", on_irregular="resample"), 2)
    write_series(tmp_path / "ct", _head(), affine)
    with pytest.raises(ModalityError, match="modality CT, where interpolating is made for MR"):
        medvit.restore(tmp_path / "ct", bundle=interpolating)
