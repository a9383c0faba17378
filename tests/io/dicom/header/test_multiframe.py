"""Enhanced multi-frame images: frames are placed, told apart and scaled one by one, and results refer to them by number."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import EnhancedCTImageStorage, ExplicitVRLittleEndian, generate_uid

import medvit
from medvit.errors import SelectionError
from medvit.io import flip_lps_ras, open_source, world
from medvit.io.dicom import run_preflight
from tests.bands import dice, oblique_affine, phantom


def _item(**values: object) -> Sequence:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return Sequence([item])


def _text(values: np.ndarray) -> list[str]:
    return [f"{v:.10g}" for v in values]


def enhanced(path: Path, volumes: list[np.ndarray], affine: np.ndarray, order: np.ndarray, slopes: np.ndarray) -> None:
    """An Enhanced CT of one or more volumes (time points) in one file, its frames in any order, each with its slope.

    Orientation and measures stand with every frame, as Philips writes them, not among the shared groups.
    """
    lps, sides = flip_lps_ras(affine), np.linalg.norm(affine[:3, :3], axis=0)
    d = Dataset()
    d.SOPClassUID, d.SOPInstanceUID = EnhancedCTImageStorage, generate_uid()
    d.StudyInstanceUID, d.SeriesInstanceUID, d.FrameOfReferenceUID = generate_uid(), generate_uid(), generate_uid()
    d.PatientName, d.PatientID, d.Modality, d.Manufacturer = "Secret^Person", "ID", "CT", "maker"
    d.PatientBirthDate = d.PatientSex = d.StudyDate = d.StudyTime = d.AccessionNumber = d.StudyID = ""
    d.ReferringPhysicianName, d.SeriesNumber, d.InstanceNumber = "", 1, 1
    d.ImageType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
    d.Rows, d.Columns, d.NumberOfFrames = volumes[0].shape[1], volumes[0].shape[0], len(order)
    d.SamplesPerPixel, d.PhotometricInterpretation, d.PixelRepresentation = 1, "MONOCHROME2", 1
    d.BitsAllocated = d.BitsStored = 16
    d.HighBit = 15
    frames, groups, depth = [], [], volumes[0].shape[2]
    for n in order:
        t, k = divmod(int(n), depth)
        slope = float(slopes[n])
        frames.append(np.round(volumes[t][:, :, k].T / slope).astype(np.int16))
        own = Dataset()
        own.PlanePositionSequence = _item(ImagePositionPatient=_text((lps @ (0, 0, k, 1))[:3]))
        cosines = np.concatenate([lps[:3, 0] / sides[0], lps[:3, 1] / sides[1]])
        own.PlaneOrientationSequence = _item(ImageOrientationPatient=_text(cosines))
        own.PixelMeasuresSequence = _item(PixelSpacing=_text(sides[[1, 0]]), SliceThickness=f"{sides[2]:.6g}")
        own.PixelValueTransformationSequence = _item(RescaleSlope=str(slope), RescaleIntercept="0", RescaleType="HU")
        own.FrameContentSequence = _item(TemporalPositionIndex=t + 1, DimensionIndexValues=[t + 1, k + 1])
        groups.append(own)
    d.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    d.PerFrameFunctionalGroupsSequence = Sequence(groups)
    d.PixelData = np.stack(frames).tobytes()
    d.file_meta = FileMetaDataset()
    d.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    d.file_meta.MediaStorageSOPClassUID, d.file_meta.MediaStorageSOPInstanceUID = d.SOPClassUID, d.SOPInstanceUID
    d.save_as(path, enforce_file_format=True)


def _agree(scan, array: np.ndarray, affine: np.ndarray, within: float) -> None:
    index = np.argwhere(np.ones(scan.array.shape[1:], bool))[::37]
    place = np.rint(world(np.linalg.inv(affine), world(scan.affine, index))).astype(int)
    assert np.abs(scan.array[0][tuple(index.T)] - array[tuple(place.T)]).max() <= within


def test_shuffled_frames_with_slopes_of_their_own_and_a_seg_that_names_them(banded, tmp_path):
    array, labels = phantom()
    depth = array.shape[2]
    order, slopes = np.random.default_rng(2).permutation(depth), 1 + np.arange(depth) % 3
    enhanced(tmp_path / "ct.dcm", [array], oblique_affine(), order, slopes)
    scan = open_source(tmp_path / "ct.dcm")
    _agree(scan, array, oblique_affine(), 1.51)
    assert len(scan.slices) == 1
    assert not scan.blockers
    result = medvit.segment(scan, bundle=banded)
    assert (
        dice(
            result.array > 0,
            (labels if np.allclose(scan.affine, oblique_affine(), atol=1e-4) else labels[:, :, ::-1]) > 0,
        )
        > 0.97
    )
    saved = result.save(tmp_path / "out", ("dicom-seg", "rtstruct", "sr", "sc"))
    assert not saved.not_written
    seg, source = pydicom.dcmread(tmp_path / "out" / "seg.dcm"), pydicom.dcmread(tmp_path / "ct.dcm")
    for groups in seg.PerFrameFunctionalGroupsSequence:
        (image,) = groups.DerivationImageSequence[0].SourceImageSequence
        assert image.ReferencedSOPInstanceUID == source.SOPInstanceUID
        own = source.PerFrameFunctionalGroupsSequence[int(image.ReferencedFrameNumber) - 1]
        meant = own.PlanePositionSequence[0].ImagePositionPatient
        assert list(groups.PlanePositionSequence[0].ImagePositionPatient) == pytest.approx(list(meant), abs=1e-3)
    structures = pydicom.dcmread(tmp_path / "out" / "rtstruct.dcm")
    contour = structures.ROIContourSequence[0].ContourSequence[0]
    frame = int(contour.ContourImageSequence[0].ReferencedFrameNumber)
    place = np.array(
        source.PerFrameFunctionalGroupsSequence[frame - 1].PlanePositionSequence[0].ImagePositionPatient, float
    )
    cosines = np.array(
        source.PerFrameFunctionalGroupsSequence[0].PlaneOrientationSequence[0].ImageOrientationPatient, float
    )
    normal = np.cross(cosines[:3], cosines[3:])
    assert abs((np.array(contour.ContourData[:3], float) - place) @ normal) < 0.01
    if shutil.which("dciodvfy"):
        for name in ("seg.dcm", "rtstruct.dcm", "sr.dcm"):
            found = subprocess.run(["dciodvfy", "-new", str(tmp_path / "out" / name)], capture_output=True, text=True)
            assert not [line for line in found.stderr.splitlines() if line.startswith("Error")]


def test_time_points_of_one_file_are_volumes_of_their_own(banded, tmp_path):
    array, _ = phantom((20, 18, 9))
    later = (array // 2).astype(np.int16)
    order = np.random.default_rng(4).permutation(18)
    enhanced(tmp_path / "ct.dcm", [array, later], oblique_affine(), order, np.ones(18))
    found = run_preflight(tmp_path / "ct.dcm").volumes
    assert [v.part for v in found] == ["TemporalPositionIndex 1", "TemporalPositionIndex 2"]
    with pytest.raises(SelectionError, match="2 volumes in one source"):
        open_source(tmp_path / "ct.dcm")
    second = open_source(tmp_path / "ct.dcm", series="2")
    _agree(second, later, oblique_affine(), 0.51)
    result = medvit.segment(second, bundle=banded)
    result.save(tmp_path / "out", ("dicom-seg",))
    seg, source = pydicom.dcmread(tmp_path / "out" / "seg.dcm"), pydicom.dcmread(tmp_path / "ct.dcm")
    for groups in seg.PerFrameFunctionalGroupsSequence:
        for image in groups.DerivationImageSequence[0].SourceImageSequence:
            own = source.PerFrameFunctionalGroupsSequence[int(image.ReferencedFrameNumber) - 1]
            assert own.FrameContentSequence[0].TemporalPositionIndex == 2


@pytest.mark.parametrize("name", ["icometrix/philips_enhanced/anatomical/001", "icometrix/siemens_multiframe/anatomical/001",
                                  "pydicom_data/eCT_Supplemental.dcm", "seg_dcmqi/23x38x3/multiframe"])  # fmt: skip
def test_real_multi_frame_files_open(name, shared):
    scan = open_source(shared / "data" / "dicom" / name)
    assert len(scan.slices) == 1
    assert len(scan.frames) == scan.array.shape[-1] > 1
