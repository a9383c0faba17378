"""Errors of the plugin, of the family of ``MedvitError``."""

from __future__ import annotations

from medvit.errors import ImageError, MedvitError, SourceError, python_words

__all__ = ["LayerError", "PlaceError", "ServerError", "readable", "window_words"]


class LayerError(ImageError):
    """Error for a layer of the wrong kind."""


class PlaceError(SourceError):
    """Error for a layer without a stated position in the patient."""


class ServerError(MedvitError, ConnectionError):
    """Error for a label server that is not reachable, or does not answer as documented."""


_FIELDS = {
    "ap": "AP view",
    "folder": "the folder",
    "force": "Force",
    "invert": "Invert",
    "lat": "lateral view",
    "like": "the image",
    "low_memory": "Low memory",
    "magnification": "Magnification",
    "on_irregular": "the way for an irregular stack",
    "output_types": "the file type",
    "overwrite": "Overwrite",
    "pixel_spacing_mm": "Pixel (mm)",
    "quality_map": "Quality map",
    "repair_tags": "Repair tags",
    "roi_crop": "the Region",
    "series": "another series of the list",
    "medvit.bundles.bundle_folders()": "the list above",
    "medvit.convert()": "medvit convert",
    "medvit.bundles.remote.fetch()": "the button Fetch weights",
    "medvit.io.limit_memory()": "MEDVIT_MEMORY_LIMIT",
    "medvit.reconstruction.radiographs()": "medvit drr",
}
"""Labels of the fields and buttons of the widgets, by the names that errors have for them."""


def window_words(name: str, value: str | None) -> str:
    """Word an option of an error as the widgets have it: ``Low memory``, ``the device cpu``.

    Args:
        name: as Python callers write it; see ``medvit.errors.python_words``.
        value: the value as text; None or "..." where only the name is meant.
    """
    if name == "device" and value:
        return f"the device {value}"
    if name == "force" and value:
        return "Force ticked"
    if name not in _FIELDS:
        return python_words(name, value)
    if name == "on_irregular" and value:
        return f"{_FIELDS[name]} ({value})"
    return _FIELDS[name]


def readable(error: BaseException) -> str:
    """Return the message of an error for people, with names from the widgets; an unforeseen error keeps its type."""
    if isinstance(error, MedvitError):
        return error.sentence(window_words)
    if isinstance(error, MemoryError):
        return "Found too little memory; close other images, or use a machine with more."
    first = (str(error).strip().splitlines() or [""])[0]
    return f"Found something unforeseen ({type(error).__name__}: {first}). Copy the details and report it."
