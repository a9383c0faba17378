"""Findings of the preflight, from which the table, the JSON and the error message are made."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.errors import GeometryError, ImageError, MedvitError, SelectionError, SourceError

__all__ = ["Finding"]

_KINDS: dict[str, type[MedvitError]] = {
    "several_patients": SelectionError,
    "two_versions": SelectionError,
    "several_modalities": SelectionError,
    "colour": ImageError,
    "time_frames": ImageError,
    "cut_off": SourceError,
    "undecodable": SourceError,
    "too_large": SourceError,
    "shared_instance": SourceError,
}
"""Error class by finding code; other codes give a ``GeometryError``."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """An irregularity of a volume.

    Attributes:
        code: stable identifier for programs.
        severity: "note" (shown, without effect), "flag" (results are written and a person must check them, exit code
            3), "tags" (results are written, DICOM objects only with --repair-tags), "irregular" (refused unless
            --on-irregular states a treatment), "refused".
        found, needed, step: the three parts of a message.
        positions_mm: positions along the slice normal, LPS millimetres.
    """

    code: str
    severity: str
    found: str
    needed: str = ""
    step: str = ""
    positions_mm: tuple[float, ...] = ()

    @property
    def text(self) -> str:
        """The whole message."""
        if self.severity in ("tags", "flag"):  # a full sentence, since the record of a result contains it too
            return f"{self.found[0].upper()}{self.found[1:]}. {self.step}"
        needed = f"; {self.needed}." if self.needed else "."
        return f"Found {self.found}{needed}{' ' + self.step if self.step else ''}"

    def error(self) -> MedvitError:
        """Return the message as an error of the matching class."""
        return _KINDS.get(self.code, GeometryError)(self.text)
