"""Errors that refuse a request; each keeps a built-in error type and has the HTTP status of the answer."""

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
    """Base of the errors with which the annotation server refuses."""

    status = 500


class RequestError(LabelServerError, ValueError):
    """Error for an invalid request."""

    status = 400


class AccessError(LabelServerError, PermissionError):
    """Error for a request that is not permitted."""

    status = 403


class AccountError(LabelServerError, ValueError):
    """Error for a file of accounts that cannot be used, or an account that cannot be added or removed."""

    status = 400


class ArchiveError(LabelServerError, OSError):
    """Error for a DICOMweb service with the images that refuses or does not answer."""

    status = 502


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
