"""RT Structure Sets that others wrote, filled on the reference's grid; each odd contour, each damage."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pydicom
import pytest

import medvit
from medvit.errors import GeometryError, MedvitError, SelectionError, SourceError
from medvit.io import flip_lps_ras, open_source
from medvit.io.labels import Grid
from medvit.io.labels.names import color_of
from medvit.io.labels.rasterize import Contour, plane_distance
from medvit.io.labels.rtstruct_reader import read_rtstruct
from medvit.io.polygon_masks import fill_polygons
from tests.bands import dice, oblique_affine, phantom, write_series

AFFINE = oblique_affine((1.1, 1.9, 2.5))


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """An oblique series, its labels, and the RTSTRUCT medvit makes of them."""
    folder = tmp_path_factory.mktemp("rt")
    write_series(folder / "ct", phantom()[0], AFFINE)
    nib.save(nib.Nifti1Image(phantom()[1], AFFINE), folder / "phantom.nii.gz")
    medvit.convert(folder / "phantom.nii.gz", folder / "out", output_types=("rtstruct",), like=folder / "ct")
    return folder


@pytest.fixture(scope="module")
def scan(place):
    return open_source(place / "ct")


def _rois(tmp_path: Path, place: Path, scan, rois: dict[str, list], kind: str = "CLOSED_PLANAR") -> Path:
    """The structure set with other ROIs: for each name its contours, (point, 3) in voxel indices."""
    dataset = pydicom.dcmread(place / "out" / "rtstruct.dcm")
    lps = flip_lps_ras(scan.affine)
    keep = len(rois)
    for sequence in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        setattr(dataset, sequence, list(getattr(dataset, sequence))[:keep])
    for roi, item, (name, contours) in zip(
        dataset.StructureSetROISequence, dataset.ROIContourSequence, rois.items(), strict=True
    ):
        roi.ROIName = name
        template = item.ContourSequence[0]
        item.ContourSequence = []
        for points in contours:
            contour = pydicom.Dataset()
            contour.ContourImageSequence = template.ContourImageSequence
            contour.ContourGeometricType = kind
            contour.NumberOfContourPoints = len(points)
            world = np.column_stack([points, np.ones(len(points))]) @ lps.T
            contour.ContourData = [f"{v:.4f}" for v in world[:, :3].ravel()]
            item.ContourSequence.append(contour)
    dataset.save_as(tmp_path / "rt.dcm")
    return tmp_path / "rt.dcm"


def _square(low: float, high: float, k: float) -> np.ndarray:
    return np.array([(low, low, k), (low, high, k), (high, high, k), (high, low, k)], float)


def test_our_own_comes_back_exactly(place, scan):
    found = medvit.read_labels(place / "out" / "rtstruct.dcm", like=scan)
    assert np.array_equal(found.array, phantom()[1])
    assert np.array_equal(found.affine, scan.affine)
    assert found.kind == "rtstruct"
    assert not found.flags


def test_a_hole_may_be_a_contour_of_its_own_with_an_island_in_it(place, scan, tmp_path):
    rings = [_square(2.5, 20.5, 3), _square(6.5, 16.5, 3), _square(9.5, 12.5, 3)]
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"Ring": rings}), like=scan)
    meant = np.zeros_like(phantom()[1], dtype=bool)
    meant[3:21, 3:21, 3] = True
    meant[7:17, 7:17, 3] = False
    meant[10:13, 10:13, 3] = True
    assert np.array_equal(found.mask("ring"), meant)


def test_a_keyhole_is_a_hole(place, scan, tmp_path):
    outer, inner = _square(2.5, 20.5, 3), _square(6.5, 16.5, 3)
    keyhole = np.concatenate([outer, outer[:1], inner, inner[:1]])
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"Key": [keyhole]}), like=scan)
    assert found.mask("key").sum() == 18 * 18 - 10 * 10


def test_pixel_centres_on_a_contour_belong_to_it(place, scan, tmp_path):
    """Many planning systems draw through the centres of the outermost pixels; a hole is then drawn on its tissue."""
    found = medvit.read_labels(
        _rois(tmp_path, place, scan, {"Ring": [_square(3, 20, 3), _square(6, 17, 3)]}), like=scan
    )
    assert found.mask("ring").sum() == 18 * 18 - 10 * 10


def test_rois_may_overlap(place, scan, tmp_path):
    rois = {"A": [_square(2.5, 10.5, 3)], "B": [_square(8.5, 20.5, 3)]}
    found = medvit.read_labels(_rois(tmp_path, place, scan, rois), like=scan)
    assert found.overlaps == (("a", "b", 4),)


def _changed(path: Path, change) -> Path:
    dataset = pydicom.dcmread(path)
    change(dataset)
    dataset.save_as(path)
    return path


def test_a_contour_that_stands_in_the_file_twice_counts_once(place, scan, tmp_path):
    square = _square(2.5, 10.5, 3)
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"A": [square, square[::-1]]}), like=scan)
    assert found.mask("a").sum() == 8 * 8
    assert found.notes == ("Contours that stand in the file more than once were taken once: A 1.",)
    assert not found.flags


@pytest.mark.parametrize("degrees", [0, 30], ids=["slices of the grid", "oblique to the grid"])
def test_contours_that_cross_share_what_both_enclose_and_are_flagged(degrees, place, scan, tmp_path):
    turn = np.radians(degrees)
    turned = np.array([[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]])
    pair = [_square(2.4, 12.6, 0), _square(8.4, 18.6, 0)]
    pair = [points @ turned.T + (0, 0, 8) for points in pair]
    path = _rois(tmp_path, place, scan, {"A": pair})
    found = medvit.read_labels(path, like=scan)
    assert found.flags == ("Contours of one slice cross; what they share was taken as part of the ROI: A.",)
    alone = [
        medvit.read_labels(_rois(tmp_path / name, place, scan, {"A": [points]}), like=scan).mask("a")
        for name, points in zip("xy", pair, strict=True)
        if not (tmp_path / name).mkdir()
    ]
    assert (alone[0] & alone[1]).any()
    assert np.array_equal(found.mask("a"), alone[0] | alone[1])


def test_by_the_standards_xor_contours_that_cross_leave_a_hole(place, scan, tmp_path):
    pair = [_square(2.5, 12.5, 3), _square(8.5, 18.5, 3)]
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"A": pair}, "CLOSEDPLANAR_XOR"), like=scan)
    assert found.mask("a").sum() == 2 * (10 * 10 - 4 * 4)
    assert not found.flags


def test_a_thin_wall_whose_hole_touches_its_outline_stays_a_wall(place, scan, tmp_path):
    found = medvit.read_labels(
        _rois(tmp_path, place, scan, {"Wall": [_square(2.5, 20.5, 3), _square(2.4, 19.5, 3)]}), like=scan
    )
    assert found.mask("wall").sum() == 18 * 18 - 17 * 17
    assert not found.flags


def test_closed_contours_of_two_points_are_set_aside_and_counted(place, scan, tmp_path):
    rois = {"A": [_square(2.5, 10.5, 3), _square(2.5, 10.5, 4)[:2], _square(2.5, 10.5, 5)[:1]]}
    found = medvit.read_labels(_rois(tmp_path, place, scan, rois), like=scan)
    assert found.mask("a").sum() == 8 * 8
    assert found.flags == ("Closed contours of fewer than three points enclose nothing and were set aside: A 2.",)


def test_contours_that_miscount_their_points_are_flagged(place, scan, tmp_path):
    def lie(dataset) -> None:
        dataset.ROIContourSequence[0].ContourSequence[0].NumberOfContourPoints = 9

    path = _changed(_rois(tmp_path, place, scan, {"A": [_square(2.5, 10.5, 3)]}), lie)
    found = medvit.read_labels(path, like=scan)
    assert found.flags == ("Contours do not hold the number of points they state, and were taken as they are: A 1.",)


def test_contours_of_an_roi_that_is_not_described_are_flagged(place, scan, tmp_path):
    def forget(dataset) -> None:
        del dataset.StructureSetROISequence[1]

    path = _changed(
        _rois(tmp_path, place, scan, {"A": [_square(2.5, 10.5, 3)], "B": [_square(2.5, 10.5, 4)] * 2}), forget
    )
    found = medvit.read_labels(path, like=scan)
    assert [label.title for label in found.labels] == ["A"]
    assert found.flags == ("2 contour(s) belong to no ROI that the file describes and were set aside.",)


def test_an_roi_whose_contours_stand_in_two_items_has_both(place, scan, tmp_path):
    def one_number(dataset) -> None:
        dataset.ROIContourSequence[1].ReferencedROINumber = 1
        del dataset.StructureSetROISequence[1]

    path = _changed(
        _rois(tmp_path, place, scan, {"A": [_square(2.5, 10.5, 3)], "B": [_square(2.5, 10.5, 4)]}), one_number
    )
    assert medvit.read_labels(path, like=scan).mask("a").sum() == 2 * 8 * 8


def test_what_a_sloppy_file_leaves_out_or_gets_wrong_does_not_stop_it(place, scan, tmp_path):
    """Half a colour, a reference to a series that has no UID, no observations."""

    def sloppy(dataset) -> None:
        dataset.ROIContourSequence[0].ROIDisplayColor = [255, 0]
        study = dataset.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
        del study.RTReferencedSeriesSequence[0].SeriesInstanceUID
        del dataset.RTROIObservationsSequence

    path = _changed(_rois(tmp_path, place, scan, {"A": [_square(2.5, 10.5, 3)]}), sloppy)
    found = medvit.read_labels(path, like=scan)
    assert found.mask("a").sum() == 8 * 8
    assert found.labels[0].color == color_of(1)
    assert found.series == ()


def test_contours_along_another_plane_of_the_grid(place, scan, tmp_path):
    """Drawn on reformatted slices: the plane is i = 7."""
    points = np.array([(7, 2.5, 2.5), (7, 2.5, 9.5), (7, 12.5, 9.5), (7, 12.5, 2.5)])
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"Side": [points]}), like=scan)
    meant = np.zeros_like(phantom()[1], dtype=bool)
    meant[7, 3:13, 3:10] = True
    assert np.array_equal(found.mask("side"), meant)


def test_points_and_open_contours_are_set_aside_and_counted(place, scan, tmp_path):
    path = _rois(tmp_path, place, scan, {"A": [_square(2.5, 9.5, 3)], "B": [_square(2.5, 9.5, 3)]})
    dataset = pydicom.dcmread(path)
    dataset.ROIContourSequence[1].ContourSequence[0].ContourGeometricType = "OPEN_PLANAR"
    dataset.save_as(path)
    found = medvit.read_labels(path, like=scan)
    assert found.flags == ("1 OPEN_PLANAR contour(s) were set aside; only closed planar ones enclose voxels.",)
    assert "kept empty: B" in found.notes[-1]
    assert found.mask("b").sum() == 0


def test_a_file_of_points_alone_is_refused(place, scan, tmp_path):
    path = _rois(tmp_path, place, scan, {"Isocentre": [np.zeros((1, 3))]}, "POINT")
    with pytest.raises(SourceError, match="without any closed contour"):
        medvit.read_labels(path, like=scan)


def test_contours_beyond_the_grid_are_set_aside_and_those_across_its_edge_cut(place, scan, tmp_path):
    contours = [_square(2.5, 9.5, 3), _square(2.5, 9.5, 40), _square(-60, -50, 3)]
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"A": contours, "B": [_square(-4, 5.5, 6)]}), like=scan)
    assert found.mask("a").sum() == 49
    assert found.mask("b").sum() == 36
    assert "Contours beyond the reference's slices were set aside: A 2." in found.flags
    assert "Contours reach beyond the edge of the reference's slices and were cut: B." in found.flags
    with pytest.raises(GeometryError, match="1 contours and none of them on the reference's grid"):
        medvit.read_labels(_rois(tmp_path, place, scan, {"A": [_square(2.5, 9.5, 99)]}), like=scan)


def test_a_contour_that_is_not_flat_is_set_aside(place, scan, tmp_path):
    bent = np.array([(2, 2, 3), (9, 2, 6), (9, 9, 3), (2, 9, 7)], float)
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"A": [_square(2.5, 9.5, 3), bent]}), like=scan)
    assert found.flags == ("Contours that are not flat were set aside: A 1.",)


def test_on_its_own_series_a_slice_without_a_contour_stays_empty_and_is_counted(place, scan, tmp_path):
    contours = [_square(2.5, 9.5, k) for k in (3, 5, 7)]
    found = medvit.read_labels(_rois(tmp_path, place, scan, {"A": contours}), like=scan)
    assert np.flatnonzero(found.mask("a").any((0, 1))).tolist() == [3, 5, 7]
    assert "kept empty: A 2." in found.notes[0]


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
    rois = {"Dot": [_square(5.5, 6.5, 5)], "Whole": [_square(2.5, 30.5, k) for k in range(3, 12)]}
    found = medvit.read_labels(_rois(tmp_path, place, scan, rois), like=tmp_path / "coarse.nii.gz")
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


def _first_contour(dataset) -> pydicom.Dataset:
    return dataset.ROIContourSequence[0].ContourSequence[0]


def _no_points(d) -> None:
    _first_contour(d).ContourData = None


def _one_number_twice(d) -> None:
    d.StructureSetROISequence[1].ROINumber = d.StructureSetROISequence[0].ROINumber


def _contours_of_no_number(d) -> None:
    del d.ROIContourSequence[0].ReferencedROINumber


def _odd_count(d) -> None:
    _first_contour(d).ContourData = list(_first_contour(d).ContourData)[:-1]


def _nan(d) -> None:
    del _first_contour(d).ContourData
    _first_contour(d).add(pydicom.DataElement((0x3006, 0x0050), "LO", ["NaN", "1", "2"] * 3))


def _words(d) -> None:
    del _first_contour(d).ContourData
    _first_contour(d).add(pydicom.DataElement((0x3006, 0x0050), "LO", ["a", "b", "c"] * 3))


def _a_blank_among_them(d) -> None:
    values = [str(v) for v in _first_contour(d).ContourData]
    values[1] = values[5] = values[9] = ""
    del _first_contour(d).ContourData
    _first_contour(d).add(pydicom.DataElement((0x3006, 0x0050), "LO", values))


def _no_rois(d) -> None:
    del d.StructureSetROISequence


def _no_contours(d) -> None:
    del d.ROIContourSequence


def _no_number(d) -> None:
    del d.StructureSetROISequence[0].ROINumber


def _two_frames(d) -> None:
    d.StructureSetROISequence[0].ReferencedFrameOfReferenceUID = "1.2.3"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_no_points, "of .* without points; at least three enclose an area"),
        (_one_number_twice, "in which 2 ROIs have the number 1; its contours could be of any of them"),
        (_contours_of_no_number, r"an RTSTRUCT that is damaged or incomplete \(without ReferencedROINumber\)"),
        (_odd_count, "not finite triples"),
        (_nan, "not finite triples"),
        (_words, "damaged or incomplete"),
        (_a_blank_among_them, "damaged or incomplete"),
        (_no_rois, "an RTSTRUCT without ROIs"),
        (_no_contours, "without any closed contour"),
        (_no_number, "damaged or incomplete.*ROINumber"),
        (_two_frames, "lie in 2 frames of reference"),
    ],
)
def test_a_damaged_rtstruct_is_refused_with_its_reason(change, message, place, scan, tmp_path):
    dataset = pydicom.dcmread(place / "out" / "rtstruct.dcm")
    change(dataset)
    dataset.save_as(tmp_path / "changed.dcm")
    with pytest.raises(SourceError, match=message):
        medvit.read_labels(tmp_path / "changed.dcm", like=scan)


def test_a_file_cut_anywhere_never_gives_a_traceback(place, scan, tmp_path):
    content = (place / "out" / "rtstruct.dcm").read_bytes()
    for share in (0.01, 0.1, 0.3, 0.5, 0.7):
        (tmp_path / "cut.dcm").write_bytes(content[: int(len(content) * share)])
        with pytest.raises(MedvitError):
            medvit.read_labels(tmp_path / "cut.dcm", like=scan)


def test_a_file_cut_within_its_contours_is_never_read_as_fewer_contours(place, scan, tmp_path, rng):
    content = (place / "out" / "rtstruct.dcm").read_bytes()
    start = content.index((0x30060039).to_bytes(4, "little")[2:] + (0x30060039).to_bytes(4, "little")[:2])
    for cut in rng.integers(start + 12, len(content) - 400, 25).tolist():
        (tmp_path / "cut.dcm").write_bytes(content[:cut])
        with pytest.raises(SourceError, match=r"ends after \d+ of the \d+ bytes of its last element; it was cut off"):
            medvit.read_labels(tmp_path / "cut.dcm", like=scan)


def test_an_image_in_place_of_an_rtstruct_is_named(place, scan):
    with pytest.raises(SourceError, match="of modality CT; an RTSTRUCT is needed"):
        read_rtstruct(next((place / "ct").iterdir()), scan)


def test_a_damaged_header_is_named(tmp_path):
    (tmp_path / "noise.dcm").write_bytes(b"\x08\x00\x05\x00CS\xff\x7f" + bytes(range(256)) * 4)
    with pytest.raises(SourceError, match="noise.dcm"):
        medvit.read_labels(tmp_path / "noise.dcm")
    (tmp_path / "text.dcm").write_text("hello")
    with pytest.raises(SourceError, match="neither DICOM nor a label map"):
        medvit.read_labels(tmp_path / "text.dcm")


def test_a_file_without_preamble_is_read(place, scan, tmp_path):
    dataset = pydicom.dcmread(place / "out" / "rtstruct.dcm")
    del dataset.file_meta
    dataset.preamble = None
    pydicom.dcmwrite(tmp_path / "bare.dcm", dataset, implicit_vr=True, little_endian=True)
    assert (tmp_path / "bare.dcm").read_bytes()[:2] == b"\x08\x00"
    assert np.array_equal(medvit.read_labels(tmp_path / "bare.dcm", like=scan).array, phantom()[1])


def test_filling_takes_edges_and_counts_parity():
    outer, inner = np.array([(1, 1), (1, 8), (8, 8), (8, 1.0)]), np.array([(3, 3), (3, 6), (6, 6), (6, 3.0)])
    mask = fill_polygons([outer, inner], (10, 10))
    assert mask.sum() == 64 - 4
    assert not mask[4:6, 4:6].any()
    assert fill_polygons([outer - 100], (10, 10)).sum() == 0


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
