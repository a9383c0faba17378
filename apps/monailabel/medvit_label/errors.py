"""Errors that refuse a request. Each keeps its built-in kind and has the HTTP status that a client sees."""

from __future__ import annotations

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
]


class LabelServerError(MedvitError, RuntimeError):
    """A refusal of the annotation server."""

    status = 500


class RequestError(LabelServerError, ValueError):
    """The request is invalid."""

    status = 400


class AccessError(LabelServerError, PermissionError):
    """The request is not allowed."""

    status = 403


class AccountError(LabelServerError, ValueError):
    """The file of accounts cannot be used, or an account cannot be added or removed."""

    status = 400


class ArchiveError(LabelServerError, OSError):
    """The DICOMweb service that holds the images refuses, or does not answer."""

    status = 502


class UnknownError(LabelServerError, LookupError):
    """There is no such image, label, model, session or job."""

    status = 404


class GoneError(UnknownError):
    """The image was there and has been removed."""

    status = 410


class TooLargeError(LabelServerError, ValueError):
    """The request exceeds the size limit."""

    status = 413


class BusyError(LabelServerError):
    """The queue is full, or another run is going on."""

    status = 429
