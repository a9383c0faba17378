"""Errors that refuse a request; each keeps a built-in error type and has the HTTP status of the answer."""

from __future__ import annotations

from medvit.cli import command_line_words
from medvit.errors import MedvitError

__all__ = [
    "AccessError",
    "AccountError",
    "ArchiveError",
    "BusyError",
    "GoneError",
    "LabelServerError",
    "RequestError",
    "TooLargeError",
    "UnknownError",
    "request_words",
]

_FIELDS = {
    "pixel_spacing_mm": "pixel_spacing",
    "source_to_detector_mm": "source_to_detector",
    "source_to_patient_mm": "source_to_patient",
    "lat": "lateral",
    **{name: name for name in ("force", "invert", "magnification", "on_irregular", "quality_map", "roi_subset")},
}
"""Fields of a request's ``params``, by the names that errors have for them."""


def request_words(name: str, value: str | None) -> str:
    """Word an option of an error as a client sends it, ``params.on_irregular=split``; settings of the server as its command has them.

    Args:
        name: as Python callers write it; see ``medvit.errors.python_words``.
        value: the value as text; None or "..." where only the name is meant.
    """
    if name not in _FIELDS:
        return command_line_words(name, value)
    field = f"params.{_FIELDS[name]}"
    return field if value in (None, "...") else f"{field}={'true' if value == 'True' else value}"


class LabelServerError(MedvitError, RuntimeError):
    """Base of the errors with which the annotation server refuses."""

    status = 500


class RequestError(LabelServerError, ValueError):
    """Error for an invalid request."""

    status = 400


class AccessError(LabelServerError, PermissionError):
    """Error for a request that is not permitted."""

    status = 403

    def __new__(cls, *args: object, **kwargs: object) -> AccessError:
        """Make an error; ``RuntimeError.__new__``, which tblib would look up, refuses a class with two bases."""
        return PermissionError.__new__(cls)


class AccountError(LabelServerError, ValueError):
    """Error for a file of accounts that cannot be used, or an account that cannot be added or removed."""

    status = 400


class ArchiveError(LabelServerError, OSError):
    """Error for a DICOMweb service with the images that refuses or does not answer."""

    status = 502

    def __new__(cls, *args: object, **kwargs: object) -> ArchiveError:
        """Make an error; ``RuntimeError.__new__``, which tblib would look up, refuses a class with two bases."""
        return OSError.__new__(cls)


class UnknownError(LabelServerError, LookupError):
    """Error for an unknown image, label, model, session or job."""

    status = 404


class GoneError(UnknownError):
    """Error for an image that was removed."""

    status = 410


class TooLargeError(LabelServerError, ValueError):
    """Error for a request that exceeds the size limit."""

    status = 413


class BusyError(LabelServerError):
    """Error for a full queue, or for another run in progress."""

    status = 429
