"""Femora, hip bones, vertebrae and ribs made of cylinders, balls, boxes and arcs of known size, on oblique grids."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from medvit.io.labels import make_label
from medvit.labels import Code, Label
from medvit.reconstruction.statistics import measure_shapes, write_shapes
from medvit.reports.morphometry import StructureMeasures, measure_structure
from medvit.reports.morphometry.structures import STRUCTURES, structure_of
from tests.bands import all_orientations, oblique_affine, reorient

UP, FRONT, RIGHT = np.array([0.0, 0, 1]), np.array([0.0, 1, 0]), np.array([1.0, 0, 0])
Inside = Callable[[np.ndarray], np.ndarray]


def label(name: str, code: str = "85756007") -> Label:
    return make_label(1, name, None, (None, Code(value=code, scheme="SCT", meaning=name)))


def drawn(inside: Inside, size_mm, spacing=(1.0, 1.2, 1.5), degrees: float = 17.0) -> tuple[np.ndarray, np.ndarray]:
    """What lies inside, on an oblique grid around the origin, and the grid's affine."""
    affine = oblique_affine(spacing, degrees)
    shape = [int(2 * np.ceil(s / 2 / side)) + 9 for s, side in zip(size_mm, spacing, strict=True)]
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(shape) - 1) / 2)
    index = np.stack(np.meshgrid(*[np.arange(n, dtype=float) for n in shape], indexing="ij"), -1)
    return inside(index @ affine[:3, :3].T + affine[:3, 3]), affine


def turn(x: float, y: float, z: float) -> np.ndarray:
    """Return the rotation about right, front and top, one after the other, by angles in degrees."""
    from scipy.spatial.transform import Rotation

    return Rotation.from_euler("xyz", [x, y, z], degrees=True).as_matrix()


def cylinder(p: np.ndarray, start, end, radius: float) -> np.ndarray:
    start, way = np.asarray(start, float), np.asarray(end, float) - np.asarray(start, float)
    length = np.linalg.norm(way)
    along = (p - start) @ (way / length)
    return (
        (np.linalg.norm(p - start - along[..., None] * way / length, axis=-1) < radius) & (along > 0) & (along < length)
    )


def ball(p: np.ndarray, centre, radius: float) -> np.ndarray:
    return np.linalg.norm(p - np.asarray(centre, float), axis=-1) < radius


def box(p: np.ndarray, low, high) -> np.ndarray:
    return ((p > low) & (p < high)).all(-1)


# femur: a shaft of 13 mm radius, a neck at 128 degrees, a head of 23 mm, condyles 80 mm wide
ANGLE, OFFSET, HEAD, TOP = 128.0, 42.0, 23.0, 150.0


def head_centre() -> np.ndarray:
    return np.array([-OFFSET, 0.0, TOP - 15 + OFFSET / np.tan(np.radians(180 - ANGLE))])


def femur(p: np.ndarray, neck: bool = True) -> np.ndarray:
    made = cylinder(p, (0, 0, -TOP), (0, 0, TOP), 13)
    made |= box(p, (-40, -25, -TOP), (40, 25, -TOP + 35))
    if neck:
        made |= cylinder(p, (0, 0, TOP - 15), head_centre(), 14) | ball(p, head_centre(), HEAD)
        made |= ball(p, (4, 0, TOP - 8), 17)
    return made


def femur_length() -> float:
    """From the head's top to the far corner of the condyles."""
    corners = np.array([(x, y, -TOP) for x in (-40, 40) for y in (-25, 25)], float)
    return float(np.linalg.norm(corners - head_centre(), axis=1).max() + HEAD)


@pytest.mark.parametrize("lean", [(0, 0, 0), (6, -9, 20)])
def test_a_femur(lean):
    turned = turn(*lean)
    mask, affine = drawn(lambda p: femur(p @ turned), (240, 220, 430), (2.4, 2.4, 2.8))
    found = measure_structure(mask, affine, label("femur_left", "71341001"))
    assert found.absent == {} and found.structure == "femur"
    values = found.values
    assert values["length_mm"] == pytest.approx(femur_length(), abs=3)
    assert values["head_radius_mm"] == pytest.approx(HEAD, abs=0.5)
    assert values["neck_shaft_deg"] == pytest.approx(ANGLE, abs=2)
    assert values["offset_mm"] == pytest.approx(OFFSET, abs=1.5)
    assert values["epicondylar_breadth_mm"] == pytest.approx(80, abs=2.5)


def test_a_femur_without_a_head_or_out_of_the_field():
    mask, affine = drawn(lambda p: femur(p, neck=False), (160, 180, 360), (2.8, 2.8, 3.2))
    found = measure_structure(mask, affine, label("femur_right"))
    assert (
        set(found.values) == {"epicondylar_breadth_mm"} and found.absent["length_mm"] == found.absent["head_radius_mm"]
    )
    assert re.search("no sphere of 8 to 36 mm|on the shaft's axis, where no head is", found.absent["head_radius_mm"])
    assert "without a head" in found.absent["neck_shaft_deg"]
    stump, affine = drawn(lambda p: femur(p) & (p[..., 2] > -60), (200, 220, 430), (2.8, 2.8, 3.2))
    found = measure_structure(stump, affine, label("femur_left"))
    assert "the condyles are missing" in found.absent["length_mm"] and "head_radius_mm" in found.values
    mask, affine = drawn(femur, (200, 220, 430), (2.8, 2.8, 3.2))
    low = np.argwhere(mask).min(0)
    upper = mask[:, :, (low[2] + mask.shape[2]) // 2 :]
    found = measure_structure(upper, affine, label("femur_right"))
    assert set(found.absent) == {"length_mm", "epicondylar_breadth_mm"}
    assert "reaches the edge of the field" in found.absent["length_mm"]
    assert found.values["head_radius_mm"] == pytest.approx(HEAD, abs=0.8)
    assert found.values["neck_shaft_deg"] == pytest.approx(ANGLE, abs=3)


def test_a_femur_that_lies_flat_or_is_no_shaft():
    turned = turn(0, 88, 0)
    mask, affine = drawn(lambda p: femur(p @ turned), (430, 110, 200), (2.5, 2.5, 2.5), 0.0)
    found = measure_structure(mask, affine, label("femur"))
    assert "its upper end cannot be told" in found.absent["neck_shaft_deg"] and found.values == {}
    mask, affine = drawn(lambda p: ball(p, (0, 0, 0), 30), (70, 70, 70))
    assert "too little of the shaft" in measure_structure(mask, affine, label("femur")).absent["offset_mm"]


def test_a_hip_bone():
    """A block with a socket of 26 mm, a little more than a third of a sphere, in its side."""
    turned = turn(10, -15, 30)

    def inside(p: np.ndarray) -> np.ndarray:
        return box(p @ turned, (-20, -45, -100), (20, 45, 100)) & ~ball(p @ turned, (26, 0, -30), 26)

    mask, affine = drawn(inside, (140, 160, 240), (1.5, 1.5, 2.0))
    found = measure_structure(mask, affine, label("hip_left", "29836001"))
    assert found.absent == {}
    assert found.values["height_mm"] == pytest.approx(np.linalg.norm([40, 90, 200]), abs=3)
    assert found.values["acetabular_radius_mm"] == pytest.approx(26, abs=0.7)
    mask, affine = drawn(lambda p: box(p, (-20, -45, -100), (20, 45, 100)), (110, 160, 250), (2.0, 2.0, 2.5))
    found = measure_structure(mask, affine, label("right_hip"))
    assert found.absent == {"acetabular_radius_mm": "no socket of 10 to 38 mm radius fits its surface"}


# vertebra: a body 44 wide, 32 deep, 26 high behind; an arch and a spinous process behind it
WIDE, DEEP, HIGH = 44.0, 32.0, 26.0


def vertebra(p: np.ndarray, front_height: float = HIGH, arch: bool = True) -> np.ndarray:
    x, y, z = (p[..., n] for n in range(3))
    height = HIGH + (front_height - HIGH) * (y + DEEP / 2) / DEEP
    made = (np.abs(x) < WIDE / 2) & (np.abs(y) < DEEP / 2) & (np.abs(z) < height / 2)
    if arch:
        for side in (-1, 1):
            made |= box(p, np.sort([side * 11.0, side * 18.0])[0] * RIGHT + (0, -DEEP / 2 - 20, -4),
                        np.sort([side * 11.0, side * 18.0])[1] * RIGHT + (0, -DEEP / 2 + 1, 4))  # fmt: skip
        made |= box(p, (-30, -DEEP / 2 - 26, -4), (30, -DEEP / 2 - 19, 5))
        made |= box(p, (-3.5, -DEEP / 2 - 50, -8), (3.5, -DEEP / 2 - 20, 2))
    return made


@pytest.mark.parametrize("arch", [True, False])
@pytest.mark.parametrize("lean", [(0, 0, 0), (-12, 5, 14), (30, -8, -20)])
def test_a_vertebra(lean, arch):
    turned = turn(*lean)
    mask, affine = drawn(lambda p: vertebra(p @ turned.astype(float), arch=arch), (90, 140, 90), (0.8, 0.9, 1.0))
    found = measure_structure(mask, affine, label("vertebrae_l1", "66794005"))
    assert found.absent == {}
    values = found.values
    for name in ("height_mm", "front_height_mm", "middle_height_mm", "back_height_mm"):
        assert values[name] == pytest.approx(HIGH, abs=0.7), name
    assert values["width_mm"] == pytest.approx(WIDE, abs=0.8)
    assert values["depth_mm"] == pytest.approx(DEEP, abs=1.2)
    assert values["endplate_angle_deg"] == pytest.approx(0, abs=1)


@pytest.mark.parametrize("front", [18.0, 12.0])
def test_a_wedged_vertebra(front):
    turned = turn(-10, 4, 8)
    mask, affine = drawn(lambda p: vertebra(p @ turned, front), (90, 140, 90), (0.8, 0.9, 1.0))
    values = measure_structure(mask, affine, label("vertebrae_t12")).values
    for name, share in (("front_height_mm", 0.1), ("middle_height_mm", 0.5), ("back_height_mm", 0.9)):
        assert values[name] == pytest.approx(front + share * (HIGH - front), abs=0.8), name
    wedge = 2 * np.degrees(np.arctan((HIGH - front) / 2 / DEEP))
    assert values["endplate_angle_deg"] == pytest.approx(wedge, abs=1.5)
    assert values["depth_mm"] == pytest.approx(DEEP, abs=1.5)


def test_vertebrae_that_cannot_be_measured():
    mask, affine = drawn(vertebra, (90, 140, 50), (6.0, 6.0, 6.0))
    found = measure_structure(mask, affine, label("vertebra"))
    assert found.values == {} and "mm high, less than 5 voxels of 6.0 mm" in found.absent["height_mm"]
    askew = turn(0, 0, 65)
    mask, affine = drawn(lambda p: vertebra(p @ askew, arch=False), (70, 70, 50))
    assert "no arch to tell its front by" in measure_structure(mask, affine, label("vertebra")).absent["width_mm"]
    behind = turn(0, 0, 180)
    mask, affine = drawn(lambda p: vertebra(p @ behind), (90, 180, 60), (1.2, 1.2, 1.5))
    assert (
        "its arch does not lie behind its body" in measure_structure(mask, affine, label("vertebra")).absent["depth_mm"]
    )
    flat = turn(85, 0, 0)
    mask, affine = drawn(lambda p: vertebra(p @ flat), (80, 90, 140))
    assert measure_structure(mask, affine, label("vertebra")).values == {}
    mask, affine = drawn(vertebra, (90, 140, 50), (2.0, 2.0, 2.0))
    cut = mask[mask.shape[0] // 2 :]
    assert "edge of the field" in measure_structure(cut, affine, label("vertebra")).absent["height_mm"]


def rib(p: np.ndarray, radius: float, degrees: float, thick: float) -> np.ndarray:
    """An arc around the origin in its own plane, capped square."""
    angle = np.degrees(np.arctan2(p[..., 1], p[..., 0])) % 360
    ring = np.hypot(np.hypot(p[..., 0], p[..., 1]) - radius, p[..., 2]) < thick / 2
    return ring & (angle < degrees)


@pytest.mark.parametrize(("radius", "degrees"), [(100.0, 150.0), (70.0, 200.0), (60.0, 90.0)])
def test_a_rib(radius, degrees):
    turned = turn(35, 20, 10)
    mask, affine = drawn(lambda p: rib(p @ turned, radius, degrees, 11.0), [2.2 * radius + 20] * 3, (1.6, 1.7, 2.0))
    found = measure_structure(mask, affine, label("rib_left_5", "15339008"))
    assert found.absent == {}
    assert found.values["arc_mm"] == pytest.approx(np.radians(degrees) * radius, rel=0.015)
    assert found.values["chord_mm"] == pytest.approx(2 * radius * np.sin(np.radians(degrees) / 2), rel=0.015)


def test_ribs_that_cannot_be_measured():
    def measured(inside: Inside) -> StructureMeasures:
        mask, affine = drawn(inside, (240, 240, 60), (2.0, 2.0, 2.0), 5.0)
        return measure_structure(mask, affine, label("rib_right_2"))

    gap = measured(lambda p: rib(p, 100, 150, 11) & ~box(p, (-30, 80, -20), (30, 120, 20)))
    assert gap.values == {} and "the label lies in 2 pieces" in gap.absent["arc_mm"]
    fork = measured(lambda p: rib(p, 100, 150, 11) | cylinder(p, (0, 100, 0), (0, 0, 0), 6))
    assert "branches" in fork.absent["chord_mm"]
    lump = measured(lambda p: ball(p, (0, 0, 0), 15))
    assert "no slender bone" in lump.absent["arc_mm"]
    mask, affine = drawn(lambda p: rib(p, 100, 150, 11), (240, 240, 60), (2.0, 2.0, 2.0), 5.0)
    found = measure_structure(mask[mask.shape[0] // 2 :], affine, label("rib"))
    assert "edge of the field" in found.absent["arc_mm"]


def test_all_48_ways_to_store_a_bone_measure_alike():
    mask, affine = drawn(lambda p: rib(p, 40, 150, 9.0), (100, 100, 30), (1.5, 1.5, 2.0))
    bone = label("rib")
    expected = measure_structure(mask, affine, bone).values
    for order, signs in all_orientations()[::5]:
        found = measure_structure(*reorient(mask, affine, order, signs), bone).values
        assert found == pytest.approx(expected, rel=0.01)


@pytest.mark.parametrize(
    ("name", "code", "structure"),
    [
        ("anything", "71341001", "femur"), ("anything", "29836001", "hip"), ("anything", "113197003", "rib"),
        ("anything", "43993008", "rib"), ("anything", "49668003", "vertebra"), ("vertebrae_c1", "14806007", None),
        ("femur_left", "272673000", "femur"), ("left_femur", "272673000", "femur"), ("hip_right", "272673000", "hip"),
        ("rib_left_12", "272673000", "rib"), ("vertebrae_l5", "272673000", "vertebra"), ("vertebra", "272673000", "vertebra"),
        ("bone", "272673000", None), ("mandible", "91609006", None), ("femur_marrow", "272673000", None),
        ("hippocampus", "272673000", None), ("rib_cage", "272673000", None), ("hip_implant", "272673000", None),
    ],
)  # fmt: skip
def test_what_a_label_is_measured_as(name, code, structure):
    """By code first, then by a usual name; what merely begins alike is nothing of the kind."""
    assert structure_of(label(name, code)) == structure


def test_measures_stand_beside_the_others_in_reports(tmp_path):
    """One column a measure; a label that is absent says so, one of another kind has none."""
    mask, affine = drawn(lambda p: rib(p, 40, 150, 9.0), (100, 100, 30), (1.5, 1.5, 2.0))
    labels = [
        make_label(number, name, None, (None, Code(value=code, scheme="SCT", meaning=name)))
        for number, (name, code) in enumerate((("rib", "113197003"), ("femur", "71341001"), ("bone", "272673000")), 1)
    ]
    from medvit.reports import surface_of

    array = mask.astype(np.uint8)
    array[:2, :2, :2] = 3
    surfaces = {"rib": surface_of(mask, affine), "bone": surface_of(array == 3, affine)}
    rib_row, femur_row, bone_row = measure_shapes(array, affine, labels, surfaces)
    assert (
        rib_row.structure == "rib" and set(rib_row.morphometry) == {"arc_mm", "chord_mm"} and not rib_row.not_measured
    )
    assert femur_row.not_measured == dict.fromkeys(STRUCTURES["femur"][1], "it was not found")
    assert bone_row.structure is None and bone_row.morphometry == bone_row.not_measured == {}
    write_shapes(tmp_path / "a.csv", [rib_row, femur_row, bone_row])
    import csv

    with (tmp_path / "a.csv").open() as file:
        first, second, third = csv.DictReader(file)
    assert float(first["arc_mm"]) == rib_row.morphometry["arc_mm"] and second["length_mm"] == third["arc_mm"] == ""
