"""Pseudonyms of patients, UIDs and days for de-identification: derived from a secret key, the same for the same key.

The holder of the key can see if two results belong to one patient. Nobody can identify the patient of a result except
by testing all candidate patients with the key.
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
"""Pattern of UIDs that the standard defines, which identify nobody; longer numbers under its root are private."""

_IN_WORDS = re.compile(r"\b(?:2\.25\.\d{6,39}|\d+(?:\.\d+){4,})\b")
_DAYS = re.compile(r"\b(?:19|20)\d{6}(?:\d{6}(?:\.\d+)?)?\b")
_TIMES = re.compile(r"\b(\w*(?:Date|Time)\w*) [^,;()]+")
_SHORTEST_KEY = 16
_LEAST_SHIFT, _SHIFTS = 365, 3650
"""Range of days by which dates are shifted into the past: one to eleven years."""


@dataclass(frozen=True, kw_only=True)
class Privacy:
    """Key and options of de-identification.

    Attributes:
        key: the project's secret.
        retain: options of the profile; see ``RETAINABLE``.
        burned_in: True to accept images that contain, or may contain, burned-in text.
        images: True to write de-identified copies of the images too.
        issuer: issuer of the PatientID of the current case, where its headers state none; see
            ``medvit.io.dicom.header.patient_identity.resolved_issuers``.

    Examples:
        >>> from medvit.deidentification import Privacy
        >>> privacy = Privacy(key=b"a secret that nobody can guess")
        >>> privacy.uid("1.2.3.4").startswith("2.25.")
        True
        >>> privacy.token("Doe^Jane") == privacy.token("Doe^Jane")
        True
    """

    key: bytes = field(repr=False)
    retain: tuple[str, ...] = ()
    burned_in: bool = False
    images: bool = False
    issuer: str = ""

    def _digest(self, purpose: str, text: str) -> bytes:
        return hmac.new(self.key, f"{purpose}|{text}".encode("utf-8", "surrogateescape"), hashlib.sha256).digest()

    def token(self, text: str, purpose: str = "name") -> str:
        """Return the pseudonym of a text: 64 hexadecimal digits."""
        return self._digest(purpose, text).hex()

    def uid(self, uid: str) -> str:
        """Return the pseudonym of a UID (PS3.5 B.2); UIDs of the standard stay, an invalid UID becomes empty."""
        if not uid or not is_uid(uid):
            return ""
        if _STANDARDS.fullmatch(uid):
            return uid
        number = bytearray(self._digest("uid", uid)[:16])
        number[6], number[8] = number[6] & 0x0F | 0x80, number[8] & 0x3F | 0x80  # a UUID of version 8 (RFC 9562)
        return f"2.25.{int.from_bytes(number)}"

    def person(self, header: Dataset) -> str:
        """Return a text that identifies the patient of a header; see
        ``medvit.io.dicom.header.patient_identity.person_of``.
        """
        return person_of(header, self.issuer)

    def days(self, patient: str) -> int:
        """Return the number of days by which a patient's dates are shifted into the past."""
        return _LEAST_SHIFT + int.from_bytes(self._digest("days", patient)[:8]) % _SHIFTS

    def words(self, text: str) -> str:
        """Replace the UIDs of a message by pseudonyms; remove dates and times."""
        text = _TIMES.sub(r"\1 (left out)", text)
        return _DAYS.sub("(a date)", _IN_WORDS.sub(lambda match: self.uid(match[0]) or "(a UID)", text))

    def folder(self, folder: str) -> str:
        """Return the name of a case's folder, ``SERIES-PLACE/BUNDLE``, with pseudonyms for the series and the place."""
        head, stroke, bundle = folder.partition("/")
        base, dash, place = head.partition("-")
        if not is_uid(base):
            return f"{base}-{self.token(head)[:16]}{stroke}{bundle}"
        return f"{self.uid(base)}{dash}{self.token(place)[:8] if place else ''}{stroke}{bundle}"

    @property
    def mark(self) -> str:
        """Identifier of the key, which does not reveal the key."""
        return self.token("this project", "mark")[:16]


def read_key(path: Path, make: bool) -> tuple[bytes, bool]:
    """Read the project's key.

    Args:
        path: the file.
        make: True to write a new key where the file does not exist; False to use a temporary one.

    Returns:
        The key, and True if a new one was written.

    Raises:
        DeidentificationError: the file cannot be read, or the key is too short to be a secret.
        OutputError: the key cannot be written.

    Examples:
        >>> from pathlib import Path
        >>> from medvit.deidentification import read_key
        >>> key, made = read_key(Path("project.key"), make=True)
        >>> len(key), made
        (64, True)
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
            "Check {path}.",
            option="path",
        ) from error
    if len(key) < _SHORTEST_KEY:
        raise DeidentificationError(
            f"a key of {len(key)} bytes",
            f"at least {_SHORTEST_KEY} unpredictable bytes are needed",
            "Set {path} to a file that does not exist yet; a key is created there.",
            option="path",
        )
    return key, False
