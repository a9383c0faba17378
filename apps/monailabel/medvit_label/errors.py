"""Why a request is refused. Each error keeps its built-in kind and knows the HTTP status a client sees."""

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
    """Anything the annotation server refuses to do."""

    status = 500


class RequestError(LabelServerError, ValueError):
    """The request cannot mean anything."""

    status = 400


class AccessError(LabelServerError, PermissionError):
    """What was asked for is not allowed."""

    status = 403


class AccountError(LabelServerError, ValueError):
    """The file of accounts cannot be used, or an account cannot be added to it or taken out."""

    status = 400


class ArchiveError(LabelServerError, OSError):
    """The DICOMweb service that holds the images does not give or take what it should."""

    status = 502


class UnknownError(LabelServerError, LookupError):
    """No such image, label, model, session or job."""

    status = 404


class GoneError(UnknownError):
    """It was there, and is not any more."""

    status = 410


class TooLargeError(LabelServerError, ValueError):
    """More bytes than the server takes."""

    status = 413


class BusyError(LabelServerError):
    """As many requests wait as may wait."""

    status = 429
