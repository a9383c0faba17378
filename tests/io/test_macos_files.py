"""Files that macOS adds to zips and foreign disks, and DICOM files that gzip packed: neither stops a run."""

import gzip
import zipfile
from collections import Counter

import nibabel as nib
import numpy as np
import pytest

from medvit.errors import SourceError, TooLargeError
from medvit.io import files_below, limit_memory, open_source
from medvit.io.dicom import run_preflight
from tests.bands import phantom, write_series


def _packed(path, files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_a_zip_by_macos_holds_one_image(tmp_path):
    voxels = np.random.default_rng(0).normal(size=(9, 8, 7)).astype(np.float32)
    nib.save(nib.Nifti1Image(voxels, np.eye(4)), tmp_path / "scan.nii.gz")
    content = (tmp_path / "scan.nii.gz").read_bytes()
    junk = {"__MACOSX/._scan.nii.gz": b"\0\5\x16\7", ".DS_Store": b"x", "._scan.nii.gz": b"\0\5\x16\7"}
    scan = open_source(_packed(tmp_path / "scan.zip", {"scan.nii.gz": content, **junk}))
    assert np.array_equal(scan.array[0], voxels)


def test_the_reported_zip_and_folder(shared):
    case = shared / "cases" / "05_macos_zip"
    assert open_source(case / "scan.zip").array.shape == (1, 64, 64, 32)
    with pytest.raises(SourceError, match=r"for example scan\.nii\.gz\."):
        open_source(case / "folder")


def test_a_series_in_a_zip_by_macos_is_read_and_the_rest_counted(tmp_path):
    paths = write_series(tmp_path / "series", phantom()[0], np.eye(4))
    slices = {f"series/{path.name}": path.read_bytes() for path in paths}
    junk = {f"__MACOSX/series/._{path.name}": b"\0\5\x16\7" for path in paths}
    found = run_preflight(_packed(tmp_path / "series.zip", slices | junk))
    assert found.volumes[0].count == len(paths)
    assert dict(found.passed) == {"file(s) that macOS adds beside others (._ files, .DS_Store)": len(paths)}
    assert not found.lost


def test_a_folder_from_a_mac_is_read_without_them(tmp_path):
    paths = write_series(tmp_path / "series", phantom()[0], np.eye(4))
    for path in paths:
        path.with_name(f"._{path.name}").write_bytes(b"\0\5\x16\7")
    (tmp_path / "series" / "__MACOSX").mkdir()
    (tmp_path / "series" / "__MACOSX" / "x.dcm").write_bytes(b"x")
    assert sorted(files_below(tmp_path / "series")) == sorted(paths)
    assert run_preflight(tmp_path / "series").volumes[0].count == len(paths)


def test_slices_that_gzip_packed_are_those_of_before(tmp_path):
    paths = write_series(tmp_path / "series", phantom()[0], np.eye(4))
    wanted = open_source(tmp_path / "series").array
    for path in paths:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    names = Counter(path.suffix for path in files_below(tmp_path / "series"))
    assert names == {".gz": len(paths)}
    assert np.array_equal(open_source(tmp_path / "series").array, wanted)


def test_a_damaged_or_huge_gzip_costs_itself_alone(tmp_path):
    paths = write_series(tmp_path / "series", phantom()[0], np.eye(4))
    packed = gzip.compress(paths[0].read_bytes())
    paths[0].with_name("cut.dcm.gz").write_bytes(packed[: len(packed) // 2])
    found = run_preflight(tmp_path / "series")
    assert found.volumes[0].count == len(paths)
    assert [name for name, _ in found.lost] == ["cut.dcm.gz"]
    (tmp_path / "bomb.dcm.gz").write_bytes(gzip.compress(bytes(10**7)))
    with limit_memory("1MB"), pytest.raises(TooLargeError, match="a gzip file, which takes"):
        open_source(tmp_path / "bomb.dcm.gz")
