"""Choice of an operator's backend; the same check explains why a requested backend cannot run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from medvit.errors import BackendError

__all__ = ["select_backend"]


def select_backend(
    operator: str, backend: str | None, known: Sequence[str], unsupported_reason: Callable[[str], str | None]
) -> str:
    """Return the requested backend if it can run, or the first backend that can if none is requested.

    Args:
        operator: name of the operator, for the message.
        backend: name of the requested backend, or None.
        known: names of the operator's backends, most preferred first.
        unsupported_reason: function that returns why a backend cannot take the current tensors, or None if it can.

    Returns:
        The name of a backend that can run.

    Raises:
        BackendError: the requested backend is unknown or cannot run, or no backend can.
    """
    if backend is None:
        return _able(operator, known, unsupported_reason)
    if backend not in known:
        raise BackendError(
            f"{operator} backend {backend!r}",
            f"it must be one of {', '.join(known)}",
            "Leave it out to let medvit choose.",
        )
    reason = unsupported_reason(backend)
    if reason:
        able = _able(operator, known, unsupported_reason)
        raise BackendError(
            f"that the {backend!r} backend of {operator} cannot run: {reason}",
            remedy=f"Use {{backend={able}}} or leave it out.",
            option="backend",
        )
    return backend


def _able(operator: str, known: Sequence[str], unsupported_reason: Callable[[str], str | None]) -> str:
    for name in known:
        if unsupported_reason(name) is None:
            return name
    reasons = "; ".join(f"{name}: {unsupported_reason(name)}" for name in known)
    raise BackendError(
        f"that no backend of {operator} can run: {reasons}", remedy="Move the tensors to the CPU with .cpu()."
    )
