"""The longest diameter equals that of shapes with a known one, and the largest distance of all pairs of points."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from scipy.spatial.distance import pdist

import medvit
from medvit.reports import longest_diameter
from tests.bands import oblique_affine, phantom

ROTATED = oblique_affine((0.7, 1.3, 2.5))[:3, :3]


def _every_pair(mask: np.ndarray, axes: np.ndarray) -> float:
    steps = np.concatenate([np.eye(3), -np.eye(3)]) / 2
    points = np.unique((np.argwhere(mask)[:, None] + steps).reshape(-1, 3) @ axes.T, axis=0)
    return float(pdist(points).max())


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 1, 6), (1, 7, 6), (5, 1, 4), (9, 8, 7)])
@pytest.mark.parametrize("share", [0.15, 0.6, 1.0])
def test_equals_the_largest_of_all_distances(shape, share, rng):
    mask = rng.random(shape) < share
    mask[0, 0, 0] = True
    assert longest_diameter(mask, ROTATED) == pytest.approx(_every_pair(mask, ROTATED), abs=1e-9)


def test_one_voxel_and_a_row_measure_their_sides():
    axes = np.diag((0.7, 1.3, 2.5))
    assert longest_diameter(np.ones((1, 1, 1), bool), axes) == pytest.approx(2.5)
    assert longest_diameter(np.ones((10, 1, 1), bool), axes) == pytest.approx(7.0)


def test_a_ball_measures_its_diameter_whichever_way_the_grid_lies():
    spacing = np.array((0.8, 1.0, 1.5))
    grid = (np.indices((61, 49, 33)).reshape(3, -1).T - (30, 24, 16)) * spacing
    ball = (np.linalg.norm(grid, axis=1) <= 20).reshape(61, 49, 33)
    for turn in (np.eye(3), oblique_affine((1, 1, 1))[:3, :3]):
        assert longest_diameter(ball, turn @ np.diag(spacing)) == pytest.approx(40, abs=1.5)  # a voxel's longest side


def test_a_box_turned_against_the_grid_measures_its_space_diagonal():
    a = np.radians(30)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    grid = np.indices((80, 80, 40)).reshape(3, -1).T - (39.5, 39.5, 19.5)
    box = (np.abs(grid @ turn) <= (30, 12, 8)).all(1).reshape(80, 80, 40)
    diagonal = 2 * np.linalg.norm((30, 12, 8))
    assert longest_diameter(box, np.eye(3)) == pytest.approx(diagonal, abs=1.0)
    assert longest_diameter(box, np.eye(3)) < np.linalg.norm([np.ptp(i) + 1 for i in np.nonzero(box)]) - 3


def test_statistics_carry_it(banded, tmp_path):
    values, _labels = phantom()
    affine = oblique_affine((1.1, 1.9, 2.5))
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(affine))
    result = medvit.segment(tensor, bundle=banded)
    for row in result.statistics():
        mask = result.array == row.id
        assert row.longest_diameter_mm == pytest.approx(_every_pair(mask, affine[:3, :3]), abs=0.006)
        assert row.longest_diameter_mm <= np.linalg.norm(row.extent_mm)
    result.save(tmp_path / "out", statistics=True)
    assert "longest_diameter_mm" in (tmp_path / "out" / "statistics.csv").read_text().splitlines()[0]


def test_an_absent_label_has_none(banded):
    values, labels = phantom()
    values[labels == 3] = -1000
    tensor = MetaTensor(torch.from_numpy(values.astype(np.float32))[None], affine=torch.from_numpy(oblique_affine()))
    rows = {row.name: row for row in medvit.segment(tensor, bundle=banded).statistics()}
    assert rows["parotid_right"].longest_diameter_mm is None
    assert rows["mandible"].longest_diameter_mm > 0
