"""Attributes that every DICOM object copies from its source: patient, study, and the character set of their text."""

from __future__ import annotations

import re
from copy import deepcopy

from pydicom import DataElement, Dataset
from pydicom.charset import python_encoding
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items

from medvit.io.dicom.header import PATIENT_STUDY_TYPE_2, attribute_type

__all__ = ["character_set", "copy_patient_study", "drop_incomplete", "ensure_utf8", "strip_for_highdicom"]

_PATIENT_AND_STUDY = (*PATIENT_STUDY_TYPE_2, "StudyInstanceUID")

_ALSO = (
    "IssuerOfPatientID PatientIdentityRemoved DeidentificationMethod PatientComments StudyDescription PatientAge "
    "PatientSize PatientWeight PatientBirthTime OtherPatientIDs OtherPatientNames EthnicGroup PregnancyStatus "
    "LastMenstrualDate PhysiciansOfRecord NameOfPhysiciansReadingStudy AdmittingDiagnosesDescription MedicalAlerts Allergies "
    "SmokingStatus AdditionalPatientHistory Occupation LongitudinalTemporalInformationModified"
).split()
"""Further attributes, copied where the source has them.

Objects of one study must state the same patient and study, which dcentvfy compares. Sequences are not copied, since
incomplete items would make the objects invalid, except the codes of the de-identification method where they are
complete.
"""

_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
_FORMS = {"AS": re.compile(r"\d{3}[DWMY]"), "DA": re.compile(r"\d{8}"), "TM": re.compile(r"\d{2,6}(\.\d{1,6})?")}
"""Valid forms of an age, a date and a time (PS3.5 6.2)."""

_CHECKED = ("PatientName", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime", "ReferringPhysicianName")
"""Attributes whose values highdicom checks."""

_STUDY_GROUPS = frozenset((0x0008, 0x0010, 0x0012, 0x0032, 0x0038, 0x0040))
"""Groups of the sequences of patient and study, which highdicom would copy unchanged even if incomplete."""

_SPECIMENS = "SpecimenDescriptionSequence"
"""The only sequence in ``_STUDY_GROUPS`` that highdicom needs, for microscopy."""

_CALENDAR = (
    "PatientBirthDateInAlternativeCalendar",
    "PatientDeathDateInAlternativeCalendar",
    "PatientAlternativeCalendar",
)
"""Dates in another calendar, and the name of that calendar (Type 1C), without which the dates are invalid."""

_REFERENCES = ("ReferencedStudySequence", "ReferencedPatientSequence", "ReferencedPerformedProcedureStepSequence")
_REFERENCE = ("ReferencedSOPClassUID", "ReferencedSOPInstanceUID")

_EXTENDED = "ISO 2022 "
_MULTI_BYTE = ("ISO 2022 IR 87", "ISO 2022 IR 159", "ISO 2022 IR 149", "ISO 2022 IR 58")
"""Character sets that only extend another (PS3.3 table C.12-4)."""

_KNOWN = frozenset(term for term in python_encoding if term not in ("", "ISO_IR 6")) | {"ISO_IR 203", "ISO 2022 IR 203"}
_LONG = ("PerFrameFunctionalGroupsSequence", "ROIContourSequence")
"""Sequences of thousands of items that contain no text."""

_TEXT = frozenset("LO LT PN SH ST UC UT".split())


def strip_for_highdicom(headers: list[Dataset]) -> list[Dataset]:
    """Remove from copies of headers (``SourceImages.normalised_headers``) what highdicom would refuse, warn about or
    copy unchecked.

    highdicom refuses character sets that the standard allows (an empty first value, Korean) and some dates and sexes
    that archives contain, and quotes unusual names in warnings. ``copy_patient_study`` adds these values to the
    finished object. Sequences of patient and study are removed for good: highdicom copies them even where they are
    empty or incomplete, which makes its objects invalid, and medvit's other objects omit them too.

    Args:
        headers: the copies; changed in place.

    Returns:
        The same copies.
    """
    for header in headers:
        for tag in [tag for tag in header.keys() if tag.group in _STUDY_GROUPS]:  # noqa: SIM118
            if header[tag].VR == "SQ" and header[tag].keyword != _SPECIMENS:
                del header[tag]
        _drop_half_a_calendar(header)
        header.pop("SpecificCharacterSet", None)
        for keyword in _CHECKED:
            setattr(header, keyword, "")
    return headers


def copy_patient_study(dataset: Dataset, source: Dataset) -> None:
    """Copy a source's patient and study to an object unchanged, with their character set."""
    for keyword in _PATIENT_AND_STUDY:
        setattr(dataset, keyword, source.get(keyword))
    for keyword in _ALSO:
        dataset.pop(keyword, None)  # highdicom copies some of them by itself
        if keyword in source and _valid(source[keyword]):
            setattr(dataset, keyword, source.get(keyword))
    methods = source.get("DeidentificationMethodCodeSequence") or []
    dataset.pop("DeidentificationMethodCodeSequence", None)
    if methods and all(all(item.get(keyword) for keyword in _CODE) for item in methods):
        dataset.DeidentificationMethodCodeSequence = deepcopy(methods)
    if "DeidentificationMethod" in dataset and not dataset.DeidentificationMethod:
        dataset.DeidentificationMethod = "not stated"  # Type 1C: must not be present and empty
    terms = character_set(source)
    if terms:
        dataset.SpecificCharacterSet = terms if len(terms) > 1 else terms[0]
    else:
        dataset.pop("SpecificCharacterSet", None)


def drop_incomplete(dataset: Dataset) -> None:
    """Remove invalid sequences at the top level of an image: empty ones, and those whose items lack required
    attributes.
    """
    _drop_half_a_calendar(dataset)
    for element in [element for element in dataset if element.VR == "SQ"]:
        items, keyword = element.value or [], element.keyword
        if items and all(_complete(item, keyword) for item in items):
            continue
        if attribute_type(str(dataset.get("SOPClassUID") or ""), keyword) == "2":
            setattr(dataset, keyword, Items())
        else:
            del dataset[element.tag]


def _complete(item: Dataset, keyword: str) -> bool:
    """Return True if an item of a reference or code sequence has all attributes that the standard requires."""
    if keyword in _REFERENCES:
        return all(item.get(name) for name in _REFERENCE)
    if keyword.endswith("CodeSequence"):
        return bool(item.get("CodeMeaning") and (item.get("CodingSchemeDesignator") or item.get("URNCodeValue")))
    return True


def _drop_half_a_calendar(header: Dataset) -> None:
    *dates, calendar = _CALENDAR
    if not header.get(calendar) or not any(header.get(keyword) for keyword in dates):
        for keyword in _CALENDAR:
            header.pop(keyword, None)


def _valid(element: DataElement) -> bool:
    """Return True if a value has the form of its VR. An invalid age is left out, since it would make the object
    invalid.
    """
    form = _FORMS.get(element.VR)
    return (
        form is None or (element.value in (None, "") and element.VR != "AS") or bool(form.fullmatch(str(element.value)))
    )


def character_set(source: Dataset) -> list[str]:
    """Return the terms of a source's SpecificCharacterSet in a form that objects may state (PS3.3 C.12.1.1.2); empty
    for ASCII.

    The bytes of the text stay the same. Terms with the same meaning are written as validators expect them: the default
    repertoire by name where the first of several terms is empty; a single set without code extensions; GB18030 for its
    subset GBK; GB18030 and UTF-8 without further terms. Where the source states no set, or an unknown one, but contains
    more than ASCII, its bytes have been read as Latin 1, and that set is stated.
    """
    found = source.get("SpecificCharacterSet")
    terms = [str(t or "").strip() for t in (found if isinstance(found, MultiValue | list | tuple) else [found])]
    named = [term for term in terms if term]
    if not named or any(term not in _KNOWN for term in named):
        return ["ISO_IR 100"] if _beyond_ascii(source) else []
    if named[0] in ("GBK", "ISO 2022 GBK", "GB18030"):
        return ["GB18030"]
    if named[0] == "ISO_IR 192":
        return named[:1]
    if len(terms) > 1:
        return [term or "ISO 2022 IR 6" for term in terms]
    only = named[0]
    if only in _MULTI_BYTE:
        return ["ISO 2022 IR 6", only]
    if only == "ISO 2022 IR 6":
        return []
    return [only.replace(_EXTENDED + "IR", "ISO_IR")]


def ensure_utf8(dataset: Dataset) -> None:
    """State UTF-8 where text written by medvit needs it, since the source's character set may lack its letters (PS3.3
    C.12.1.1.2).

    Copied text never needs it: its bytes stay the same.
    """
    own = [element for element in dataset if element.keyword not in (*_PATIENT_AND_STUDY, *_ALSO)]
    if any(_needs_more(element) for element in own):
        dataset.SpecificCharacterSet = "ISO_IR 192"


def _needs_more(element: DataElement) -> bool:
    if element.VR == "SQ" and element.keyword not in _LONG:
        return any(_needs_more(inner) for item in element.value for inner in item)
    return element.VR in _TEXT and bool(element.value) and not str(element.value).isascii()


def _beyond_ascii(source: Dataset) -> bool:
    return any(not str(element.value).isascii() for element in source if element.VR in _TEXT and element.value)
