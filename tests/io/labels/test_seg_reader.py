"""SEG objects that others wrote, read by the places they state; each kind, each damage."""

from __future__ import annotations

import copy
import json
import subprocess
import warnings
from pathlib import Path

import highdicom as hd
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.sr.codedict import codes
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import GeometryError, MedvitError, OutputError, SourceError
from medvit.io import flip_lps_ras, open_source
from medvit.io.labels.seg_reader import read_seg
from tests.bands import oblique_affine, phantom, write_series
from tests.tools import program

AFFINE = oblique_affine((1.1, 1.9, 2.5))


@pytest.fixture(scope="module")
def series(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("series") / "ct"
    write_series(folder, phantom()[0], AFFINE)
    return folder


@pytest.fixture(scope="module")
def scan(series):
    return open_source(series)


def _seg(path: Path, scan, pixels: np.ndarray, kind: str = "BINARY", count: int = 7, **more) -> Path:
    """A Segmentation as highdicom makes it; pixels (slice, row, column) or with a last axis of segments."""
    descriptions = [
        hd.seg.SegmentDescription(
            n,
            f"Organ {n}",
            codes.SCT.Organ,
            codes.SCT.Kidney,
            hd.seg.SegmentAlgorithmTypeValues.MANUAL,
            tracking_uid=f"1.2.3.{n}",
            tracking_id=f"track {n}",
        )
        for n in range(1, count + 1)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dataset = hd.seg.Segmentation(
            list(scan.slices), np.ascontiguousarray(pixels), kind, descriptions, hd.UID(), 1, hd.UID(), 1, "m", "n", "1", "s", **more
        )  # fmt: skip
    dataset.save_as(path)
    return path


def _pixels(labels: np.ndarray) -> np.ndarray:
    return labels.transpose(2, 1, 0)


@pytest.fixture(scope="module")
def binary(scan, tmp_path_factory) -> Path:
    return _seg(tmp_path_factory.mktemp("seg") / "seg.dcm", scan, _pixels(phantom()[1]))


def _change(path: Path, tmp_path: Path, change) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(tmp_path / "changed.dcm")
    return tmp_path / "changed.dcm"


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_every_voxel_and_name_comes_back(kind, scan, tmp_path):
    path = _seg(tmp_path / "seg.dcm", scan, _pixels(phantom()[1]), kind)
    found = medvit.read_labels(path, like=scan)
    assert np.array_equal(found.array, phantom()[1])
    assert np.array_equal(found.affine, scan.affine)
    assert [(label.id, label.name, label.title) for label in found.labels][:2] == [
        (1, "organ_1", "Organ 1"),
        (2, "organ_2", "Organ 2"),
    ]
    assert found.labels[0].type.meaning == "Kidney"
    assert (found.segments[2].origin.algorithm_type, found.segments[2].origin.tracking_uid) == ("MANUAL", "1.2.3.3")
    assert not found.flags


def test_without_a_reference_the_grid_is_the_frames_own(binary, scan):
    found = medvit.read_labels(binary)
    back = np.linalg.inv(scan.affine) @ found.affine
    shift = np.rint(back[:3, 3]).astype(int)
    assert np.allclose(back[:3, :3], np.eye(3), atol=1e-3)
    window = tuple(slice(s, s + n) for s, n in zip(shift, found.shape, strict=True))
    assert np.array_equal(found.array, phantom()[1][window])


def test_frames_are_placed_by_position_whatever_their_order(binary, scan, tmp_path, rng):
    def shuffle(dataset) -> None:
        frames = dataset.pixel_array
        order = rng.permutation(len(frames))
        groups = list(dataset.PerFrameFunctionalGroupsSequence)
        dataset.PerFrameFunctionalGroupsSequence = [groups[n] for n in order]
        dataset.PixelData = np.packbits(frames[order].ravel(), bitorder="little").tobytes()
        if len(dataset.PixelData) % 2:
            dataset.PixelData += b"\0"

    assert np.array_equal(medvit.read_labels(_change(binary, tmp_path, shuffle), like=scan).array, phantom()[1])


def test_orientation_and_measures_may_stand_in_each_frame(binary, scan, tmp_path):
    def spread(dataset) -> None:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            groups.PlaneOrientationSequence = shared.PlaneOrientationSequence
            groups.PixelMeasuresSequence = shared.PixelMeasuresSequence
        del shared.PlaneOrientationSequence
        del shared.PixelMeasuresSequence

    assert np.array_equal(medvit.read_labels(_change(binary, tmp_path, spread), like=scan).array, phantom()[1])


def test_a_lone_slice_and_segment_may_stand_among_the_shared_groups(scan, tmp_path):
    labels = np.zeros_like(phantom()[1])
    labels[3:9, 4:8, 11] = 1
    found = medvit.read_labels(_seg(tmp_path / "seg.dcm", scan, _pixels(labels), count=1), like=scan)
    assert np.array_equal(found.array, labels)


def test_fractional_voxels_are_taken_from_the_threshold_on(scan, tmp_path):
    shares = np.zeros((*_pixels(phantom()[1]).shape, 1))
    shares[5, 4, 3:7, 0] = (0.2, 0.4, 0.6, 1.0)
    path = _seg(tmp_path / "seg.dcm", scan, shares, "FRACTIONAL", 1, max_fractional_value=200)
    assert int(medvit.read_labels(path, like=scan).array.sum()) == 2
    found = medvit.read_labels(path, like=scan, threshold=0.3)
    assert int(found.array.sum()) == 3
    assert "voxels from 0.3 of its maximum on were taken" in found.notes[0]
    for wrong in (0.0, 1.5):
        with pytest.raises(SourceError, match="above 0 and at most 1. Correct threshold"):
            medvit.read_labels(path, threshold=wrong)


def test_a_threshold_that_nothing_reaches_is_flagged(scan, tmp_path):
    shares = np.zeros((*_pixels(phantom()[1]).shape, 1))
    shares[5, 4, 3:7, 0] = (0.2, 0.4, 0.6, 0.7)
    path = _seg(tmp_path / "seg.dcm", scan, shares, "FRACTIONAL", 1, max_fractional_value=100)
    assert int(medvit.read_labels(path, like=scan, threshold=0.7).array.sum()) == 1
    found = medvit.read_labels(path, like=scan, threshold=0.8)
    assert found.flags == ("No voxel of organ_1 reaches 0.8 of the maximum (the highest has 0.7); it is empty.",)


def test_a_share_that_floating_point_cannot_hold_counts_as_reached(scan, tmp_path):
    """0.07 times 100 is a hair more than 7."""
    shares = np.zeros((*_pixels(phantom()[1]).shape, 1))
    shares[5, 4, 3, 0] = 0.07
    path = _seg(tmp_path / "seg.dcm", scan, shares, "FRACTIONAL", 1, max_fractional_value=100)
    assert int(medvit.read_labels(path, like=scan, threshold=0.07).array.sum()) == 1


def test_segments_without_a_voxel_are_said(binary, scan, tmp_path):
    def ghost(dataset) -> None:
        other = copy.deepcopy(dataset.SegmentSequence[-1])
        other.SegmentNumber, other.SegmentLabel = 8, "Ghost"
        other.RecommendedDisplayCIELabValue = [1, 2]
        dataset.SegmentSequence.append(other)

    found = medvit.read_labels(_change(binary, tmp_path, ghost), like=scan)
    assert found.notes == ("Segments without a voxel, kept empty: ghost.",)
    assert not found.flags
    assert np.array_equal(found.array, phantom()[1])


def test_segments_that_overlap_are_kept_apart(scan, tmp_path):
    masks = np.zeros((*_pixels(phantom()[1]).shape, 2), np.uint8)
    masks[4:9, 5:20, 5:20, 0] = 1
    masks[6:12, 10:30, 10:30, 1] = 1
    found = medvit.read_labels(_seg(tmp_path / "seg.dcm", scan, masks, count=2), like=scan)
    for n in (1, 2):
        assert np.array_equal(found.mask(n), masks[..., n - 1].transpose(2, 1, 0).astype(bool))
    assert found.overlaps == (("organ_1", "organ_2", 3 * 10 * 10),)
    with pytest.raises(OutputError, match="organ_1 and organ_2 sharing 300 voxels.*per_label=True"):
        _ = found.array


def test_a_turned_and_shifted_grid_takes_voxels_unchanged(binary, scan, tmp_path):
    """A NIfTI of the same place, its axes in another order and reversed, with a margin around."""
    labels = phantom()[1]
    wider = np.pad(labels, ((2, 0), (1, 3), (0, 4))).transpose(2, 0, 1)[::-1, :, ::-1]
    change = np.zeros((4, 4))
    change[0, 1] = change[3, 3] = 1
    change[1, 2] = change[2, 0] = -1
    change[:3, 3] = (-2, wider.shape[2] - 2, wider.shape[0] - 1)
    nib.save(nib.Nifti1Image(wider.astype(np.int16), scan.affine @ change), tmp_path / "like.nii.gz")
    found = medvit.read_labels(binary, like=tmp_path / "like.nii.gz")
    assert np.array_equal(found.array, wider)
    assert not found.notes


@pytest.mark.parametrize("factor", [(0.5, 0.5, 0.5), (1, 1, 0.5), (1, 1, 3), (0.7, 1.3, 1.1)])
def test_another_grid_keeps_volumes_and_places_and_says_so(factor, binary, scan, tmp_path):
    shape = np.ceil(np.array(phantom()[1].shape) / factor).astype(int)
    affine = scan.affine @ np.diag([*factor, 1.0])
    nib.save(nib.Nifti1Image(np.arange(np.prod(shape), dtype=np.int32).reshape(shape), affine), tmp_path / "g.nii.gz")
    found = medvit.read_labels(binary, like=tmp_path / "g.nii.gz")
    assert "each voxel took the nearest label" in found.notes[0]
    voxel = abs(np.linalg.det(scan.affine[:3, :3]))
    for n in range(1, 8):
        meant = phantom()[1] == n
        ratio = found.mask(n).sum() * voxel * np.prod(factor) / (meant.sum() * voxel)
        assert 0.7 < ratio < 1.35
        there = nib.affines.apply_affine(affine, np.argwhere(found.mask(n)).mean(0))
        here = nib.affines.apply_affine(scan.affine, np.argwhere(meant).mean(0))
        assert np.linalg.norm(there - here) < 2.5


def test_what_lies_beyond_the_reference_is_flagged_or_refused(binary, scan, tmp_path):
    values = np.arange(20 * 37 * 29, dtype=np.int32).reshape(20, 37, 29)
    nib.save(nib.Nifti1Image(values, scan.affine), tmp_path / "part.nii.gz")
    found = medvit.read_labels(binary, like=tmp_path / "part.nii.gz")
    assert np.array_equal(found.array, phantom()[1][:20])
    lost = int((phantom()[1][20:] == 3).sum())
    assert f"organ_3 {lost}" in found.flags[0]
    far = scan.affine.copy()
    far[:3, 3] += 900
    nib.save(nib.Nifti1Image(values, far), tmp_path / "far.nii.gz")
    with pytest.raises(GeometryError, match="no labelled voxel on the reference's grid"):
        medvit.read_labels(binary, like=tmp_path / "far.nii.gz")


def test_another_frame_of_reference_is_refused_or_forced_with_a_flag(binary, tmp_path):
    write_series(tmp_path / "other", phantom()[0], AFFINE)
    with pytest.raises(GeometryError, match="positions of the two are not comparable.*force=True"):
        medvit.read_labels(binary, like=tmp_path / "other")
    found = medvit.read_labels(binary, like=tmp_path / "other", force=True)
    assert "Forced" in found.flags[0]
    assert np.array_equal(found.array, phantom()[1])


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
        (_one_number_twice, "two segments of the number 1; each needs its own"),
        (_no_type, r"damaged or incomplete \(without SegmentationType\)"),
        (_no_pixels, "a SEG without pixels"),
        (_cut_pixels, r"pixels end or cannot be decoded after \d+ of 59 frames"),
        (_lose_a_group, "59 frames with 58 descriptions"),
        (_no_position, "no place in the patient, as of an X-ray"),
        (_on_a_slide, "a SEG of a slide image"),
        (_no_position_value, "damaged or incomplete.*ImagePositionPatient"),
        (_flat_orientation, "no usable number"),
        (_uneven, "without an even spacing"),
        (_sideways, "off the regular grid of the others"),
        (_one_slice_of_no_thickness, "one slice without thickness or spacing"),
        (_nameless_frame, "a SEG frame that names no segment"),
        (_turned_frame, "several orientations or pixel sizes"),
    ],
)
def test_a_damaged_seg_is_refused_with_its_reason(change, message, binary, tmp_path):
    with pytest.raises(SourceError, match=message):
        medvit.read_labels(_change(binary, tmp_path, change))


def test_a_file_cut_anywhere_is_refused_and_never_a_traceback(binary, tmp_path):
    content = binary.read_bytes()
    for share in (0.01, 0.1, 0.3, 0.6, 0.9, 0.97):
        (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(MedvitError):
            medvit.read_labels(tmp_path / "cut.dcm")


def test_pixels_of_a_number_that_no_segment_describes_are_flagged(binary, scan, tmp_path):
    def forget(dataset) -> None:
        del dataset.SegmentSequence[-1]

    found = medvit.read_labels(_change(binary, tmp_path, forget), like=scan)
    assert found.flags == ("Segment numbers 7 have pixels but no description; they were left out.",)
    assert np.array_equal(found.array, np.where(phantom()[1] == 7, 0, phantom()[1]))


def test_a_spacing_that_is_not_stated_is_taken_from_the_frames_and_said(binary, scan, tmp_path):
    def forget(dataset) -> None:
        measures = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        measures.SliceThickness = 1.7
        if "SpacingBetweenSlices" in measures:
            del measures.SpacingBetweenSlices

    path = _change(binary, tmp_path, forget)
    found = medvit.read_labels(path)
    assert "2.5 mm, the smallest distance between frames, was taken" in found.notes[0]
    assert np.array_equal(medvit.read_labels(path, like=scan).array, phantom()[1])
    # of another image of the same place too, although the thickness is not its spacing
    nib.save(nib.Nifti1Image(phantom()[0], AFFINE), tmp_path / "twin.nii.gz")
    assert np.array_equal(medvit.read_labels(path, like=tmp_path / "twin.nii.gz").array, phantom()[1])


def test_a_lone_slice_fills_its_thickness_on_a_finer_grid(scan, tmp_path):
    labels = np.zeros_like(phantom()[1])
    labels[3:9, 4:8, 11] = 1
    path = _seg(tmp_path / "seg.dcm", scan, _pixels(labels), count=1)
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

    found = medvit.read_labels(_change(binary, tmp_path, same), like=scan)
    assert [label.name for label in found.labels][:3] == ["lesion_1", "lesion_1_2", "lesion_1_3"]
    assert found.labels[0].title == "Lésion (1)"


# Real files


@pytest.fixture
def dcmqi(shared) -> Path:
    return shared / "data" / "dicom" / "seg_dcmqi"


def _reference(path: Path) -> tuple[np.ndarray, np.ndarray]:
    image = sitk.ReadImage(str(path))
    lps = np.eye(4)
    lps[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * np.array(image.GetSpacing())
    lps[:3, 3] = image.GetOrigin()
    return sitk.GetArrayFromImage(image).transpose(2, 1, 0), flip_lps_ras(lps)


@pytest.mark.parametrize("name", ["23x38x3", "24x38x3"])
def test_dcmqis_masks_of_odd_sizes(name, dcmqi):
    """Frames of 23 x 38 bits begin within a byte."""
    array, affine = _reference(dcmqi / name / "nrrd" / "label.nrrd")
    for like in (None, dcmqi / name / "image"):
        found = medvit.read_labels(dcmqi / name / "seg" / "label.seg", like=like)
        assert np.array_equal(found.array, array)
        assert np.allclose(found.affine, affine, atol=1e-4)
    assert (found.labels[0].title, found.segments[0].origin.algorithm_type) == ("Liver", "SEMIAUTOMATIC")
    assert found.labels[0].color == (221, 130, 101)


def test_dcmqis_liver_on_its_ct(dcmqi):
    array, _ = _reference(dcmqi / "liver_seg.nrrd")
    found = medvit.read_labels(dcmqi / "liver.dcm", like=dcmqi / "ct-3slice")
    assert np.array_equal(found.array, array)
    assert not found.flags


def test_dcmqis_partial_overlaps(dcmqi):
    found = medvit.read_labels(dcmqi / "partial_overlaps.dcm")
    for number, ids in ((1, (1, 4, 5)), (2, (2,)), (3, (3,))):
        array, affine = _reference(dcmqi / f"partial_overlaps-{number}.nrrd")
        assert np.allclose(found.affine, affine, atol=1e-4)
        for label in ids:
            assert np.array_equal(found.mask(label), array == label)
    assert len(found.overlaps) == 3


def test_dcmqis_sparse_labelmaps(dcmqi):
    """A slice without a frame is empty; dcmqi itself fills it with the padding value, which is no segment."""
    array, _ = _reference(dcmqi / "sparse_labelmap_noppv_seg.nrrd")
    for name in ("sparse-labelmap-noppv.dcm", "sparse-labelmap-ppv5.dcm"):
        found = medvit.read_labels(dcmqi / name)
        assert np.array_equal(found.array, array)
        assert [label.title for label in found.labels] == ["Liver"]
        assert "1 of 3 slices" in found.notes[0]
    assert "padding value 5" in found.notes[1]


def test_highdicoms_files(shared):
    place = shared / "data" / "dicom" / "seg_highdicom"
    assert int(medvit.read_labels(place / "seg_image_ct_binary.dcm").array.sum()) == 638
    fractional = medvit.read_labels(place / "seg_image_ct_true_fractional.dcm")
    assert int(fractional.array.sum()) == 638  # 128 of 255 is just above one half
    assert int(medvit.read_labels(place / "seg_image_ct_true_fractional.dcm", threshold=0.2).array.sum()) == 661
    assert int(medvit.read_labels(place / "seg_image_ct_true_fractional.dcm", threshold=0.6).array.sum()) == 0
    overlap = medvit.read_labels(place / "seg_image_ct_binary_overlap.dcm")
    assert overlap.shape == (16, 16, 165)
    assert overlap.overlaps == (("first_segment", "second_segment", 16),)
    with pytest.raises(SourceError, match="no place in the patient, as of an X-ray"):
        medvit.read_labels(place / "seg_image_cr_binary.dcm")


def test_what_itkimage2segimage_wrote_is_read(scan, series, tmp_path):
    tool = program("itkimage2segimage")
    image = sitk.GetImageFromArray(_pixels(phantom()[1]).astype(np.int16))
    lps = flip_lps_ras(scan.affine)
    sides = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(sides.tolist())
    image.SetDirection((lps[:3, :3] / sides).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    sitk.WriteImage(image, str(tmp_path / "labels.nrrd"))
    code = '{{"CodeValue": "{}", "CodingSchemeDesignator": "SCT", "CodeMeaning": "{}"}}'
    items = ", ".join(
        f'{{"labelID": {n}, "SegmentLabel": "Part {n}", "SegmentDescription": "Part {n}", "SegmentAlgorithmType": "MANUAL", '
        f'"SegmentedPropertyCategoryCodeSequence": {code.format("85756007", "Tissue")}, '
        f'"SegmentedPropertyTypeCodeSequence": {code.format("51114001", "Artery")}}}'
        for n in range(1, 8)
    )
    (tmp_path / "meta.json").write_text(
        f'{{"ContentCreatorName": "n", "SeriesDescription": "s", "SeriesNumber": "3", "segmentAttributes": [[{items}]]}}'
    )
    call = [tool, "--inputImageList", tmp_path / "labels.nrrd", "--inputDICOMDirectory", series]
    call += ["--outputDICOM", tmp_path / "seg.dcm", "--inputMetadata", tmp_path / "meta.json", "--skip"]
    subprocess.run([str(part) for part in call], check=True, capture_output=True)
    found = medvit.read_labels(tmp_path / "seg.dcm", like=series)
    assert np.array_equal(found.array, phantom()[1])
    assert found.labels[2].title == "Part 3"


def _with_background(number: int):
    """Number the background of a label map anew, described and as PixelPaddingValue."""

    def change(dataset) -> None:
        pixels = dataset.pixel_array
        dataset.PixelData = np.where(pixels == 0, number, pixels).astype(pixels.dtype).tobytes()
        dataset.PixelPaddingValue = number
        dataset.SegmentSequence[0].SegmentNumber = number

    return change


def test_a_described_background_is_no_label_just_as_highdicom_reads_it(scan, tmp_path):
    plain = _seg(tmp_path / "seg.dcm", scan, _pixels(phantom()[1]), "LABELMAP")
    path = _change(plain, tmp_path, _with_background(9))
    theirs = hd.seg.Segmentation.from_dataset(pydicom.dcmread(path))
    found = medvit.read_labels(path, like=scan)
    assert [label.id for label in found.labels] == theirs.segment_numbers
    assert np.array_equal(found.array, phantom()[1])
    assert found.notes == ("The pixel padding value 9 was read as no label.",)


def test_a_segment_of_number_zero_that_is_not_the_background_keeps_its_voxels(scan, tmp_path):
    def swap(dataset) -> None:
        _with_background(9)(dataset)
        pixels = dataset.pixel_array
        dataset.PixelData = np.where(pixels == 1, 0, pixels).astype(pixels.dtype).tobytes()
        dataset.SegmentSequence[1].SegmentNumber = 0

    found = medvit.read_labels(
        _change(_seg(tmp_path / "seg.dcm", scan, _pixels(phantom()[1]), "LABELMAP"), tmp_path, swap), like=scan
    )
    assert found.labels[0].id == 10
    assert np.array_equal(found.array == 10, phantom()[1] == 1)
    assert "number 0 is not the background" in " ".join(found.notes)


def test_convert_gives_the_background_of_a_label_map_no_label(shared, tmp_path):
    source = shared / "cases" / "09_labelmap_padding_background" / "lm_bg5.dcm"
    outcome = CliRunner().invoke(app, ["convert", str(source), "-o", str(tmp_path / "out"), "-ot", "nifti", "--json"])
    assert outcome.exit_code == 0
    assert sorted(json.loads(outcome.stdout)["labels"].values()) == [1, 2, 3, 4, 6, 7, 10]
