"""Attributes that a selection or a rule can use: those of DICOM, and some derived from the whole series."""

from __future__ import annotations

import difflib
import warnings
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_VR, keyword_dict

from medvit.io.dicom.header import read_dataset
from medvit.io.dicom.preflight import SeriesVolume
from medvit_batch.selection.expressions import Lookup

__all__ = ["DERIVED", "of_image", "of_volume", "proper_name"]

DERIVED: dict[str, Callable[[SeriesVolume], Any]] = {
    "Slices": lambda v: len(v.planes) if v.kind == "volume" else 0,
    "Rows": lambda v: v.first.rows,
    "Columns": lambda v: v.first.columns,
    "Plane": lambda v: v.plane_name,
    "SliceSpacing": lambda v: None if v.spacing_mm is None else v.spacing_mm[2],
    "Kind": lambda v: v.kind,
    "Part": lambda v: v.part,
}
"""Attributes derived from the planes, not read from the header; ``Plane`` is axial, coronal or sagittal, or oblique
with one of these.
"""

_SHORT = {"BodyPart": "BodyPartExamined", "Description": "SeriesDescription", "Protocol": "ProtocolName"}
_YEARS = {"D": 1 / 365.25, "W": 7 / 365.25, "M": 1 / 12, "Y": 1.0}
_WORDS = ("AE AS CS DA DS DT FD FL IS LO LT PN SH SL SS ST SV TM UC UI UL UR US UT UV").split()
"""Value representations with text or numbers (PS3.5 6.2); others cannot be compared."""


@lru_cache(maxsize=1)
def _names() -> dict[str, str]:
    """Return the proper name of each known attribute by its lower-case name."""
    known = {word.casefold(): word for word in keyword_dict if word}
    known |= {short.casefold(): full for short, full in _SHORT.items()}
    return known | {word.casefold(): word for word in DERIVED}


def proper_name(word: str) -> str:
    """Return the name of an attribute as DICOM's dictionary or ``DERIVED`` writes it.

    Raises:
        LookupError: the name is unknown, or its values cannot be compared; the message holds the remedy.
    """
    names = _names()
    found = names.get(word.casefold())
    if found is None:
        close = difflib.get_close_matches(word.casefold(), list(names), n=3, cutoff=0.7)
        raise LookupError(f"Did you mean {' or '.join(names[c] for c in close)}?" if close else "Check its spelling.")
    if found not in DERIVED and dictionary_VR(keyword_dict[found]) not in _WORDS:
        raise LookupError(f"{found} is a sequence or holds bytes; ask for an attribute with words or numbers.")
    return found


def of_volume(volume: SeriesVolume) -> Lookup:
    """Return a function that looks up the attributes of a volume; it reads the header of the first plane once, at the
    first use.
    """
    header: list[Dataset] = []

    def values(name: str) -> Sequence[str]:
        if name in DERIVED:
            return _texts(DERIVED[name](volume))
        if not header:
            header.append(_header(volume))
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found = header[0].get(name)
        except Exception:  # a value that does not fit its VR counts as absent; preflight reports those that matter
            return ()
        texts = _texts(found)
        return tuple(_years(text) for text in texts) if name == "PatientAge" else texts

    return values


def of_image(name: str) -> Sequence[str]:
    """Return the values of an attribute for an image file of another format, which has only ``Kind``."""
    return ("image",) if name == "Kind" else ()


def _header(volume: SeriesVolume) -> Dataset:
    with warnings.catch_warnings(), volume.first.file.open() as stream:
        warnings.simplefilter("ignore")
        return read_dataset(stream, stop_before_pixels=True, force=True)


def _texts(value: Any) -> tuple[str, ...]:
    if value is None or isinstance(value, (bytes, Dataset)):
        return ()
    several = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return tuple(text for v in several if (text := str(v).strip()))


def _years(text: str) -> str:
    """Convert an age as DICOM writes it (045Y, 006M) to years."""
    number, unit = text[:-1], text[-1:].upper()
    return f"{int(number) * _YEARS[unit]:.6g}" if number.isdigit() and unit in _YEARS else text
