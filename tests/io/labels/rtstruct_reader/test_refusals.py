"""Damaged RT Structure Sets: each damage is refused with its reason."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import MedvitError, SourceError
from medvit.io.labels.rtstruct_reader import read_rtstruct
from tests.bands import phantom


def _first_contour(dataset) -> pydicom.Dataset:
    return dataset.ROIContourSequence[0].ContourSequence[0]


def _no_points(d) -> None:
    _first_contour(d).ContourData = None


def _one_number_twice(d) -> None:
    d.StructureSetROISequence[1].ROINumber = d.StructureSetROISequence[0].ROINumber


def _contours_of_no_number(d) -> None:
    del d.ROIContourSequence[0].ReferencedROINumber


def _odd_count(d) -> None:
    _first_contour(d).ContourData = list(_first_contour(d).ContourData)[:-1]


def _nan(d) -> None:
    del _first_contour(d).ContourData
    _first_contour(d).add(pydicom.DataElement((0x3006, 0x0050), "LO", ["NaN", "1", "2"] * 3))


def _words(d) -> None:
    del _first_contour(d).ContourData
    _first_contour(d).add(pydicom.DataElement((0x3006, 0x0050), "LO", ["a", "b", "c"] * 3))


def _a_blank_among_them(d) -> None:
    values = [str(v) for v in _first_contour(d).ContourData]
    values[1] = values[5] = values[9] = ""
    del _first_contour(d).ContourData
    _first_contour(d).add(pydicom.DataElement((0x3006, 0x0050), "LO", values))


def _no_rois(d) -> None:
    del d.StructureSetROISequence


def _no_contours(d) -> None:
    del d.ROIContourSequence


def _no_number(d) -> None:
    del d.StructureSetROISequence[0].ROINumber


def _two_frames(d) -> None:
    d.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_points, "of .* without points; at least three points are needed"),
        (_one_number_twice, "in which 2 ROIs have the number 1; contours refer to ROIs by their numbers"),
        (_contours_of_no_number, r"an RTSTRUCT that is damaged or incomplete \(without ReferencedROINumber\)"),
        (_odd_count, "not finite triples"),
        (_nan, "not finite triples"),
        (_words, "damaged or incomplete"),
        (_a_blank_among_them, "damaged or incomplete"),
        (_no_rois, "an RTSTRUCT without ROIs"),
        (_no_contours, "without any closed contour"),
        (_no_number, "damaged or incomplete.*ROINumber"),
        (_two_frames, "lie in 2 frames of reference"),
    ],
)
def test_a_damaged_rtstruct_is_refused_with_its_reason(change, message, place, scan, tmp_path):
    dataset = pydicom.dcmread(place / "out" / "rtstruct.dcm")
    change(dataset)
    dataset.save_as(tmp_path / "changed.dcm")
    with pytest.raises(SourceError, match=message):
        medvit.read_labels(tmp_path / "changed.dcm", like=scan)


def test_a_file_cut_anywhere_never_gives_a_traceback(place, scan, tmp_path):
    content = (place / "out" / "rtstruct.dcm").read_bytes()
    for share in (0.01, 0.1, 0.3, 0.5, 0.7):
        (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(MedvitError):
            medvit.read_labels(tmp_path / "cut.dcm", like=scan)


def test_a_file_cut_within_its_contours_is_never_read_as_fewer_contours(place, scan, tmp_path, rng):
    content = (place / "out" / "rtstruct.dcm").read_bytes()
    start = content.index((0x30060039).to_bytes(4, "little")[2:] + (0x30060039).to_bytes(4, "little")[:2])
    for cut in rng.integers(start + 12, len(content) - 400, 25).tolist():
        (tmp_path / "cut.dcm").write_bytes(content[:cut])
        with pytest.raises(SourceError, match=r"ends after \d+ of the \d+ bytes of its last element; it was cut off"):
            medvit.read_labels(tmp_path / "cut.dcm", like=scan)


def test_an_image_in_place_of_an_rtstruct_is_named(place, scan):
    with pytest.raises(SourceError, match="of modality CT; an RTSTRUCT is needed"):
        read_rtstruct(next((place / "ct").iterdir()), scan)


def test_a_damaged_header_is_named(tmp_path):
    (tmp_path / "noise.dcm").write_bytes(b"\x08\x00\x05\x00CS\xff\x7f" + bytes(range(256)) * 4)
    with pytest.raises(SourceError, match="noise.dcm"):
        medvit.read_labels(tmp_path / "noise.dcm")
    (tmp_path / "text.dcm").write_text("hello")
    with pytest.raises(SourceError, match="neither DICOM nor a label map"):
        medvit.read_labels(tmp_path / "text.dcm")


def test_a_file_without_preamble_is_read(place, scan, tmp_path):
    dataset = pydicom.dcmread(place / "out" / "rtstruct.dcm")
    del dataset.file_meta
    dataset.preamble = None
    pydicom.dcmwrite(tmp_path / "bare.dcm", dataset, implicit_vr=True, little_endian=True)
    assert (tmp_path / "bare.dcm").read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(medvit.read_labels(tmp_path / "bare.dcm", like=scan).array, phantom()[1])
