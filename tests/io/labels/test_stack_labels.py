"""SEG and RTSTRUCT on the slices of tilted and uneven stacks: read onto the true grid, written again as they were drawn."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import GeometryError
from medvit.io import open_source
from medvit.io.dicom import labels_to_slices
from medvit.io.dicom.write import AlgorithmInfo, check_rtstruct, check_seg, source_of, write_rtstruct, write_seg
from medvit.io.labels import make_label
from tests.bands import dice
from tests.io.dicom.test_stack_resampling import STACKS, _series
from tests.tools import complaints

LABELS = [make_label(n, title) for n, title in ((1, "Left thing"), (2, "Ring"), (3, "One slice"))]
KINDS = {"seg": write_seg, "rtstruct": write_rtstruct}


def _drawn(count: int) -> np.ndarray:
    """Asymmetric labels on the slices, (column, row, slice)."""
    array = np.zeros((30, 26, count), np.uint8)
    array[3:12, 4:20, 1 : count - 2] = 1
    array[15:27, 6:22, 2 : count - 1] = 2
    array[18:23, 10:17, 2 : count - 1] = 0
    array[2:9, 21:25, 3] = 3
    return array


@pytest.fixture(params=STACKS)
def stack(request, tmp_path):
    """A stack that is no grid, opened as medvit resamples it, and labels on its slices."""
    _series(tmp_path / "series", STACKS[request.param])
    scan = open_source(tmp_path / "series", on_irregular="resample")
    return scan, _drawn(len(STACKS[request.param])), tmp_path


def _written(kind: str, scan, array, folder: Path) -> Path:
    path = folder / f"{kind}.dcm"
    KINDS[kind](
        path,
        array,
        source_of(scan),
        LABELS,
        AlgorithmInfo(bundle="b 1", weights="0" * 64, software="1", intended_use="For research use"),
    )
    return path


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_read_where_they_were_drawn(kind, stack):
    scan, array, folder = stack
    path = _written(kind, scan, array, folder)
    with pytest.raises(GeometryError, match="on_irregular=.resample."):
        medvit.read_labels(path, like=folder / "series")
    found = medvit.read_labels(path, like=folder / "series", on_irregular="resample")
    assert not found.flags
    assert found.shape == scan.array.shape[1:]
    assert np.array_equal(found.affine, scan.affine)
    for label, (start, voxels) in zip(LABELS, found.masks_on_slices, strict=True):
        meant = array == label.id
        mask = np.zeros_like(meant)
        mask[tuple(slice(a, a + n) for a, n in zip(start, voxels.shape, strict=True))] = voxels
        assert np.array_equal(mask, meant), label.name
    # what lies on the grid, brought back, is what was drawn but for the voxels at its ends
    back = labels_to_slices(found.array, scan.original.grid, array.shape[:2])
    for label in LABELS[:2]:
        assert dice(back == label.id, array == label.id) > 0.85, label.name


@pytest.mark.parametrize(("kind", "other"), [("seg", "rtstruct"), ("rtstruct", "dicom-seg")])
def test_between_dicom_objects_nothing_changes(kind, other, stack):
    scan, array, folder = stack
    call = [
        "convert",
        str(_written(kind, scan, array, folder)),
        "-o",
        str(folder / "out"),
        "-ot",
        other,
        "-ot",
        "nifti",
    ]
    outcome = CliRunner().invoke(app, [*call, "--like", str(folder / "series"), "--on-irregular", "resample"])
    assert outcome.exit_code == 0, outcome.output
    path = folder / "out" / ("rtstruct.dcm" if other == "rtstruct" else "seg.dcm")
    check = check_rtstruct if other == "rtstruct" else check_seg
    check(path, array, source_of(scan).planes, LABELS)
    assert not complaints(path)
    named = {header.SOPInstanceUID for header in scan.slices}
    first = pydicom.dcmread(path)
    if other == "rtstruct":
        images = first.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0].RTReferencedSeriesSequence[0]
        assert {item.ReferencedSOPInstanceUID for item in images.ContourImageSequence} == named
    labels = nib.load(folder / "out" / "labels.nii.gz")
    assert np.allclose(labels.affine, scan.affine, atol=1e-4)


def test_a_label_map_on_the_true_grid_goes_back_onto_the_slices(stack):
    scan, _, folder = stack
    grid = np.zeros(scan.array.shape[1:], np.uint8)
    grid[5:20, 5:20, 1:-1] = 1
    nib.save(nib.Nifti1Image(grid, scan.affine), folder / "map.nii.gz")
    done = medvit.convert(
        folder / "map.nii.gz",
        folder / "out",
        output_types=("dicom-seg",),
        like=folder / "series",
        on_irregular="resample",
    )
    assert "seg.dcm" in done.files
    meant = labels_to_slices(grid, scan.original.grid, scan.original.values.shape[:2])
    check_seg(folder / "out" / "seg.dcm", meant, source_of(scan).planes, [make_label(1, "")])


def test_contours_between_the_slices_are_filled_on_the_true_grid(tmp_path):
    _series(tmp_path / "series", STACKS["tilted"])
    scan = open_source(tmp_path / "series", on_irregular="resample")
    path = _written("rtstruct", scan, _drawn(len(STACKS["tilted"])), tmp_path)
    dataset = pydicom.dcmread(path)
    for item in dataset.ROIContourSequence:
        for contour in item.ContourSequence:
            points = np.array(contour.ContourData, float).reshape(-1, 3) + (0, 0, 1.0)
            contour.ContourData = [f"{v:.4f}" for v in points.ravel()]
    dataset.save_as(path)
    found = medvit.read_labels(path, like=scan)
    assert found.masks_on_slices == ()
    assert "Contours lie between the reference's slices" in " ".join(found.notes)
    assert found.mask("left_thing").any()
