"""Contours of RT Structure Sets, filled on the grid of their own series; odd contours are counted or flagged."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import GeometryError, SourceError
from medvit.io.labels.names import color_of
from medvit.io.polygon_masks import fill_polygons
from tests.bands import phantom
from tests.io.labels.rtstruct_reader.structure_sets import square_contour, write_rois


def test_our_own_comes_back_exactly(place, scan):
    found = medvit.read_labels(place / "out" / "rtstruct.dcm", like=scan)
    assert np.array_equal(found.array, phantom()[1])
    assert np.array_equal(found.affine, scan.affine)
    assert found.kind == "rtstruct"
    assert not found.flags


def test_a_hole_may_be_a_contour_of_its_own_with_an_island_in_it(place, scan, tmp_path):
    rings = [square_contour(2.5, 20.5, 3), square_contour(6.5, 16.5, 3), square_contour(9.5, 12.5, 3)]
    found = medvit.read_labels(write_rois(tmp_path, place, scan, {"Ring": rings}), like=scan)
    meant = np.zeros_like(phantom()[1], dtype=bool)
    meant[3:21, 3:21, 3] = True
    meant[7:17, 7:17, 3] = False
    meant[10:13, 10:13, 3] = True
    assert np.array_equal(found.mask("ring"), meant)


def test_a_keyhole_is_a_hole(place, scan, tmp_path):
    outer, inner = square_contour(2.5, 20.5, 3), square_contour(6.5, 16.5, 3)
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    found = medvit.read_labels(write_rois(tmp_path, place, scan, {"Key": [keyhole]}), like=scan)
    assert found.mask("key").sum() == 18 * 18 - 10 * 10


def test_pixel_centres_on_a_contour_belong_to_it(place, scan, tmp_path):
    """Many planning systems draw through the centres of the outermost pixels; a hole is then drawn on its tissue."""
    found = medvit.read_labels(
        write_rois(tmp_path, place, scan, {"Ring": [square_contour(3, 20, 3), square_contour(6, 17, 3)]}), like=scan
    )
    assert found.mask("ring").sum() == 18 * 18 - 10 * 10


def test_rois_may_overlap(place, scan, tmp_path):
    rois = {"A": [square_contour(2.5, 10.5, 3)], "B": [square_contour(8.5, 20.5, 3)]}
    found = medvit.read_labels(write_rois(tmp_path, place, scan, rois), like=scan)
    assert found.overlaps == (("a", "b", 4),)


def _changed(path: Path, change) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def test_a_contour_that_stands_in_the_file_twice_counts_once(place, scan, tmp_path):
    square = square_contour(2.5, 10.5, 3)
    found = medvit.read_labels(write_rois(tmp_path, place, scan, {"A": [square, square[::-1]]}), like=scan)
    assert found.mask("a").sum() == 8 * 8
    assert found.notes == ("Contours that stand in the file more than once were taken once: A 1.",)
    assert not found.flags


@pytest.mark.parametrize("degrees", [0, 30], ids=["slices of the grid", "oblique to the grid"])
def test_contours_that_cross_share_what_both_enclose_and_are_flagged(degrees, place, scan, tmp_path):
    turn = np.radians(degrees)
    turned = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    pair = [square_contour(2.4, 12.6, 0), square_contour(8.4, 18.6, 0)]
    pair = [points @ turned.T + (0, 0, 8) for points in pair]
    path = write_rois(tmp_path, place, scan, {"A": pair})
    found = medvit.read_labels(path, like=scan)
    assert found.flags == ("Contours of one slice cross; what they share was taken as part of the ROI: A.",)
    alone = [
        medvit.read_labels(write_rois(tmp_path / name, place, scan, {"A": [points]}), like=scan).mask("a")
        for name, points in zip("xy", pair, strict=True)
        if not (tmp_path / name).mkdir()
    ]
    assert (alone[0] & alone[1]).any()
    assert np.array_equal(found.mask("a"), alone[0] | alone[1])


def test_by_the_standards_xor_contours_that_cross_leave_a_hole(place, scan, tmp_path):
    pair = [square_contour(2.5, 12.5, 3), square_contour(8.5, 18.5, 3)]
    found = medvit.read_labels(write_rois(tmp_path, place, scan, {"A": pair}, "CLOSEDPLANAR_XOR"), like=scan)
    assert found.mask("a").sum() == 2 * (10 * 10 - 4 * 4)
    assert not found.flags


def test_a_thin_wall_whose_hole_touches_its_outline_stays_a_wall(place, scan, tmp_path):
    found = medvit.read_labels(
        write_rois(tmp_path, place, scan, {"Wall": [square_contour(2.5, 20.5, 3), square_contour(2.4, 19.5, 3)]}),
        like=scan,
    )
    assert found.mask("wall").sum() == 18 * 18 - 17 * 17
    assert not found.flags


def test_closed_contours_of_two_points_are_set_aside_and_counted(place, scan, tmp_path):
    rois = {"A": [square_contour(2.5, 10.5, 3), square_contour(2.5, 10.5, 4)[:2], square_contour(2.5, 10.5, 5)[:1]]}
    found = medvit.read_labels(write_rois(tmp_path, place, scan, rois), like=scan)
    assert found.mask("a").sum() == 8 * 8
    assert found.flags == ("Closed contours of fewer than three points enclose nothing and were set aside: A 2.",)


def test_contours_that_miscount_their_points_are_flagged(place, scan, tmp_path):
    def lie(dataset) -> None:
        dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 9

    path = _changed(write_rois(tmp_path, place, scan, {"A": [square_contour(2.5, 10.5, 3)]}), lie)
    found = medvit.read_labels(path, like=scan)
    assert found.flags == ("Contours do not hold the number of points they state, and were taken as they are: A 1.",)


def test_contours_of_an_roi_that_is_not_described_are_flagged(place, scan, tmp_path):
    def forget(dataset) -> None:
        del dataset.StructureSetROISequence[1]

    path = _changed(
        write_rois(
            tmp_path, place, scan, {"A": [square_contour(2.5, 10.5, 3)], "B": [square_contour(2.5, 10.5, 4)] * 2}
        ),
        forget,
    )
    found = medvit.read_labels(path, like=scan)
    assert [label.title for label in found.labels] == ["A"]
    assert found.flags == ("2 contour(s) belong to no ROI that the file describes and were set aside.",)


def test_an_roi_whose_contours_stand_in_two_items_has_both(place, scan, tmp_path):
    def one_number(dataset) -> None:
        dataset.ROIContourSequence[1].ReferencedROINumber = 1
        del dataset.StructureSetROISequence[1]

    path = _changed(
        write_rois(tmp_path, place, scan, {"A": [square_contour(2.5, 10.5, 3)], "B": [square_contour(2.5, 10.5, 4)]}),
        one_number,
    )
    assert medvit.read_labels(path, like=scan).mask("a").sum() == 2 * 8 * 8


def test_what_a_sloppy_file_leaves_out_or_gets_wrong_does_not_stop_it(place, scan, tmp_path):
    """Half a colour, a reference to a series that has no UID, no observations."""

    def sloppy(dataset) -> None:
        dataset.ROIContourSequence[0].ROIDisplayColor = [255, 0]
        study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        del study.RTReferencedSeriesSequence[0].SeriesInstanceUID
        del dataset.RTROIObservationsSequence

    path = _changed(write_rois(tmp_path, place, scan, {"A": [square_contour(2.5, 10.5, 3)]}), sloppy)
    found = medvit.read_labels(path, like=scan)
    assert found.mask("a").sum() == 8 * 8
    assert found.labels[0].color == color_of(1)
    assert found.series == ()


def test_contours_along_another_plane_of_the_grid(place, scan, tmp_path):
    """Drawn on reformatted slices: the plane is i = 7."""
    points = np.array([(7, 2.5, 2.5), (7, 2.5, 9.5), (7, 12.5, 9.5), (7, 12.5, 2.5)])
    found = medvit.read_labels(write_rois(tmp_path, place, scan, {"Side": [points]}), like=scan)
    meant = np.zeros_like(phantom()[1], dtype=bool)
    meant[7, 3:13, 3:10] = True
    assert np.array_equal(found.mask("side"), meant)


def test_points_and_open_contours_are_set_aside_and_counted(place, scan, tmp_path):
    path = write_rois(tmp_path, place, scan, {"A": [square_contour(2.5, 9.5, 3)], "B": [square_contour(2.5, 9.5, 3)]})
    dataset = pydicom.dcmread(path)
    dataset.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    dataset.save_as(path)
    found = medvit.read_labels(path, like=scan)
    assert found.flags == ("1 OPEN_PLANAR contour(s) were set aside; only closed planar ones enclose voxels.",)
    assert "kept empty: B" in found.notes[-1]
    assert found.mask("b").sum() == 0


def test_a_file_of_points_alone_is_refused(place, scan, tmp_path):
    path = write_rois(tmp_path, place, scan, {"Isocentre": [np.zeros((1, 3))]}, "POINT")
    with pytest.raises(SourceError, match="without any closed contour"):
        medvit.read_labels(path, like=scan)


def test_contours_beyond_the_grid_are_set_aside_and_those_across_its_edge_cut(place, scan, tmp_path):
    contours = [square_contour(2.5, 9.5, 3), square_contour(2.5, 9.5, 40), square_contour(-60, -50, 3)]
    found = medvit.read_labels(
        write_rois(tmp_path, place, scan, {"A": contours, "B": [square_contour(-4, 5.5, 6)]}), like=scan
    )
    assert found.mask("a").sum() == 49
    assert found.mask("b").sum() == 36
    assert "Contours beyond the reference's slices were set aside: A 2." in found.flags
    assert "Contours reach beyond the edge of the reference's slices and were cut: B." in found.flags
    with pytest.raises(GeometryError, match="1 contours and none of them on the reference's grid"):
        medvit.read_labels(write_rois(tmp_path, place, scan, {"A": [square_contour(2.5, 9.5, 99)]}), like=scan)


def test_a_contour_that_is_not_flat_is_set_aside(place, scan, tmp_path):
    bent = np.array([(2, 2, 3), (9, 2, 6), (9, 9, 3), (2, 9, 7)], float)
    found = medvit.read_labels(write_rois(tmp_path, place, scan, {"A": [square_contour(2.5, 9.5, 3), bent]}), like=scan)
    assert found.flags == ("Contours that are not flat were set aside: A 1.",)


def test_on_its_own_series_a_slice_without_a_contour_stays_empty_and_is_counted(place, scan, tmp_path):
    contours = [square_contour(2.5, 9.5, k) for k in (3, 5, 7)]
    found = medvit.read_labels(write_rois(tmp_path, place, scan, {"A": contours}), like=scan)
    assert np.flatnonzero(found.mask("a").any((0, 1))).tolist() == [3, 5, 7]
    assert "kept empty: A 2." in found.notes[0]


def test_filling_takes_edges_and_counts_parity():
    outer, inner = np.array([(1, 1), (1, 8), (8, 8), (8, 1.0)]), np.array([(3, 3), (3, 6), (6, 6), (6, 3.0)])
    mask = fill_polygons([outer, inner], (10, 10))
    assert mask.sum() == 64 - 4
    assert not mask[4:6, 4:6].any()
    assert fill_polygons([outer - 100], (10, 10)).sum() == 0
