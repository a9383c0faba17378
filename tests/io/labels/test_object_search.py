"""SEG and RTSTRUCT among other files, and the series they were drawn on; labels in memory saved as those of a file."""

from __future__ import annotations

import numpy as np
import pytest

import medvit
from medvit.io.labels import begins_as_dicom, is_label_object, label_objects, object_series
from tests.bands import phantom, write_series

AFFINE = np.diag([2.0, 2.0, 3.0, 1.0])


@pytest.fixture
def drawn(tmp_path):
    """A series, and a SEG and an RTSTRUCT that were drawn on it."""
    from medvit.io import Scan, write_labels
    from medvit.io.labels import make_label

    values, _ = phantom()
    write_series(tmp_path / "ct", values, AFFINE)
    scan: Scan = medvit.open_source(tmp_path / "ct")
    ids = np.zeros(scan.array.shape[1:], np.uint8)
    ids[3:9, 4:10, 2:7] = 1
    write_labels(tmp_path / "map.nii.gz", ids, scan, [make_label(1, "Liver")])
    found = medvit.read_labels(tmp_path / "map.nii.gz", like=scan)
    saved = medvit.save_labels(found, tmp_path / "ct" / "drawn", output_types=("dicom-seg", "rtstruct"))
    return scan, found, saved


def test_objects_are_found_below_a_folder_with_the_series_they_were_drawn_on(drawn):
    scan, _, saved = drawn
    objects = label_objects(saved.folder.parent)
    assert objects == sorted(saved.folder / name for name in saved.files if name.endswith(".dcm")) and len(objects) == 2
    assert {object_series(path) for path in objects} == {(str(scan.slices[0].SeriesInstanceUID),)}
    slices = [path for path in saved.folder.parent.iterdir() if path.is_file()]
    assert slices and all(begins_as_dicom(path) and not is_label_object(path) for path in slices)
    assert label_objects(saved.folder.parent, most=0) == []


def test_what_cannot_be_read_is_no_object(tmp_path):
    (tmp_path / "cut.dcm").write_bytes(b"\0" * 128 + b"DICM\x02\x00")
    assert begins_as_dicom(tmp_path / "cut.dcm") and not is_label_object(tmp_path / "cut.dcm")
    assert not begins_as_dicom(tmp_path / "absent.dcm") and not is_label_object(tmp_path / "absent.dcm")
    (tmp_path / "link.dcm").symlink_to(tmp_path / "nowhere")
    assert label_objects(tmp_path) == []


def test_labels_in_memory_are_saved_as_convert_saves_those_of_a_file(drawn, tmp_path):
    scan, found, saved = drawn
    assert set(saved.files) >= {"seg.dcm", "rtstruct.dcm", "run.json"}
    converted = medvit.convert(tmp_path / "map.nii.gz", tmp_path / "converted", output_types=("nifti",), like=scan)
    again = medvit.save_labels(found, tmp_path / "again", output_types=("nifti",))
    assert again.files == converted.files and again.labels == converted.labels
    first, second = (medvit.read_labels(made.folder / "labels.nii.gz").array for made in (converted, again))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(medvit.read_labels(saved.folder / "seg.dcm", like=scan).array, found.array)
    with pytest.raises(medvit.MedvitError, match="overwrite"):
        medvit.save_labels(found, tmp_path / "again", output_types=("nifti",))
    medvit.save_labels(found, tmp_path / "again", output_types=("nifti",), overwrite=True)
