"""Errors of the plugin, of the family of ``MedvitError``."""

from __future__ import annotations

import re

from medvit.errors import ImageError, MedvitError, SourceError

__all__ = ["LayerError", "PlaceError", "ServerError", "in_window", "readable"]


class LayerError(ImageError):
    """Error for a layer of the wrong kind."""


class PlaceError(SourceError):
    """Error for a layer without a stated position in the patient."""


class ServerError(MedvitError, ConnectionError):
    """Error for a label server that is not reachable, or does not answer as documented."""


_IN_A_WINDOW = (
    (r"medvit bundles list", "the list above"),
    (r"medvit bundles fetch \S+?(?=[.,;)]|\s|$)", "the button Fetch weights"),
    (r"with --force\b", "with Force ticked"),
    (r"--force\b", "Force"),
    (r"--overwrite\b", "Overwrite"),
    (r"--repair-tags\b", "Repair tags"),
    (r"--device (cpu|gpu)\b", r"the device \1"),
    (r"--quality-map\b", "Quality map"),
    (r"--pixel-spacing(?: MM)?", "Pixel (mm)"),
    (r"--magnification, or both --source-to-detector and --source-to-patient", "Magnification"),
    (r"--magnification\b", "Magnification"),
    (r"--ap and --lat\b", "both files"),
    (r"--ap\b", "AP view"),
    (r"--lat\b", "lateral view"),
    (r"--roi-crop body or a box", "draw a Region"),
    (r"--roi-crop\b", "the Region"),
    (r"--low-memory\b", "Low memory"),
    (r"--invert\b", "Invert"),
    (r", and --labels or -b gives the ids back", ""),
    (r" with -o\b", ""),
)
"""Replacements of options and commands in messages, written for the command line, by the names in the widgets."""


def in_window(text: str) -> str:
    """Replace options and commands of the command line in a message or note by their names in the widgets."""
    for pattern, words in _IN_A_WINDOW:
        text = re.sub(pattern, words, text)
    return text


def readable(error: BaseException) -> str:
    """Return the message of an error for people, with names from the widgets; an unforeseen error keeps its type."""
    if isinstance(error, MedvitError):
        return in_window(str(error))
    if isinstance(error, MemoryError):
        return "Found too little memory; close other images, or use a machine with more."
    first = (str(error).strip().splitlines() or [""])[0]
    return f"Found something unforeseen ({type(error).__name__}: {first}). Copy the details and report it."
