"""Kinds of image in one folder: clips, pictures, mosaics and DICOMDIRs are told apart and asked about."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

from medvit.errors import GeometryError, ImageError, SelectionError, SourceError
from medvit.io import open_source
from medvit.io.dicom import run_preflight
from tests.bands import oblique_affine, phantom, write_series
from tests.io.dicom.preflight.test_series_preflight import SMALL, _resave


def _dicomdir(folder: Path, names: list[list[str]]) -> Path:
    directory = Dataset()
    directory.FileSetID = "DISC"
    records = []
    for parts in names:
        record = Dataset()
        record.OffsetOfTheNextDirectoryRecord = record.OffsetOfReferencedLowerLevelDirectoryEntity = 0
        record.RecordInUseFlag, record.DirectoryRecordType = 0xFFFF, "IMAGE"
        record.ReferencedFileID = parts
        records.append(record)
    directory.DirectoryRecordSequence = Sequence(records)
    directory.file_meta = FileMetaDataset()
    directory.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    directory.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    directory.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    directory.save_as(folder / "DICOMDIR", enforce_file_format=True)
    return folder / "DICOMDIR"


def test_a_dicomdir_lists_what_is_read_whatever_the_case_of_names(tmp_path):
    paths = write_series(tmp_path / "images", SMALL, oblique_affine())
    names = [["IMAGES", path.name.upper()] for path in paths]
    whole = open_source(_dicomdir(tmp_path, names))
    assert whole.array.shape == (1, 20, 18, 12)
    assert np.array_equal(whole.array, open_source(tmp_path).array)
    partly = open_source(_dicomdir(tmp_path, [*names, ["IMAGES", "GONE"]]))
    assert partly.excluded[0].startswith("Not read: 1 file(s) that the DICOMDIR lists and that are not there")


def test_a_dicomdir_that_points_outside_or_cannot_be_read(tmp_path):
    with pytest.raises(SourceError, match="a DICOMDIR that lists '../secret', outside of its folder"):
        open_source(_dicomdir(tmp_path, [["..", "secret"]]))
    (tmp_path / "DICOMDIR").write_bytes(b"nothing")
    with pytest.raises(SourceError, match="a DICOMDIR that cannot be read"):
        open_source(tmp_path / "DICOMDIR")


def test_thirty_slices_among_many_other_images(tmp_path):
    rng = np.random.default_rng(5)
    write_series(tmp_path / "deep" / "er", phantom((20, 18, 30))[0], oblique_affine())
    noise = rng.integers(0, 99, (8, 8, 1)).astype(np.int16)
    for n in range(40):
        write_series(tmp_path / f"other{n}", noise, oblique_affine(), SliceThickness="1")
    with pytest.raises(SelectionError, match=r"(?s)41 series.*and 21 more: see medvit inspect"):
        open_source(tmp_path)
    uid = max(run_preflight(tmp_path).volumes, key=lambda v: len(v.planes)).series
    assert open_source(tmp_path, series=uid).array.shape == (1, 20, 18, 30)


def test_clips_pictures_and_results_are_told_apart(tmp_path, shared):
    dicom = shared / "data" / "dicom"
    picture = open_source(dicom / "pydicom_data" / "RG3_J2KR.dcm")
    assert picture.is_picture
    assert (picture.modality, picture.array.shape) == ("CR", (1, 1760, 1760))
    for name, kind in (("seg_dcmqi/liver.dcm", "SEG"), ("rtstruct_dicompyler/rtss.dcm", "RTSTRUCT")):
        with pytest.raises(SourceError, match=rf"no DICOM images among 1 file\(s\) \({kind}\).*medvit.convert\(\)"):
            open_source(dicom / name)
    with pytest.raises(SourceError, match="RTDOSE.*Give the images these objects belong to"):
        open_source(dicom / "pydicom_data" / "rtdose.dcm")
    path = write_series(tmp_path, SMALL[:, :, :1], oblique_affine(), Modality="US")[0]
    _resave(path, NumberOfFrames=4, PixelData=bytes(4 * 20 * 18 * 2))
    with pytest.raises(ImageError, match="a clip of 4 frames without a place"):
        open_source(path)


def test_a_mosaic_is_not_taken_for_a_slice(tmp_path):
    write_series(tmp_path, SMALL, oblique_affine(), ImageType=["ORIGINAL", "PRIMARY", "M", "ND", "MOSAIC"])
    with pytest.raises(
        GeometryError, match="a Siemens mosaic.*; one slice an image is needed. Convert it with dcm2niix"
    ):
        open_source(tmp_path)


def test_an_ultrasound_picture_in_colour_is_a_picture(tmp_path):
    path = write_series(tmp_path, SMALL[:, :, :1], oblique_affine())[0]
    dataset = pydicom.dcmread(path)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.Modality, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "US", 3, 0
    dataset.PhotometricInterpretation, dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = "RGB", 8, 8, 7
    dataset.PixelRepresentation = 0
    dataset.PixelData = np.arange(20 * 18 * 3, dtype=np.uint8).tobytes()
    dataset.save_as(path, enforce_file_format=True)
    scan = open_source(path)
    assert (scan.kind, scan.modality, scan.array.shape) == ("picture", "US", (3, 18, 20))
    assert scan.array[:, 0, 0].tolist() == [0, 1, 2]


def test_several_pictures_of_one_kind_are_asked_about(tmp_path):
    for n in range(2):
        path = write_series(tmp_path / f"{n}", SMALL[:, :, :1], oblique_affine(), SeriesInstanceUID="1.2.3")[0]
        _resave(path, SOPClassUID=SecondaryCaptureImageStorage)
    with pytest.raises(SelectionError, match="2 screen images of one series; a volume or a single picture is needed"):
        open_source(tmp_path)


def test_subsampled_colours_are_not_taken_for_a_file_cut_off(tmp_path):
    path = write_series(tmp_path, SMALL[:, :, :1], oblique_affine())[0]
    dataset = pydicom.dcmread(path)
    del dataset.ImagePositionPatient, dataset.ImageOrientationPatient
    dataset.Modality, dataset.SamplesPerPixel, dataset.PlanarConfiguration = "US", 3, 0
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "YBR_FULL_422", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 8, 8, 7
    dataset.PixelData = np.arange(20 * 18 * 2, dtype=np.uint8).tobytes()  # two bytes a pixel
    dataset.save_as(path, enforce_file_format=True)
    assert open_source(path).array.shape == (3, 18, 20)


def test_real_mixed_series(shared):
    scan = open_source(shared / "data/dicom/ct_head_phantom_Philips_mixed_scout_summary.zip")
    assert scan.array.shape == (1, 512, 512, 14)
    assert scan.spacing_mm[2] == pytest.approx(5)
    assert not scan.excluded


def test_real_diffusion_series_is_split_and_asked_about(shared):
    folder = shared / "data/dicom/icometrix/ge/dti/001"
    with pytest.raises(SelectionError, match="2 volumes"):
        open_source(folder)
    assert open_source(folder, series="1").array.shape == (1, 128, 128, 4)
