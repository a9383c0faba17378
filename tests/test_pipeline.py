"""The one path: where labels land, what is refused, and that every way in gives the same."""

from __future__ import annotations

import re

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor

import medvit
from medvit.errors import BackendError, BundleError, ImageError, ModalityError
from medvit.progress import Cancelled
from tests.bands import all_orientations, dice, oblique_affine, phantom, reorient, undo, write_series


def _right_of_left(result: medvit.Result) -> bool:
    centre = {row.name: row.centroid_mm for row in result.statistics()}
    return centre["parotid_right"][0] > centre["parotid_left"][0]


@pytest.mark.parametrize(("order", "signs"), all_orientations(), ids=str)
def test_phantom_in_every_orientation_nifti(order, signs, banded, tmp_path):
    values, labels = phantom()
    stored, affine = reorient(values, oblique_affine(), order, signs)
    nib.save(nib.Nifti1Image(stored, affine), tmp_path / "scan.nii.gz")
    result = medvit.segment(tmp_path / "scan.nii.gz", bundle=banded)
    assert result.labels.shape == (1, *stored.shape)
    assert np.allclose(result.labels.affine, affine, atol=1e-4)
    found = undo(result.array, order, signs)
    assert all(dice(found == c, labels == c) >= 0.99 for c in range(1, 8))


@pytest.mark.parametrize(("order", "signs"), all_orientations(), ids=str)
def test_phantom_in_every_orientation_dicom(order, signs, banded, tmp_path):
    values, labels = phantom()
    base = oblique_affine((2.0, 2.0, 2.0))
    stored, affine = reorient(values, base, order, signs)
    write_series(tmp_path / "series", stored, affine)
    result = medvit.segment(tmp_path / "series", bundle=banded)
    # the stack's own order is along its normal; compare in the phantom's space through the two affines
    to_phantom = np.linalg.inv(base) @ np.asarray(result.labels.affine)
    index = np.argwhere(result.array > 0)
    place = np.rint(index @ to_phantom[:3, :3].T + to_phantom[:3, 3]).astype(int)
    found = np.zeros_like(labels)
    found[tuple(place.T)] = result.array[tuple(index.T)]
    assert all(dice(found == c, labels == c) >= 0.99 for c in range(1, 8))


def test_real_head_lands_on_the_same_side_however_it_is_stored(cropped_example, tmp_path):
    image = nib.load(cropped_example)
    array = np.asarray(image.dataobj)
    first = medvit.segment(cropped_example)
    straight = nib.as_closest_canonical(nib.Nifti1Image(first.array, first.scan.affine))
    assert _right_of_left(first)
    for order, signs in (
        ((0, 1, 2), (1, -1, 1)),
        ((2, 0, 1), (-1, 1, -1)),
        ((1, 2, 0), (1, 1, -1)),
        ((2, 1, 0), (-1, -1, -1)),
    ):
        stored, affine = reorient(array, image.affine, order, signs)
        nib.save(nib.Nifti1Image(stored, affine), tmp_path / "turned.nii.gz")
        result = medvit.segment(tmp_path / "turned.nii.gz")
        assert _right_of_left(result)
        turned = nib.as_closest_canonical(nib.Nifti1Image(result.array, result.scan.affine))
        for c in range(1, 8):
            assert dice(np.asarray(turned.dataobj) == c, np.asarray(straight.dataobj) == c) >= 0.99


def test_dicom_series_equals_its_nifti_twin_voxel_for_voxel(examples, example_result):
    twin = medvit.segment(examples / "headneck_ct.nii.gz")
    a, b = (nib.as_closest_canonical(nib.Nifti1Image(r.array, r.scan.affine)) for r in (example_result, twin))
    assert np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
    assert np.abs(a.affine - b.affine).max() < 1e-3
    assert np.asarray(a.dataobj).any()


def test_the_other_shared_series_equals_its_twin(shared, banded):
    """The network labels by brightness, so labels differ wherever a voxel does."""
    dicom = medvit.segment(shared / "data" / "dicom" / "ct_headneck_openkbp_pt_201_128slices.zip", bundle=banded)
    nifti = medvit.segment(shared / "data" / "ct_headneck_openkbp" / "pt_201_ct.nii.gz", bundle=banded)
    a, b = (nib.as_closest_canonical(nib.Nifti1Image(r.array, r.scan.affine)) for r in (dicom, nifti))
    assert np.array_equal(np.asarray(a.dataobj), np.asarray(b.dataobj))
    assert len(np.unique(np.asarray(a.dataobj))) > 4


def test_shipped_weights_find_the_organs(shared, example_result):
    """The example is a validation case; this guards against broken weights, the scores are `medvit evaluate`'s."""
    truth = np.asarray(nib.as_closest_canonical(nib.load(shared / "data/ct_headneck_openkbp/pt_22_oar.nii.gz")).dataobj)
    found = nib.as_closest_canonical(nib.Nifti1Image(example_result.array, example_result.scan.affine))
    scores = [dice(np.asarray(found.dataobj) == c, truth == c) for c in range(1, 8)]
    assert np.mean(scores) > 0.4
    assert min(scores) > 0.1


def test_a_meta_tensor_gives_what_its_file_gives(banded, tmp_path):
    values, _ = phantom()
    affine = oblique_affine()
    nib.save(nib.Nifti1Image(values, affine), tmp_path / "scan.nii.gz")
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(affine))
    a, b = medvit.segment(tmp_path / "scan.nii.gz", bundle=banded), medvit.segment(tensor, bundle=banded)
    assert np.array_equal(a.array, b.array)
    assert np.asarray(b.labels).dtype.kind in "ui"


@pytest.mark.parametrize("shape", [(33, 19, 7), (5, 70, 31)])
def test_odd_anisotropic_sizes_keep_their_grid(shape, banded):
    values = np.full(shape, -1000, np.float32)
    values[1:-1, 2:-2, 2:-2] = 7 / 8 * 500 - 200
    affine = oblique_affine((0.8, 2.9, 5.1), 25)
    result = medvit.segment(MetaTensor(torch.from_numpy(values)[None], affine=torch.from_numpy(affine)), bundle=banded)
    assert result.array.shape == shape
    assert np.allclose(result.labels.affine, affine)


def test_roi_subset_keeps_ids_and_drops_the_rest(banded):
    values, _labels = phantom()
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(oblique_affine()))
    result = medvit.segment(tensor, bundle=banded, roi_subset=["mandible", "brainstem"])
    assert set(np.unique(result.array)) == {0, 1, 7}
    assert [row.name for row in result.statistics()] == ["mandible", "brainstem"]
    assert result.settings["roi_subset"] == ["mandible", "brainstem"]
    with pytest.raises(BundleError, match="Did you mean mandible"):
        medvit.segment(tensor, bundle=banded, roi_subset=["mandibel"])


def test_mr_given_to_a_ct_bundle_is_refused_and_can_be_forced(banded, tmp_path):
    values, _ = phantom()
    write_series(tmp_path / "mr", values, oblique_affine(), Modality="MR")
    with pytest.raises(ModalityError, match=r"modality MR, where banded is made for CT.*force=True"):
        medvit.segment(tmp_path / "mr", bundle=banded)
    forced = medvit.segment(tmp_path / "mr", bundle=banded, force=True)
    assert forced.settings["forced"]
    assert any("Forced: modality MR" in note for note in forced.notes)


def test_real_mr_as_nifti_is_refused_by_its_values(shared):
    scan = sorted((shared / "data" / "brain_mr").glob("*.nii.gz"))[0]
    with pytest.raises(ModalityError, match="made for CT in HU"):
        medvit.segment(scan)


def test_a_picture_given_to_a_volume_bundle_is_refused(tmp_path):
    from PIL import Image

    Image.fromarray((np.arange(64 * 48 * 3) % 251).astype(np.uint8).reshape(64, 48, 3)).save(tmp_path / "photo.png")
    with pytest.raises(ImageError, match="a 2-D picture, where headneck_ct_swin_unetr takes volumes"):
        medvit.segment(tmp_path / "photo.png", force=True)


def test_device_is_never_replaced_silently(banded):
    values, _ = phantom()
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.eye(4, dtype=torch.float64))
    with pytest.raises(BackendError, match="no other device is used instead"):
        medvit.segment(tensor, bundle=banded, device="gpu:63")
    with pytest.raises(BackendError, match="it must be auto, cpu, gpu, gpu:N or mps"):
        medvit.segment(tensor, bundle=banded, device="abacus")


def test_cancel_stops_the_run(banded):
    values, _ = phantom()
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.eye(4, dtype=torch.float64))
    progress = medvit.Progress()
    progress.cancel()
    with pytest.raises(Cancelled):
        medvit.segment(tensor, bundle=banded, progress=progress)


def test_fast_uses_the_bundles_lighter_overlap_and_says_so(banded):
    values, _ = phantom()
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(oblique_affine()))
    assert medvit.segment(tensor, bundle=banded, fast=True).settings["overlap"] == 0.25
    assert medvit.segment(tensor, bundle=banded).settings["overlap"] == 0.5


def test_what_prints_is_short_and_names_nobody(banded, tmp_path):
    """In a notebook or a log; the headers behind it hold a patient's name."""
    write_series(tmp_path / "series", phantom((24, 20, 6))[0], oblique_affine(), PatientName="Doe^Jane")
    result = medvit.segment(tmp_path / "series", bundle=banded)
    result.save(tmp_path / "out", ("dicom-seg",))
    labels = medvit.read_labels(tmp_path / "out" / "seg.dcm", like=tmp_path / "series")
    assert re.fullmatch(r"Scan\(dicom CT, 24 x 20 x 6, [\d.]+ x [\d.]+ x [\d.]+ mm\)", repr(result.scan))
    assert repr(result).startswith(f"Result(banded {result.bundle.version} on Scan(dicom CT, ")
    assert repr(labels) == "LabelSet(seg, 24 x 20 x 6: brainstem)"
    assert re.fullmatch(r"LabelMask\(\w+, \d+ voxels\)", repr(labels.segments[0]))
    for shown in (result, result.scan, labels, labels.segments, labels.reference):
        assert "Doe" not in repr(shown)
        assert len(repr(shown)) < 1000
