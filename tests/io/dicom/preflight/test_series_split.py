"""Series that hold several volumes are split, or refused with the tags that differ."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest

from medvit.errors import SelectionError
from medvit.io import open_source
from medvit.io.dicom import run_preflight
from tests.bands import write_series
from tests.io.dicom.preflight.test_series_preflight import _into, _resave
from tests.io.dicom.volumes import AXIAL, SMALL

# what belongs together


@pytest.mark.parametrize("tag", ["ConvolutionKernel", "KVP", "EchoNumbers", "InversionTime", "SequenceName"])
def test_kernels_energies_and_echoes_of_one_series_are_told_apart(tag, tmp_path):
    values = ("1", "2") if tag in ("KVP", "EchoNumbers", "InversionTime") else ("B30f", "B70f")
    paths = write_series(tmp_path, SMALL, AXIAL, **{tag: values[0]})
    for k, path in enumerate(paths):
        _into(tmp_path / f"second-{k}.dcm", path, **{tag: values[1]})
    found = run_preflight(tmp_path).volumes
    assert [len(v.planes) for v in found] == [12, 12]
    assert [v.part.split()[1][:4].rstrip(".0") for v in found] == list(values)


def test_reconstructions_pushed_into_each_other_are_never_interpolated_across(tmp_path):
    paths = write_series(tmp_path, SMALL, np.diag([-1.0, -1.0, 3.0, 1.0]), ConvolutionKernel="B30f")
    first = pydicom.dcmread(paths[0])
    same = {k: first[k].value for k in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    places = lambda k: [0, 0, 0.5 + 2 * k]  # noqa: E731
    write_series(tmp_path / "b", SMALL // 2, AXIAL, ConvolutionKernel="B70f", ImagePositionPatient=places, **same)
    with pytest.raises(SelectionError, match="2 volumes in one source"):
        open_source(tmp_path, on_irregular="resample")
    assert [v.spacing_mm[2] for v in run_preflight(tmp_path).volumes] == [3, 2]
    assert np.array_equal(open_source(tmp_path, series="2").array[0], SMALL // 2)


@pytest.mark.parametrize("tagged", [True, False])
def test_a_table_that_comes_back_a_little_beside_makes_time_points_not_slices(tagged, tmp_path):
    paths = write_series(tmp_path, SMALL, AXIAL, AcquisitionNumber=1)
    for k, path in enumerate(paths):
        number = {"AcquisitionNumber": 2} if tagged else {}
        _into(tmp_path / f"b{k}.dcm", path, ImagePositionPatient=[0, 0, 2 * k + 0.02], InstanceNumber=100 + k, **number)
    found = run_preflight(tmp_path).volumes
    assert [len(v.planes) for v in found] == [12, 12]
    assert all(v.worst() == "note" for v in found)


def test_stations_that_overlap_are_volumes_of_their_own(tmp_path):
    first = pydicom.dcmread(write_series(tmp_path / "0", SMALL, AXIAL, AcquisitionNumber=1)[0])
    same = {k: first[k].value for k in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    for n in (1, 2):
        places = lambda k, n=n: [0, 0, 2.0 * (k + 9 * n)]  # noqa: E731
        write_series(tmp_path / f"{n}", SMALL, AXIAL, AcquisitionNumber=n + 1, ImagePositionPatient=places, **same)
    found = run_preflight(tmp_path).volumes
    assert [(v.part, len(v.planes), v.worst()) for v in found] == [
        (f"AcquisitionNumber {n}", 12, "note") for n in (1, 2, 3)
    ]


@pytest.mark.parametrize("height", [8.0, 9.1])
def test_a_summary_picture_upon_or_between_the_slices_is_set_aside(height, tmp_path):
    paths = write_series(tmp_path, SMALL, AXIAL)
    kind = ["DERIVED", "SECONDARY", "OTHER"]
    _into(tmp_path / "summary.dcm", paths[4], ImageType=kind, InstanceNumber=999, ImagePositionPatient=[0, 0, height])
    scan = open_source(tmp_path)
    assert np.array_equal(scan.array[0], SMALL)
    assert scan.excluded == (
        f"1 slice of 18x20, axial at {height:.2f} mm, in the same series, set aside: not part of the volume.",
    )


def test_an_uneven_stack_is_not_parted_by_tags_that_change_along_it(tmp_path):
    heights = [0, 2, 4, 6, 8, 10, 15, 20, 25, 30, 35, 40]
    write_series(tmp_path, SMALL, AXIAL, ImagePositionPatient=lambda k: [0, 0, heights[k]], AcquisitionNumber=lambda k: 1 + (k > 5), TriggerTime=lambda k: k)  # fmt: skip
    (volume,) = run_preflight(tmp_path).volumes
    assert [f.code for f in volume.findings] == ["uneven_spacing"]


def test_several_modalities_in_one_series_are_refused(tmp_path):
    write_series(tmp_path, SMALL, AXIAL, Modality=lambda k: "CT" if k < 6 else "MR")
    with pytest.raises(SelectionError, match="images of CT and MR under one SeriesInstanceUID"):
        open_source(tmp_path)


def test_a_slice_without_modality_does_not_take_it_from_the_others(tmp_path):
    write_series(
        tmp_path, SMALL, AXIAL, Modality=lambda k: "CT" if k else "", SOPClassUID="1.2.840.10008.5.1.4.1.1.7.77"
    )
    for path in tmp_path.iterdir():
        _resave(path, SOPClassUID="1.2.3")
    assert open_source(tmp_path).modality == "CT"


# choosing


@pytest.mark.parametrize("wanted", ["1.2.840.99.1", "1.2.3", "2", "1.2.3.4.5.6", "x", "1."])
def test_a_uid_that_is_not_there_never_takes_a_volume_by_its_first_number(wanted, tmp_path):
    write_series(tmp_path, SMALL, AXIAL)
    with pytest.raises(SelectionError, match=f"no series '{wanted}'; give the number or UID"):
        open_source(tmp_path, series=wanted)


def test_a_part_is_only_one_under_split(tmp_path):
    write_series(tmp_path, SMALL, AXIAL)
    with pytest.raises(
        SelectionError, match=r"part 2 of volume 1; volumes have parts under on_irregular=.split. alone"
    ):
        open_source(tmp_path, series="1.2")
    with pytest.raises(SelectionError, match="no part 2 of volume 1; it has these: part 1: 12"):
        open_source(tmp_path, series="1.2", on_irregular="split")
    with pytest.raises(SelectionError, match="no part 0 of volume 1"):
        open_source(tmp_path, series="1.0", on_irregular="split")
