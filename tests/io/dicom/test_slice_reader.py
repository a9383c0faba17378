"""Slices that a viewer reads alone are those of the whole volume, which is the one that ``open_source`` gives."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest

import medvit
from medvit.io.dicom import SliceReader, open_preflight
from medvit.io.dicom.preflight import Preflight, choose_volume
from tests.bands import phantom, write_series

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


def packed(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, file.name)
    return path


def reader_of(source: Path, found: Preflight) -> SliceReader:
    return SliceReader(source, found, choose_volume(found, None, source.name))


@pytest.mark.parametrize("as_zip", [False, True])
def test_slices_and_the_whole_are_what_open_source_gives(tmp_path, as_zip):
    values, _ = phantom()
    write_series(tmp_path / "ct", values, AFFINE)
    source = packed(tmp_path / "ct") if as_zip else tmp_path / "ct"
    scan = medvit.open_source(source)
    with open_preflight(source) as found:
        reader = reader_of(source, found)
    assert reader.shape == scan.array.shape[1:] and reader.modality == scan.modality
    np.testing.assert_array_equal(reader.affine, scan.affine)
    assert reader.series == scan.slices[0].SeriesInstanceUID
    assert reader.frame_of_reference == scan.slices[0].FrameOfReferenceUID
    for k in (3, 0):  # in any order, after the preflight's own handle was closed
        np.testing.assert_array_equal(reader.read_slice(k), scan.array[0, :, :, k])
    memory = np.zeros(reader.shape, np.float32)
    whole = reader.read_all(memory)
    np.testing.assert_array_equal(memory, scan.array[0])
    assert whole.fingerprint() == scan.fingerprint() and whole.notes == scan.notes
    reader.close()
    if as_zip:
        with pytest.raises((medvit.MedvitError, ValueError)):
            reader.read_slice(0)


def test_a_single_slice_and_an_uneven_stack_are_not_read_by_slices(tmp_path):
    values, _ = phantom()
    paths = write_series(tmp_path / "whole", values, AFFINE)
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "a.dcm").write_bytes(paths[0].read_bytes())
    (tmp_path / "uneven").mkdir()
    for n in (0, 1, 2, 3, 5, 8, 9):
        (tmp_path / "uneven" / f"{n}.dcm").write_bytes(paths[n].read_bytes())
    for name, readable in (("whole", True), ("one", False), ("uneven", False)):
        with open_preflight(tmp_path / name) as found:
            assert [SliceReader.can_read(volume) for volume in found.volumes] == [readable]
