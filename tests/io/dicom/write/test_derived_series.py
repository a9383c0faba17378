"""The derived series: valid, in the source's place, holding its values, and telling what it is."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import MRImageStorage, generate_uid

import medvit
from medvit.errors import RoundTripError
from medvit.io import open_source
from medvit.io.dicom.write import check_derived, source_of
from medvit.io.dicom.write.pixel_encoding import plan_storage
from tests.bands import make_restoring_bundle, oblique_affine, write_series
from tests.cli.test_restore import _wanted, noisy
from tests.io.dicom.header.test_multiframe import enhanced
from tests.io.dicom.test_read import PLANES
from tests.judges.test_seg_and_rtstruct import _validate


@pytest.fixture(scope="module")
def smoothing(tmp_path_factory) -> Path:
    return make_restoring_bundle(tmp_path_factory.mktemp("bundles") / "smoothing")


@pytest.fixture(scope="module")
def mr_smoothing(tmp_path_factory) -> Path:
    return make_restoring_bundle(tmp_path_factory.mktemp("bundles") / "mr_smoothing", modality="MR")


@pytest.fixture(scope="module")
def example(smoothing, examples, tmp_path_factory) -> tuple[Path, Path]:
    """The shipped CT and what was derived from it, as folders."""
    place = tmp_path_factory.mktemp("derived")
    shutil.unpack_archive(examples / "headneck_ct_dicom.zip", place / "ct")
    result = medvit.restore(place / "ct", bundle=smoothing)
    result.save(place / "out", ("dicom",))
    return place / "ct", place / "out" / "derived"


def _derived(source: Path, bundle: Path, out: Path, **options: object) -> list[pydicom.Dataset]:
    medvit.restore(source, bundle=bundle, **options).save(out, ("dicom",))
    return [pydicom.dcmread(path) for path in sorted((out / "derived").iterdir())]


def test_dciodvfy_and_dcentvfy_find_no_error(example):
    _, derived = example
    for path in sorted(derived.iterdir())[::40]:
        _validate(path)
    if shutil.which("dcentvfy") is None:
        pytest.skip("dcentvfy is not installed (Debian package dicom3tools)")
    files = [str(p) for place in example for p in sorted(place.rglob("*.dcm"))]
    outcome = subprocess.run(["dcentvfy", *files], capture_output=True, text=True)
    assert len(files) == 256 and not (outcome.stdout + outcome.stderr).strip()


def test_a_new_series_of_the_same_study_in_the_same_place(example):
    source, derived = (sorted((pydicom.dcmread(p) for p in f.rglob("*.dcm")), key=lambda d: float(d.ImagePositionPatient[2])) for f in example)  # fmt: skip
    assert len({d.SeriesInstanceUID for d in derived}) == 1
    assert derived[0].SeriesInstanceUID != source[0].SeriesInstanceUID
    assert not {d.SOPInstanceUID for d in derived} & {d.SOPInstanceUID for d in source}
    for new, old in zip(derived, source, strict=True):
        for keyword in (
            "StudyInstanceUID FrameOfReferenceUID PatientID PatientName ImagePositionPatient ImageOrientationPatient "
            "PixelSpacing SliceThickness RescaleSlope RescaleIntercept RescaleType WindowCenter InstanceNumber KVP Rows "
            "BitsStored PixelRepresentation SOPClassUID"
        ).split():
            assert new[keyword].value == old[keyword].value, keyword
        assert list(new.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        assert new.BurnedInAnnotation == "NO"
        (reference,) = new.SourceImageSequence
        assert reference.ReferencedSOPInstanceUID == old.SOPInstanceUID
        assert reference.PurposeOfReferenceCodeSequence[0].CodeValue == "121322"
        (series,) = new.ReferencedSeriesSequence
        assert series.SeriesInstanceUID == old.SeriesInstanceUID
        assert series.ReferencedInstanceSequence[0].ReferencedSOPInstanceUID == old.SOPInstanceUID


def test_what_made_it_stands_in_it(example, smoothing):
    bundle = medvit.open_bundle(smoothing)
    new = pydicom.dcmread(sorted(example[1].iterdir())[0])
    assert new.SeriesDescription == "smoothing 0.1.0; For research use, not for diagnosis"
    assert "For research use, not for diagnosis" in new.DerivationDescription
    assert "smoothing 0.1.0" in new.DerivationDescription
    assert new.DerivationCodeSequence[0].CodeValue == "113087"
    assert (new.Manufacturer, new.ManufacturerModelName) == ("medvit", "smoothing 0.1.0")
    scanner, ours = new.ContributingEquipmentSequence
    assert scanner.Manufacturer == "OpenKBP (converted)"
    assert scanner.PurposeOfReferenceCodeSequence[0].CodeValue == "109101"
    assert ours.PurposeOfReferenceCodeSequence[0].CodeValue == "109102"
    assert bundle.weights_sha256 in ours.ContributionDescription
    assert new.ImageComments == "For research use, not for diagnosis"


@pytest.mark.parametrize("plane", PLANES)
def test_every_orientation_reads_back_to_the_restored_values(plane, smoothing, tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = PLANES[plane] @ np.diag((1.1, 1.9, 2.5))
    affine[:3, 3] = (12.5, -40.25, 300)
    write_series(tmp_path / "series", noisy(), affine)
    _derived(tmp_path / "series", smoothing, tmp_path / "out")
    read, source = open_source(tmp_path / "out" / "derived"), open_source(tmp_path / "series")
    assert np.allclose(read.affine, source.affine, atol=1e-4)
    assert np.abs(read.array[0] - _wanted(source.array[0], source.affine)).max() < 0.51


def test_mr_keeps_its_class_and_is_valid(mr_smoothing, tmp_path):
    values = np.abs(noisy())
    write_series(
        tmp_path / "series", values, oblique_affine((1.0, 1.0, 3.0)), Modality="MR", SOPClassUID=MRImageStorage,
        ImageType=["ORIGINAL", "PRIMARY", "OTHER"], ScanningSequence="GR", SequenceVariant="NONE", ScanOptions="",
        MRAcquisitionType="3D", EchoTime="4", RepetitionTime="9", EchoTrainLength="1", KVP=None,
        InstitutionName="Somewhere", StationName="S1",
    )  # fmt: skip
    for path in (tmp_path / "series").iterdir():
        dataset = pydicom.dcmread(path)
        for keyword in ("RescaleSlope", "RescaleIntercept", "RescaleType", "KVP"):
            delattr(dataset, keyword)
        dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
        dataset.save_as(path)
    new = _derived(tmp_path / "series", mr_smoothing, tmp_path / "out")
    assert new[0].SOPClassUID == MRImageStorage and "RescaleSlope" not in new[0]
    assert new[0].ContributingEquipmentSequence[0].InstitutionName == "Somewhere" and "StationName" not in new[0]
    _validate(tmp_path / "out" / "derived" / "0001.dcm")


def test_twelve_bits_are_widened_only_where_values_ask_for_it(smoothing, tmp_path):
    affine = oblique_affine((1.0, 1.0, 3.0))
    kwargs = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0, "RescaleIntercept": -1024}
    write_series(tmp_path / "series", noisy(), affine, **kwargs)
    first = _derived(tmp_path / "series", smoothing, tmp_path / "out")[0]
    assert (first.BitsAllocated, first.BitsStored, first.HighBit, first.PixelRepresentation) == (16, 12, 11, 0)
    assert float(first.RescaleIntercept) == -1024
    slices = source_of(open_source(tmp_path / "series"))
    high = noisy().astype(np.float32)
    high[20, 20, 3] = 5000
    storage = plan_storage(high, slices)
    assert (storage.bits, storage.signed, storage.kept) == (16, False, True)
    high[20, 20, 3] = -2000
    storage = plan_storage(high, slices)
    assert (storage.bits, storage.signed, storage.kept) == (16, True, True)
    high[20, 20, 3] = 1e6
    storage = plan_storage(high, slices)
    assert not storage.kept and storage.scales[0][0] == pytest.approx(1600 / 65535, rel=1e-2)
    slope, intercept = storage.scales[3]
    assert np.abs(storage.stored(high[:, :, 3], 3).T.astype(float) * slope + intercept - high[:, :, 3]).max() <= slope


def test_a_rescale_of_its_own_is_said_and_reads_back(mr_smoothing, tmp_path):
    """Slopes that differ by slice, as in PET, stay; Philips' private one becomes a public one."""
    values = np.abs(noisy())
    slopes = [1.0, 2.0, 0.5, 1.5, 1.0, 3.0]
    write_series(
        tmp_path / "pet", values, oblique_affine((1.0, 1.0, 3.0)), Modality="MR", RescaleSlope=lambda k: slopes[k]
    )
    new = _derived(tmp_path / "pet", mr_smoothing, tmp_path / "out")
    assert sorted(float(d.RescaleSlope) for d in new) == sorted(slopes)
    write_series(tmp_path / "philips", values, oblique_affine((1.0, 1.0, 3.0)), Modality="MR")
    for path in (tmp_path / "philips").iterdir():
        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x2005, "Philips MR Imaging DD 001", create=True)
        block.add_new(0x0E, "FL", 4.0)
        dataset.save_as(path)
    result = medvit.restore(tmp_path / "philips", bundle=mr_smoothing)
    saved = result.save(tmp_path / "second", ("dicom",))
    assert any("a rescale of its own" in note for note in saved.notes)
    read = open_source(tmp_path / "second" / "derived")
    assert np.abs(read.array - np.asarray(result.image)).max() <= 0.126
    assert not [e for e in pydicom.dcmread(tmp_path / "second" / "derived" / "0001.dcm") if e.tag.is_private]


def test_private_elements_overlays_and_icons_are_left_behind(smoothing, tmp_path):
    paths = write_series(tmp_path / "series", noisy(), oblique_affine((1.0, 1.0, 3.0)), SmallestImagePixelValue=3)
    for path in paths:
        dataset = pydicom.dcmread(path)
        block = dataset.private_block(0x0099, "MAKER", create=True)
        block.add_new(0x01, "LO", "Secret^Person")
        item = pydicom.Dataset()
        item.private_block(0x0099, "MAKER", create=True).add_new(0x01, "LO", "Secret^Person")
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1", "99X", "kept"
        dataset.ProcedureCodeSequence = pydicom.Sequence([item])
        dataset.add_new(0x60000010, "US", 4)
        dataset.save_as(path)
    new = _derived(tmp_path / "series", smoothing, tmp_path / "out")[0]
    assert new.ProcedureCodeSequence[0].CodeMeaning == "kept" and len(list(new.ProcedureCodeSequence[0])) == 3
    assert not [e for e in new.iterall() if e.tag.is_private or e.tag.group == 0x6000]
    assert "SmallestImagePixelValue" not in new


def test_an_enhanced_source_gives_one_enhanced_file(smoothing, tmp_path):
    affine = oblique_affine((1.0, 1.0, 3.0))
    order = np.random.default_rng(0).permutation(6)
    enhanced(tmp_path / "ct.dcm", [noisy()], affine, order, np.full(6, 1.0))
    (new,) = _derived(tmp_path / "ct.dcm", smoothing, tmp_path / "out")
    old = pydicom.dcmread(tmp_path / "ct.dcm")
    assert new.SOPClassUID == old.SOPClassUID and new.NumberOfFrames == 6
    assert new.ImageType[0] == "DERIVED" and "SourceImageSequence" not in new
    for n, group in enumerate(new.PerFrameFunctionalGroupsSequence):
        item = group.DerivationImageSequence[0].SourceImageSequence[0]
        assert item.ReferencedSOPInstanceUID == old.SOPInstanceUID and item.ReferencedFrameNumber == n + 1
    read = open_source(tmp_path / "out" / "derived")
    assert np.abs(read.array[0] - _wanted(noisy(), affine)).max() < 0.51


def test_a_time_point_of_an_enhanced_source_keeps_its_own_frames(smoothing, tmp_path):
    affine = oblique_affine((1.0, 1.0, 3.0))
    later = noisy(sigma=5.0)
    enhanced(tmp_path / "ct.dcm", [noisy(), later], affine, np.arange(12)[::-1], np.full(12, 0.5))
    result = medvit.restore(tmp_path / "ct.dcm", bundle=smoothing, series="2")
    result.save(tmp_path / "out", ("dicom",))
    new = pydicom.dcmread(tmp_path / "out" / "derived" / "0001.dcm")
    assert new.NumberOfFrames == 6
    numbers = [g.DerivationImageSequence[0].SourceImageSequence[0].ReferencedFrameNumber for g in new.PerFrameFunctionalGroupsSequence]  # fmt: skip
    assert numbers == [1, 2, 3, 4, 5, 6]
    read = open_source(tmp_path / "out" / "derived")
    assert np.abs(read.array[0] - _wanted(later, affine)).max() < 0.26


def test_the_check_finds_what_it_should(smoothing, tmp_path):
    affine = oblique_affine((1.0, 1.0, 3.0))
    write_series(tmp_path / "series", noisy(), affine)
    result = medvit.restore(tmp_path / "series", bundle=smoothing)
    result.save(tmp_path / "out", ("dicom",))
    folder, slices, values = tmp_path / "out" / "derived", source_of(result.scan), result.on_source_slices()
    check_derived(folder, values, slices)
    with pytest.raises(RoundTripError, match="values .* away from what was meant"):
        check_derived(folder, values + 2, slices)
    moved = replace(slices, planes=slices.planes + np.eye(4)[3] * 0.5)
    with pytest.raises(RoundTripError, match="off the source's"):
        check_derived(folder, values, moved)
    path = folder / "0002.dcm"
    whole = path.read_bytes()
    for keyword, value, message in (
        ("SourceImageSequence", None, "a reference to another slice"),
        ("SeriesInstanceUID", generate_uid(), "UIDs that are not new"),
    ):
        dataset = pydicom.dcmread(path)
        if value is None:
            dataset.SourceImageSequence[0].ReferencedSOPInstanceUID = generate_uid()
        else:
            setattr(dataset, keyword, value)
        dataset.save_as(path)
        with pytest.raises(RoundTripError, match=message):
            check_derived(folder, values, slices)
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(RoundTripError, match="missing slices"):
        check_derived(folder, values, slices)
