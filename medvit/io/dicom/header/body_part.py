"""Body regions named in DICOM headers: BodyPartExamined, else AnatomicRegionSequence.

BodyPartExamined is a free code string: scanners write "HEADNECK", "HEAD AND NECK", "Neck_1", "HALS". Words are looked
up, and compound words are split.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydicom import Dataset

__all__ = ["body_regions", "examined_regions"]

_WORDS = {
    "HEAD": "HEAD SKULL BRAIN FACE FACIAL JAW MANDIBLE MAXILLA SINUS SINUSES ORBIT ORBITS EYE EAR TMJ NOSE MOUTH TEETH DENTAL "
    "TONGUE PITUITARY SELLA CRANIUM HIPPOCAMPUS INTERNALAUDITORYCANAL IAC KOPF SCHADEL HIRN TETE CRANE CABEZA CRANEO TESTA",
    "NECK": "NECK CERVICAL CSPINE LARYNX PHARYNX THYROID CAROTID TRACHEA HALS COU CUELLO COLLO HWS",
    "CHEST": "CHEST THORAX THORACIC LUNG LUNGS HEART CARDIAC CORONARY BREAST MEDIASTINUM RIB RIBS RIBCAGE STERNUM CLAVICLE "
    "TSPINE ESOPHAGUS TORAX BRUST POITRINE PECHO TORACE BWS",
    "ABDOMEN": "ABDOMEN ABD ABDOMINAL LIVER KIDNEY KIDNEYS SPLEEN PANCREAS STOMACH BOWEL COLON GALLBLADDER LUMBAR LSPINE BAUCH ADDOME LWS",
    "PELVIS": "PELVIS PELVIC PELV PROSTATE BLADDER RECTUM UTERUS HIP SACRUM COCCYX SSPINE BECKEN BASSIN",
    "SPINE": "SPINE WHOLESPINE VERTEBRA VERTEBRAE",
    "ARM": "ARM SHOULDER SCAPULA ELBOW FOREARM HUMERUS UPPEREXTREMITY",
    "HAND": "HAND WRIST FINGER THUMB",
    "LEG": "LEG KNEE THIGH FEMUR CALF TIBIA FIBULA LOWERLEG LOWEREXTREMITY PATELLA",
    "EXTREMITY": "EXTREMITY EXTREMITIES",
    "FOOT": "FOOT ANKLE TOE HEEL CALCANEUS",
    "WHOLEBODY": "WHOLEBODY BODY TRUNK TORSO",
    "": "AND WITH WITHOUT THE CONTRAST ROUTINE PROTOCOL REGION AREA LEFT RIGHT SOFT TISSUE TISSUES BONE ANGIO WHOLE ENTIRE TOTAL "
    "UPPER LOWER STANDARD AXIAL STRUCTURE OF CT MR MRI W WO L R",
}
_REGION = {word: region for region, words in _WORDS.items() for word in words.split()}
_JOINED = {
    "CTSPINE": ("NECK", "CHEST"),
    "TLSPINE": ("CHEST", "ABDOMEN"),
    "LSSPINE": ("ABDOMEN", "PELVIS"),
    "NECKOFFEMUR": ("LEG",),
    "AORTA": ("CHEST", "ABDOMEN"),
}
"""Words that name several regions, or a region other than that of their parts."""

_NOTHING = {"", "UNKNOWN", "NONE", "NA", "UNSPECIFIED", "NOTSPECIFIED", "OTHER"}
"""Values that state no region, reduced to their letters."""


@cache
def body_regions(text: str) -> frozenset[str]:
    """Return the body regions that a text names: "HEAD", "NECK", "CHEST" and the like.

    Args:
        text: a value of BodyPartExamined, or the meaning of an anatomic code.

    Returns:
        The regions; empty where any word is unknown.
    """
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().upper()
    found: set[str] = set()
    for word in re.findall(r"[A-Z]+", plain):
        parts = _taken_apart(word)
        if parts is None:
            return frozenset()
        found |= set(parts)
    return frozenset(found - {""})


@cache
def _taken_apart(word: str) -> tuple[str, ...] | None:
    """Return the regions of a word, or of the known words that it is composed of; None if a part of it is unknown."""
    if word in _JOINED:
        return _JOINED[word]
    if word in _REGION:
        return (_REGION[word],)
    for end in range(len(word) - 1, 2, -1):
        head = _REGION.get(word[:end])
        rest = _taken_apart(word[end:]) if head is not None and len(word) - end > 2 else None
        if head is not None and rest is not None:
            return (head, *rest)
    return None


def examined_regions(headers: Iterable[Dataset]) -> frozenset[str] | None:
    """Return the regions that the headers of an image state.

    Returns:
        The regions; empty where the stated value is unknown; None where no region is stated.
    """
    stated: set[str] = set()
    coded: set[str] = set()
    for header in headers:
        text = str(header.get("BodyPartExamined") or "").strip()
        if re.sub("[^A-Z]", "", text.upper()) not in _NOTHING or not text.isascii():
            stated.add(text)
        coded |= _coded(header)
    if stated:
        each = [body_regions(text) for text in sorted(stated)]
        return frozenset().union(*each) if all(each) else frozenset()
    known = [regions for text in sorted(coded) if (regions := body_regions(text))]
    return frozenset().union(*known) if known else None


def _coded(header: Dataset) -> set[str]:
    """Return the meanings of the anatomic region codes of the image or of all its frames."""
    found: set[str] = set()
    frames: Any = header.get("SharedFunctionalGroupsSequence") or ()
    places = [header, *(item for group in frames for item in group.get("FrameAnatomySequence") or ())]
    for place in places:
        for code in place.get("AnatomicRegionSequence") or ():
            text = str(code.get("CodeMeaning") or "").strip()
            found |= {text} if text else set()
    return found
