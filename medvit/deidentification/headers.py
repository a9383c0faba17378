"""De-identification of DICOM headers by the Basic Profile of PS3.15 annex E; objects made from such headers contain no
names.

Attributes of the profile are removed, emptied or replaced, depending on the kind of object. In addition, private
elements, overlays and curves, elements missing from pydicom's dictionary, retired texts and web addresses are removed.
From every remaining text, the identifiers found in the headers of the case (names, numbers, places, dates) are removed.
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
from pydicom.datadict import dictionary_has_tag, dictionary_is_retired
from pydicom.sequence import Sequence as Items

from medvit.deidentification.element_values import TEXT, cleaned_value, whole_items
from medvit.deidentification.header_identifiers import identifiers_of, texts_of
from medvit.deidentification.identifiers import Identifiers
from medvit.deidentification.pseudonyms import Privacy
from medvit.deidentification.rules_e1 import Rule, method_codes, profile
from medvit.errors import ImageError
from medvit.io import Creation, Scan
from medvit.io.dicom.header import AttributeType, attribute_type
from medvit.io.dicom.write import character_set, coded_item

__all__ = ["burned_in", "deidentified", "deidentified_scan"]

_DUMMIES: dict[str, Any] = {
    "DA": "19000101", "TM": "000000", "DT": "19000101000000", "AS": "000D", "OB": b"", "OW": b"", "UN": b"", "DS": "0",
    "IS": "0", "FL": 0.0, "FD": 0.0, "UL": 0, "US": 0, "SL": 0, "SS": 0,
}  # fmt: skip
_CODES = ("CodingSchemeUID", "ContextUID", "MappingResourceUID")
"""Attributes whose UIDs identify vocabularies."""

_MOMENTS = {
    "DA": re.compile(r"\d{8}"),
    "TM": re.compile(r"\d{2,6}(\.\d{1,6})?"),
    "DT": re.compile(r"\d{8}(\d{2,6}(\.\d{1,6})?)?([+-]\d{4})?"),
    "AS": re.compile(r"\d{3}[DWMY]"),
}
"""Patterns of dates, times and ages (PS3.5 6.2); any other value is free text and is removed."""

_OLDEST = 90
_RETIRED_TEXT = TEXT - {"CS"}
_BYTES = ("OB", "OW", "OD", "OF", "OL", "OV")
_PIXELS = 0x7FE0
_FRAMES = 0x5200
_QUOTED = re.compile(r"'[^']*'|\"[^\"]*\"")
_WITHOUT_WORDS = ("CT", "MR", "PT", "NM")
"""Modalities whose images contain burned-in text only if they state so; for others, BurnedInAnnotation must be NO."""


@dataclass(frozen=True)
class _Cleaner:
    privacy: Privacy
    days: int
    known: Identifiers
    sop_class: str

    def dataset(self, source: Dataset, top: bool = False) -> Dataset:
        """Return a copy without identifying values."""
        made = Dataset()
        for element in _readable(source):
            kept = self._element(element, top)
            if kept is not None:
                made.add(kept)
        _match_windows(made)
        if "SpecificCharacterSet" in made:
            _state_character_set(made, source)
        return made

    def _element(self, element: DataElement, top: bool) -> DataElement | None:
        rule = profile().get(int(element.tag))
        if element.keyword == "SpecificCharacterSet" or element.tag.group == _PIXELS:
            return element if element.VR != "UR" else None
        type_ = attribute_type(self.sop_class, element.keyword) if top else None
        if rule is None or rule.kept_under & set(self.privacy.retain):
            return self._kept(element, rule, type_)
        action = rule.action(type_, element.VR == "SQ")
        if action == "X":
            return None
        if action == "U":
            return self._identified(element, type_)
        if element.VR == "SQ":
            return DataElement(element.tag, "SQ", Items())
        empty = action == "Z" or element.is_empty
        return DataElement(element.tag, element.VR, None if empty else _dummy(element.VR))

    def _kept(self, element: DataElement, rule: Rule | None, type_: AttributeType | None) -> DataElement | None:
        if element.VR == "SQ":
            return self._sequence(element, type_)
        if element.VR == "UI":
            return self._identified(element, type_)
        if element.VR in (
            "DA",
            "DT",
            "TM",
        ):  # the table lists all date attributes of images; others are removed
            return self._shifted(element) if rule is not None else None
        if element.VR in ("PN", "UN", "UR") or (rule is None and _retired_text(element)):
            return None if type_ != "2" else DataElement(element.tag, element.VR, None)
        if element.VR in _BYTES:
            return None if element.VR == "OB" and self.known.within(element.value or b"") else deepcopy(element)
        if element.VR in ("DS", "IS"):
            named = any(map(self.known.number_in, texts_of(element.value)))
            return DataElement(element.tag, element.VR, None) if named else deepcopy(element)
        if element.VR == "AS":
            return _age(element)
        return deepcopy(element) if element.VR not in TEXT else cleaned_value(element, self.known, type_)

    def _sequence(self, element: DataElement, type_: AttributeType | None) -> DataElement | None:
        """Clean the items of a sequence; drop a sequence without items unless the object requires it."""
        if not element.value and type_ is None:
            return element  # within an item, the sequence may be required
        made = [(self.dataset(item), bool(len(item))) for item in element.value or []]
        frames = element.tag.group == _FRAMES  # one item for each frame
        items = [item for item, said in made if len(item) or (frames and not said)]
        if not frames:
            items = whole_items(element.keyword, items)
        if not items and type_ != "2":
            return None
        return DataElement(element.tag, "SQ", Items(items))

    def _identified(self, element: DataElement, type_: AttributeType | None) -> DataElement | None:
        if element.VR == "SQ":  # references to other images only
            return self._sequence(element, type_)
        if element.keyword in _CODES:
            return element
        return DataElement(element.tag, "UI", [self.privacy.uid(value) for value in texts_of(element.value)] or None)

    def _shifted(self, element: DataElement) -> DataElement:
        texts = [text if _MOMENTS[element.VR].fullmatch(text) else "" for text in texts_of(element.value)]
        if element.VR != "TM":
            texts = [_earlier(text, self.days) for text in texts]
        return DataElement(element.tag, element.VR, texts or None)


def deidentified(
    header: Dataset, privacy: Privacy, known: Identifiers | None = None, person: str | None = None
) -> Dataset:
    """Return a de-identified copy of a header, or of a whole object, by the Basic Profile and the options of
    ``privacy``.

    Args:
        header: the source, which is not changed.
        privacy: the key and the options.
        known: identifiers of all images of the case; by default those of this header.
        person: the patient, as ``Privacy.person`` returns it; by default that of this header.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        person = privacy.person(header) if person is None else person
        known = identifiers_of([header], privacy.retain) if known is None else known
        sop_class = str(header.get("SOPClassUID") or "")
        made = _Cleaner(privacy, privacy.days(person), known, sop_class).dataset(header, top=True)
        _state_character_set(made, header)
    name = f"P{privacy.token(person, 'patient')[:12].upper()}"
    made.PatientName, made.PatientID = name, name
    made.PatientIdentityRemoved = "YES"
    made.DeidentificationMethod = "medvit: DICOM PS3.15 Basic Profile"
    made.DeidentificationMethodCodeSequence = Items(
        [coded_item(value, "DCM", meaning) for value, meaning in method_codes(privacy.retain)]
    )
    made.LongitudinalTemporalInformationModified = "MODIFIED" if "shifted-dates" in privacy.retain else "REMOVED"
    return made


def deidentified_scan(scan: Scan, privacy: Privacy) -> Scan:
    """De-identify a scan's headers and notes, and the dates of objects written from it.

    Args:
        scan: the scan, which is not changed.
        privacy: the key and the options.

    Returns:
        A copy with the same voxels and geometry.

    Raises:
        ImageError: the pixels contain, or may contain, burned-in text.

    Examples:
        >>> from pydicom.data import get_testdata_file
        >>> from medvit.deidentification import Privacy, deidentified_scan
        >>> from medvit.io import open_source
        >>> scan = open_source(get_testdata_file("CT_small.dcm"))
        >>> clean = deidentified_scan(scan, Privacy(key=b"a secret that nobody can guess"))
        >>> clean.slices[0].PatientName == scan.slices[0].PatientName
        False
    """
    for header in scan.slices:
        reason = None if privacy.burned_in else burned_in(header.get("Modality"), header.get("BurnedInAnnotation"))
        if reason is not None:
            raise reason
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        known = identifiers_of(scan.slices, privacy.retain)
        person = privacy.person(scan.slices[0]) if scan.slices else "nobody"

    def unnamed(messages: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(privacy.words(_QUOTED.sub(lambda match: _quoted(match, known), text)) for text in messages)

    return replace(
        scan,
        slices=tuple(deidentified(header, privacy, known, person) for header in scan.slices),
        modality=None if scan.modality is None else known.cut(scan.modality) or "OT",
        unit=None if scan.unit is None else known.cut(scan.unit) or None,
        notes=unnamed(scan.notes),
        excluded=unnamed(scan.excluded),
        blockers=unnamed(scan.blockers),
        creation=_creation(privacy, person),
        name="image",
    )


def _quoted(match: re.Match[str], known: Identifiers) -> str:
    """Remove identifiers from a header value that a message quotes."""
    mark = match[0][0]
    return f"{mark}{known.cut(match[0][1:-1]) or '...'}{mark}"


def _creation(privacy: Privacy, person: str) -> Creation:
    """Return the rule for dates of new objects, since the day of the run may be the day of the study."""
    if "shifted-dates" in privacy.retain:
        return Creation(days_earlier=privacy.days(person))
    return Creation(withheld=True)


def burned_in(modality: Any, stated: Any) -> ImageError | None:
    """Return the error that refuses an image that may show a name; None where the image is acceptable.

    Args:
        modality: its Modality.
        stated: its BurnedInAnnotation.

    Returns:
        The error to raise, or None.

    Examples:
        >>> from medvit.deidentification import burned_in
        >>> burned_in("CT", None) is None
        True
        >>> str(burned_in("US", "YES"))
        'Found images with words burned into them, which may name the patient; ...'
    """
    step, names = "Clean the pixels first, or take it all the same with {burned_in=True}.", ("burned_in", "privacy")
    if str(stated or "").upper() == "YES":
        found = "images with words burned into them, which may name the patient"
        return ImageError(found, "{privacy} does not change pixels", step, option=names)
    if str(stated or "").upper() != "NO" and str(modality or "") not in _WITHOUT_WORDS:
        found = "images that do not say whether words are burned into them, of a modality that often has some"
        return ImageError(found, "BurnedInAnnotation NO is needed with {privacy=...}", step, option=names)
    return None


def _readable(source: Dataset) -> Iterator[DataElement]:
    """Yield public elements of the dictionary whose values can be read."""
    for tag in sorted(source.keys()):
        private = tag.is_private or tag.group in (0x0000, 0x0002) or tag.group & 0xFF00 in (0x5000, 0x6000)
        if private or not dictionary_has_tag(tag):
            continue
        try:
            yield source[tag]
        except Exception:  # a damaged value is left out
            continue


def _retired_text(element: DataElement) -> bool:
    return element.VR in _RETIRED_TEXT and dictionary_is_retired(element.tag)


def _age(element: DataElement) -> DataElement | None:
    text = str(element.value or "")
    if text and not _MOMENTS["AS"].fullmatch(text):
        return None
    made = deepcopy(element)
    if element.keyword == "PatientAge" and text.endswith("Y"):
        made.value = f"{min(int(text[:3]), _OLDEST):03d}Y"  # few people are older: a higher age would identify
    return made


def _match_windows(made: Dataset) -> None:
    """Remove explanations of contrast windows whose number differs from that of the windows."""
    if "WindowCenterWidthExplanation" in made:
        explained = texts_of(made.WindowCenterWidthExplanation)
        if not any(explained) or len(explained) != len(texts_of(made.get("WindowCenter"))):
            del made.WindowCenterWidthExplanation


def _state_character_set(made: Dataset, source: Dataset) -> None:
    """State a known character set; an unknown term could be any word."""
    terms = character_set(source)
    if terms:
        made.SpecificCharacterSet = terms if len(terms) > 1 else terms[0]
    else:
        made.pop("SpecificCharacterSet", None)


def _dummy(vr: str) -> Any:
    return _DUMMIES.get(vr, "REMOVED")


def _earlier(text: str, days: int) -> str:
    """Shift a date, or a date and time, into the past by a number of days; return an empty text for an invalid one."""
    try:
        return f"{datetime.strptime(text[:8], '%Y%m%d') - timedelta(days):%Y%m%d}{text[8:]}"
    except (ValueError, OverflowError):
        return ""
