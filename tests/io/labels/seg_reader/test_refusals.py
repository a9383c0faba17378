"""Damaged SEG objects: each damage is refused with its reason, or flagged where something can be read."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import MedvitError, SourceError
from medvit.io import flip_lps_ras
from medvit.io.labels.seg_reader import read_seg
from tests.bands import phantom
from tests.io.labels.seg_reader.seg_objects import AFFINE, changed_copy, seg, segment_pixels


def _no_segments(d) -> None:
    del d.SegmentSequence


def _one_number_twice(d) -> None:
    d.SegmentSequence[1].SegmentNumber = 1


def _no_type(d) -> None:
    del d.SegmentationType


def _no_pixels(d) -> None:
    del d.PixelData


def _cut_pixels(d) -> None:
    d.PixelData = d.PixelData[: len(d.PixelData) // 4 * 2]


def _lose_a_group(d) -> None:
    del d.PerFrameFunctionalGroupsSequence[3]


def _no_position(d) -> None:
    for groups in d.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence


def _on_a_slide(d) -> None:
    d.PerFrameFunctionalGroupsSequence[0].PlanePositionSlideSequence = [pydicom.Dataset()]


def _no_position_value(d) -> None:
    del d.PerFrameFunctionalGroupsSequence[0].PlanePositionSequence[0].ImagePositionPatient


def _flat_orientation(d) -> None:
    d.SharedFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient = [0, 0, 0, 0, 0, 0]


def _uneven(d) -> None:
    position = d.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    normal = np.cross(flip_lps_ras(AFFINE)[:3, 0], flip_lps_ras(AFFINE)[:3, 1])
    moved = np.array(position.ImagePositionPatient, float) + 0.4 * 2.5 * normal / np.linalg.norm(normal)
    position.ImagePositionPatient = [f"{v:.6f}" for v in moved]


def _sideways(d) -> None:
    position = d.PerFrameFunctionalGroupsSequence[-1].PlanePositionSequence[0]
    moved = np.array(position.ImagePositionPatient, float) + 0.5 * flip_lps_ras(AFFINE)[:3, 0]
    position.ImagePositionPatient = [f"{v:.6f}" for v in moved]


def _one_slice_of_no_thickness(d) -> None:
    d.PixelData = d.PixelData[: -(-37 * 41 // 8) + 1]
    d.NumberOfFrames = 1
    d.PerFrameFunctionalGroupsSequence = list(d.PerFrameFunctionalGroupsSequence)[:1]
    for keyword in ("SliceThickness", "SpacingBetweenSlices"):
        if keyword in d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]:
            delattr(d.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0], keyword)


def _nameless_frame(d) -> None:
    del d.PerFrameFunctionalGroupsSequence[0].SegmentIdentificationSequence


def _turned_frame(d) -> None:
    groups = d.PerFrameFunctionalGroupsSequence[0]
    groups.PlaneOrientationSequence = [pydicom.Dataset()]
    groups.PlaneOrientationSequence[0].ImageOrientationPatient = [1, 0, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_segments, "a SEG without SegmentSequence"),
        (_one_number_twice, "two segments of the number 1; numbers must be unique"),
        (_no_type, r"damaged or incomplete \(without SegmentationType\)"),
        (_no_pixels, "a SEG without pixels"),
        (_cut_pixels, r"pixels end or cannot be decoded after \d+ of 59 frames"),
        (_lose_a_group, "59 frames with 58 descriptions"),
        (_no_position, "no place in the patient, as of an X-ray"),
        (_on_a_slide, "a SEG of a slide image"),
        (_no_position_value, "damaged or incomplete.*ImagePositionPatient"),
        (_flat_orientation, "not a usable number"),
        (_uneven, "without an even spacing"),
        (_sideways, "off the regular grid of the others"),
        (_one_slice_of_no_thickness, "one slice without thickness or spacing"),
        (_nameless_frame, "a SEG frame without a segment number"),
        (_turned_frame, "several orientations or pixel sizes"),
    ],
)
def test_a_damaged_seg_is_refused_with_its_reason(change, message, binary, tmp_path):
    with pytest.raises(SourceError, match=message):
        medvit.read_labels(changed_copy(binary, tmp_path, change))


def test_a_file_cut_anywhere_is_refused_and_never_a_traceback(binary, tmp_path):
    content = binary.read_bytes()
    for share in (0.01, 0.1, 0.3, 0.6, 0.9, 0.97):
        (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(MedvitError):
            medvit.read_labels(tmp_path / "cut.dcm")


def test_pixels_of_a_number_that_no_segment_describes_are_flagged(binary, scan, tmp_path):
    def forget(dataset) -> None:
        del dataset.SegmentSequence[-1]

    found = medvit.read_labels(changed_copy(binary, tmp_path, forget), like=scan)
    assert found.flags == ("Segment numbers 7 have pixels but no description; they were left out.",)
    assert np.array_equal(found.array, np.where(phantom()[1] == 7, 0, phantom()[1]))


def test_a_spacing_that_is_not_stated_is_taken_from_the_frames_and_said(binary, scan, tmp_path):
    def forget(dataset) -> None:
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = 1.7
        if "SpacingBetweenSlices" in measures:
            del measures.SpacingBetweenSlices

    path = changed_copy(binary, tmp_path, forget)
    found = medvit.read_labels(path)
    assert "2.5 mm, the smallest distance between frames, was taken" in found.notes[0]
    assert np.array_equal(medvit.read_labels(path, like=scan).array, phantom()[1])
    # of another image of the same place too, although the thickness is not its spacing
    nib.save(nib.Nifti1Image(phantom()[0], AFFINE), tmp_path / "twin.nii.gz")
    assert np.array_equal(medvit.read_labels(path, like=tmp_path / "twin.nii.gz").array, phantom()[1])


def test_a_lone_slice_fills_its_thickness_on_a_finer_grid(scan, tmp_path):
    labels = np.zeros_like(phantom()[1])
    labels[3:9, 4:8, 11] = 1
    path = seg(tmp_path / "seg.dcm", scan, segment_pixels(labels), count=1)
    values = np.arange(41 * 37 * 145, dtype=np.int32).reshape(41, 37, 145)
    nib.save(nib.Nifti1Image(values, AFFINE @ np.diag([1, 1, 0.2, 1])), tmp_path / "fine.nii.gz")
    assert int(medvit.read_labels(path, like=tmp_path / "fine.nii.gz").array.sum()) == 5 * 24


def test_a_segment_that_is_not_there_is_a_key_error(binary):
    with pytest.raises(KeyError, match="spleen"):
        medvit.read_labels(binary).mask("spleen")


def test_an_image_in_place_of_a_seg_is_named(series, tmp_path):
    image = next(series.iterdir())
    with pytest.raises(SourceError, match="of modality CT; a SEG or RTSTRUCT is needed.*like"):
        medvit.read_labels(image)
    with pytest.raises(SourceError, match="of modality CT; a Segmentation"):
        read_seg(image)


def test_no_place_for_two_segments_of_one_name(binary, tmp_path, scan):
    def same(dataset) -> None:
        for item in dataset.SegmentSequence:
            item.SegmentLabel = "Lésion  (1)"

    found = medvit.read_labels(changed_copy(binary, tmp_path, same), like=scan)
    assert [label.name for label in found.labels][:3] == ["lesion_1", "lesion_1_2", "lesion_1_3"]
    assert found.labels[0].title == "Lésion (1)"
