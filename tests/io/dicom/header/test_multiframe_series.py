"""Multi-frame files with odd counts of frames, concatenations and several stacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import SourceError
from medvit.io import open_source
from medvit.io.dicom import run_preflight
from tests.bands import phantom, write_series
from tests.io.dicom.header.test_multiframe import enhanced
from tests.io.dicom.volumes import AXIAL, SMALL, WIDE

# multi-frame


def _edited(path: Path, change) -> None:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)


def test_groups_of_fewer_frames_than_there_are(tmp_path):
    enhanced(tmp_path / "a.dcm", [SMALL], AXIAL, np.arange(12), np.ones(12))

    def cut(dataset):
        dataset.PerFrameFunctionalGroupsSequence = dataset.PerFrameFunctionalGroupsSequence[:-3]

    _edited(tmp_path / "a.dcm", cut)
    with pytest.raises(SourceError, match=r"functional groups of 9 frames, where it states 12"):
        open_source(tmp_path / "a.dcm")


def test_a_multi_frame_file_cut_off_in_its_last_frame_is_seen_before_a_run(tmp_path):
    enhanced(tmp_path / "a.dcm", [SMALL], AXIAL, np.arange(12), np.ones(12))
    content = (tmp_path / "a.dcm").read_bytes()
    (tmp_path / "a.dcm").write_bytes(content[:-500])
    assert [v.worst() for v in run_preflight(tmp_path / "a.dcm").volumes] == ["refused"]
    with pytest.raises(SourceError, match=r"Found a.dcm, whose pixels cannot be read: the file is cut off"):
        open_source(tmp_path / "a.dcm")


def test_a_number_of_frames_without_end_takes_no_memory(tmp_path):
    write_series(tmp_path, SMALL[:, :, :1], AXIAL, NumberOfFrames="2147483647")
    (volume,) = run_preflight(tmp_path).volumes
    assert (volume.kind, len(volume.planes), volume.count) == ("clip", 1, 2147483647)
    with pytest.raises(SourceError, match="the file is cut off"):
        open_source(tmp_path)


@pytest.mark.parametrize("pieces", [2, 29])
def test_a_concatenation_is_one_volume_without_objects_that_name_the_wrong_file(pieces, banded, tmp_path):
    array, labels = phantom()
    enhanced(tmp_path / "a.dcm", [array], WIDE, np.arange(29), np.ones(29))
    whole = pydicom.dcmread(tmp_path / "a.dcm")
    frames = whole.pixel_array
    (tmp_path / "s").mkdir()
    for n, part in enumerate(np.array_split(np.arange(29), pieces)):
        piece = pydicom.dcmread(tmp_path / "a.dcm")
        piece.SOPInstanceUID = piece.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{n + 1}"
        piece.PerFrameFunctionalGroupsSequence = [whole.PerFrameFunctionalGroupsSequence[int(k)] for k in part]
        piece.NumberOfFrames, piece.PixelData = len(part), frames[part].tobytes()
        piece.save_as(tmp_path / "s" / f"{n}.dcm")
    result = medvit.segment(tmp_path / "s", bundle=banded, repair_tags=True)
    assert np.array_equal(result.array, labels)
    saved = result.save(tmp_path / "out", ("dicom-seg", "nifti"))
    (said,) = saved.not_written
    assert f"frames of {pieces} multi-frame files, to which no object here can refer" in said
    assert "repair the tags" not in said


def test_stacks_of_one_file_are_volumes_of_their_own(tmp_path):
    enhanced(tmp_path / "a.dcm", [SMALL], AXIAL, np.arange(12), np.ones(12))

    def part(dataset):
        for k, groups in enumerate(dataset.PerFrameFunctionalGroupsSequence):
            groups.FrameContentSequence[0].StackID = "1" if k < 6 else "2"
            del (
                groups.FrameContentSequence[0].TemporalPositionIndex,
                groups.FrameContentSequence[0].DimensionIndexValues,
            )
            if k >= 6:
                groups.PlanePositionSequence[0].ImagePositionPatient = [0, 0, 2.0 * k + 7]

    _edited(tmp_path / "a.dcm", part)
    assert [(v.part, len(v.planes)) for v in run_preflight(tmp_path / "a.dcm").volumes] == [
        ("StackID 1", 6),
        ("StackID 2", 6),
    ]
