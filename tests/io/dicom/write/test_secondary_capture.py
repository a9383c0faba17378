"""The secondary capture series: every slice, in its place, with colours and words that can be read."""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import RoundTripError
from medvit.io.dicom.write import check_sc, write_sc
from medvit.reports import Overlay
from medvit.segmentation import DicomExport
from medvit.segmentation.dicom_export import _overlay
from tests.bands import oblique_affine, phantom, write_series
from tests.io.dicom.test_read import PLANES
from tests.judges.test_seg_and_rtstruct import _validate
from tests.tools import program


@pytest.fixture(scope="module")
def published(example_published) -> Path:
    return example_published / "sc"


def _made(place: Path, banded: Path, affine: np.ndarray, **changes: object) -> tuple[medvit.Result, list]:
    write_series(place / "series", phantom()[0], affine, **changes)
    result = medvit.segment(place / "series", bundle=banded)
    saved = result.save(place / "out", ("sc",))
    assert [n for n in saved.files if "/" in n] == [f"sc/{k:04d}.dcm" for k in range(1, 30)]
    return result, [pydicom.dcmread(path) for path in sorted((place / "out" / "sc").iterdir())]


def test_every_slice_in_order_with_patient_study_and_source(published, example_result):
    pictures = [pydicom.dcmread(path) for path in sorted(published.iterdir())]
    slices = example_result.scan.slices
    assert [p.InstanceNumber for p in pictures] == list(range(1, len(slices) + 1))
    assert len({p.SOPInstanceUID for p in pictures}) == len(slices)
    assert len({p.SeriesInstanceUID for p in pictures}) == 1
    assert pictures[0].SeriesInstanceUID != slices[0].SeriesInstanceUID
    for picture, header in zip(pictures, slices, strict=True):
        assert picture.SourceImageSequence[0].ReferencedSOPInstanceUID == header.SOPInstanceUID
        assert picture.StudyInstanceUID == header.StudyInstanceUID
        assert (picture.PatientID, picture.PatientName) == (header.PatientID, header.PatientName)
        assert (picture.BurnedInAnnotation, picture.ConversionType, picture.Modality) == ("YES", "WSD", "OT")
        assert "For research use, not for diagnosis" in picture.DerivationDescription
        assert picture.file_meta.TransferSyntaxUID.name == "RLE Lossless"
        assert len(picture.PixelData) < 200_000


def test_dciodvfy_finds_no_error(published, banded, tmp_path):
    _made(tmp_path, banded, oblique_affine((1.1, 1.9, 2.5)))
    for path in (*sorted(published.iterdir())[::40], tmp_path / "out" / "sc" / "0001.dcm"):
        _validate(path)


def test_the_files_of_one_study_agree(example_published, examples, tmp_path):
    shutil.unpack_archive(examples / "headneck_ct_dicom.zip", tmp_path / "ct")
    files = [str(p) for place in (tmp_path / "ct", example_published) for p in sorted(place.rglob("*.dcm"))]
    outcome = subprocess.run([program("dcentvfy"), *files], capture_output=True, text=True)
    complaints = {line for line in (outcome.stdout + outcome.stderr).splitlines() if "AccessionNumber" not in line}
    assert len(files) > 256
    assert not {line.partition(" for file")[0] for line in complaints}


@pytest.mark.parametrize("plane", PLANES)
def test_a_picture_lies_where_its_slice_lies(plane, banded, tmp_path):
    """The outer corners of picture and slice are the same points, pixels not square, for every orientation."""
    affine = np.eye(4)
    affine[:3, :3] = PLANES[plane] @ np.diag((1.1, 1.9, 2.5))
    affine[:3, 3] = (12.5, -40.25, 300)
    result, pictures = _made(tmp_path, banded, affine)
    for picture, header in zip(pictures, result.scan.slices, strict=True):
        assert picture.FrameOfReferenceUID == header.FrameOfReferenceUID
        assert np.allclose(_corners(picture), _corners(header), atol=1e-3)
        down, across = picture.PixelSpacing
        assert down == pytest.approx(across, rel=0.003)
        assert max(picture.Rows, picture.Columns) >= 512


def _corners(dataset) -> np.ndarray:
    cosines = np.array(dataset.ImageOrientationPatient, float)
    down, across = (float(v) for v in dataset.PixelSpacing)
    origin = np.array(dataset.ImagePositionPatient, float)
    return np.array(
        [
            origin + cosines[:3] * across * (x * dataset.Columns - 0.5) + cosines[3:] * down * (y * dataset.Rows - 0.5)
            for x in (0, 1)
            for y in (0, 1)
        ]
    )


@pytest.mark.parametrize(
    ("plane", "letters"), [("axial", ["L", "P"]), ("sagittal", ["P", "F"]), ("coronal", ["L", "F"])]
)
def test_orientation_letters(plane, letters, banded, tmp_path):
    affine = np.eye(4)
    affine[:3, :3] = PLANES[plane] * 2
    _, pictures = _made(tmp_path, banded, affine)
    assert list(pictures[0].PatientOrientation) == letters


def test_colours_outlines_and_grey_values(banded, tmp_path):
    result, pictures = _made(tmp_path, banded, oblique_affine())
    k = 20
    picture = pictures[k].pixel_array
    rows, columns = picture.shape[:2]
    factor = rows // 37
    assert (rows, columns) == (37 * factor, 41 * factor)
    small = picture[factor // 2 :: factor, factor // 2 :: factor].astype(int)
    labels = result.array[:, :, k].T
    grey = np.round(np.clip((result.scan.array[0][:, :, k].T + 200) / 500, 0, 1) * 255)
    words = np.zeros(labels.shape, bool)
    words[-6:] = True
    assert np.array_equal(small[(labels == 0) & ~words], np.repeat(grey[(labels == 0) & ~words][:, None], 3, 1))
    for label in result.requested_labels:
        inside = labels == label.id
        if not inside.any():
            continue
        full = np.kron(inside, np.ones((factor, factor), bool))
        assert (picture[full] == label.color).all(1).any(), label.name
        assert not (picture[~full] == label.color).all(1).any(), label.name
        mixed = np.round(grey[inside][0] * 0.8 + np.array(label.color) * 0.2)
        assert (np.abs(small[inside & ~words] - mixed) <= 1).all(1).any(), label.name


@pytest.mark.parametrize(
    ("shape", "pixel_mm", "expected"),
    [
        ((128, 128), (4.0, 4.0), (512, 512)),
        ((512, 512), (0.7, 0.7), (512, 512)),
        ((400, 400), (1.0, 1.0), (800, 800)),
        ((256, 128), (1.0, 2.0), (512, 512)),
        ((100, 60), (1.9, 1.1), (864, 300)),
        ((600, 40), (1.0, 1.0), (1800, 120)),
    ],
)
def test_sizes_and_words(shape, pixel_mm, expected):
    """Enlarged until it can be read, never cut: the words fit even a narrow picture."""
    rows, columns = shape
    image = np.zeros((columns, rows, 1), np.float32)
    lines = ("For research use, not for diagnosis", "bundle 1.0")
    overlay = Overlay(
        image=image, array=np.zeros(image.shape, np.uint8), labels=[], window=(0.0, 1.0), pixel_mm=pixel_mm, lines=lines
    )
    picture = overlay.draw(0)
    assert picture.shape == (*expected, 3)
    bright = np.argwhere(picture.max(2) > 128)
    assert len(bright) > 400
    low, high = bright.min(0), bright.max(0)
    assert low[1] >= 2
    assert high[1] <= picture.shape[1] - 2
    assert high[0] - low[0] >= 20
    assert low[0] > picture.shape[0] / 2 or columns < 128
    assert np.allclose(np.array(overlay.spacing_mm) * picture.shape[:2], np.array(pixel_mm) * shape)


def test_what_blocks_a_segmentation_need_not_block_the_pictures(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine(), SOPInstanceUID="", FrameOfReferenceUID="")
    saved = medvit.segment(tmp_path / "series", bundle=banded).save(tmp_path / "out", ("dicom-seg", "sr", "sc"))
    assert saved.not_written[0].startswith("dicom-seg and sr not written: 29 of 29 slices have no SOPInstanceUID")
    assert any("The secondary capture was written: it needs only the study's UID." in note for note in saved.notes)
    assert not (tmp_path / "out" / "seg.dcm").exists()
    picture = pydicom.dcmread(tmp_path / "out" / "sc" / "0001.dcm")
    assert "SourceImageSequence" not in picture
    assert "ImagePositionPatient" not in picture
    assert "FrameOfReferenceUID" not in picture
    _validate(tmp_path / "out" / "sc" / "0001.dcm")


@pytest.mark.parametrize(("study", "reason"), [("", "have no StudyInstanceUID"), ("mixed", "29 different StudyInst")])
def test_without_one_study_there_is_no_place_for_pictures(study, reason, banded, tmp_path):
    uid = (lambda k: f"1.2.{k + 1}") if study else ""
    write_series(tmp_path / "series", phantom()[0], oblique_affine(), StudyInstanceUID=uid)
    saved = medvit.segment(tmp_path / "series", bundle=banded).save(tmp_path / "out", ("sc",))
    assert saved.not_written[0].startswith("sc not written: ")
    assert reason in saved.not_written[0]
    assert "labels.nii.gz" in saved.files
    assert not (tmp_path / "out" / "sc").exists()


def test_nothing_found_is_written_into_the_pictures(banded, tmp_path):
    values, labels = phantom()
    write_series(tmp_path / "series", np.where(labels == 7, values, -1000), oblique_affine())
    result = medvit.segment(tmp_path / "series", bundle=banded, roi_subset=["larynx"])
    saved = result.save(tmp_path / "out", ("sc", "sr"))
    assert saved.not_written == ("sr not written: no label was found. NIfTI was written instead.",)
    assert not saved.notes
    assert _overlay(DicomExport(result)).lines[0] == "No label was found"
    assert len([name for name in saved.files if name.startswith("sc/")]) == 29


def test_an_earlier_series_is_replaced_and_strangers_stay(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    result = medvit.segment(tmp_path / "series", bundle=banded)
    out = tmp_path / "out"
    result.save(out, ("sc",))
    first = pydicom.dcmread(out / "sc" / "0001.dcm").SeriesInstanceUID
    shutil.copy(out / "sc" / "0001.dcm", out / "sc" / "0099.dcm")
    (out / "sc" / "note.txt").write_text("keep")
    result.save(out, ("sc",), overwrite=True)
    assert len({pydicom.dcmread(p).SeriesInstanceUID for p in (out / "sc").glob("*.dcm")} | {first}) == 2
    assert not (out / "sc" / "0099.dcm").exists()
    record = json.loads((out / "run.json").read_text())["files"]
    assert set(record) == {"statistics.json", *(f"sc/{k:04d}.dcm" for k in range(1, 30))}
    result.save(out, overwrite=True)
    assert sorted(p.name for p in (out / "sc").iterdir()) == ["note.txt"]
    (out / "sc" / "note.txt").unlink()
    result.save(out, ("sc",), overwrite=True)
    result.save(out, overwrite=True)
    assert not (out / "sc").exists()


def test_lossy_sources_stay_lossy(banded, tmp_path):
    changes = {
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": "10",
        "LossyImageCompressionMethod": "ISO_15444_1",
    }
    _, pictures = _made(tmp_path, banded, oblique_affine(), **changes)
    assert pictures[3].LossyImageCompression == "01"


def test_a_picture_that_reads_back_differently_is_not_published(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    result = medvit.segment(tmp_path / "series", bundle=banded)
    draft = DicomExport(result)
    overlay = _overlay(draft)
    pictures = [overlay.draw(k) for k in range(len(draft.slices.planes))]
    digests = write_sc(tmp_path, pictures, overlay.spacing_mm, draft.slices, draft.author)
    check_sc(tmp_path, digests, draft.slices)
    with pytest.raises(RoundTripError, match="Found a picture of another slice on reading 0001.dcm back"):
        check_sc(tmp_path, digests, replace(draft.slices, headers=draft.slices.headers[::-1]))
    with pytest.raises(RoundTripError, match="Found a picture other than the one drawn on reading 0001.dcm back"):
        check_sc(tmp_path, ["0" * 64, *digests[1:]], draft.slices)


def test_a_real_oblique_sagittal_series(shared, banded, tmp_path):
    """Thick labels of a real MR: every object is written, valid, and in its place."""
    source = shared / "data" / "dicom" / "mr_T1_oblique_sagittal_SAG-anon_48slices.zip"
    result = medvit.segment(source, bundle=banded, force=True, roi_subset=["mandible"])
    saved = result.save(tmp_path / "out", ("dicom-seg", "sr", "sc"))
    assert not saved.not_written
    for name in ("seg.dcm", "sr.dcm", "sc/0001.dcm", "sc/0048.dcm"):
        _validate(tmp_path / "out" / name)
    picture = pydicom.dcmread(tmp_path / "out" / "sc" / "0024.dcm")
    assert np.allclose(_corners(picture), _corners(result.scan.slices[23]), atol=1e-3)
    assert [letters[0] for letters in picture.PatientOrientation] == ["P", "F"]
