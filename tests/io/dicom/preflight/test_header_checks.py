"""Headers with odd values: refused by name before a run, or read where the value does not matter."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import GeometryError, ImageError, ModalityError, SelectionError, SourceError
from medvit.io import open_source
from medvit.io.dicom import run_preflight
from tests.bands import phantom, write_series
from tests.io.dicom.preflight.test_series_preflight import _resave
from tests.io.dicom.volumes import AXIAL, SMALL, WIDE


def _raw(path: Path, tag: bytes, vr: bytes, value: bytes) -> None:
    """Put bytes into an element, whatever its kind allows."""
    content = path.read_bytes()
    at = content.index(tag + vr)
    length = struct.unpack("<H", content[at + 6 : at + 8])[0]
    value += b" " * (len(value) % 2)
    path.write_bytes(content[: at + 6] + struct.pack("<H", len(value)) + value + content[at + 8 + length :])


def _codes(folder: Path) -> set[str]:
    return {f.code for v in run_preflight(folder).volumes for f in v.findings}


# numbers


@pytest.mark.parametrize(("tag", "value", "name"), [
    (b"\x28\x00\x53\x10", b"nan", "RescaleSlope"), (b"\x28\x00\x52\x10", b"inf", "RescaleIntercept"),
    (b"\x28\x00\x30\x00", b"0,5\\0,5", "PixelSpacing"), (b"\x20\x00\x32\x00", b"0\\0\\inf", "ImagePositionPatient"),
])  # fmt: skip
def test_a_number_that_is_none_is_named_and_not_quoted(tag, value, name, tmp_path):
    """A NaN slope was once taken for padding, and the slice for air."""
    _raw(write_series(tmp_path, SMALL, AXIAL)[3], tag, b"DS", value)
    with pytest.raises(SourceError, match=rf"damaged in its header \(its {name} is not a finite number\)") as caught:
        open_source(tmp_path)
    assert value.decode() not in str(caught.value)


def test_a_slope_of_several_values_is_not_guessed(tmp_path):
    _raw(write_series(tmp_path, SMALL, AXIAL)[3], b"\x28\x00\x53\x10", b"DS", b"1\\2")
    with pytest.raises(SourceError, match=r"damaged in its header \(its RescaleSlope has 2 values\)"):
        open_source(tmp_path)


@pytest.mark.parametrize(("tag", "vr"), [(b"\x18\x00\x50\x00", b"DS"), (b"\x20\x00\x13\x00", b"IS"), (b"\x18\x00\x60\x00", b"DS")])  # fmt: skip
def test_a_number_nobody_needs_may_be_nonsense(tag, vr, banded, tmp_path):
    for path in write_series(tmp_path / "s", phantom()[0], WIDE):
        _raw(path, tag, vr, b"1a-4")
    saved = medvit.segment(tmp_path / "s", bundle=banded).save(tmp_path / "out", ("dicom-seg", "sr", "rtstruct", "sc"))
    assert not saved.not_written


@pytest.mark.parametrize("spacing", ["-1", "0"])
def test_a_pixel_spacing_that_would_turn_the_image_round_is_refused_before_a_run(spacing, tmp_path):
    write_series(tmp_path, SMALL, AXIAL, PixelSpacing=[spacing, spacing])
    assert [v.worst() for v in run_preflight(tmp_path).volumes] == ["refused"]
    with pytest.raises(
        GeometryError, match=rf"a PixelSpacing of {spacing} x {spacing} mm; both sides must be positive"
    ):
        open_source(tmp_path)


def test_what_a_run_refuses_inspect_refuses_too(tmp_path):
    write_series(tmp_path, SMALL[:, :, :2], np.diag([-1.0, -1.0, 150.0, 1.0]))
    assert "absurd_spacing" in _codes(tmp_path)
    with pytest.raises(GeometryError, match=r"a voxel spacing of 1 x 1 x 150 mm; each side must lie between"):
        open_source(tmp_path)


def test_directions_that_are_not_unit_vectors_do_not_change_the_spacing(tmp_path):
    write_series(tmp_path, SMALL, AXIAL, ImageOrientationPatient=["1.004", "0", "0", "0", "1.004", "0"])
    scan = open_source(tmp_path)
    assert scan.spacing_mm == pytest.approx((1, 1, 2), abs=1e-6)
    assert any("off perpendicular unit vectors (ImageOrientationPatient)" in note for note in scan.notes)


@pytest.mark.parametrize("off", [1e-4, 1e-3, 5e-3])
def test_directions_a_little_off_square_give_objects_that_read_back(off, banded, tmp_path):
    array, labels = phantom()
    write_series(
        tmp_path / "s", array, WIDE, ImageOrientationPatient=["1", "0", "0", f"{off}", f"{1 - off**2 / 2:.12f}", "0"]
    )
    result = medvit.segment(tmp_path / "s", bundle=banded)
    assert np.array_equal(result.array, labels)
    assert not result.save(tmp_path / "out", ("dicom-seg", "rtstruct")).not_written


def test_slices_that_miss_their_place_by_hundredths_have_a_seg_where_they_lie(banded, tmp_path):
    rng = np.random.default_rng(0)
    places = np.array([[0, 0, 2.0 * k] for k in range(29)]) + rng.normal(0, 0.01, (29, 3))
    array, labels = phantom()
    write_series(tmp_path / "s", array, WIDE, ImagePositionPatient=lambda k: [f"{v:.5f}" for v in places[k]])
    result = medvit.segment(tmp_path / "s", bundle=banded)
    assert np.array_equal(result.array, labels)
    assert not result.save(tmp_path / "out", ("dicom-seg", "rtstruct")).not_written
    for groups in pydicom.dcmread(tmp_path / "out" / "seg.dcm").PerFrameFunctionalGroupsSequence:
        place = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        assert np.abs(places - place).max(axis=1).min() < 1e-4


def test_ct_values_that_are_no_hounsfield_units_are_no_ct_for_a_bundle(banded, tmp_path):
    write_series(tmp_path, phantom()[0], WIDE, RescaleType="Z_EFF")
    assert "other_unit" in _codes(tmp_path)
    with pytest.raises(ModalityError, match=r"CT values in 'Z_EFF' \(RescaleType\).*made for Hounsfield units"):
        medvit.segment(tmp_path, bundle=banded)
    assert "Forced" in " ".join(medvit.segment(tmp_path, bundle=banded, force=True).notes)


def test_a_slice_of_nothing_but_padding_is_air(tmp_path):
    stored = SMALL.copy()
    stored[:, :, 0] = -2000
    write_series(tmp_path, stored, AXIAL, PixelPaddingValue=-2000)
    scan = open_source(tmp_path)
    assert (scan.array[0][..., 0] == -1024).all()
    assert np.array_equal(scan.array[0][..., 1:], SMALL[..., 1:])


def test_nan_among_floating_point_pixels_is_refused_and_not_taken_for_padding(tmp_path):
    for k, path in enumerate(write_series(tmp_path, SMALL, AXIAL)):
        dataset = pydicom.dcmread(path)
        del dataset.PixelData, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation
        pixels = SMALL[:, :, k].T.astype(np.float32)
        dataset.BitsAllocated, dataset.FloatPixelData = 32, pixels.tobytes()
        dataset.save_as(path)
    assert np.array_equal(open_source(tmp_path).array[0], SMALL)
    pixels[3, 3] = np.nan
    _resave(path, FloatPixelData=pixels.tobytes())
    with pytest.raises(ImageError, match="with 1 NaN or infinite values among its 360 pixels; all must be finite"):
        open_source(tmp_path)


def test_an_image_without_rows_is_damaged_and_not_left_out(tmp_path):
    """It was once counted among objects that are no images, and the volume a slice shorter."""
    path = write_series(tmp_path, SMALL, AXIAL)[-1]
    dataset = pydicom.dcmread(path)
    del dataset.Rows
    dataset.save_as(path)
    with pytest.raises(SourceError, match=r"damaged in its header \(an image without rows or columns\)"):
        open_source(tmp_path)


# colours


def _palette(folder: Path, modality: str, placed: bool) -> list[Path]:
    stored = np.arange(20 * 18 * 2).reshape(20, 18, 2).astype(np.int16) % 256
    paths = write_series(folder, stored, AXIAL, Modality=modality, PixelRepresentation=0, PhotometricInterpretation="PALETTE COLOR")  # fmt: skip
    for path in paths:
        dataset = pydicom.dcmread(path)
        if not placed:
            del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
        for tag, factor in ((0x00281101, 1), (0x00281102, 2), (0x00281103, 4)):
            dataset.add_new(tag, "US", [256, 0, 16])
            dataset.add_new(tag + 0x100, "OW", (np.arange(256, dtype=np.uint16) * (256 // factor)).tobytes())
        dataset.save_as(path)
    return paths


def test_a_palette_is_colours_and_not_grey_values(tmp_path):
    path = _palette(tmp_path / "us", "US", placed=False)[0]
    scan = open_source(path)
    assert scan.array.shape == (3, 18, 20)
    assert np.array_equal(scan.array[0, 0], (np.arange(20) * 36) % 256)
    assert np.array_equal(scan.array[1, 0], scan.array[0, 0] // 2)
    _palette(tmp_path / "ct", "CT", placed=True)
    with pytest.raises(SelectionError, match="2 screen images of one series; a volume or a single picture is needed"):
        open_source(tmp_path / "ct")


# UIDs


@pytest.mark.parametrize("tag", ["SOPClassUID", "StudyInstanceUID", "SOPInstanceUID", "FrameOfReferenceUID"])
@pytest.mark.parametrize("value", [b"1.2.abc", b"", b"1." + b"2" * 80, b"1.2\\1.3"])
def test_uids_that_are_none_are_repaired_when_asked(tag, value, banded, tmp_path):
    for path in write_series(tmp_path / "s", phantom()[0], WIDE):
        number = pydicom.datadict.tag_for_keyword(tag)
        _raw(path, struct.pack("<HH", number >> 16, number & 0xFFFF), b"UI", value + b"\0" * (len(value) % 2))
    result = medvit.segment(tmp_path / "s", bundle=banded)
    (said,) = result.save(tmp_path / "out", ("dicom-seg",)).not_written
    assert f"29 of 29 slices have {'no' if not value else 'a'} {tag}" in said
    repaired = medvit.segment(tmp_path / "s", bundle=banded, repair_tags=True)
    assert not repaired.save(tmp_path / "out", ("dicom-seg", "rtstruct"), overwrite=True).not_written
