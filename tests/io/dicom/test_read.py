"""Regular stacks of every kind are read correctly; irregular ones are refused, with the place and the reason."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pydicom
import pytest

from medvit.errors import GeometryError, ImageError, SelectionError, SourceError
from medvit.io import open_source, world
from tests.bands import oblique_affine, phantom, write_series


def _resave(path: Path, **changes: object) -> None:
    dataset = pydicom.dcmread(path)
    for name, value in changes.items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def _values_agree(scan, array, affine) -> None:
    """Every voxel of the scan lies where the written volume has that value."""
    index = np.argwhere(np.ones(scan.array.shape[1:], bool))[::97]
    place = world(np.linalg.inv(affine), world(scan.affine, index))
    assert np.abs(place - np.rint(place)).max() < 1e-3
    assert np.allclose(scan.array[0][tuple(index.T)], array[tuple(np.rint(place).astype(int).T)], atol=0.51)


PLANES = {
    "axial": np.diag([-1.0, -1.0, 1.0]),
    "sagittal": np.array([[0, 0, -1.0], [-1.0, 0, 0], [0, -1.0, 0]]),
    "coronal": np.array([[-1.0, 0, 0], [0, 0, -1.0], [0, -1.0, 0]]),
    "oblique": oblique_affine((1.0, 1.0, 1.0))[:3, :3],
}


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize(("representation", "intercept"), [(1, 0), (0, -1024)], ids=["signed", "unsigned"])
def test_planes_and_number_formats(plane, representation, intercept, tmp_path):
    array, _ = phantom()
    affine = np.eye(4)
    affine[:3, :3] = PLANES[plane] @ np.diag((0.7, 1.3, 2.5))
    affine[:3, 3] = (12.5, -40.25, 300)
    write_series(tmp_path, array, affine, PixelRepresentation=representation, RescaleIntercept=intercept)
    scan = open_source(tmp_path)
    assert scan.modality == "CT"
    assert len(scan.slices) == scan.array.shape[3]
    assert not scan.blockers
    _values_agree(scan, array, affine)


def test_slices_are_ordered_by_position_not_by_name_or_number(tmp_path):
    array, _ = phantom()
    write_series(tmp_path, array, oblique_affine())
    scan = open_source(tmp_path)
    numbers = [int(h.InstanceNumber) for h in scan.slices]
    assert numbers != sorted(numbers)
    normal = np.cross(*np.array(scan.slices[0].ImageOrientationPatient, float).reshape(2, 3))
    along = [np.array(h.ImagePositionPatient, float) @ normal for h in scan.slices]
    assert along == sorted(along)


def test_rescale_is_applied_slice_by_slice(tmp_path):
    array, _ = phantom()
    write_series(
        tmp_path, array, oblique_affine(), RescaleSlope=lambda k: 1 + k % 3, RescaleIntercept=lambda k: -1024 - 10 * k
    )
    scan = open_source(tmp_path)
    flipped = (
        scan.array[0] if np.allclose(scan.array[0][:, :, 0], array[:, :, 0], atol=2) else scan.array[0][:, :, ::-1]
    )
    assert np.abs(flipped - array).max() <= 1.5  # stored values are whole numbers of up to 3 HU


def test_a_zip_and_a_nested_folder_read_like_the_folder(tmp_path):
    array, _ = phantom()
    paths = write_series(tmp_path / "a" / "b", array, oblique_affine())
    with zipfile.ZipFile(tmp_path / "series.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"disc/{path.name}")
    folder, packed = open_source(tmp_path / "a"), open_source(tmp_path / "series.zip")
    assert np.array_equal(folder.array, packed.array)
    assert folder.fingerprint() == packed.fingerprint()


def test_non_dicom_files_among_good_ones_are_set_aside_and_said(tmp_path):
    array, _ = phantom()
    write_series(tmp_path, array, oblique_affine())
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "noise.dcm").write_bytes(bytes(range(256)))
    assert "2 file(s) that are not DICOM were set aside." in open_source(tmp_path).notes


def test_a_truncated_slice_among_good_ones_is_named(tmp_path):
    array, _ = phantom()
    path = write_series(tmp_path, array, oblique_affine())[5]
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(SourceError, match=rf"Found {path.name}, whose pixels cannot be read: the file is cut off"):
        open_source(tmp_path)


def test_a_slice_without_pixels_is_named(tmp_path):
    array, _ = phantom()
    path = write_series(tmp_path, array, oblique_affine())[5]
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(SourceError, match="it holds no pixel data"):
        open_source(tmp_path)


def test_missing_slice(tmp_path):
    array, _ = phantom()
    write_series(tmp_path, array, oblique_affine())[11].unlink()
    with pytest.raises(
        GeometryError,
        match=r"a gap of 4\.00 mm between the slices at .* where the spacing is 2\.00 mm: 1 slice\(s\) missing",
    ):
        open_source(tmp_path)


def test_copied_files_are_set_aside_and_said(tmp_path):
    array, _ = phantom()
    paths = write_series(tmp_path, array, oblique_affine())
    once = open_source(tmp_path)
    for path in paths[3:9]:
        (tmp_path / f"copy-{path.name}").write_bytes(path.read_bytes())
    twice = open_source(tmp_path)
    assert np.array_equal(once.array, twice.array)
    assert "Found 6 file(s) that are copies of others; they were set aside." in twice.notes


def test_a_second_image_at_one_position_is_refused(tmp_path):
    array, _ = phantom()
    path = write_series(tmp_path, array, oblique_affine())[11]
    content = path.read_bytes()
    _resave(path, SOPInstanceUID="1.2.3.4")
    (tmp_path / "other.dcm").write_bytes(content)
    with pytest.raises(GeometryError, match=r"two slices at the same position \(-?[\d.]+ mm along the normal\)"):
        open_source(tmp_path)


def test_two_images_under_one_sop_instance_uid_are_refused(tmp_path):
    array, _ = phantom()
    path = write_series(tmp_path, array, oblique_affine())[11]
    (tmp_path / "other.dcm").write_bytes(path.read_bytes())
    _resave(path, PixelData=bytes(37 * 41 * 2))
    with pytest.raises(SourceError, match="2 different images under one SOPInstanceUID; each image has its own"):
        open_source(tmp_path)


def test_uneven_spacing(tmp_path):
    array, _ = phantom()
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    write_series(tmp_path, array, affine, ImagePositionPatient=lambda k: [0, 0, 2 * k + (0.6 if k > 9 else 0)])
    with pytest.raises(GeometryError, match="unevenly spaced slices"):
        open_source(tmp_path)


def test_gantry_tilt(tmp_path):
    array, _ = phantom()
    write_series(tmp_path, array, np.diag([-1.0, -1.0, 2.0, 1.0]), ImagePositionPatient=lambda k: [0, 0.5 * k, 2 * k])
    with pytest.raises(GeometryError, match=r"a gantry tilt of 14\.0 degrees"):
        open_source(tmp_path)


def test_single_slice_needs_its_thickness(tmp_path):
    array, _ = phantom()
    write_series(tmp_path / "a", array[:, :, 10:11], oblique_affine())
    assert open_source(tmp_path / "a").spacing_mm[2] == pytest.approx(2)
    write_series(tmp_path / "b", array[:, :, 10:11], oblique_affine(), SliceThickness=None)
    with pytest.raises(GeometryError, match="a single slice without SliceThickness"):
        open_source(tmp_path / "b")


def test_slices_shifted_sideways(tmp_path):
    array, _ = phantom()
    shifted = lambda k: [3 * (k % 2), 0, 2 * k]  # noqa: E731
    write_series(tmp_path, array, np.diag([-1.0, -1.0, 2.0, 1.0]), ImagePositionPatient=shifted)
    with pytest.raises(GeometryError, match="slices shifted sideways against each other"):
        open_source(tmp_path)


def test_directions_that_are_not_perpendicular(tmp_path):
    write_series(tmp_path, phantom()[0], oblique_affine(), ImageOrientationPatient=[1, 0, 0, 1, 0, 0])
    with pytest.raises(GeometryError, match="not perpendicular unit vectors"):
        open_source(tmp_path)


def test_a_header_value_that_is_no_number(tmp_path):
    path = write_series(tmp_path, phantom()[0], oblique_affine(), ImagePositionPatient=[1.5, 2.5, 3.5])[4]
    content = path.read_bytes()
    assert content.count(b"1.5\\2.5\\3.5") == 1
    path.write_bytes(content.replace(b"1.5\\2.5\\3.5", b"1.5\\x.5\\3.5"))
    with pytest.raises(SourceError, match=r"damaged in its header|a damaged header value"):
        open_source(tmp_path)


def test_real_tilted_series_is_refused(shared):
    with pytest.raises(GeometryError):
        open_source(shared / "data/dicom/ct_head_GE_tilt18.5_variable_spacing.zip")


def test_mixed_sizes_orientations_and_missing_geometry(tmp_path):
    array, _ = phantom()
    paths = write_series(tmp_path, array, oblique_affine())
    before = paths[3].read_bytes()
    _resave(paths[3], ImageOrientationPatient=[1, 0, 0, 0, 1, 0])
    aside = r"1 slice of 37x41, axial at .* mm, in the same series, set aside"
    with pytest.raises(GeometryError, match=rf"a gap of 4.00 mm .* 1 slice\(s\) missing; .* {aside}"):
        open_source(tmp_path)
    paths[3].write_bytes(before)
    _resave(paths[3], Rows=36, PixelData=bytes(36 * 41 * 2))
    with pytest.raises(GeometryError, match=r"a gap of 4.00 mm .* 1 slice of 36x41, .*, set aside"):
        open_source(tmp_path)
    paths[3].write_bytes(before)
    _resave(paths[3], ImagePositionPatient=None)
    with pytest.raises(GeometryError, match="1 of 29 slices without ImagePositionPatient"):
        open_source(tmp_path)


def test_two_series_are_listed_without_names_and_one_can_be_chosen(tmp_path):
    array, _ = phantom()
    write_series(tmp_path / "a", array, oblique_affine())
    write_series(tmp_path / "b", array[:, :, :20], oblique_affine(), PatientID="ID-0815")
    with pytest.raises(SelectionError, match=r"2 series of 2 patients.*series=.NUMBER.") as caught:
        open_source(tmp_path)
    assert "Secret" not in str(caught.value)
    assert "ID-" not in str(caught.value)
    assert "CT, 20 slices of 37x41" in str(caught.value)
    sizes = {open_source(tmp_path, series=number).array.shape[3] for number in ("1", "2")}
    assert sizes == {20, 29}
    uid = open_source(tmp_path, series="1").slices[0].SeriesInstanceUID
    assert open_source(tmp_path, series=uid).array.shape == open_source(tmp_path, series="1").array.shape
    with pytest.raises(SelectionError, match="no series '9'; give the number or UID"):
        open_source(tmp_path, series="9")


def test_two_patients_under_one_series_uid(tmp_path):
    array, _ = phantom()
    paths = write_series(tmp_path, array, oblique_affine())
    _resave(paths[0], PatientID="other")
    with pytest.raises(SelectionError, match="several patients under one SeriesInstanceUID"):
        open_source(tmp_path)


def test_colour_and_multi_frame(tmp_path):
    array, _ = phantom()
    paths = write_series(tmp_path, array, oblique_affine())
    kept = paths[0].read_bytes()
    for path in paths[1:]:
        path.unlink()
    _resave(paths[0], NumberOfFrames=3, PixelData=bytes(3 * 37 * 41 * 2))
    with pytest.raises(ImageError, match="a clip of 3 frames without a place; one volume or one picture is needed"):
        open_source(tmp_path)
    paths[0].write_bytes(kept)
    _resave(paths[0], SamplesPerPixel=3, PixelData=bytes(3 * 37 * 41 * 2))
    with pytest.raises(ImageError, match="colour pixels"):
        open_source(tmp_path)


def test_absent_uids_and_several_frames_of_reference_are_read_and_remembered(tmp_path):
    array, _ = phantom()
    write_series(tmp_path / "a", array, oblique_affine(), SOPInstanceUID="")
    assert open_source(tmp_path / "a").blockers == ("29 of 29 slices have no SOPInstanceUID",)
    write_series(tmp_path / "b", array, oblique_affine(), FrameOfReferenceUID=lambda k: f"1.2.3.{k + 1}")
    assert open_source(tmp_path / "b").blockers == ("the slices state 29 different FrameOfReferenceUIDs",)


def test_real_oblique_series(shared):
    scan = open_source(shared / "data/dicom/mr_T1_oblique_sagittal_SAG-anon_48slices.zip")
    assert scan.modality == "MR"
    assert scan.array.shape[3] == 48
