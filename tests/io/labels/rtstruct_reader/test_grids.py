"""RT Structure Sets on other grids than that of their series, and the search for the series."""

from __future__ import annotations

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import GeometryError, SelectionError
from medvit.io.labels.rasterize import Contour, plane_distance
from tests.bands import dice, oblique_affine, phantom, write_series
from tests.io.labels.rtstruct_reader.structure_sets import AFFINE, square_contour, write_rois


@pytest.mark.parametrize(
    "change",
    [
        np.diag([1, 1, 0.5, 1]), np.diag([1, 1, 0.4, 1]), np.diag([1, 1, 2.2, 1]), np.diag([0.7, 0.6, 0.9, 1]),
        np.array([[1, 0, 0, 0.3], [0, 1, 0, 0.2], [0, 0, 1, 0.4], [0, 0, 0, 1]]),
    ],
    ids=["half", "finer", "coarser", "all", "shifted"],
)  # fmt: skip
def test_on_another_grid_each_contour_stands_for_its_slab(change, place, scan, tmp_path):
    """The same voxels as the labels themselves give by their nearest voxel, where the planes are the same."""
    shape = np.ceil(np.array(phantom()[1].shape) / np.diag(change)[:3]).astype(int)
    values = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    nib.save(nib.Nifti1Image(values, AFFINE @ change), tmp_path / "g.nii.gz")
    found = medvit.read_labels(place / "out" / "rtstruct.dcm", like=tmp_path / "g.nii.gz")
    nearest = medvit.read_labels(place / "phantom.nii.gz", like=tmp_path / "g.nii.gz")
    assert "each stands for the slab around it" in found.notes[0]
    for n in range(1, 8):
        assert dice(found.mask(n), nearest.mask(n)) > 0.9


def test_what_falls_between_the_voxels_of_a_coarse_grid_is_flagged(place, scan, tmp_path):
    values = np.arange(10 * 9 * 7, dtype=np.int32).reshape(10, 9, 7)
    nib.save(nib.Nifti1Image(values, AFFINE @ np.diag([4, 4, 4, 1])), tmp_path / "coarse.nii.gz")
    rois = {"Dot": [square_contour(5.5, 6.5, 5)], "Whole": [square_contour(2.5, 30.5, k) for k in range(3, 12)]}
    found = medvit.read_labels(write_rois(tmp_path, place, scan, rois), like=tmp_path / "coarse.nii.gz")
    assert found.flags == ("Too small for the reference's grid, empty there: Dot.",)
    dot = np.zeros_like(phantom()[1])
    dot[5, 5, 5] = 1
    dot[8:20, 8:20, 8:20] = 2
    nib.save(nib.Nifti1Image(dot, AFFINE), tmp_path / "dot.nii.gz")
    found = medvit.read_labels(tmp_path / "dot.nii.gz", like=tmp_path / "coarse.nii.gz")
    assert found.flags == ("Too small for the reference's grid, empty there: label_1.",)


def test_on_an_oblique_grid_every_voxel_centre_is_judged(place, tmp_path):
    grid = oblique_affine((1.5, 1.5, 1.5), 55)
    middle = (AFFINE @ (20, 18, 14, 1))[:3]
    grid[:3, 3] = middle - grid[:3, :3] @ (40, 40, 40)
    values = np.arange(80**3, dtype=np.int32).reshape(80, 80, 80)
    nib.save(nib.Nifti1Image(values, grid), tmp_path / "g.nii.gz")
    found = medvit.read_labels(place / "out" / "rtstruct.dcm", like=tmp_path / "g.nii.gz")
    nearest = medvit.read_labels(place / "phantom.nii.gz", like=tmp_path / "g.nii.gz")
    for n in range(1, 8):
        assert dice(found.mask(n), nearest.mask(n)) > 0.97


def test_plane_distance_is_the_smallest_step_and_survives_rounding():
    def square(z: float) -> Contour:
        return Contour(np.array([(0, 0, z), (0, 9, z + 0.004), (9, 9, z), (9, 0, z)]))

    assert plane_distance([square(z) for z in (0, 3, 3.01, 9)]) == pytest.approx(3, abs=0.05)
    assert plane_distance([square(1)]) == 0


def test_without_a_reference_the_series_is_named_or_found_beside(place, tmp_path):
    path = tmp_path / "alone.dcm"
    path.write_bytes((place / "out" / "rtstruct.dcm").read_bytes())
    uid = pydicom.dcmread(next((place / "ct").iterdir())).SeriesInstanceUID
    with pytest.raises(SelectionError, match=f"drawn on series {uid}.*like"):
        medvit.read_labels(path)
    beside = place / "beside.dcm"
    beside.write_bytes(path.read_bytes())
    found = medvit.read_labels(beside)
    assert np.array_equal(found.array, phantom()[1])
    assert "found beside it" in found.notes[-1]


def test_a_series_beside_it_that_makes_no_grid_is_named(place, tmp_path):
    (tmp_path / "rt.dcm").write_bytes((place / "out" / "rtstruct.dcm").read_bytes())
    for number, path in enumerate(sorted((place / "ct").iterdir())):
        if number != 9:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    with pytest.raises(GeometryError, match=r"The series beside rt.dcm cannot be its grid. Found a gap of"):
        medvit.read_labels(tmp_path / "rt.dcm")


def test_of_several_series_the_one_it_names_is_taken(place, tmp_path):
    write_series(tmp_path / "both" / "other", phantom()[0], AFFINE)
    for path in (place / "ct").iterdir():
        (tmp_path / "both" / f"own-{path.name}").write_bytes(path.read_bytes())
    found = medvit.read_labels(place / "out" / "rtstruct.dcm", like=tmp_path / "both")
    assert np.array_equal(found.array, phantom()[1])


def test_another_frame_of_reference_is_refused_or_forced_with_a_flag(place, tmp_path):
    write_series(tmp_path / "other", phantom()[0], AFFINE)
    with pytest.raises(GeometryError, match="not comparable"):
        medvit.read_labels(place / "out" / "rtstruct.dcm", like=tmp_path / "other")
    found = medvit.read_labels(place / "out" / "rtstruct.dcm", like=tmp_path / "other", force=True)
    assert np.array_equal(found.array, phantom()[1])
    assert "Forced" in found.flags[0]
