"""The table of attribute types, against the copy of PS3.3 that highdicom has."""

from __future__ import annotations

import pytest

from medvit.io.dicom.header import attribute_type

_STORAGE = "1.2.840.10008.5.1.4.1.1."


@pytest.mark.parametrize("sop_class", ["1", "2", "2.1", "4", "4.1", "7", "12.1", "20", "66.4", "128", "130"])
def test_types_are_those_of_the_standard(sop_class):
    standard = pytest.importorskip("highdicom._standard_utils")
    modules = standard.get_iod_module_map()[standard.get_sop_class_iod_map()[_STORAGE + sop_class]]
    strictest: dict[str, str] = {}
    for module in modules:
        for attribute in standard.get_module_attribute_map().get(module["key"], []):
            kind = str(attribute["type"])[:1]
            if not attribute["path"] and kind in "123":
                strictest[attribute["keyword"]] = min(kind, strictest.get(attribute["keyword"], "3"))
    looked_at = (
        "ReferencedStudySequence ReferencedPerformedProcedureStepSequence ReferencedImageSequence ImageType FilterType ScanOptions "
        "ContentDate StudyDate SeriesDate AcquisitionDateTime Manufacturer DeviceSerialNumber OperatorsName InstitutionName "
        "AcquisitionContextSequence PatientID AccessionNumber PlacerOrderNumberImagingServiceRequest SoftwareVersions"
    ).split()
    for keyword in looked_at:
        assert attribute_type(_STORAGE + sop_class, keyword) == strictest.get(keyword, "3"), keyword


def test_an_object_that_is_no_image_of_the_standard_gets_the_strictest_type():
    assert attribute_type("1.2.3", "ContentDate") == "1"
    assert attribute_type(_STORAGE + "2", "ContentDate") == "2"
    assert attribute_type(_STORAGE + "2", "NoSuchKeyword") == "3"
