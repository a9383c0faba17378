"""What stands for patients, UIDs and days once a batch de-identifies: made with a secret key, the same for the same key.

Whoever has the key can see whether two results belong to one patient, and nobody can get from a result to the patient without
trying every patient there is against the key.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from pydicom import Dataset

from medvit.atomic_write import os_errors_as_output_errors
from medvit.errors import DeidentificationError
from medvit.io.dicom.header import is_uid, person_of

__all__ = ["Privacy", "read_key"]

_STANDARDS = re.compile(r"1\.2\.840\.10008\.(?:6\.1\.\d{1,4}|\d{1,3}(?:\.\d{1,3}){0,9})")
"""UIDs that the standard itself defines, which identify nobody; longer numbers under its root are private."""

_IN_WORDS = re.compile(r"\b(?:2\.25\.\d{6,39}|\d+(?:\.\d+){4,})\b")
_DAYS = re.compile(r"\b(?:19|20)\d{6}(?:\d{6}(?:\.\d+)?)?\b")
_TIMES = re.compile(r"\b(\w*(?:Date|Time)\w*) [^,;()]+")
_SHORTEST_KEY = 16
_LEAST_SHIFT, _SHIFTS = 365, 3650
"""Days by which dates move into the past: one to eleven years."""


@dataclass(frozen=True)
class Privacy:
    """How a batch de-identifies.

    Attributes:
        key: the project's secret.
        retain: options of the profile; see ``profile.RETAINABLE``.
        burned_in: whether images that have, or may have, words burned into their pixels are run all the same.
        images: whether the images themselves are written too, de-identified.
        issuer: of the PatientID of the case at hand, where its headers state none; see ``medvit.io.dicom.header.patient_identity.resolved_issuers``.
    """

    key: bytes = field(repr=False)
    retain: tuple[str, ...] = ()
    burned_in: bool = False
    images: bool = False
    issuer: str = ""

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.new(self.key, f"{purpose}|{text}".encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def token(self, text: str, purpose: str = "name") -> str:
        """A name for anything that must not be named: 64 hexadecimal digits."""
        return self._digest(purpose, text).hex()

    def uid(self, uid: str) -> str:
        """The UID that stands for another (PS3.5 B.2); the standard's own stay, and what is no UID becomes empty."""
        if not uid or not is_uid(uid):
            return ""
        if _STANDARDS.fullmatch(uid):
            return uid
        number = bytearray(self._digest("uid", uid)[:16])
        number[6], number[8] = number[6] & 0x0F | 0x80, number[8] & 0x3F | 0x80  # a UUID of version 8 (RFC 9562)
        return f"2.25.{int.from_bytes(number)}"

    def person(self, header: Dataset) -> str:
        """Which patient a header is of, in one text; see ``medvit.io.dicom.header.patient_identity.person_of``."""
        return person_of(header, self.issuer)

    def days(self, patient: str) -> int:
        """By how many days the dates of a patient move into the past."""
        return _LEAST_SHIFT + int.from_bytes(self._digest("days", patient)[:8]) % _SHIFTS

    def words(self, text: str) -> str:
        """A message with other UIDs in it and without days and times."""
        text = _TIMES.sub(r"\1 (left out)", text)
        return _DAYS.sub("(a date)", _IN_WORDS.sub(lambda match: self.uid(match[0]) or "(a UID)", text))

    def folder(self, folder: str) -> str:
        """The name of a case's folder, ``SERIES-PLACE/BUNDLE``, with the series' other UID and a place that no path gives away."""
        head, stroke, bundle = folder.partition("/")
        base, dash, place = head.partition("-")
        if not is_uid(base):
            return f"{base}-{self.token(head)[:16]}{stroke}{bundle}"
        return f"{self.uid(base)}{dash}{self.token(place)[:8] if place else ''}{stroke}{bundle}"

    @property
    def mark(self) -> str:
        """What tells one key from another and gives neither away."""
        return self.token("this project", "mark")[:16]


def read_key(path: Path, make: bool) -> tuple[bytes, bool]:
    """The project's key; return it and whether it is a new one.

    Args:
        path: the file.
        make: whether a new key is written where there is none; else it serves for this once.

    Raises:
        DeidentificationError: too short to be a secret. OutputError: it cannot be written.
    """
    if not path.exists():
        key = secrets.token_hex(32).encode()
        if make:
            with os_errors_as_output_errors(path.parent):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
                path.write_bytes(key + b"\n")
        return key, make
    try:
        key = path.read_bytes().strip()
    except OSError as error:
        raise DeidentificationError(
            f"a key that cannot be read ({error.strerror})",
            "a file with the project's secret is needed",
            "Check --deid-key.",
        ) from error
    if len(key) < _SHORTEST_KEY:
        raise DeidentificationError(
            f"a key of {len(key)} bytes",
            f"at least {_SHORTEST_KEY} that nobody can guess are needed",
            "Give --deid-key a file that is not there yet: a key is made.",
        )
    return key, False
