"""Errors of a batch, of the family of ``MedvitError``."""

from __future__ import annotations

from medvit.errors import MedvitError

__all__ = ["BatchError", "ExpressionError", "NetworkError", "PeerError", "RefusedError", "RulesError"]


class BatchError(MedvitError, RuntimeError):
    """Error for a batch that cannot start or continue."""


class ExpressionError(MedvitError, ValueError):
    """Error for a selection with a syntax error; the message marks the position."""


class RulesError(MedvitError, ValueError):
    """Error for a file of rules that cannot be used."""


class NetworkError(MedvitError, OSError):
    """Error for a DICOM node that cannot be started or used."""


class PeerError(NetworkError):
    """Error for a peer that is unreachable, refuses, or answers unintelligibly."""


class RefusedError(PeerError):
    """Error for a reachable peer that refuses an object; sending it again soon would not help."""
