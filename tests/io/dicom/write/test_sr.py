"""The measurement report as other readers see it, and its agreement with the SEG and statistics.json."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pydicom
import pytest

import medvit
from medvit.errors import RoundTripError
from medvit.io.dicom.write import SegmentMeasurements, check_sr
from tests.bands import oblique_affine, phantom, write_series
from tests.judges.test_seg_and_rtstruct import _spoil, _validate
from tests.tools import program

NAMES = {"118565006": "volume_ml", "L0JK": "longest_diameter_mm", "373098007": "mean", "386136009": "std"}


@pytest.fixture(scope="module")
def published(example_published) -> Path:
    return example_published


@pytest.fixture(scope="module")
def oblique(banded, tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("oblique")
    write_series(place / "series", phantom()[0], oblique_affine((1.1, 1.9, 2.5)))
    medvit.segment(place / "series", bundle=banded).save(place / "out", ("sr", "dicom-seg"))
    return place / "out"


def _items(node) -> Iterator[pydicom.Dataset]:
    for item in node.get("ContentSequence", []):
        yield item
        yield from _items(item)


def _code(item) -> str:
    return item.ConceptNameCodeSequence[0].CodeValue if "ConceptNameCodeSequence" in item else ""


def _groups(sr) -> list[pydicom.Dataset]:
    return [item for item in _items(sr) if _code(item) == "125007"]


def _numbers(group) -> dict[str, tuple[float, str]]:
    found = {}
    for item in group.ContentSequence:
        if item.ValueType == "NUM":
            value = item.MeasuredValueSequence[0]
            derived = [
                i.ConceptCodeSequence[0].CodeValue for i in item.get("ContentSequence", []) if _code(i) == "121401"
            ]
            name = NAMES[derived[0] if derived else _code(item)]
            found[name] = (float(value.NumericValue), value.MeasurementUnitsCodeSequence[0].CodeValue)
    return found


def test_numbers_are_those_of_the_statistics_in_their_units(published, oblique):
    for folder in (published, oblique):
        rows = {row["name"]: row for row in json.loads((folder / "statistics.json").read_text())["labels"]}
        groups = _groups(pydicom.dcmread(folder / "sr.dcm"))
        assert len(groups) == len([row for row in rows.values() if row["voxels"]])
        for group in groups:
            row = rows[next(i.TextValue for i in group.ContentSequence if _code(i) == "112039")]
            assert _numbers(group) == {
                "volume_ml": (row["volume_ml"], "ml"),
                "mean": (row["mean"], "[hnsf'U]"),
                "std": (row["std"], "[hnsf'U]"),
                "longest_diameter_mm": (row["longest_diameter_mm"], "mm"),
            }


def test_every_group_is_one_segment_of_the_seg(published):
    seg, sr = pydicom.dcmread(published / "seg.dcm"), pydicom.dcmread(published / "sr.dcm")
    segments = {int(s.SegmentNumber): s for s in seg.SegmentSequence}
    seen = set()
    for group in _groups(sr):
        items = {_code(item): item for item in group.ContentSequence}
        reference = items["121191"].ReferencedSOPSequence[0]
        segment = segments[int(reference.ReferencedSegmentNumber)]
        seen.add(int(segment.SegmentNumber))
        assert reference.ReferencedSOPInstanceUID == seg.SOPInstanceUID
        assert (items["112040"].UID, items["112039"].TextValue) == (segment.TrackingUID, segment.TrackingID)
        assert items["121071"].ConceptCodeSequence[0] == _bare(segment.SegmentedPropertyTypeCodeSequence[0])
        assert items["276214006"].ConceptCodeSequence[0] == segment.SegmentedPropertyCategoryCodeSequence[0]
        modifier = segment.SegmentedPropertyTypeCodeSequence[0].get("SegmentedPropertyTypeModifierCodeSequence")
        if modifier:
            side = items["363698007"].ContentSequence[0].ConceptCodeSequence[0]
            assert side.CodeValue == modifier[0].CodeValue
        assert items["111003"].TextValue == segment.SegmentationAlgorithmIdentificationSequence[0].AlgorithmVersion
    assert seen == set(segments)


def _bare(code: pydicom.Dataset) -> pydicom.Dataset:
    return pydicom.Dataset({e.tag: e for e in code if e.keyword != "SegmentedPropertyTypeModifierCodeSequence"})


def test_it_says_what_it_is(published, example_result):
    sr = pydicom.dcmread(published / "sr.dcm")
    assert (sr.CompletionFlag, sr.VerificationFlag, sr.PreliminaryFlag) == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")
    assert sr.ContentTemplateSequence[0].TemplateIdentifier == "1500"
    assert "For research use, not for diagnosis" in sr.SeriesDescription
    texts = [item.TextValue for item in _items(sr) if item.ValueType == "TEXT"]
    assert "For research use, not for diagnosis" in texts
    assert f"{example_result.bundle.name} {example_result.bundle.version}" in texts
    (procedure,) = [item for item in _items(sr) if _code(item) == "121058"]
    assert procedure.ConceptCodeSequence[0].CodeMeaning == "CT unspecified body region"
    evidence = {
        image.ReferencedSOPInstanceUID
        for study in sr.CurrentRequestedProcedureEvidenceSequence
        for series in study.ReferencedSeriesSequence
        for image in series.ReferencedSOPSequence
    }
    slices = {header.SOPInstanceUID for header in example_result.scan.slices}
    assert evidence == slices | {pydicom.dcmread(published / "seg.dcm").SOPInstanceUID}
    library = next(item for item in _items(sr) if _code(item) == "126200")
    assert len([item for item in library.ContentSequence if item.ValueType == "IMAGE"]) == len(slices)


def test_a_report_alone_brings_its_segmentation_and_says_so(banded, tmp_path):
    write_series(tmp_path / "series", phantom()[0], oblique_affine())
    medvit.segment(tmp_path / "series", bundle=banded).save(tmp_path / "out", ("sr",))
    record = json.loads((tmp_path / "out" / "run.json").read_text())
    assert set(record["files"]) == {"seg.dcm", "sr.dcm", "statistics.json"}
    note = "The segmentation was written as well: the measurement report refers to its segments."
    assert note in record["notes"]


@pytest.mark.parametrize("name", ["sr.dcm", "seg.dcm"])
def test_dciodvfy_finds_no_error(name, published, oblique):
    _validate(published / name)
    _validate(oblique / name)


def test_dcmqi_reads_the_same_numbers(published, oblique, tmp_path):
    tool = program("tid1500reader")
    for folder in (published, oblique):
        target = tmp_path / f"{folder.parent.name}.json"
        call = [tool, "--inputDICOM", str(folder / "sr.dcm"), "--outputMetadata", str(target)]
        outcome = subprocess.run(call, check=True, capture_output=True, text=True)
        assert "not known" not in outcome.stdout + outcome.stderr
        read = json.loads(target.read_text())["Measurements"]
        rows = [row for row in json.loads((folder / "statistics.json").read_text())["labels"] if row["voxels"]]
        seg = pydicom.dcmread(folder / "seg.dcm")
        for entry, row, segment in zip(read, rows, seg.SegmentSequence, strict=True):
            assert entry["TrackingUniqueIdentifier"] == segment.TrackingUID
            assert entry["segmentationSOPInstanceUID"] == seg.SOPInstanceUID
            assert entry["ReferencedSegment"] == segment.SegmentNumber
            assert entry["Finding"]["CodeMeaning"] == segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning
            numbers = {}
            for item in entry["measurementItems"]:
                name = NAMES[item.get("derivationModifier", item["quantity"])["CodeValue"]]
                numbers[name] = float(item["value"])
            assert numbers == {name: row[name] for name in NAMES.values()}


def test_mr_has_no_unit_and_missing_labels_make_it_partial(banded, tmp_path):
    values, _ = phantom()
    values[values == -12] = -1000
    write_series(tmp_path / "series", values, oblique_affine(), Modality="MR", SliceThickness=None)
    medvit.segment(tmp_path / "series", bundle=banded, force=True).save(tmp_path / "out", ("sr",))
    sr = pydicom.dcmread(tmp_path / "out" / "sr.dcm")
    assert sr.CompletionFlag == "PARTIAL"
    assert len(_groups(sr)) == 6
    assert {_numbers(group)["mean"][1] for group in _groups(sr)} == {"1"}
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["intensity_unit"] == "as stored"
    assert "MR signal intensity" in {item.ConceptNameCodeSequence[0].CodeMeaning for item in _items(_groups(sr)[0])}


@pytest.mark.parametrize(
    ("stated", "unit", "code"),
    [
        ({"Units": "BQML"}, "Bq/ml", "Bq/ml"),
        ({"Units": "GML"}, "g/ml (SUVbw)", "g/ml{SUVbw}"),
        ({"Units": "GML", "SUVType": "LBM"}, "g/ml (SUVlbm)", "g/ml{SUVlbm}"),
        ({"Units": "CNTS"}, "counts", "{counts}"),
        ({}, "as stored", "1"),
    ],
)
def test_pet_is_measured_in_the_units_it_states(stated, unit, code, banded, tmp_path):
    changes = {"Modality": "PT", "SOPClassUID": "1.2.840.10008.5.1.4.1.1.128", "RescaleType": None, **stated}
    write_series(tmp_path / "series", phantom()[0], oblique_affine(), **changes)
    medvit.segment(tmp_path / "series", bundle=banded, force=True).save(tmp_path / "out", ("sr",))
    assert json.loads((tmp_path / "out" / "statistics.json").read_text())["intensity_unit"] == unit
    group = _groups(pydicom.dcmread(tmp_path / "out" / "sr.dcm"))[0]
    assert {_numbers(group)[name][1] for name in ("mean", "std")} == {code}
    _validate(tmp_path / "out" / "sr.dcm")


@pytest.mark.parametrize("thick", [True, False], ids=["several slices", "one slice"])
def test_one_label_alone(thick, banded, tmp_path):
    """Its segment number, and on one slice its place, stand in the SEG's shared groups."""
    values, labels = phantom()
    if not thick:
        labels[:, :, :20], labels[:, :, 21:] = 0, 0
        values[labels == 0] = -1000
    write_series(tmp_path / "series", values, oblique_affine())
    result = medvit.segment(tmp_path / "series", bundle=banded, roi_subset=["mandible"])
    result.save(tmp_path / "out", ("sr", "rtstruct", "sc"))
    (group,) = _groups(pydicom.dcmread(tmp_path / "out" / "sr.dcm"))
    assert _numbers(group)["volume_ml"][0] == result.statistics()[0].volume_ml
    sources = [item for item in group.ContentSequence if _code(item) == "121233"]
    assert len(sources) == int((result.array == 7).any((0, 1)).sum())
    for name in ("seg.dcm", "sr.dcm"):
        _validate(tmp_path / "out" / name)


def _change_a_number(dataset) -> None:
    item = next(i for i in _groups(dataset)[0].ContentSequence if i.ValueType == "NUM")
    item.MeasuredValueSequence[0].NumericValue = "1.5"


def _exchange_a_uid(dataset) -> None:
    next(i for i in _groups(dataset)[0].ContentSequence if _code(i) == "112040").UID = "1.2.3"


def _point_elsewhere(dataset) -> None:
    item = next(i for i in _groups(dataset)[0].ContentSequence if _code(i) == "121191")
    item.ReferencedSOPSequence[0].ReferencedSegmentNumber = 2


def _drop_a_group(dataset) -> None:
    container = next(item for item in _items(dataset) if _code(item) == "126010")
    del container.ContentSequence[-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_change_a_number, r"the numbers \[1.5, .* for brainstem, where"),
        (_exchange_a_uid, "another tracking UID for brainstem than in the SEG"),
        (_point_elsewhere, "brainstem measured on another segment"),
        (_drop_a_group, "6 measurement groups for 7 labels"),
    ],
)
def test_a_report_that_reads_back_differently_is_not_published(change, message, published, example_result, tmp_path):
    seg = pydicom.dcmread(published / "seg.dcm")
    findings = [
        SegmentMeasurements(label, row, n, seg.SegmentSequence[n - 1].TrackingUID)
        for n, (label, row) in enumerate(
            zip(example_result.requested_labels, example_result.statistics(), strict=True), 1
        )
    ]
    check_sr(published / "sr.dcm", published / "seg.dcm", findings)
    spoiled = _spoil(published / "sr.dcm", change, tmp_path)
    with pytest.raises(RoundTripError, match=message):
        check_sr(spoiled, published / "seg.dcm", findings)
