"""De-identification of DICOM headers by the Basic Profile of PS3.15 annex E, so that all that is made from them is free of names.

What the profile names is taken away, emptied, or replaced. Beyond it go private elements, overlays and curves, public elements
that are in no dictionary, and any word left that the patient's, a physician's or an institution's name is made of.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence as Items

from medvit.errors import ImageError
from medvit.io.scan import Scan
from medvit_batch.privacy import Privacy
from medvit_batch.profile import Rule, method_codes, profile

__all__ = ["burned_in", "deidentified", "deidentified_scan"]

_DUMMIES: dict[str, Any] = {
    "DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000D", "SQ": None, "OB": b"", "OW": b"", "UN": b"", "DS": "0",
    "IS": "0", "FL": 0.0, "FD": 0.0, "UL": 0, "US": 0, "SL": 0, "SS": 0,
}  # fmt: skip
_NEEDED = frozenset(
    "Modality ImageType FrameType PhotometricInterpretation PatientPosition SpecificCharacterSet BurnedInAnnotation RescaleType "
    "Units PresentationIntentType PixelPresentation VolumetricProperties".split()
)
"""Words that a reader of the pixels needs, of which the standard defines every one: no name is looked for in them."""

_CODES = ("CodingSchemeUID", "ContextUID", "MappingResourceUID")
"""UIDs of vocabularies."""

_NAMED = (
    "PatientName OtherPatientNames PatientBirthName PatientMotherBirthName PatientID OtherPatientIDs AccessionNumber "
    "ReferringPhysicianName PhysiciansOfRecord PerformingPhysicianName OperatorsName NameOfPhysiciansReadingStudy "
    "RequestingPhysician ResponsiblePerson PatientAddress PatientTelephoneNumbers InstitutionAddress"
).split()
_PLACES = "InstitutionName StationName InstitutionalDepartmentName".split()
_SHORTEST_WORD = 3
_TEXT = frozenset("AE CS LO LT PN SH ST UC UR UT".split())
_OLDEST = 90
_WITHOUT_WORDS = ("CT", "MR", "PT", "NM")
"""Modalities whose original images hold no words unless they say so; of all others an explicit NO is asked for."""


@dataclass(frozen=True)
class _Cleaner:
    privacy: Privacy
    days: int
    words: frozenset[str]

    def dataset(self, source: Dataset) -> Dataset:
        """A copy with nothing in it that names anybody."""
        made = Dataset()
        for element in _readable(source):
            kept = self._element(element)
            if kept is not None:
                made.add(kept)
        return made

    def _element(self, element: DataElement) -> DataElement | None:
        rule = profile().get(int(element.tag))
        if element.keyword == "SpecificCharacterSet" or element.tag.group == 0x7FE0:
            return element
        if rule is None or rule.kept_under & set(self.privacy.retain):
            return self._kept(element, rule)
        action = rule.action()
        if action == "X":
            return None
        if action == "U":
            return self._identified(element)
        empty = action == "Z" or element.is_empty
        return DataElement(element.tag, element.VR, None if empty else _dummy(element.VR))

    def _kept(self, element: DataElement, rule: Rule | None) -> DataElement | None:
        if element.VR == "SQ":
            return DataElement(element.tag, "SQ", Items([self.dataset(item) for item in element.value or []]))
        if element.VR == "UI":
            return self._identified(element)
        if element.VR in (
            "DA",
            "DT",
            "TM",
            "PN",
        ):  # the table names all there are in an image; one that it does not know goes
            return self._shifted(element) if rule is not None else None
        if element.VR == "UN" or (element.keyword not in _NEEDED and self._names(element)):
            return None
        made = deepcopy(element)
        if element.keyword == "PatientAge" and (age := re.fullmatch(r"(\d{3})Y", str(element.value or ""))):
            made.value = f"{min(int(age[1]), _OLDEST):03d}Y"  # above it, too few people live
        return made

    def _identified(self, element: DataElement) -> DataElement:
        if element.VR == "SQ":  # references to other images, and nothing else
            return DataElement(element.tag, "SQ", Items([self.dataset(item) for item in element.value or []]))
        if element.keyword in _CODES:
            return element
        return DataElement(element.tag, "UI", [self.privacy.uid(value) for value in _texts(element.value)] or None)

    def _shifted(self, element: DataElement) -> DataElement:
        if element.VR in ("TM", "PN"):
            return element
        return DataElement(
            element.tag, element.VR, [_earlier(text, self.days) for text in _texts(element.value)] or None
        )

    def _names(self, element: DataElement) -> bool:
        if element.VR not in _TEXT:
            return False
        found = {word.casefold() for text in _texts(element.value) for word in re.findall(r"\w+", text)}
        return bool(found & self.words)


def deidentified(header: Dataset, privacy: Privacy) -> Dataset:
    """A copy of a header, or of a whole object, by the Basic Profile and the options of ``privacy``; the source stays as it is."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        person = _person(header)
        keywords = _NAMED if "institution" in privacy.retain else (*_NAMED, *_PLACES)
        made = _Cleaner(privacy, privacy.days(person), _words(header, keywords)).dataset(header)
    name = f"P{privacy.token(person, 'patient')[:12].upper()}"
    made.PatientName, made.PatientID = name, name
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = "medvit: DICOM PS3.15 Basic Profile"
    made.DeidentificationMethodCodeSequence = Items([_code(*code) for code in method_codes(privacy.retain)])
    made.LongitudinalTemporalInformationModified = "MODIFIED" if "shifted-dates" in privacy.retain else "REMOVED"
    return made


def deidentified_scan(scan: Scan, privacy: Privacy) -> Scan:
    """A scan whose headers and notes name nobody; whatever is written from it neither.

    Raises:
        ImageError: its pixels have, or may have, words burned into them.
    """
    for header in scan.slices:
        reason = None if privacy.burned_in else burned_in(header.get("Modality"), header.get("BurnedInAnnotation"))
        if reason is not None:
            raise ImageError(reason)
    return replace(
        scan,
        slices=tuple(deidentified(header, privacy) for header in scan.slices),
        notes=tuple(map(privacy.words, scan.notes)),
        set_aside=tuple(map(privacy.words, scan.set_aside)),
        blockers=tuple(map(privacy.words, scan.blockers)),
        name="image",
    )


def burned_in(modality: Any, stated: Any) -> str | None:
    """Why an image is refused that may show a name; None where it may be taken.

    Args:
        modality: its Modality.
        stated: its BurnedInAnnotation.
    """
    step = "Clean the pixels first, or take it all the same with --allow-burned-in."
    if str(stated or "").upper() == "YES":
        return f"Found images with words burned into them, which may name the patient; --deidentify does not change pixels. {step}"
    if str(stated or "").upper() != "NO" and str(modality or "") not in _WITHOUT_WORDS:
        return (
            "Found images that do not say whether words are burned into them, of a modality that often has some; "
            f"BurnedInAnnotation NO is needed with --deidentify. {step}"
        )
    return None


def _readable(source: Dataset) -> Iterator[DataElement]:
    """Public elements of the dictionary that can be read as what they promise to be."""
    for tag in sorted(source.keys()):
        private = tag.is_private or tag.group in (0x0000, 0x0002) or tag.group & 0xFF00 in (0x5000, 0x6000)
        if private or not dictionary_has_tag(tag):
            continue
        try:
            yield source[tag]
        except Exception:  # a damaged value says nothing that may be passed on
            continue


def _texts(value: Any) -> list[str]:
    several = value if isinstance(value, (list, tuple, MultiValue)) else [value]
    return [str(v).strip() for v in several if v is not None]


def _read(header: Dataset, keyword: str) -> list[str]:
    try:
        return _texts(header.get(keyword))
    except Exception:  # as above
        return []


def _person(header: Dataset) -> str:
    """What tells one patient from another: the number and who gave it, else name and birth date, else the study."""
    for keywords in (("PatientID", "IssuerOfPatientID"), ("PatientName", "PatientBirthDate"), ("StudyInstanceUID",)):
        found = ["\\".join(_read(header, keyword)) for keyword in keywords]
        if found[0]:
            return "|".join([keywords[0], *found])
    return "nobody"


def _words(header: Dataset, keywords: tuple[str, ...] | list[str]) -> frozenset[str]:
    texts = [text for keyword in keywords for text in _read(header, keyword)]
    words = [word.casefold() for text in texts for word in re.findall(r"\w+", text)]
    return frozenset(word for word in words if len(word) >= _SHORTEST_WORD)


def _dummy(vr: str) -> Any:
    return _DUMMIES.get(vr, "REMOVED")


def _earlier(text: str, days: int) -> str:
    """A date, or a date and time, some days before; empty where it is none."""
    try:
        return f"{datetime.strptime(text[:8], '%Y%m%d') - timedelta(days):%Y%m%d}{text[8:]}"
    except (ValueError, OverflowError):
        return ""


def _code(value: str, meaning: str) -> Dataset:
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, "DCM", meaning
    return item
