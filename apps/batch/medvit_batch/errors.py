"""What a batch refuses, of medvit's family of errors."""

from __future__ import annotations

from medvit.errors import MedvitError

__all__ = ["BatchError", "ExpressionError", "NetworkError", "PeerError", "RefusedError", "RulesError"]


class BatchError(MedvitError, RuntimeError):
    """A batch cannot start or cannot go on."""


class ExpressionError(MedvitError, ValueError):
    """A selection that cannot be understood; the message points at the place."""


class RulesError(MedvitError, ValueError):
    """A file of rules that cannot be used."""


class NetworkError(MedvitError, OSError):
    """A DICOM node cannot be started or used."""


class PeerError(NetworkError):
    """A peer that cannot be understood or reached, or refuses."""


class RefusedError(PeerError):
    """A peer that is there and will not take an object; offering it again soon would not help."""
