"""Collection of the identifiers in the headers of a case: people, numbers, places and days, at any depth, also private
or retired.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.multival import MultiValue

from medvit.deidentification.identifiers import Identifiers, alphabetic, misread, spellings, words_of
from medvit.deidentification.known_words import GENERIC, PARTICLES

__all__ = ["identifiers_of", "texts_of"]

_NUMBERS = frozenset(
    "PatientID OtherPatientIDs AccessionNumber StudyID RequestedProcedureID ScheduledProcedureStepID PerformedProcedureStepID "
    "AdmissionID ServiceEpisodeID PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest "
    "PlacerOrderNumberProcedure FillerOrderNumberProcedure PlacerOrderNumberImagingServiceRequestRetired "
    "FillerOrderNumberImagingServiceRequestRetired PatientTelephoneNumbers PatientTelecomInformation "
    "ReferringPhysicianTelephoneNumbers PersonTelephoneNumbers RequestingPhysicianTelephoneNumbers OrderCallbackPhoneNumber "
    "MedicalRecordLocator InsurancePlanIdentification PatientBirthDateInAlternativeCalendar "
    "PatientDeathDateInAlternativeCalendar ClinicalTrialSubjectID ClinicalTrialSubjectReadingID "
    "InterpretationID ResultsID".split()
)
_PERSONAL = ("PatientID", "OtherPatientIDs", "AccessionNumber")
"""Numbers searched at any length; short ones only where the text marks them as a number."""

_PLACES = frozenset(
    "InstitutionName InstitutionalDepartmentName InstitutionAddress ReferringPhysicianAddress PatientAddress PersonAddress "
    "IssuerOfPatientID IssuerOfAdmissionID IssuerOfServiceEpisodeID CurrentPatientLocation PatientInstitutionResidence "
    "CountryOfResidence RegionOfResidence RequestingService ResponsibleOrganization ClinicalTrialSiteName ClinicalTrialSponsorName "
    "ClinicalTrialCoordinatingCenterName".split()
)
_INSTITUTION = frozenset("InstitutionName InstitutionalDepartmentName InstitutionAddress".split())
_DEVICE = ("StationName", "DeviceSerialNumber")
_IN_PLACES = 4
"""Smallest number of letters of a word of a place; shorter words are too common."""

_PER_FRAME = 0x52009230
_WITH_INITIAL = 4
_IN_NUMBERS = 3
_DIGITS = 4


def texts_of(value: Any) -> list[str]:
    """Return the values of an element as text, without padding."""
    several = value if isinstance(value, (list, tuple, MultiValue)) else [value]
    return [str(v).strip() for v in several if v is not None]


def identifiers_of(headers: Iterable[Dataset], retain: Iterable[str] = ()) -> Identifiers:
    """Collect the identifiers of a case.

    Args:
        headers: headers of all its images, as read.
        retain: options of the profile; identifiers that they retain are left out.
    """
    kept = frozenset(retain)
    stays = (_INSTITUTION if "institution" in kept else frozenset()) | (
        frozenset(_DEVICE) if "device" in kept else frozenset()
    )
    names: set[str] = set()
    places: set[str] = set()
    retained: set[str] = set()
    numbers: set[str] = set()
    days: set[date] = set()
    seen: set[tuple[int, str]] = set()
    for header in headers:
        for element in _elements(header):
            for text in texts_of(element.value):
                if (int(element.tag), text) in seen:
                    continue
                seen.add((int(element.tag), text))
                if element.VR == "PN" or element.keyword in _NUMBERS:
                    names.update(_names(element, text))
                elif element.keyword in stays:
                    retained.update(_place(text))
                elif element.keyword in _PLACES or element.keyword == "StationName":
                    places.update(_place(text))
                numbers.update(_numbers(element, text, kept))
                days.update(_days(element, text))
    names |= places - retained
    return Identifiers(frozenset(names), frozenset(numbers), frozenset(days))


def _elements(dataset: Dataset) -> Iterator[DataElement]:
    """Yield every readable element that may identify a person, at any depth."""
    for tag in list(dataset.keys()):
        if tag.group == 0x7FE0 or int(tag) == _PER_FRAME:  # pixels, and frames, which state geometry
            continue
        try:
            element = dataset[tag]
            items = list(element.value or []) if element.VR == "SQ" else []
        except Exception:  # a damaged value cannot be searched for
            continue
        if element.VR == "SQ":
            for item in items:
                yield from _elements(item)
        elif element.VR in ("PN", "DA", "DT") or element.keyword in _NUMBERS | _PLACES | frozenset(_DEVICE):
            yield element


def _names(element: DataElement, text: str) -> Iterator[str]:
    if element.VR == "PN":
        for reading in {text, misread(text) or text}:
            yield from _person(reading, "Patient" in element.keyword)
    elif text.isalpha() and len(text) >= _IN_NUMBERS and text.casefold() not in GENERIC:
        yield from spellings(text)


def _place(text: str) -> Iterator[str]:
    """Return the words of an institution, address or room that are specific to it."""
    for word in words_of(text):
        if len(word) >= _IN_PLACES and not word.isdigit() and word.casefold() not in GENERIC:
            yield from spellings(word)


def _person(name: str, patient: bool) -> Iterator[str]:
    """Return the words by which a person's name can be recognised, in every spelling."""
    for group in name.split("="):
        components = [part for part in re.split(r"[\^,]", group)[:3] if part.strip()]
        parts = [_significant(component, patient) for component in components]
        whole = ["".join(words_of(component)) for component in components]
        found = {word for words in parts for word in words}
        pieces = [words_of(piece) for component in components for piece in re.split(r"[\s\-\u2010\u2011]+", component)]
        found |= {"".join(piece) for piece in pieces if len(piece) > 1}  # O'Neil as ONeil
        found |= {joined for joined, words in zip(whole, parts, strict=True) if words and len(joined) > 2}
        if len(whole) > 1 and all(parts[:2]):
            found |= {whole[0] + whole[1], whole[1] + whole[0], "".join(whole)}
            if alphabetic(whole[0] + whole[1]):
                found |= {
                    word for word in (whole[1][0] + whole[0], whole[0] + whole[1][0]) if len(word) >= _WITH_INITIAL
                }
        for word in found:
            if len(word) > 1 or not alphabetic(word):
                yield from (form for form in spellings(word) if len(form) > 1 or not alphabetic(form))


def _significant(component: str, patient: bool) -> list[str]:
    """Return the words of a component that name a person; a particle or title only where it is the only word."""
    words = [word for word in words_of(component) if not word.isdigit() or len(word) >= _DIGITS]
    words = [word for word in words if word.casefold() not in ("ct", "mr", "pt", "nm")]
    proper = [word for word in words if word.casefold() not in PARTICLES]
    words = proper or (words if patient else [])
    return words if patient else [word for word in words if word.casefold() not in GENERIC]


def _numbers(element: DataElement, text: str, kept: frozenset[str]) -> Iterator[str]:
    if (
        element.keyword == "DeviceSerialNumber"
        and "device" not in kept
        and len(words_of(text))
        and len(text) >= _DIGITS
    ):
        yield text
    if element.keyword not in _NUMBERS or text.isalpha():
        if element.keyword in ("PatientAddress", "InstitutionAddress") and "institution" not in kept:
            yield from (number for number in re.findall(r"\d+", text) if len(number) >= _DIGITS)
        return
    if any(character.isalnum() for character in text) and (element.keyword in _PERSONAL or len(text) >= _DIGITS):
        yield text
        yield from (number for number in re.findall(r"\d+", text) if len(number) >= _DIGITS)


def _days(element: DataElement, text: str) -> Iterator[date]:
    if element.VR not in ("DA", "DT"):
        return
    try:
        yield datetime.strptime(text[:8], "%Y%m%d").date()
    except ValueError:
        return
