"""Tilted, shifted and uneven stacks: onto a true grid, labels back onto the original slices, nothing made up."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from pydicom import Dataset
from typer.testing import CliRunner

import medvit
from medvit.cli.main import app
from medvit.errors import GeometryError, SelectionError, SourceError
from medvit.io import flip_lps_ras, open_source, world
from medvit.io.dicom import labels_to_slices, run_preflight
from medvit.io.dicom.stack_resampling import plan_grid, regular_runs
from medvit.io.dicom.write import source_of
from tests.bands import phantom, write_series

TILT = 0.35  # millimetres along y for each along z: a gantry tilt of 19 degrees


def _field(lps: np.ndarray) -> np.ndarray:
    """A smooth, asymmetric image defined everywhere: what slices at any place must show."""
    x, y, z = lps[..., 0], lps[..., 1], lps[..., 2]
    return 3.0 * x + 2.0 * y - 4.0 * z + 100


def _series(folder, positions: list[tuple[float, float, float]], size=(30, 26), **changes):
    """Axial slices of ``_field`` whose first pixels lie at the given places, pixels of 1.5 x 2 mm."""
    index = np.stack(np.meshgrid(np.arange(size[0]), np.arange(size[1]), indexing="ij"), -1)
    stack = []
    for place in positions:
        lps = np.array(place) + index[..., :1] * (1.5, 0, 0) + index[..., 1:] * (0, 2.0, 0)
        stack.append(np.rint(_field(lps)))
    array = np.stack(stack, -1).astype(np.int16)
    affine = flip_lps_ras(np.diag([1.5, 2.0, 3.0, 1.0]))
    places = {k: list(p) for k, p in enumerate(positions)}
    return write_series(folder, array, affine, ImagePositionPatient=lambda k: places[k], **changes)


STACKS = {
    "tilted": [(0.0, TILT * 3 * k, 3.0 * k) for k in range(9)],
    "uneven": [(0.0, 0.0, z) for z in (0, 3, 6, 7.1, 9, 14, 19, 24)],
    "missing": [(0.0, 0.0, 3.0 * k) for k in range(10) if k != 4],
    "tilted and uneven": [(0.0, TILT * z, z) for z in (0, 3, 6, 9, 10.2, 15, 20, 25)],
    "shifted": [(0.4 * (k % 3), 1.1 * (k % 2), 3.0 * k) for k in range(9)],
}


@pytest.mark.parametrize("kind", STACKS)
def test_a_linear_image_is_resampled_exactly_and_never_beyond_the_slices(kind, tmp_path):
    _series(tmp_path, STACKS[kind])
    with pytest.raises(GeometryError, match=r"on_irregular=.resample."):
        open_source(tmp_path)
    scan = open_source(tmp_path, on_irregular="resample")
    assert scan.original is not None
    covered = scan.original.covered
    index = np.argwhere(covered)
    ras = world(scan.affine, index)
    expected = _field(ras * (-1, -1, 1))
    # a linear image is reproduced by linear interpolation up to the rounding of stored values
    assert np.abs(scan.array[0][covered] - expected).max() < 1.01
    assert (scan.array[0][~covered] == -1024).all()
    low, high = min(p[2] for p in STACKS[kind]), max(p[2] for p in STACKS[kind])
    assert ras[:, 2].min() >= low - 1e-6
    assert ras[:, 2].max() <= high + 1e-6
    assert covered.mean() > 0.6
    axes = scan.affine[:3, :3] / np.array(scan.spacing_mm)
    assert np.abs(axes.T @ axes - np.eye(3)).max() < 1e-6
    assert any("Resampled to a straight, even grid" in note for note in scan.notes)


@pytest.mark.parametrize("kind", STACKS)
def test_labels_come_back_onto_the_original_slices(kind, tmp_path):
    """Half-spaces in world coordinates, drawn on the true grid, must be the same half-spaces on the slices."""
    _series(tmp_path, STACKS[kind])
    scan = open_source(tmp_path, on_irregular="resample")
    assert scan.original is not None
    index = np.argwhere(np.ones(scan.array.shape[1:], bool))
    ras = world(scan.affine, index).reshape(*scan.array.shape[1:], 3)
    labels = (1 + (ras[..., 0] < -20) + 2 * (ras[..., 1] < -25)).astype(np.uint8)
    size = scan.original.values.shape[:2]
    back = labels_to_slices(labels, scan.original.grid, size)
    planes = scan.planes_lps()
    assert back.shape == (*size, len(planes))
    pixels = np.stack(np.meshgrid(*map(np.arange, size), indexing="ij"), -1).reshape(-1, 2)
    flat = np.column_stack([pixels, np.zeros(len(pixels)), np.ones(len(pixels))])
    for k, plane in enumerate(planes):
        lps = (flat @ plane.T)[:, :3]
        meant = 1 + (-lps[:, 0] < -20) + 2 * (-lps[:, 1] < -25)
        near = (np.abs(lps[:, 0] - 20) < 1.5) | (np.abs(lps[:, 1] - 25) < 2.0)  # within a pixel of a border
        assert (back[:, :, k].reshape(-1)[~near] == meant[~near]).all()


def test_a_seg_of_a_tilted_uneven_stack_refers_to_the_original_slices(banded, tmp_path):
    array, labels = phantom((41, 37, 20))
    z = np.concatenate([np.arange(12) * 2.0, 22 + 3.0 * np.arange(1, 9)])
    places = {k: [0.0, 0.2 * float(z[k]), float(z[k])] for k in range(20)}
    paths = write_series(
        tmp_path / "series",
        array,
        flip_lps_ras(np.diag([2.0, 2.0, 2.0, 1.0])),
        ImagePositionPatient=lambda k: places[k],
    )
    result = medvit.segment(tmp_path / "series", bundle=banded, on_irregular="resample")
    back = result.on_source_slices()
    assert back.shape == labels.shape
    both, either = ((back > 0) & (labels > 0)).sum(), (back > 0).sum() + (labels > 0).sum()
    assert 2 * both / either > 0.93
    saved = result.save(tmp_path / "out", ("nifti", "dicom-seg", "rtstruct", "sr", "sc"))
    assert not saved.not_written
    seg = pydicom.dcmread(tmp_path / "out" / "seg.dcm")
    instances = {str(pydicom.dcmread(p).SOPInstanceUID): k for k, p in enumerate(paths)}
    frames = seg.pixel_array.reshape(-1, 37, 41)
    numbers = {
        n: next(lab.id for lab in result.requested_labels if lab.title == s.SegmentLabel)
        for n, s in enumerate(seg.SegmentSequence, 1)
    }
    shown = np.zeros_like(back)
    for frame, groups in zip(frames, seg.PerFrameFunctionalGroupsSequence, strict=True):
        k = instances[str(groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID)]
        assert list(groups.PlanePositionSequence[0].ImagePositionPatient) == pytest.approx(places[k])
        number = numbers[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        shown[:, :, k][frame.T.astype(bool)] = number
    assert np.array_equal(shown, back)
    assert len(list((tmp_path / "out" / "sc").iterdir())) == 20


def test_split_takes_the_longest_run_and_flags_the_rest(banded, tmp_path):
    _series(tmp_path / "s", STACKS["tilted and uneven"])
    scan = open_source(tmp_path / "s", on_irregular="split")
    assert scan.original is not None  # tilt has no regular part
    assert len(scan.slices) == 4
    uneven = [(0.0, 0.0, z) for z in (0, 3, 6, 9, 12, 13.5, 18, 22.5, 27)]
    _series(tmp_path / "u", uneven)
    scan = open_source(tmp_path / "u", on_irregular="split")
    assert (len(scan.slices), scan.original, scan.spacing_mm[2]) == (5, None, pytest.approx(3))
    assert "part 1: 5 slice(s) from 0.00 to 12.00 mm was taken; set aside: part 2: 4 slice(s)" in scan.excluded[0]
    assert scan.excluded[0].endswith("Choose series 1.N to read part N.")
    other = open_source(tmp_path / "u", series="1.2", on_irregular="split")
    assert (len(other.slices), other.spacing_mm[2]) == (4, pytest.approx(4.5))
    with pytest.raises(SelectionError, match="no part 7 of volume 1"):
        open_source(tmp_path / "u", series="1.7", on_irregular="split")
    arguments = [
        "segment",
        str(tmp_path / "u"),
        "-o",
        str(tmp_path / "out"),
        "-b",
        str(banded),
        "--on-irregular",
        "split",
    ]
    outcome = CliRunner().invoke(app, arguments)
    assert outcome.exit_code == 3, outcome.output
    assert "was taken; set aside" in outcome.output


def test_gaps_too_wide_and_slices_too_far_apart_are_not_bridged(tmp_path):
    _series(tmp_path / "gap", [(0.0, 0.0, z) for z in (0, 3, 6, 9, 40, 43)])
    with pytest.raises(
        GeometryError, match=r"a gap of 31\.0 mm between the slices at 9\.00 and 40\.00 mm; at most 12\.0 mm"
    ):
        open_source(tmp_path / "gap", on_irregular="resample")
    _series(tmp_path / "far", [(0.0, 300.0 * k, 3.0 * k) for k in range(5)])
    with pytest.raises(GeometryError, match="Found slices shifted so far that the straight grid"):
        open_source(tmp_path / "far", on_irregular="resample")


def test_an_unknown_choice_is_refused(tmp_path):
    with pytest.raises(SourceError, match="on_irregular 'stretch'; it must be one of fail, resample, split"):
        open_source(tmp_path, on_irregular="stretch")


def test_runs_hold_every_slice_once(tmp_path):
    _series(tmp_path, [(0.0, 0.0, z) for z in (0, 3, 6, 7, 9, 12, 15, 30)])
    stack = run_preflight(tmp_path).volumes[0].stack
    assert stack is not None
    runs = regular_runs(stack)
    assert sorted(n for run in runs for n in run) == list(range(8))
    assert (
        plan_grid(run_preflight(tmp_path).volumes[0].stack, 26, 30) is not None
        if np.diff(stack.distance).max() <= 12
        else True
    )


def test_a_regular_stack_is_left_alone(tmp_path):
    _series(tmp_path, [(0.0, 0.0, 3.0 * k) for k in range(6)])
    for choice in ("fail", "resample", "split"):
        scan = open_source(tmp_path, on_irregular=choice)
        assert scan.original is None
        assert scan.array.shape == (1, 30, 26, 6)


def test_real_tilted_uneven_head(shared):
    path = shared / "data/dicom/ct_head_GE_tilt18.5_variable_spacing.zip"
    with pytest.raises(GeometryError, match="unevenly spaced slices.*on_irregular=.resample."):
        open_source(path)
    scan = open_source(path, on_irregular="resample")
    assert scan.array.shape == (1, 512, 611, 37)
    tidy: list[Dataset] = source_of(scan).normalised_headers()
    assert len(tidy) == 28
    # brain lies where it lay: the same place has the same value on the grid and on a slice
    original = scan.original
    assert original is not None
    plane = original.planes[10]
    ras = (plane @ (250, 260, 0, 1))[:3] * (-1, -1, 1)
    at = np.rint(world(np.linalg.inv(scan.affine), ras)[0]).astype(int)
    assert abs(float(scan.array[0][tuple(at)]) - float(original.values[250, 260, 10])) < 25
