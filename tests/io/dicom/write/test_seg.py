"""The SEG writer beside highdicom's: every element and every pixel is the same."""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
import pydicom
import pytest

from medvit.errors import RoundTripError
from medvit.io import open_source
from medvit.io.dicom.header import FrameGroups
from medvit.io.dicom.write import AlgorithmInfo, SourceImages, check_seg, source_of, write_seg
from medvit.io.dicom.write.seg import _carried_over, _segment
from medvit.io.labels import make_label
from tests.bands import oblique_affine, phantom, write_series
from tests.io.dicom.header.test_multiframe import enhanced
from tests.io.dicom.volumes import AXIAL
from tests.laws.dicom import UidNumbers, dataset_lines

AUTHOR = AlgorithmInfo(bundle="bands 1.0", weights="ab" * 32, software="1", intended_use="For research use")
LABELS = [make_label(3, "Liver"), make_label(9, "Spleen, café"), make_label(5, "Aorta")]
TRACKING = {label.name: f"1.2.3.{label.id}" for label in LABELS}


def _by_highdicom(path, array, slices: SourceImages, labels) -> pydicom.Dataset:
    """Write all frames with highdicom, with the same descriptions."""
    positions = [
        hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, image_position=plane[:3, 3].tolist())
        for plane in slices.planes
    ]
    segmentation = hd.seg.Segmentation(
        source_images=slices.normalised_headers(),
        plane_positions=positions if slices.frames else None,
        pixel_array=np.ascontiguousarray(array.swapaxes(0, 2)),
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[
            _carried_over(_segment(n, label, AUTHOR, TRACKING[label.name]), None) for n, label in enumerate(labels, 1)
        ],
        series_instance_uid=hd.UID(),
        series_number=9001,
        sop_instance_uid=hd.UID(),
        instance_number=1,
        **AUTHOR.equipment(),
        content_label="MEDVIT",
        content_description=AUTHOR.intended_use,
        series_description=f"Segmentation; {AUTHOR.intended_use}",
    )
    segmentation.save_as(path)
    return pydicom.dcmread(path)


def _numbered(array, labels):
    return sum((np.uint8(n) * (array == label.id) for n, label in enumerate(labels, 1)), np.zeros_like(array))


def _lines(dataset: pydicom.Dataset, slices: SourceImages) -> list[str]:
    lines = dataset_lines(dataset, UidNumbers(slices.headers))
    return [line for line in lines if not line.startswith("SpecificCharacterSet")]


def _compare(tmp_path, array, slices, labels, masks=None) -> None:
    write_seg(tmp_path / "ours.dcm", array if masks is None else masks, slices, labels, AUTHOR, TRACKING)
    given = _numbered(array, labels) if masks is None else masks.astype(np.uint8)
    theirs, ours = _by_highdicom(tmp_path / "theirs.dcm", given, slices, labels), pydicom.dcmread(tmp_path / "ours.dcm")
    assert _lines(ours, slices) == _lines(theirs, slices)
    assert np.array_equal(ours.pixel_array, theirs.pixel_array)
    assert ours["PixelData"].VR == theirs["PixelData"].VR
    assert len(ours.PixelData) == len(theirs.PixelData)
    check_seg(tmp_path / "ours.dcm", array if masks is None else masks, slices.planes, labels)


def _array(shape: Sequence[int]) -> np.ndarray:
    array = np.zeros(shape, np.uint8)
    array[2:9, 3:8, 1:6] = 3
    array[9:14, 3:8, 4] = 9
    array[2:5, 9:14, 2::3] = 5
    return array


@pytest.mark.parametrize("shape", [(24, 16, 9), (23, 19, 9)], ids=["whole bytes", "frames that begin within a byte"])
@pytest.mark.parametrize("kind", ["ids", "masks", "one label", "one label with gaps"])
def test_a_series_as_highdicom_writes_it(tmp_path, shape, kind):
    values = phantom(shape)[0]
    write_series(tmp_path / "ct", values, oblique_affine((2.0, 2.5, 3.0)))
    slices, array = source_of(open_source(tmp_path / "ct")), _array(shape)
    if kind == "masks":
        masks = np.stack([array == 3, array != 0, array == 5], -1)
        _compare(tmp_path, array, slices, LABELS, masks)
    else:
        labels = {"ids": LABELS, "one label": LABELS[:1]}.get(kind, LABELS[2:])
        _compare(tmp_path, np.where(np.isin(array, [label.id for label in labels]), array, 0), slices, labels)


def test_an_uneven_stack_and_a_single_slice_as_highdicom_writes_them(tmp_path):
    def uneven(k: int) -> list[str]:
        return ["0", "0", str(2.0 * k if k < 4 else 3.1 * k)]

    write_series(tmp_path / "ct", phantom((24, 16, 9))[0], AXIAL, ImagePositionPatient=uneven)
    scan = open_source(tmp_path / "ct", on_irregular="resample")
    assert scan.original is not None
    _compare(tmp_path, _array((24, 16, 9)), source_of(scan), LABELS)
    slices = source_of(scan)
    one = SourceImages(slices.headers[:1], (), slices.planes[:1])
    _compare(tmp_path, _array((24, 16, 9))[:, :, 4:5], one, LABELS[:2])


def test_frames_of_a_multi_frame_file_as_highdicom_writes_them(tmp_path):
    values = phantom((24, 16, 9))[0]
    enhanced(tmp_path / "many.dcm", [values], AXIAL, np.array([3, 0, 8, 1, 7, 2, 6, 4, 5]), np.ones(9))
    slices = source_of(open_source(tmp_path / "many.dcm"))
    assert slices.frames
    _compare(tmp_path, _array((24, 16, 9)), slices, LABELS)


def _written(tmp_path):
    write_series(tmp_path / "ct", phantom((24, 16, 9))[0], AXIAL)
    slices, array = source_of(open_source(tmp_path / "ct")), _array((24, 16, 9))
    write_seg(tmp_path / "seg.dcm", array, slices, LABELS, AUTHOR, TRACKING)
    return array, slices, tmp_path / "seg.dcm"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda d: setattr(d, "PixelData", bytes([d.PixelData[0] ^ 1]) + d.PixelData[1:]), "1 differing voxels in liver"),
        (lambda d: setattr(d.PerFrameFunctionalGroupsSequence[1].PlanePositionSequence[0], "ImagePositionPatient", [0, 0, 1.1]), "off the source's slices"),
        (lambda d: setattr(d.PerFrameFunctionalGroupsSequence[1].SegmentIdentificationSequence[0], "ReferencedSegmentNumber", 7), "without a label"),
        (lambda d: (setattr(d, "NumberOfFrames", d.NumberOfFrames - 1), d.PerFrameFunctionalGroupsSequence.pop()), "differing voxels in aorta"),
        (lambda d: d.SegmentSequence.pop(), "2 segments for 3 labels"),
    ],
)  # fmt: skip
def test_a_spoiled_file_is_refused_by_the_check(tmp_path, change, words):
    array, slices, path = _written(tmp_path)
    check_seg(path, array, slices.planes, LABELS)
    spoiled = pydicom.dcmread(path)
    change(spoiled)
    spoiled.save_as(path)
    with pytest.raises(RoundTripError, match=words):
        check_seg(path, array, slices.planes, LABELS)


@pytest.mark.parametrize("kind", ["as written", "undefined lengths", "implicit"])
def test_groups_of_frames_are_those_that_pydicom_reads(tmp_path, kind):
    path = _written(tmp_path)[2]
    dataset = pydicom.dcmread(path)
    if kind == "undefined lengths":
        for item in dataset.PerFrameFunctionalGroupsSequence:
            item["PlanePositionSequence"].is_undefined_length = True
    if kind == "implicit":
        dataset.file_meta.TransferSyntaxUID = "1.2.840.10008.1.2"
    dataset.save_as(path, **({"implicit_vr": True, "enforce_file_format": True} if kind == "implicit" else {}))
    groups, whole = FrameGroups(pydicom.dcmread(path)), pydicom.dcmread(path).PerFrameFunctionalGroupsSequence
    assert len(groups) == len(whole) == 9
    for n, item in enumerate(whole):
        part = groups.part(n, (0x00209113, 0x0062000A))
        assert part.PlanePositionSequence == item.PlanePositionSequence
        assert part.SegmentIdentificationSequence == item.SegmentIdentificationSequence
    assert groups.has(0x00209113)
    assert not groups.has(0x0048021A)
