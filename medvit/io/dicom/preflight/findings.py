"""Findings of the preflight, from which the table, the JSON and the error message are made."""

from __future__ import annotations

from dataclasses import dataclass

from medvit.errors import GeometryError, ImageError, MedvitError, SelectionError, SourceError, Words, python_words

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
            3), "tags" (results are written, DICOM objects only with repaired tags), "irregular" (refused unless
            ``on_irregular`` states a treatment), "refused".
        found, needed, step: the three parts of a message; ``step`` can name ``{repair_tags=True}``.
        positions_mm: positions along the slice normal, LPS millimetres.
        ways: values of ``on_irregular`` that treat it; ``step`` is then the other choice, as "export it again."
    """

    code: str
    severity: str
    found: str
    needed: str = ""
    step: str = ""
    positions_mm: tuple[float, ...] = ()
    ways: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """The whole message, as Python words it."""
        return self.sentence()

    @property
    def remedy(self) -> str:
        """The step, with a token for the option where there is one."""
        if not self.ways:
            return self.step
        others = f" (or {', '.join(self.ways[1:])})" if self.ways[1:] else ""
        return f"Add {{on_irregular={self.ways[0]}}}{others}, or {self.step}"

    def sentence(self, words: Words = python_words) -> str:
        """Compose the whole message, its option in a door's words; see ``MedvitError.sentence``."""
        if self.severity in ("tags", "flag"):  # a full sentence, since the record of a result contains it too
            text = f"{self.found[0].upper()}{self.found[1:]}. {self.step}"
            return MedvitError(text, option="repair_tags").sentence(words)
        return self.error().sentence(words)

    def worded_step(self, words: Words = python_words) -> str:
        """Return the step with its option in a door's words."""
        return self.error().step(words)

    def error(self) -> MedvitError:
        """Return the message as an error of the matching class."""
        return _KINDS.get(self.code, GeometryError)(
            self.found, self.needed, self.remedy, option=("on_irregular", "repair_tags")
        )
