"""A described background of a label map is no label; a segment of number zero is one."""

from __future__ import annotations

import json

import highdicom as hd
import numpy as np
import pydicom
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from tests.bands import phantom
from tests.io.labels.seg_reader.seg_objects import changed_copy, seg, segment_pixels


def _with_background(number: int):
    """Number the background of a label map anew, described and as PixelPaddingValue."""

    def change(dataset) -> None:
        pixels = dataset.pixel_array
        dataset.PixelData = np.where(pixels == 0, number, pixels).astype(pixels.dtype).tobytes()
        dataset.PixelPaddingValue = number
        dataset.SegmentSequence[0].SegmentNumber = number

    return change


def test_a_described_background_is_no_label_just_as_highdicom_reads_it(scan, tmp_path):
    plain = seg(tmp_path / "seg.dcm", scan, segment_pixels(phantom()[1]), "LABELMAP")
    path = changed_copy(plain, tmp_path, _with_background(9))
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
        changed_copy(seg(tmp_path / "seg.dcm", scan, segment_pixels(phantom()[1]), "LABELMAP"), tmp_path, swap),
        like=scan,
    )
    assert found.labels[0].id == 10
    assert np.array_equal(found.array == 10, phantom()[1] == 1)
    assert "number 0 is not the background" in " ".join(found.notes)


def test_convert_gives_the_background_of_a_label_map_no_label(shared, tmp_path):
    source = shared / "cases" / "09_labelmap_padding_background" / "lm_bg5.dcm"
    outcome = CliRunner().invoke(app, ["convert", str(source), "-o", str(tmp_path / "out"), "-ot", "nifti", "--json"])
    assert outcome.exit_code == 0
    assert sorted(json.loads(outcome.stdout)["labels"].values()) == [1, 2, 3, 4, 6, 7, 10]
