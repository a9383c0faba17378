"""SEG objects are read by the places that their frames state, whatever the order, kind and grid."""

from __future__ import annotations

import copy

import nibabel as nib
import numpy as np
import pytest

import medvit
from medvit.errors import GeometryError, OutputError, SourceError
from tests.bands import phantom, write_series
from tests.io.labels.seg_reader.seg_objects import AFFINE, changed_copy, seg, segment_pixels


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_every_voxel_and_name_comes_back(kind, scan, tmp_path):
    path = seg(tmp_path / "seg.dcm", scan, segment_pixels(phantom()[1]), kind)
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

    assert np.array_equal(medvit.read_labels(changed_copy(binary, tmp_path, shuffle), like=scan).array, phantom()[1])


def test_orientation_and_measures_may_stand_in_each_frame(binary, scan, tmp_path):
    def spread(dataset) -> None:
        shared = dataset.SharedFunctionalGroupsSequence[0]
        for groups in dataset.PerFrameFunctionalGroupsSequence:
            groups.PlaneOrientationSequence = shared.PlaneOrientationSequence
            groups.PixelMeasuresSequence = shared.PixelMeasuresSequence
        del shared.PlaneOrientationSequence
        del shared.PixelMeasuresSequence

    assert np.array_equal(medvit.read_labels(changed_copy(binary, tmp_path, spread), like=scan).array, phantom()[1])


def test_a_lone_slice_and_segment_may_stand_among_the_shared_groups(scan, tmp_path):
    labels = np.zeros_like(phantom()[1])
    labels[3:9, 4:8, 11] = 1
    found = medvit.read_labels(seg(tmp_path / "seg.dcm", scan, segment_pixels(labels), count=1), like=scan)
    assert np.array_equal(found.array, labels)


def test_fractional_voxels_are_taken_from_the_threshold_on(scan, tmp_path):
    shares = np.zeros((*segment_pixels(phantom()[1]).shape, 1))
    shares[5, 4, 3:7, 0] = (0.2, 0.4, 0.6, 1.0)
    path = seg(tmp_path / "seg.dcm", scan, shares, "FRACTIONAL", 1, max_fractional_value=200)
    assert int(medvit.read_labels(path, like=scan).array.sum()) == 2
    found = medvit.read_labels(path, like=scan, threshold=0.3)
    assert int(found.array.sum()) == 3
    assert "voxels from 0.3 of its maximum on were taken" in found.notes[0]
    for wrong in (0.0, 1.5):
        with pytest.raises(SourceError, match="above 0 and at most 1. Correct threshold"):
            medvit.read_labels(path, threshold=wrong)


def test_a_threshold_that_nothing_reaches_is_flagged(scan, tmp_path):
    shares = np.zeros((*segment_pixels(phantom()[1]).shape, 1))
    shares[5, 4, 3:7, 0] = (0.2, 0.4, 0.6, 0.7)
    path = seg(tmp_path / "seg.dcm", scan, shares, "FRACTIONAL", 1, max_fractional_value=100)
    assert int(medvit.read_labels(path, like=scan, threshold=0.7).array.sum()) == 1
    found = medvit.read_labels(path, like=scan, threshold=0.8)
    assert found.flags == ("No voxel of organ_1 reaches 0.8 of the maximum (the highest has 0.7); it is empty.",)


def test_a_share_that_floating_point_cannot_hold_counts_as_reached(scan, tmp_path):
    """0.07 times 100 is a hair more than 7."""
    shares = np.zeros((*segment_pixels(phantom()[1]).shape, 1))
    shares[5, 4, 3, 0] = 0.07
    path = seg(tmp_path / "seg.dcm", scan, shares, "FRACTIONAL", 1, max_fractional_value=100)
    assert int(medvit.read_labels(path, like=scan, threshold=0.07).array.sum()) == 1


def test_segments_without_a_voxel_are_said(binary, scan, tmp_path):
    def ghost(dataset) -> None:
        other = copy.deepcopy(dataset.SegmentSequence[-1])
        other.SegmentNumber, other.SegmentLabel = 8, "Ghost"
        other.RecommendedDisplayCIELabValue = [1, 2]
        dataset.SegmentSequence.append(other)

    found = medvit.read_labels(changed_copy(binary, tmp_path, ghost), like=scan)
    assert found.notes == ("Segments without a voxel, kept empty: ghost.",)
    assert not found.flags
    assert np.array_equal(found.array, phantom()[1])


def test_segments_that_overlap_are_kept_apart(scan, tmp_path):
    masks = np.zeros((*segment_pixels(phantom()[1]).shape, 2), np.uint8)
    masks[4:9, 5:20, 5:20, 0] = 1
    masks[6:12, 10:30, 10:30, 1] = 1
    found = medvit.read_labels(seg(tmp_path / "seg.dcm", scan, masks, count=2), like=scan)
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
