"""Comparison of the patients of two headers: one patient, two patients, or undecided.

PatientID identifies a patient only together with its issuer (PS3.3 C.7.1.1), since two hospitals may both have a
patient 1. Headers with different issuers belong to two patients. Where only one header states an issuer, they belong to
one patient only if the name (letter case aside) and the birth date agree; otherwise a person has to decide. Where
neither states an issuer, they belong to one patient unless both the name and the birth date differ; then a person has
to decide too.

An ``Identity`` holds hashes, so it can be compared and stored. Since anybody can hash a guessed name and compare, it
must not be part of anything that is handed on; ``keyed`` makes a fingerprint for records.
"""

from __future__ import annotations

import hashlib
import hmac
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from pydicom import Dataset
from pydicom.charset import convert_encodings, decode_bytes
from pydicom.multival import MultiValue
from pydicom.valuerep import TEXT_VR_DELIMS

__all__ = [
    "IDENTIFYING",
    "Identity",
    "differing",
    "hash_of",
    "identity_of_bytes",
    "keyed",
    "patients_among",
    "person_of",
    "resolved_issuers",
]

IDENTIFYING = ("PatientID", "IssuerOfPatientID", "PatientName", "PatientBirthDate", "PatientSex")
"""Attributes that identify a patient, in the order of ``Identity``."""


class Identity(NamedTuple):
    """Identity of the patient in a header, as hashes; 0 (or an empty text) for absent or empty values.

    Attributes:
        number: hash of PatientID.
        issuer: IssuerOfPatientID as text, since it names an institution, not a patient.
        name: hash of PatientName without letter case, padding and empty trailing components.
        birth: hash of PatientBirthDate.
        sex: hash of PatientSex.
    """

    number: int = 0
    issuer: str = ""
    name: int = 0
    birth: int = 0
    sex: int = 0


@lru_cache(maxsize=8192)
def make_identity(number: str, issuer: str, name: str, birth: str, sex: str) -> Identity:
    """Create an identity from header values as text."""
    return Identity(
        _hash(number.strip()),
        issuer.strip(),
        _hash(_plain_name(name)),
        _hash(birth.strip()),
        _hash(sex.strip().upper()),
    )


@lru_cache(maxsize=8192)
def identity_of_bytes(values: tuple[str, ...], characters: tuple[str, ...]) -> Identity:
    """Create an identity from raw bytes decoded as Latin 1.

    Args:
        values: in the order of ``IDENTIFYING``.
        characters: SpecificCharacterSet of the header.
    """
    return make_identity(*(_decoded(value, characters) for value in values))


def differing(first: Identity, second: Identity, *, absent: bool) -> tuple[str, ...]:
    """List the attributes by which two headers of one series contradict each other about the patient.

    An issuer stated by only one of them is no contradiction where name and birth date agree.

    Args:
        first, second: identities of the two headers.
        absent: True to count a name, birth date or sex that only one header states, as between two versions of one
            image.
    """
    needed = IDENTIFYING if absent else IDENTIFYING[:2]
    rows = zip(IDENTIFYING, first, second, strict=True)
    found = [k for k, a, b in rows if a != b and (k in needed or (a and b))]
    if "IssuerOfPatientID" in found and not (first.issuer and second.issuer) and _agree(first, second):
        found.remove("IssuerOfPatientID")
    return tuple(found)


def resolved_issuers(identities: Iterable[Identity], assumed: str = "") -> dict[Identity, str | None]:
    """Find the issuer of each identity that states none, among all known identities.

    Args:
        identities: all known identities.
        assumed: the issuer that a person has stated for every PatientID without one.

    Returns:
        The issuer by identity. It is the stated issuer, else that of the only patient with the same PatientID, name and
        birth date. It is empty where no header states an issuer for this PatientID, None where a person has to decide.
    """
    known = set(identities)
    by_number: dict[int, set[Identity]] = {}
    unissued: dict[int, set[Identity]] = {}
    for identity in known:
        (by_number if identity.issuer else unissued).setdefault(identity.number, set()).add(identity)
    several = {number for number, those in unissued.items() if number and _several_people(those)}
    found: dict[Identity, str | None] = {}
    for identity in known:
        others = by_number.get(identity.number, set()) if identity.number else set()
        agreeing = {other.issuer for other in others if _agree(identity, other)}
        if identity.issuer or assumed:
            found[identity] = identity.issuer or assumed
        elif others:
            found[identity] = next(iter(agreeing)) if len(agreeing) == 1 else None
        else:
            found[identity] = None if identity.number in several else ""
    return found


def patients_among(identities: Iterable[Identity]) -> int:
    """Count the patients of headers; undecided identities count as different patients where their names differ."""
    resolved = resolved_issuers(identities).items()
    return len({(known.number, issuer, known.name if issuer is None else 0) for known, issuer in resolved})


def person_of(header: Dataset, issuer: str = "") -> str:
    """Return a text that identifies the patient of a header, for pseudonyms; equal texts mean one patient.

    PatientID and its issuer decide; without a PatientID the name (letter case aside) and the birth date; without a name
    the study.

    Args:
        header: a header as read.
        issuer: the issuer of a PatientID stated without one; see ``resolved_issuers``.
    """
    number, stated, name, birth, _ = ("\\".join(_read(header, keyword)) for keyword in IDENTIFYING)
    if number:
        return f"PatientID|{number}|{stated or issuer}"
    if name:
        return f"PatientName|{_plain_name(name)}|{birth}"
    study = "\\".join(_read(header, "StudyInstanceUID"))
    return f"StudyInstanceUID|{study}" if study else "nobody"


def keyed(key: bytes, identities: Iterable[Identity]) -> str:
    """Compute a fingerprint of identities; only the holder of the key can compare it with a guess."""
    content = repr(sorted(map(tuple, set(identities))))
    return hmac.new(key, content.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def hash_of(text: str) -> int:
    """Hash a text to the same number in every process; return 0 for an empty text."""
    return _hash(text)


def _agree(first: Identity, second: Identity) -> bool:
    """Return True if both headers state name and birth date, and both agree; values absent from both headers prove
    nothing.
    """
    return bool(first.name and first.birth) and (first.name, first.birth) == (second.name, second.birth)


def _several_people(identities: Iterable[Identity]) -> bool:
    """Return True if names and birth dates both differ; after a marriage or a typing error only one of them does."""
    stated = {(known.name, known.birth) for known in identities if known.name and known.birth}
    return len({name for name, _ in stated}) > 1 and len({birth for _, birth in stated}) > 1


def _plain_name(name: str) -> str:
    """Normalise a name: remove letter case, padding and empty components (PS3.5 6.2.1)."""
    groups = unicodedata.normalize("NFC", name).casefold().split("=")
    plain = ["^".join(" ".join(part.split()) for part in group.split("^")).rstrip("^") for group in groups]
    return "=".join(plain).rstrip("=")


def _hash(text: str) -> int:
    if not text:
        return 0
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=7).digest()
    return int.from_bytes(digest, "big") or 1


def _decoded(text: str, characters: tuple[str, ...]) -> str:
    """Decode text that was read as Latin 1 in the character set of its header."""
    if text.isascii() and "\x1b" not in text:
        return text
    try:
        return str(decode_bytes(text.encode("latin-1"), convert_encodings(list(characters) or None), TEXT_VR_DELIMS))
    except (UnicodeError, LookupError, ValueError):  # already decoded, or in an unknown character set
        return text


def _read(header: Dataset, keyword: str) -> list[str]:
    try:
        value = header.get(keyword)
        several = value if isinstance(value, (list, tuple, MultiValue)) else [value]
        return [text for v in several if v is not None and (text := str(v).strip())]
    except Exception:  # a damaged value counts as absent
        return []
