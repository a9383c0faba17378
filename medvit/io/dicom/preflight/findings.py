"""What preflight finds: one value that the table, the JSON and the error message are all made from."""

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
"""Kinds of error; anything else is a matter of geometry."""


@dataclass(frozen=True)
class Finding:
    """One oddity of a volume.

    Attributes:
        code: a word programs can rely on.
        severity: "note" (said, nothing changes), "flag" (results are written and a person must look, exit code 3), "tags"
            (results are written, DICOM objects only with --repair-tags),
            "irregular" (refused unless --on-irregular says what to do), "refused".
        found, needed, step: the three parts of a message.
        positions_mm: where along the slice normal, LPS millimetres.
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
        if self.severity in ("tags", "flag"):  # a sentence of its own: it stands in the result's record too
            return f"{self.found[0].upper()}{self.found[1:]}. {self.step}"
        needed = f"; {self.needed}." if self.needed else "."
        return f"Found {self.found}{needed}{' ' + self.step if self.step else ''}"

    def error(self) -> MedvitError:
        """The message as the error of its kind."""
        return _KINDS.get(self.code, GeometryError)(self.text)
