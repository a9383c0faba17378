"""SEG and RTSTRUCT, read by independent programs."""

from __future__ import annotations

import json
import subprocess
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from pydicom.uid import ImplicitVRLittleEndian

import medvit
from medvit.bundles import open_bundle
from medvit.errors import RoundTripError
from medvit.io import flip_lps_ras, open_source
from medvit.io.dicom.write import AlgorithmInfo, check_rtstruct, check_seg, source_of, write_rtstruct
from tests.bands import oblique_affine, phantom, write_series
from tests.tools import program


@pytest.fixture(scope="module")
def published(example_published) -> Path:
    """The example's SEG, RTSTRUCT and NIfTI, among others."""
    return example_published


@pytest.fixture(scope="module")
def oblique(banded, tmp_path_factory) -> tuple[medvit.Result, Path, Path]:
    """An oblique, anisotropic, odd-sized phantom series and its results."""
    place = tmp_path_factory.mktemp("oblique")
    write_series(place / "series", phantom()[0], oblique_affine((1.1, 1.9, 2.5)))
    result = medvit.segment(place / "series", bundle=banded)
    result.save(place / "out", ("nifti", "dicom-seg", "rtstruct"))
    return result, place / "out", place / "series"


def _validate(path: Path) -> None:
    outcome = subprocess.run([program("dciodvfy"), "-new", str(path)], capture_output=True, text=True)
    errors = [line for line in (outcome.stdout + outcome.stderr).splitlines() if line.startswith("Error")]
    assert outcome.returncode == 0
    assert not errors


@pytest.mark.parametrize("name", ["seg.dcm", "rtstruct.dcm"])
def test_dciodvfy_finds_no_error(name, published, oblique):
    _validate(published / name)
    _validate(oblique[1] / name)


def test_dciodvfy_finds_no_error_where_type_2_attributes_are_absent(banded, tmp_path):
    for path in write_series(tmp_path / "series", phantom()[0], oblique_affine()):
        dataset = pydicom.dcmread(path)
        for keyword in (
            "PatientName",
            "PatientBirthDate",
            "StudyDate",
            "AccessionNumber",
            "StudyID",
            "PositionReferenceIndicator",
        ):
            delattr(dataset, keyword)
        dataset.save_as(path)
    medvit.segment(tmp_path / "series", bundle=banded).save(tmp_path / "out", ("dicom-seg", "rtstruct"))
    for name in ("seg.dcm", "rtstruct.dcm"):
        assert pydicom.dcmread(tmp_path / "out" / name)["PatientName"].value == ""
        _validate(tmp_path / "out" / name)


def test_dcmqi_reads_the_seg_back_to_the_same_mask(published, oblique, tmp_path):
    """dcmqi's NIfTI has each segment's centroid in world coordinates and every voxel."""
    tool = program("segimage2itkimage")
    for number, folder in enumerate((published, oblique[1])):
        out = tmp_path / str(number)
        out.mkdir()
        call = [tool, "--inputDICOM", str(folder / "seg.dcm"), "--outputDirectory", str(out), "--outputType", "nii"]
        subprocess.run(call, check=True, capture_output=True)
        meta = json.loads((out / "meta.json").read_text())
        names = [group[0]["TrackingIdentifier"] for group in meta["segmentAttributes"]]
        labels = nib.load(folder / "labels.nii.gz")
        ours, table = np.asarray(labels.dataobj), json.loads((folder / "labels.json").read_text())["labels"]
        ids = {entry["name"]: int(i) for i, entry in table.items()}
        for segment, name in enumerate(names, 1):
            theirs = nib.load(out / f"{segment}.nii.gz")
            index = np.argwhere(np.asarray(theirs.dataobj) > 0)
            place = nib.affines.apply_affine(np.linalg.inv(labels.affine) @ theirs.affine, index)
            assert np.abs(place - np.rint(place)).max() < 0.01
            mask = np.zeros(ours.shape, bool)
            mask[tuple(np.rint(place).astype(int).T)] = True
            assert np.array_equal(mask, ours == ids[name]), name


def test_rt_utils_reads_the_rtstruct_back_to_the_same_masks(published, examples, banded, tmp_path):
    rt_utils = pytest.importorskip("rt_utils", reason="rt-utils is not installed (make dev)")
    with zipfile.ZipFile(examples / "headneck_ct_dicom.zip") as archive:
        archive.extractall(tmp_path / "ct")
    series = tmp_path / "ct"
    # rt-utils swaps rows and columns of images or pixels that are not square, so the oblique one here has both
    write_series(tmp_path / "square", phantom((41, 41, 29))[0], oblique_affine((1.5, 1.5, 2.5)))
    medvit.segment(tmp_path / "square", bundle=banded).save(tmp_path / "out", ("nifti", "rtstruct"))
    for folder, source in ((published, series), (tmp_path / "out", tmp_path / "square")):
        builder = rt_utils.RTStructBuilder.create_from(str(source), str(folder / "rtstruct.dcm"))
        labels = np.asarray(nib.load(folder / "labels.nii.gz").dataobj)
        table = json.loads((folder / "labels.json").read_text())["labels"]
        ids = {entry["title"]: int(i) for i, entry in table.items()}
        assert builder.get_roi_names()
        for name in builder.get_roi_names():
            theirs = builder.get_roi_mask_by_name(name)
            ours = (labels == ids[name]).transpose(1, 0, 2)
            # rt-utils sorts slices its own way; the masks must agree in one of the two senses
            overlap = max(2 * (theirs & o).sum() / (theirs.sum() + o.sum()) for o in (ours, ours[:, :, ::-1]))
            assert overlap >= 0.99, name


def test_seg_says_what_made_it_and_refers_to_the_original_slices(published, example_result):
    seg = pydicom.dcmread(published / "seg.dcm")
    sources = {h.SOPInstanceUID for h in example_result.scan.slices}
    assert seg.SegmentationType == "BINARY"
    assert seg.StudyInstanceUID == example_result.scan.slices[0].StudyInstanceUID
    assert seg.FrameOfReferenceUID == example_result.scan.slices[0].FrameOfReferenceUID
    assert seg.SeriesInstanceUID != example_result.scan.slices[0].SeriesInstanceUID
    assert seg.ContentDescription == "For research use, not for diagnosis"
    referred = {i.ReferencedSOPInstanceUID for i in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referred <= sources
    assert [int(s.SegmentNumber) for s in seg.SegmentSequence] == list(range(1, len(seg.SegmentSequence) + 1))
    right = next(s for s in seg.SegmentSequence if s.SegmentLabel == "Right parotid gland")
    kind = right.SegmentedPropertyTypeCodeSequence[0]
    assert (kind.CodeValue, kind.SegmentedPropertyTypeModifierCodeSequence[0].CodeMeaning) == ("45289007", "Right")
    algorithm = right.SegmentationAlgorithmIdentificationSequence[0]
    assert algorithm.AlgorithmVersion == example_result.bundle.version
    assert example_result.bundle.facts.weights.sha256 in algorithm.AlgorithmParameters
    assert right.TrackingID == "parotid_right"
    assert len({s.TrackingUID for s in seg.SegmentSequence}) == len(seg.SegmentSequence)


def test_rtstruct_has_closed_planar_contours_with_names_colours_and_slices(published, example_result):
    structures = pydicom.dcmread(published / "rtstruct.dcm")
    sources = {h.SOPInstanceUID: h for h in example_result.scan.slices}
    titles = [roi.ROIName for roi in structures.StructureSetROISequence]
    assert titles == [label.title for label in example_result.requested_labels]
    for item, label in zip(structures.ROIContourSequence, example_result.requested_labels, strict=True):
        assert tuple(item.ROIDisplayColor) == label.color
        for contour in item.ContourSequence:
            assert contour.ContourGeometricType == "CLOSED_PLANAR"
            points = np.array(contour.ContourData, float).reshape(-1, 3)
            assert len(points) == contour.NumberOfContourPoints >= 3
            slice_z = float(sources[contour.ContourImageSequence[0].ReferencedSOPInstanceUID].ImagePositionPatient[2])
            assert np.allclose(points[:, 2], slice_z, atol=1e-3)


def _spoil(path: Path, change, folder: Path) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    spoiled = folder / f"spoiled-{path.name}"
    dataset.save_as(spoiled)
    return spoiled


def _shift_frames(dataset) -> None:
    for groups in dataset.PerFrameFunctionalGroupsSequence:
        position = groups.PlanePositionSequence[0]
        position.ImagePositionPatient = [
            float(v) + d for v, d in zip(position.ImagePositionPatient, (4, 0, 0), strict=True)
        ]


def _drop_a_segment(dataset) -> None:
    del dataset.SegmentSequence[-1]


def _flip_pixels(dataset) -> None:
    dataset.PixelData = dataset.PixelData[::-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_shift_frames, "off the source's slices"),
        (_drop_a_segment, "segments for"),
        (_flip_pixels, "differing voxels in"),
    ],
)
def test_a_seg_that_reads_back_differently_is_not_published(change, message, published, example_result, tmp_path):
    result = example_result
    spoiled = _spoil(published / "seg.dcm", change, tmp_path)
    with pytest.raises(RoundTripError, match=message):
        check_seg(spoiled, result.array, flip_lps_ras(result.scan.affine), result.requested_labels)


def _move_contours(dataset) -> None:
    for contour in dataset.ROIContourSequence[0].ContourSequence:
        points = np.array(contour.ContourData, float).reshape(-1, 3) + (6, 0, 0)
        contour.ContourData = [f"{v:.4f}" for v in points.ravel()]


def _rename(dataset) -> None:
    dataset.StructureSetROISequence[0].ROIName = "something else"


@pytest.mark.parametrize(("change", "message"), [(_move_contours, "a Dice of"), (_rename, "no ROI named")])
def test_an_rtstruct_that_reads_back_differently_is_not_published(change, message, published, example_result, tmp_path):
    result = example_result
    spoiled = _spoil(published / "rtstruct.dcm", change, tmp_path)
    with pytest.raises(RoundTripError, match=message):
        check_rtstruct(spoiled, result.array, flip_lps_ras(result.scan.affine), result.requested_labels)


def test_an_outline_beyond_64_kib_is_written_in_implicit_vr(banded, tmp_path):
    """An explicit length of a decimal string ends at 65,534 bytes; a comb's outline goes on."""
    labels = np.zeros((120, 110, 3), np.uint8)
    labels[::2, 10:100, 1] = 7
    labels[:, 10, 1] = 7
    write_series(tmp_path / "series", labels.astype(np.int16), oblique_affine())
    scan, path = open_source(tmp_path / "series"), tmp_path / "rtstruct.dcm"
    slices, label = source_of(scan), open_bundle(banded).label("mandible")
    write_rtstruct(
        path,
        labels,
        slices,
        [label],
        AlgorithmInfo(bundle="b 1", weights="0" * 64, software="1", intended_use="For research use"),
    )
    check_rtstruct(path, labels, slices.planes, [label])
    dataset = pydicom.dcmread(path)
    assert dataset.file_meta.TransferSyntaxUID == ImplicitVRLittleEndian
    assert max(len(c.ContourData) for i in dataset.ROIContourSequence for c in i.ContourSequence) > 9000
    _validate(path)
