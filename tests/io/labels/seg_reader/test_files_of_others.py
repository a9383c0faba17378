"""SEG objects of dcmqi and highdicom are read as these read them."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

import medvit
from medvit.errors import SourceError
from medvit.io import flip_lps_ras
from tests.bands import phantom
from tests.io.labels.seg_reader.seg_objects import segment_pixels
from tests.tools import program

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
    image = sitk.GetImageFromArray(segment_pixels(phantom()[1]).astype(np.int16))
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
