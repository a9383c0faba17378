"""RT Structure Sets of other programs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import medvit
from medvit.errors import SelectionError
from medvit.io import open_source
from medvit.io.labels import Grid
from tests.bands import dice, oblique_affine, phantom, write_series

# Real files


@pytest.fixture
def mock(shared) -> Path:
    return shared / "data" / "dicom" / "rtstruct_rt-utils"


def test_rt_utils_own_file_in_a_frame_it_invented(mock):
    """It names the series but a frame of reference of its own: read, and flagged."""
    found = medvit.read_labels(mock / "mock_data" / "rt.dcm", like=mock / "mock_data")
    assert "though the file names its series" in found.flags[0]
    rt_utils = pytest.importorskip("rt_utils", reason="rt-utils is not installed (make dev)")
    builder = rt_utils.RTStructBuilder.create_from(str(mock / "mock_data"), str(mock / "mock_data" / "rt.dcm"))
    theirs = builder.get_roi_mask_by_name("ROI-1").transpose(1, 0, 2)
    # they round every point to a pixel first; ours keeps its place
    assert dice(found.mask("roi_1"), theirs) > 0.9


def test_contours_of_images_that_are_not_there(mock):
    found = medvit.read_labels(mock / "mock_data" / "invalid_reference_rt.dcm")
    assert "Contours name 1 image(s) that the reference does not hold" in found.flags[0]
    assert "ROI-1 1, ROI-2 1, ROI-3 1, ROI-4 1" in found.flags[1]
    with pytest.raises(SelectionError, match="drawn on a series it does not name"):
        medvit.read_labels(mock / "mock_data" / "non_existent_reference_rt.dcm")
    with pytest.raises(SelectionError, match="drawn on series 2.16.840"):
        medvit.read_labels(mock / "empty" / "dummy_rt.dcm")


def test_a_whole_plan_on_the_one_slice_that_is_there(shared):
    found = medvit.read_labels(shared / "data" / "dicom" / "rtstruct_dicompyler" / "rtss.dcm")
    assert found.mask("body").sum() == 40395
    assert len(found.labels) == 10
    assert "Contours name 97 image(s)" in found.flags[0]
    assert "BODY 137" in found.flags[1]
    assert "kept empty: Areola" in found.notes[0]


def test_a_file_of_isocentres_without_preamble(shared):
    with pytest.raises(SelectionError, match="drawn on series 1.2.826.0.1.3680043.8.498.2010020400001.2.1.1"):
        medvit.read_labels(shared / "data" / "dicom" / "pydicom_data" / "rtstruct.dcm")


@pytest.mark.parametrize("pin_hole", [False, True])
def test_what_rt_utils_writes_is_read_as_it_reads_it(pin_hole, tmp_path):
    rt_utils = pytest.importorskip("rt_utils", reason="rt-utils is not installed (make dev)")
    # rt-utils swaps rows and columns of images or pixels that are not square
    write_series(tmp_path / "ct", phantom((41, 41, 29))[0], oblique_affine((1.5, 1.5, 2.5)))
    y, x = np.mgrid[:41, :41]
    radius = np.hypot(y - 20, x - 18)
    mask = np.zeros((41, 41, 29), bool)
    mask[:, :, 8:15] = ((radius < 15) & (radius > 6))[:, :, None]
    builder = rt_utils.RTStructBuilder.create_new(dicom_series_path=str(tmp_path / "ct"))
    builder.add_roi(mask=mask, color=[10, 200, 30], name="Ring", use_pin_hole=pin_hole)
    builder.save(str(tmp_path / "rt.dcm"))
    again = rt_utils.RTStructBuilder.create_from(str(tmp_path / "ct"), str(tmp_path / "rt.dcm"))
    theirs = again.get_roi_mask_by_name("Ring").transpose(1, 0, 2)
    found = medvit.read_labels(tmp_path / "rt.dcm", like=tmp_path / "ct")
    ours = found.mask("ring")
    if np.flatnonzero(theirs.any((0, 1)))[0] != np.flatnonzero(ours.any((0, 1)))[0]:
        theirs = theirs[:, :, ::-1]  # it sorts slices its own way
    assert np.array_equal(ours, theirs)
    assert found.labels[0].color == (10, 200, 30)
    assert Grid.of(open_source(tmp_path / "ct")).shape == found.shape
